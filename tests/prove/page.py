"""Makes docs/reliability.md of the figures that the proofs wrote down: python -m tests.prove.page DIRECTORY PAGE.

Every number on the page comes out of a JSON file in that directory. What no file speaks of is "not measured".
"""

from __future__ import annotations

import string
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.prove.figures import OURS, THEIRS, Figure, noted

INTRODUCTION = """# Reliability

What holds, whatever dies; and what was measured to prove it. `tools/prove` measures it all anew and writes this page.

## What holds

- What is reported as done has been read back: the host is as the wiring says, or nothing of the port is left.
- From any state, one plug reaches the wiring and one unplug leaves nothing.
- A plug of a port in order writes nothing.
- Nothing of any other port, and nothing foreign, is changed.
- A call ends by its deadline, and says in its status how it stands. What is not known is called unknown.
- After a call has returned, nothing changes by its hand but what it reported as unknown or configured.

## What was measured

Each row is a test in `tests/prove`; the last column runs it alone. Without `HYBRIDVIF_FULL=1` a test makes a sample;
a figure of a sample says so. A row without a figure has not been measured yet.

| what | bar | hybridvif | os-vif | measured by |
|---|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """A row: what must be so, the words for what was counted, and the test that counts."""

    key: str
    what: str
    bar: str
    words: str
    test: str


KILLS = (
    "{kills} kills: {plugs_wrong} of {plugs} plugs and {unplugs_wrong} of {unplugs} unplugs wrong afterwards, "
    "{false_ok} false ok"
)
BARS = (
    Bar(
        "kills", "the daemon killed before each call that changes something, in plug and unplug (strace), then plug "
        "and unplug", "100 % / 100 %, 0 false ok, 4 pairs of executors", KILLS, "test_kills.py",
    ),
    Bar("kills-program", "the same for each program the daemon runs", "100 % / 100 %", KILLS, "test_kills.py"),
    Bar("kills-client", "the same for the caller, from its start to its end", "100 % / 100 %", KILLS,
        "test_client_kills.py"),
    Bar("kills-rollback", "the same within a rollback", "100 % / 100 %, 0 false ok", KILLS,
        "test_kills.py -k undone"),
    Bar(
        "kills-osvif-api", "the daemon killed in the same way under `os_vif.plug` and `os_vif.unplug`, plugins "
        "`hybridvif` and `ovs`", "100 % / 100 %, 0 false ok", KILLS, "../osvif/test_proofs.py -k killed",
    ),
    Bar(
        "drift", "kinds of drift: repaired by the next plug, found by `check`", "40 kinds, 100 %",
        "{repaired} of {kinds} repaired, {found} found", "test_drifts.py",
    ),
    Bar(
        "drift-osvif-api", "the same, repaired by the next `os_vif.plug`, plugins `hybridvif` and `ovs`",
        "40 kinds for each plugin, 100 %", "{repaired} of {kinds} repaired, {found} found",
        "../osvif/test_proofs.py -k drift",
    ),
    Bar(
        "traffic-osvif-api", "a ping every 10 ms and a TCP stream while a port of os-vif's is adopted, plugged again "
        "and repaired by `os_vif.plug`", "nothing lost",
        "{lost_pings} of {pings} pings and {lost_segments} TCP segments lost ({kilobytes} kB, {repairs} repairs)",
        "../osvif/test_living_together.py -k packet",
    ),
    Bar("false-alarms", "false alarms on ports in order", "0 on 100 ports", "{alarms} on {ports} ports",
        "test_many.py -k alarm"),
    Bar(
        "daemon-killed", "daemon killed under 1, 2 and 8 callers", "0 hung callers in 20 rounds each",
        "{hung} hung in {rounds} rounds; all callers done within {longest_s} s", "test_many.py -k nobody",
    ),
    Bar(
        "stress", "two clients of 16 threads each plug and unplug the same 192 ports at random, a quarter of the calls "
        "with a deadline of 0.5 s, while their daemons are killed every 1 to 3 s for 40 s; then all ports are plugged, "
        "checked and unplugged",
        "0 hung, each typed and within 1 s of its deadline; then all in order, then nothing left",
        "{calls} calls, {kills} kills: {hung} hung, {faults} untyped or too late, the latest {longest_late_s} s after "
        "its deadline; ports {done} times done, {rolled-back} rolled back, {unknown} unknown, {incomplete} incomplete, "
        "{configured} configured, {precondition} precondition, {refused} refused; {left} parts, threads and files left",
        "test_stress.py",
    ),
    Bar(
        "hung", "ovsdb-server or ovs-vswitchd hung or dead, deadline 3 s",
        "returns within 3.25 s, typed; no ghost within 10 s; whole or absent",
        "{calls} calls, the longest {longest_s} s; {unknown} unknown, {untyped} untyped, {ghosts} ghosts, {half} half",
        "test_switch_faults.py",
    ),
    Bar("server-restarts", "ovsdb-server killed and restarted during a plug", "one row, converges",
        "{wrong} wrong of {rounds}", "test_switch_faults.py -k comes_back"),
    Bar(
        "disk-full", "no room for OVSDB", "failure, exit 1, no half port",
        "{said_ok} of {calls} said ok, exit {longest_exit_code}, {half} parts left over",
        "test_switch_faults.py -k room",
    ),
    Bar(
        "errno", "a call of the daemon made to fail (strace)", "typed; the next plug converges",
        "{injected} failures: {untyped} untyped, {wrong} wrong afterwards", "test_errors_of_the_kernel.py",
    ),
    Bar(
        "races", "2, 4 and 8 processes on one port", "0 errors, 0 wrong end states in 100 rounds each",
        "{calls} calls in {rounds} rounds: {errors} errors, {wrong} wrong end states", "test_many.py -k race",
    ),
    Bar(
        "storm", "four other writers adding and removing ports of the same bridge all the time", "0 errors in 20 plugs",
        "{calls} calls against {writes} writes: {errors} errors, {wrong} wrong afterwards, {lost} of theirs lost, "
        "{retries} plans made anew", "test_many.py -k others",
    ),
    Bar(
        "collision", "two ports of the same first 11 characters, six orders", "second refused, first bit-identical",
        "{orders} orders: {refused} of {calls} refused, first changed in {changed}", "test_many.py -k every_order",
    ),
    Bar(
        "cycles", "2,000 plugs and unplugs", "all as at the start, memory +-2 MB, at most 1,024 lock files",
        "{cycles} cycles: {fds} fds, {threads} threads, {left} links and rows more; memory {longest_caller_mb} MB "
        "(caller), {longest_daemon_mb} MB (daemon); {longest_lock_files} lock files", "test_many.py -k however_often",
    ),
    Bar("running-vm", "unplug of a port whose VM runs, and of one whose VM does not", "refused with exit 6; done",
        "exit {exit_code}; done: {done}", "test_many.py -k running"),
    Bar("recreated", "devices made anew under a living row: ping after plug", "crosses",
        "{crossed} of {times} crossed", "../functional/test_repair.py -k all_devices"),
    Bar(
        "state-machine", "random histories on a real host", "300 of 30 steps, invariants hold",
        "{broken} broken in {runs} ({steps} steps: {calls} calls, {kills} kills, {drifts} drifts, {reboots} reboots, "
        "{strays} strays, {collisions} collisions)", "test_histories.py",
    ),
    Bar(
        "simulation", "random histories on a host in memory", "100,000 seeds, invariants hold",
        "{broken} broken in {seeds} ({calls} calls, {kills} kills, {drifts} drifts, {failures} failures, "
        "{collisions} collisions)", "test_simulation.py",
    ),
    Bar("mac-and-mtu", "MAC and MTU of the bridge while members join and leave", "unchanged in 1,000",
        "{changes} changes in {times} joins and leaves", "test_many.py -k mac"),
)  # fmt: skip


def together(figures: Sequence[Figure]) -> dict[str, float]:
    """The counts of several cases: added up, or the longest."""
    total: dict[str, float] = {}
    for figure in figures:
        for name, count in figure.counts.items():
            known = total.get(name)
            total[name] = count if known is None else max(known, count) if name.startswith("longest") else known + count
    return total


def cell(bar: Bar, side: str, figures: Sequence[Figure]) -> str:
    """What was counted of one bar on one side, in words."""
    mine = [figure for figure in figures if (figure.bar, figure.side) == (bar.key, side)]
    if not mine:
        return "not measured"
    total = together(mine)
    wanted = {name for _, name, _, _ in string.Formatter().parse(bar.words) if name}
    shown = {name: f"{total.get(name, 0):,.6g}" if name in total else "?" for name in wanted}
    said = bar.words.format(**shown)
    cases = sorted(_case(figure) for figure in mine if figure.case)
    if cases:
        said += f" (cases: {', '.join(cases)})"
    return said + ("" if all(figure.full for figure in mine) else "; a sample")


def _case(figure: Figure) -> str:
    """A case by name, and how many kills it had: each pair of executors has calls of its own."""
    kills = figure.counts.get("kills")
    return figure.case if kills is None else f"{figure.case} {kills:,.6g}"


def page(figures: Sequence[Figure]) -> str:
    """The whole page."""
    rows = [
        f"| {bar.what} | {bar.bar} | {cell(bar, OURS, figures)} | {cell(bar, THEIRS, figures)} "
        f"| {f'`tools/prove tests/prove/{bar.test}`' if bar.test else 'no test yet'} |"
        for bar in BARS
    ]
    return INTRODUCTION + "\n".join(rows).replace("tests/prove/../", "tests/") + "\n"


if __name__ == "__main__":
    directory, target = map(Path, sys.argv[1:])
    target.write_text(page(noted(directory)), encoding="utf-8")
