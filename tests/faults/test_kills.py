"""Kills before each changing system call: the next plug reaches the desired state, and unplug leaves nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from pathlib import Path

import pytest

from hybridvif import Port, Report, check, plug, unplug
from hybridvif.model.report import Status
from hybridvif.testing.sandbox.box import Sandbox
from tests.faults.conftest import PAIRS, lab_of, report_of
from tests.functional.conftest import Lab, make_port
from tests.functional.test_boundary import daemons
from tests.support.figures import note
from tests.support.likeness import Likeness, differences, likeness
from tests.support.sizes import FULL
from tests.support.strace import attached, counted, counting, killed, killing_at, require_strace

Hampered = Callable[[], AbstractContextManager[None]]
PORT = make_port()
BEYOND = 3
"""Number of successive calls that did not occur, beyond the counted ones, before the test stops."""

pytestmark = pytest.mark.prove


@contextmanager
def trial_of(box: Sandbox, directory: Path, link: str, switch: str) -> Iterator[Trial]:
    """Yield an empty host whose daemon uses one thread, because strace counts by thread."""
    with lab_of(box, directory, link_executor=link, switch_executor=switch) as lab:
        # The daemon reads it at its later start. Its own section comes last.
        with (directory / "hybridvif.conf").open("a", encoding="utf-8") as config:
            config.write("thread_pool_size = 1\n")
        yield Trial(lab)


class Trial:
    """One port on one host that is killed repeatedly, with the results."""

    def __init__(self, lab: Lab, port: Port = PORT) -> None:
        self.lab, self.port = lab, port
        self.empty = likeness(lab)
        assert self.plug().ok
        self.whole = likeness(lab)
        assert self.unplug().ok
        assert differences(self.empty, likeness(lab)) == []
        names = ("points", "kills", "missed", "false_ok", "plugs", "plugs_wrong", "unplugs", "unplugs_wrong")
        self.counts: Counter[str] = Counter(dict.fromkeys(names, 0))
        self.faults: list[str] = []

    def plug(self) -> Report:
        """Plug, with any result."""
        return report_of(lambda: plug(self.port, self.lab.host))

    def unplug(self) -> Report:
        """Unplug, with any result."""
        return report_of(lambda: unplug(self.port.id, self.lab.host))

    def plugged(self, where: str) -> None:
        """Plug and check the result."""
        report = self.plug()
        self.counts["plugs"] += 1
        self._judge("plugs_wrong", report, self.whole, f"{where}, plug")
        if report.ok and check(self.port, self.lab.host) != ():
            self.counts["plugs_wrong"] += 1

    def unplugged(self, where: str) -> None:
        """Unplug and check the result."""
        report = self.unplug()
        self.counts["unplugs"] += 1
        self._judge("unplugs_wrong", report, self.empty, f"{where}, unplug")

    def _judge(self, wrong: str, report: Report, wanted: Likeness, where: str) -> None:
        seen = differences(wanted, likeness(self.lab))
        if seen or not report.ok:
            self.counts[wrong] += 1
            self.counts["false_ok"] += report.ok
            self.faults.append(f"{where}: {report.status.value} {report.reason} {seen}")

    def survived(self, where: str, report: Report, before: Likeness, wanted: Likeness) -> None:
        """Check the status of the interrupted call: done only if it is, rolled back only without leftovers."""
        claimed = wanted if report.ok else before if report.status is Status.ROLLED_BACK else None
        seen = differences(claimed, likeness(self.lab)) if claimed is not None else []
        if seen:
            self.counts["false_ok"] += report.ok
            self.faults.append(f"{where}: said {report.status.value}, and {seen}")

    def warm(self) -> int:
        """Return the pid of a daemon that has already worked, so that its start is not traced."""
        for _ in range(2):
            check(self.port, self.lab.host)
        (pid,) = daemons(self.lab.box)
        return pid

    def points(self, call: Callable[[], Report], log: Path, *, children: bool) -> dict[str, int]:
        """Count the changing system calls of an undisturbed daemon, by kind, in one thread."""
        with attached(self.warm(), counting(), log, children=children):
            call()
        return counted(log)

    def killed_at(
        self, kind: str, number: int, call: Callable[[], Report], log: Path, *, children: bool
    ) -> Report | None:
        """Return the report of a call whose daemon or program was killed; None if nothing was killed."""
        with attached(self.warm(), killing_at(number, kind), log, children=children):
            report = call()
        if not killed(log):
            return None
        self.counts["kills"] += 1
        return report

    def end(self, case: str, bar: str = "kills") -> None:
        """Record the figures. No fault and no skipped call is permitted."""
        note(bar, self.counts, case=case)
        assert self.faults == []
        assert self.counts["points"] > 0
        assert self.counts["missed"] == 0


def numbers(points: dict[str, int]) -> Iterator[tuple[str, Iterator[int]]]:
    """Yield the numbers of the calls to kill before, by kind. At full size they have no end."""
    if FULL:
        yield from ((kind, count(1)) for kind in sorted(points))
    else:
        kind = max(points, key=lambda kind: points[kind])
        yield kind, iter((points[kind] // 3, points[kind] * 2 // 3))


def through(trial: Trial, verb: str, log: Path, *, children: bool = False, hampered: Hampered = nullcontext) -> None:
    """Kill a plug or an unplug before each of its calls; then plug and unplug, and unplug once more.

    hampered: the fault of the host during the call.
    """
    call = trial.unplug if verb == "unplug" else trial.plug

    def begin() -> tuple[Likeness, Likeness]:
        if verb == "plug":
            return trial.empty, trial.whole
        assert trial.plug().ok
        return trial.whole, trial.empty

    looks = []
    for _ in range(3 if FULL else 1):
        begin()
        with hampered():
            looks.append(trial.points(call, log, children=children))
        assert trial.unplug().ok
    # A log line that waits too long for a response is sent by itself, so one call more or less is chance.
    points = {kind: count for kind in looks[0] if (count := min(look.get(kind, 0) for look in looks))}
    for kind, places in numbers(points):
        missed = 0
        for number in places:
            where = f"{verb} killed at {kind} {number}"
            for then_plug in (True, False) if FULL else (bool(number % 2),):
                before, wanted = begin()
                with hampered():
                    report = trial.killed_at(kind, number, call, log, children=children)
                if report is not None:
                    trial.survived(where, report, before, wanted)
                counts = number <= points[kind]
                missed = missed + 1 if report is None and not counts else 0
                trial.counts["points"] += counts
                trial.counts["missed"] += counts and report is None
                if then_plug:
                    trial.plugged(where)
                trial.unplugged(where)
            if missed >= BEYOND:
                break


@pytest.mark.parametrize("verb", ["plug", "unplug"])
@pytest.mark.parametrize(("link", "switch"), PAIRS if FULL else PAIRS[:1])
def test_daemon_killed_before_any_change_is_repaired_by_next_call(
    sandbox: Sandbox, tmp_path: Path, link: str, switch: str, verb: str
) -> None:
    require_strace()
    with trial_of(sandbox, tmp_path / "lab", link, switch) as trial:
        through(trial, verb, tmp_path / "log")
        trial.end(f"{verb} {link} {switch}")


@pytest.mark.parametrize(("link", "switch"), PAIRS if FULL else PAIRS[:1])
def test_daemon_killed_while_plug_is_undone_is_repaired_by_next_call(
    sandbox: Sandbox, tmp_path: Path, link: str, switch: str
) -> None:
    require_strace()
    with trial_of(sandbox, tmp_path / "lab", link, switch) as trial:

        @contextmanager
        def read_only() -> Iterator[None]:
            """Permit the creation of the bridge, but not writing its settings."""
            trial.lab.sh("mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys")
            try:
                yield
            finally:
                trial.lab.sh("umount /proc/sys")

        with read_only():
            assert report_of(lambda: plug(PORT, trial.lab.host)).status is Status.ROLLED_BACK
        through(trial, "plug", tmp_path / "log", hampered=read_only)
        trial.end(f"{link} {switch}", "kills-rollback")


@pytest.mark.skipif(not FULL, reason="the daemon itself is killed on a sample; its programs at full size only")
@pytest.mark.parametrize("verb", ["plug", "unplug"])
def test_program_killed_before_any_change_is_failure_without_harm(sandbox: Sandbox, tmp_path: Path, verb: str) -> None:
    """Each program and the daemon count their own calls. The first to reach the number dies."""
    require_strace()
    link, switch = PAIRS[3]
    with trial_of(sandbox, tmp_path / "lab", link, switch) as trial:
        through(trial, verb, tmp_path / "log", children=True)
        trial.end(f"{verb} {link} {switch}", "kills-program")
