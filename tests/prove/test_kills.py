"""Killed before any call that changes something: the next plug reaches the wiring, the next unplug leaves nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from hybridvif import Port, Report, check, plug, unplug
from hybridvif.sandbox import Sandbox
from tests.functional.conftest import Lab, make_port
from tests.functional.test_boundary import daemons
from tests.prove.conftest import PAIRS, lab_of, report_of
from tests.prove.figures import FULL, note
from tests.prove.likeness import Likeness, differences, likeness
from tests.prove.strace import attached, killed, killing_at, require_strace

PORT = make_port()
SAMPLE = (3, 9)
"""The kills of an ordinary run; at full size it is every one."""
LAST = 1000

pytestmark = pytest.mark.prove


class Trial:
    """One port on one host that is killed again and again, and what came of it."""

    def __init__(self, lab: Lab, port: Port = PORT) -> None:
        self.lab, self.port = lab, port
        self.empty = likeness(lab)
        assert plug(port, lab.host).ok
        self.whole = likeness(lab)
        assert unplug(port.id, lab.host).ok
        assert differences(self.empty, likeness(lab)) == []
        self.counts: Counter[str] = Counter(kills=0, false_ok=0, plugs=0, plugs_wrong=0, unplugs=0, unplugs_wrong=0)
        self.faults: list[str] = []

    def plugged(self, where: str) -> None:
        """Plug; judged."""
        report = report_of(lambda: plug(self.port, self.lab.host))
        self.counts["plugs"] += 1
        self._judge("plugs_wrong", report, self.whole, f"{where}, plug")
        if report.ok and check(self.port, self.lab.host) != ():
            self.counts["plugs_wrong"] += 1

    def unplugged(self, where: str) -> None:
        """Unplug; judged."""
        report = report_of(lambda: unplug(self.port.id, self.lab.host))
        self.counts["unplugs"] += 1
        self._judge("unplugs_wrong", report, self.empty, f"{where}, unplug")

    def _judge(self, wrong: str, report: Report, wanted: Likeness, where: str) -> None:
        seen = differences(wanted, likeness(self.lab))
        if seen or not report.ok:
            self.counts[wrong] += 1
            self.counts["false_ok"] += report.ok
            self.faults.append(f"{where}: {report.status.value} {report.reason} {seen}")

    def survived(self, where: str, report: Report, wanted: Likeness) -> None:
        """What the call said that was killed under: ok only where it is so."""
        seen = differences(wanted, likeness(self.lab)) if report.ok else []
        if seen:
            self.counts["false_ok"] += 1
            self.faults.append(f"{where}: said ok, and {seen}")

    def warm(self) -> int:
        """The pid of a daemon that has worked already, so that a trial meets no work of its start."""
        for _ in range(2):
            check(self.port, self.lab.host)
        (pid,) = daemons(self.lab.box)
        return pid

    def killed_at(self, number: int, call: Callable[[], Report], log: Path, *, children: bool) -> Report | None:
        """The report of a call whose daemon, or program, was killed; None if nothing was killed any more."""
        with attached(self.warm(), killing_at(number), log, children=children):
            report = report_of(call)
        if not killed(log):
            return None
        self.counts["kills"] += 1
        return report

    def end(self, case: str, bar: str = "kills") -> None:
        """Note the figures; nothing may have gone wrong."""
        note(bar, self.counts, case=case)
        assert self.faults == []
        assert self.counts["kills"] >= (len(SAMPLE) if not FULL else 10)


def numbers() -> Iterable[int]:
    """Before which of the calls to kill."""
    return range(1, LAST) if FULL else SAMPLE


def through(trial: Trial, verb: str, log: Path, *, children: bool) -> None:
    """Kill a plug or an unplug before each of its calls; then plug and unplug, and once more unplug alone."""
    port, host = trial.port, trial.lab.host
    for number in numbers():
        where = f"{verb} killed at {number}"
        for then_plug in (True, False) if FULL else (bool(number % 2),):
            if verb == "unplug":
                assert plug(port, host).ok
                report = trial.killed_at(number, lambda: unplug(port.id, host), log, children=children)
                wanted = trial.empty
            else:
                report = trial.killed_at(number, lambda: plug(port, host), log, children=children)
                wanted = trial.whole
            if report is not None:
                trial.survived(where, report, wanted)
            if then_plug:
                trial.plugged(where)
            trial.unplugged(where)
            if report is None:
                return


@pytest.mark.parametrize("verb", ["plug", "unplug"])
@pytest.mark.parametrize(("link", "switch"), PAIRS if FULL else PAIRS[:1])
def test_a_daemon_killed_before_any_change_leaves_what_the_next_call_puts_right(
    sandbox: Sandbox, tmp_path: Path, link: str, switch: str, verb: str
) -> None:
    require_strace()
    with lab_of(sandbox, tmp_path / "lab", link_executor=link, switch_executor=switch) as lab:
        trial = Trial(lab)
        through(trial, verb, tmp_path / "log", children=False)
        trial.end(f"{verb} {link} {switch}")


@pytest.mark.skipif(not FULL, reason="the daemon itself is killed on a sample; its programs at full size only")
@pytest.mark.parametrize("verb", ["plug", "unplug"])
def test_a_program_of_the_daemon_killed_before_any_change_is_no_success_and_no_harm(
    sandbox: Sandbox, tmp_path: Path, verb: str
) -> None:
    """Each program and the daemon count their own calls; whoever comes first to that number dies."""
    require_strace()
    link, switch = PAIRS[3]
    with lab_of(sandbox, tmp_path / "lab", link_executor=link, switch_executor=switch) as lab:
        trial = Trial(lab)
        through(trial, verb, tmp_path / "log", children=True)
        trial.end(f"{verb} {link} {switch}", "kills-program")
