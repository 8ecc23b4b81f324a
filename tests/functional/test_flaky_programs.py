"""Half of all commands fail, before or after their effect: every outcome is typed, and a clean plug converges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hybridvif import Host, HybridVifError, Report, Status, check, plug, unplug
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import Lab, make_port

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


CUT_SHORT = """#!/bin/bash
# What asks is killed when it has told half of it: {when}.
real=/usr/sbin/ip; [ -x $real ] || real=/usr/bin/ip
[[ " $* " == *" -json "* ]] || exec $real "$@"
said=$($real "$@"); code=$?
echo >> {count}
if (( $(wc -l < {count}) % {every} == 0 )); then printf %s "${{said:0:${{#said}}/2}}"; kill -KILL $$; fi
printf '%s\\n' "$said"; exit $code
"""


@pytest.mark.parametrize("every", [1, 2], ids=["always", "every other time"])
def test_truncated_listing_is_not_taken_for_absence(sandbox: Sandbox, tmp_path: Path, every: int) -> None:
    port, options = make_port(), {"link_executor": "subprocess-brctl", "deadline": 10}
    for name in ("clean", "killed", "programs"):
        (tmp_path / name).mkdir()
    (tmp_path / "programs" / "ip").write_text(CUT_SHORT.format(when=every, every=every, count=tmp_path / "count"))
    (tmp_path / "programs" / "ip").chmod(0o755)
    lab = Lab(sandbox, Host.__new__(Host))
    with connected(sandbox, tmp_path / "clean", **options) as host:
        assert plug(port, host).ok
    path = f"{tmp_path / 'programs'}:/usr/sbin:/usr/bin:/sbin:/bin"
    with connected(sandbox, tmp_path / "killed", **options, program_path=path) as host:
        report = report_of(lambda: unplug(port.id, host))
    assert report.ok == (every == 2), report
    assert (port.names.bridge in lab.links()) == (not report.ok)
    with connected(sandbox, tmp_path / "clean", **options) as host:
        assert unplug(port.id, host).ok
