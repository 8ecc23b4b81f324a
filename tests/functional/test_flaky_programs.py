"""Half of all commands fail, before or after their effect: every outcome is typed, and a clean plug converges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hybridvif import HybridVifError, Report, Status, check, plug, unplug
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import make_port

FLAKY = """#!/bin/bash
# Fails every second time, in one of the ways in which such programs do.
real=/usr/sbin/{name}; [ -x $real ] || real=/usr/bin/{name}
case $((RANDOM % 8)) in
    0) echo "RTNETLINK answers: Device or resource busy" >&2; exit 2 ;;
    1) echo "{name}: something nobody has seen before" >&2; exit 1 ;;
    2) $real "$@"; echo "{name}: failed when all was done" >&2; exit 1 ;;
    3) $real "$@" >/dev/null 2>&1; kill -SEGV $$ ;;
    *) exec $real "$@" ;;
esac
"""
ROUNDS = 6
TYPED = {Status.ROLLED_BACK, Status.INCOMPLETE, Status.UNKNOWN, Status.CONFIGURED, Status.PRECONDITION, Status.REFUSED}


def report_of(call: Callable[[], Report]) -> Report:
    """Return the report of a call, even if it fails."""
    try:
        return call()
    except HybridVifError as failure:
        assert failure.report is not None
        return failure.report


def test_flaky_programs_lead_to_no_false_report(sandbox: Sandbox, tmp_path: Path) -> None:
    port = make_port()
    programs, clean, flaky = (tmp_path / name for name in ("programs", "clean", "flaky"))
    for directory in (programs, clean, flaky):
        directory.mkdir()
    for name in ("brctl", "ip", "ovs-vsctl"):
        (programs / name).write_text(FLAKY.format(name=name))
        (programs / name).chmod(0o755)
    options = {"link_executor": "subprocess-brctl", "switch_executor": "ovs-vsctl", "deadline": 10}
    ended: set[Status] = set()
    for number in range(ROUNDS):
        with connected(sandbox, flaky, **options, program_path=programs) as host:
            reports = [report_of(lambda: plug(port, host))]
            if number % 2 == 0:
                reports.append(report_of(lambda: unplug(port.id, host)))
        for report in reports:
            assert report.ok or (report.status in TYPED and report.reason)
            ended.add(report.status)
        with connected(sandbox, clean, **options) as host:
            assert plug(port, host).ok
            assert check(port, host) == ()
            if number % 3 == 0:
                assert unplug(port.id, host).ok
    with connected(sandbox, clean, **options) as host:
        unplug(port.id, host)
    assert ended - {Status.DONE}, "nothing ever failed, so nothing was tried"


def test_the_stand_ins_do_fail(sandbox: Sandbox, tmp_path: Path) -> None:
    program = tmp_path / "ip"
    program.write_text(FLAKY.format(name="ip"))
    program.chmod(0o755)
    codes = {sandbox.run([str(program), "link"], check=False).returncode for _ in range(60)}
    assert 0 in codes
    assert len(codes) > 2
