"""Write docs/reliability.md from the figures of the proofs: python -m tests.support.page DIRECTORY PAGE.

Every number on the page comes from a JSON file in that directory. A cell without a file is "not measured".
"""

from __future__ import annotations

import string
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.figures import OURS, THEIRS, Figure, kept_figures

INTRODUCTION = """# Reliability

This page lists the guarantees of hybridvif, and the tests that prove each of them. The tests kill, hang or fail every
process at every step. The figures count the violations.

## Guarantees

- A port that is reported as `done` has been read back. After a plug it is in sync, and after an unplug no part is left.
- From any state, one plug reaches the desired state, and one unplug deletes every part.
- A plug of a port in sync writes nothing.
- A call never changes another port or a foreign object.
- A call returns by its deadline with a typed status. If the result is not known, the status is `unknown`.
- After a call has returned, it changes nothing more, unless its status is `unknown` or `configured`.

## How to repeat the tests

`tools/prove` runs every test at full size and writes this page. The last column is the command for one row. Each row is
a test in `tests/faults` or beside it. Without `HYBRIDVIF_FULL=1` a test runs on a sample, and its figure says so. The
column "code" has the date and the commit of the tested code. A row without a commit was measured before 2026-11-29.

## Results

| test | requirement | hybridvif | os-vif | code | command |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of the table: the test, its requirement, the wording of its counts, and the file of the test."""

    key: str
    what: str
    bar: str
    words: str
    test: str


KILLS = (
    "{kills} kills. Wrong after a plug: {plugs_wrong} of {plugs}; after an unplug: {unplugs_wrong} of {unplugs}; "
    "false ok: {false_ok}"
)
DRIFTS = "{repaired} of {kinds} repaired, {found} found"
BARS = (
    Bar(
        "kills", "The daemon is killed before each system call of a plug or unplug that changes something. Then the "
        "port is plugged and unplugged", "100 % recover, 0 false ok, 4 pairs of executors", KILLS, "test_kills.py",
    ),
    Bar("kills-program", "The same for each program that the daemon runs", "100 % recover", KILLS, "test_kills.py"),
    Bar("kills-client", "The same for the client, from its start to its end", "100 % recover", KILLS,
        "test_client_kills.py"),
    Bar("kills-rollback", "The same during a rollback", "100 % recover, 0 false ok", KILLS,
        "test_kills.py -k undone"),
    Bar(
        "kills-osvif-api", "The same during `os_vif.plug` and `os_vif.unplug`, with the plugins `hybridvif` and `ovs`",
        "100 % recover, 0 false ok", KILLS, "../osvif/test_proofs.py -k killed",
    ),
    Bar("drift", "Kinds of drift that the next plug repairs and `check` finds", "40 kinds, 100 %", DRIFTS,
        "test_drifts.py"),
    Bar(
        "drift-osvif-api", "Kinds of drift that the next `os_vif.plug` repairs, with the plugins `hybridvif` and `ovs`",
        "40 kinds for each plugin, 100 %", DRIFTS, "../osvif/test_proofs.py -k drift",
    ),
    Bar(
        "traffic-osvif-api", "A ping every 10 ms and a TCP stream, while `os_vif.plug` adopts, plugs again and repairs "
        "a port of os-vif", "nothing lost",
        "{lost_pings} of {pings} pings and {lost_segments} TCP segments lost in {kilobytes} kB and {repairs} repairs",
        "../osvif/test_living_together.py -k packet",
    ),
    Bar("false-alarms", "False reports of drift for ports in sync", "0 on 100 ports", "{alarms} on {ports} ports",
        "test_many.py -k alarm"),
    Bar(
        "daemon-killed", "The daemon is killed while 1, 2 and 8 callers use it", "0 hung callers in 20 rounds each",
        "{hung} hung in {rounds} rounds; all callers returned within {longest_s} s", "test_many.py -k nobody",
    ),
    Bar(
        "stress", "Two clients with 16 threads each plug and unplug 192 ports at random for 40 s. A quarter of the "
        "calls has a deadline of 0.5 s. The daemons are killed every 1 to 3 s. Then all ports are plugged, checked and "
        "unplugged",
        "0 hung; each call typed and within 1 s of its deadline; in sync afterwards, and nothing left",
        "{calls} calls and {kills} kills. {hung} hung, {faults} untyped or late, the latest {longest_late_s} s after "
        "its deadline. Ports: {done} done, {rolled-back} rolled back, {unknown} unknown, {incomplete} incomplete, "
        "{configured} configured, {precondition} precondition, {refused} refused. {left} parts, threads and files left",
        "test_stress.py",
    ),
    Bar(
        "hung", "ovsdb-server or ovs-vswitchd hangs or is dead; the deadline is 3 s",
        "returns within 3.25 s, typed; no late commit within 10 s; the port is complete or absent",
        "{calls} calls, the longest {longest_s} s. {unknown} unknown, {untyped} untyped, {ghosts} late commits, {half} "
        "incomplete ports", "test_switch_faults.py",
    ),
    Bar("server-restarts", "ovsdb-server is killed and restarted during a plug", "one row; converges",
        "{wrong} wrong of {rounds}", "test_switch_faults.py -k comes_back"),
    Bar(
        "disk-full", "OVSDB has no disk space", "failure, exit code 1, no incomplete port",
        "{said_ok} of {calls} reported ok, exit code {longest_exit_code}, {half} parts left",
        "test_switch_faults.py -k room",
    ),
    Bar(
        "errno", "A system call of the daemon fails (strace)", "typed; the next plug converges",
        "{injected} failures: {untyped} untyped, {wrong} wrong afterwards", "test_errors_of_the_kernel.py",
    ),
    Bar(
        "races", "2, 4 and 8 processes plug and unplug one port", "0 errors, 0 wrong end states in 100 rounds each",
        "{calls} calls in {rounds} rounds: {errors} errors, {wrong} wrong end states", "test_many.py -k race",
    ),
    Bar(
        "storm", "Four other programs add and remove ports of the same bridge all the time", "0 errors in 20 plugs",
        "{calls} calls against {writes} writes: {errors} errors, {wrong} wrong afterwards, {lost} of theirs lost, "
        "{retries} retries", "test_many.py -k others",
    ),
    Bar(
        "collision", "Two ports with the same first 11 characters, in six orders",
        "the second is refused, the first is identical to the bit",
        "{orders} orders: {refused} of {calls} refused, first changed in {changed}", "test_many.py -k every_order",
    ),
    Bar(
        "cycles", "2,000 plugs and unplugs", "everything as at the start, memory +-2 MB, at most 1,024 lock files",
        "{cycles} cycles: {fds} more file descriptors, {threads} more threads, {left} more links and rows. Memory: "
        "{longest_caller_mb} MB more in the client, {longest_daemon_mb} MB in the daemon. {longest_lock_files} lock "
        "files",
        "test_many.py -k however_often",
    ),
    Bar("running-vm", "Unplug of a port with a running VM, and of a port with a stopped VM",
        "refused with exit code 6; done", "exit code {exit_code}; done: {done}", "test_many.py -k running"),
    Bar("recreated", "Ping after a plug, when the devices were recreated under an existing row", "crosses",
        "{crossed} of {times} crossed", "../functional/test_repair.py -k all_devices"),
    Bar(
        "state-machine", "Random histories on a real host", "300 of 30 steps, all guarantees hold",
        "{broken} broken in {runs} with {steps} steps. {calls} calls, {kills} kills, {drifts} drifts, {reboots} "
        "reboots, {strays} foreign objects, {collisions} collisions", "test_histories.py",
    ),
    Bar(
        "simulation", "Random histories on a simulated host", "100,000 seeds, all guarantees hold",
        "{broken} broken in {seeds}. {calls} calls, {kills} kills, {drifts} drifts, {failures} failures, "
        "{collisions} collisions", "test_simulation.py",
    ),
    Bar(
        "conversion-kills", "The daemon is killed before each system call of a conversion that changes something, to "
        "native and to hybrid. Then the port is converted again, plugged, or unplugged",
        "100 % recover, 0 false ok, 4 pairs of executors",
        "{kills} kills. Wrong after the next call: {wrong}; false ok: {false_ok}", "test_conversions.py -k killed",
    ),
    Bar(
        "conversion-guest", "A QEMU guest under libvirt sends a ping every 10 ms and a TCP stream, while its port is "
        "converted to native and to hybrid", "at most 5 of 1,000 pings lost, no reset",
        "lost to native: {lost_to_native}, to hybrid: {lost_to_hybrid}", "test_guest.py -k goes_native",
    ),
    Bar(
        "conversion-all", "All ports of a host with running VMs are converted in one call, after a plug of all in one "
        "call. Each VM sends a frame every 50 ms", "longest gap of any VM at most 1 s",
        "{longest_ports} ports: plugged in {longest_plug_s} s, to native in {longest_native_s} s, to hybrid in "
        "{longest_hybrid_s} s, unplugged in {longest_unplug_s} s. Longest gap to native: {longest_gap_to_native_s} s, "
        "to hybrid: {longest_gap_to_hybrid_s} s", "test_conversions.py -k all_ports",
    ),
    Bar("mac-and-mtu", "MAC and MTU of the bridge while members join and leave", "unchanged in 1,000",
        "{changes} changes in {times} joins and leaves", "test_many.py -k mac"),
)  # fmt: skip


def merge_observed(figures: Sequence[Figure]) -> dict[str, float]:
    """Merge the counts of several cases: the sum, or the maximum of those named longest."""
    total: dict[str, float] = {}
    for figure in figures:
        for name, count in figure.counts.items():
            known = total.get(name)
            total[name] = count if known is None else max(known, count) if name.startswith("longest") else known + count
    return total


def cell(bar: Bar, side: str, figures: Sequence[Figure]) -> str:
    """Return the counts of one row on one side, in words."""
    mine = [figure for figure in figures if (figure.bar, figure.side) == (bar.key, side)]
    if not mine:
        return "not measured"
    total = merge_observed(mine)
    wanted = {name for _, name, _, _ in string.Formatter().parse(bar.words) if name}
    shown = {name: f"{total.get(name, 0):,.6g}" if name in total else "?" for name in wanted}
    sentences = [bar.words.format(**shown)]
    cases = sorted(_case(figure) for figure in mine if figure.case)
    if cases:
        sentences.append(f"Cases: {'; '.join(cases)}")
    if not all(figure.full for figure in mine):
        sentences.append("A sample")
    return ". ".join(sentences)


def _case(figure: Figure) -> str:
    """Return a case by name, with its number of kills: each pair of executors has its own system calls."""
    kills = figure.counts.get("kills")
    return f"`{figure.case}`" if kills is None else f"`{figure.case}` {kills:,.6g}"


def page(figures: Sequence[Figure]) -> str:
    """Return the whole page."""
    rows = [
        f"| {bar.what} | {bar.bar} | {cell(bar, OURS, figures)} | {cell(bar, THEIRS, figures)} "
        f"| {', '.join(sorted({figure.code for figure in figures if figure.bar == bar.key and figure.side == OURS}))} "
        f"| {f'`tools/prove tests/faults/{bar.test}`' if bar.test else 'no test yet'} |"
        for bar in BARS
    ]
    return INTRODUCTION + "\n".join(rows).replace("tests/faults/../", "tests/") + "\n"


if __name__ == "__main__":
    directory, target = map(Path, sys.argv[1:])
    target.write_text(page(kept_figures(directory)), encoding="utf-8")
