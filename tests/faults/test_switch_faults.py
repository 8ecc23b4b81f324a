"""Open vSwitch hangs, dies, or has no disk space: the call ends in time with a true report, and nothing comes late."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridvif import Status, check, plug, unplug
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox.box import Sandbox
from tests.faults.conftest import lab_of, report_of
from tests.functional.conftest import Lab, make_port, until
from tests.functional.test_boundary import daemons
from tests.support.figures import note
from tests.support.likeness import differences, likeness
from tests.support.sizes import FULL
from tests.support.strace import attached, require_strace

pytestmark = [pytest.mark.prove, pytest.mark.alone]
PORT = make_port()
FILL = """
cat /dev/zero > /run/small/filler 2>/dev/null || true
i=0
while ovs-vsctl --no-wait set Open_vSwitch . other_config:room=$((i += 1)) 2>/dev/null; do :; done
"""
"""Fills the disk. The last page of the database still has room, so it is written until that fails too."""
DEADLINE = 3.0
GHOST = 10.0 if FULL else 1.0
"""Seconds in which an abandoned change must not appear."""
TYPED = {Status.ROLLED_BACK, Status.INCOMPLETE, Status.UNKNOWN, Status.CONFIGURED, Status.PRECONDITION, Status.REFUSED}


@pytest.fixture(params=["ovsdb", "ovs-vsctl"] if FULL else ["ovsdb"])
def switch(request: pytest.FixtureRequest) -> str:
    """The switch executor."""
    return str(request.param)


@pytest.fixture
def hasty(sandbox: Sandbox, tmp_path: Path, switch: str) -> Iterator[Lab]:
    """A host with a deadline of 3 s, whose Open vSwitch runs again after the test."""
    with lab_of(sandbox, tmp_path / "lab", deadline=DEADLINE, switch_executor=switch) as lab:
        check(PORT, lab.host)
        try:
            yield lab
        finally:
            for name in ("ovsdb-server", "ovs-vswitchd"):
                try:
                    sandbox.resume(name)
                except Exception:  # noqa: BLE001  # it was killed
                    sandbox.start(name)


def timed_plug(lab: Lab) -> tuple[Status, float]:
    begun = time.monotonic()
    return report_of(lambda: plug(PORT, lab.host)).status, time.monotonic() - begun


@pytest.mark.parametrize("phase", ["before connect", "after connect"] if FULL else ["before connect"])
def test_a_server_that_hung_before_it_was_asked_makes_nothing_later(
    sandbox: Sandbox, hasty: Lab, switch: str, phase: str
) -> None:
    empty = likeness(hasty)
    if phase == "before connect":
        for pid in daemons(sandbox):
            os.kill(pid, signal.SIGKILL)
        # A running daemon that has not yet contacted the switch.
        assert until(lambda: not daemons(sandbox))
        with hasty.host.locked([PORT.id[:11]], time.monotonic() + 10):
            pass
    sandbox.pause("ovsdb-server")
    status, took = timed_plug(hasty)
    sandbox.resume("ovsdb-server")
    time.sleep(GHOST)
    ghosts = len(differences(empty, likeness(hasty)))
    again = plug(PORT, hasty.host).ok
    note(
        "hung",
        case=f"{switch}, server hung {phase}",
        calls=1,
        longest_s=round(took, 2),
        ghosts=ghosts,
        half=0,
        untyped=0,
    )
    assert status in TYPED
    assert ghosts == 0
    assert again
    assert took <= DEADLINE + (0.25 if FULL else 0.75)


AFTER = {"read": "recvfrom", "write": "write,writev,pwrite64"}
"""Moments at which the server stops: it has read a request, or committed it without a response."""


@pytest.mark.parametrize("after", list(AFTER) if FULL else ["read"])
def test_server_hung_before_response_is_unknown_then_complete_or_absent(
    sandbox: Sandbox, hasty: Lab, tmp_path: Path, switch: str, after: str
) -> None:
    require_strace()
    empty = likeness(hasty)
    plug(PORT, hasty.host)
    whole = likeness(hasty)
    unplug(PORT.id, hasty.host)
    half = ghosts = untyped = unknown = calls = 0
    longest = 0.0
    server = sandbox.daemon_pid("ovsdb-server")
    for number in range(1, 13 if FULL else 2):
        check(PORT, hasty.host)
        rules = ["-e", f"trace={AFTER[after]}", "-e", f"inject={AFTER[after]}:signal=STOP:when={number}"]
        awake = threading.Timer(DEADLINE + 2, lambda: os.kill(server, signal.SIGCONT))
        with attached(server, rules, tmp_path / "log"):
            awake.start()
            status, took = timed_plug(hasty)
            awake.cancel()
            awake.join()
        os.kill(server, signal.SIGCONT)
        calls += 1
        longest = max(longest, took)
        untyped += status is not Status.DONE and status not in TYPED
        unknown += status is Status.UNKNOWN
        time.sleep(min(GHOST, 3))
        seen = likeness(hasty)
        rows = {name for name in set(seen) - set(empty) if not name.startswith("link ")}
        half += bool(rows) and bool(differences(whole, seen))
        ghosts += status in (Status.ROLLED_BACK, Status.PRECONDITION) and bool(differences(empty, seen))
        assert plug(PORT, hasty.host).ok
        assert not differences(whole, likeness(hasty))
        unplug(PORT.id, hasty.host)
    note("hung", case=f"{switch}, server hung after any {after}", calls=calls, longest_s=round(longest, 2),
         ghosts=ghosts, half=half, untyped=untyped, unknown=unknown)  # fmt: skip
    assert (half, ghosts, untyped) == (0, 0, 0)
    assert unknown > 0 or not FULL
    assert longest <= DEADLINE + (0.25 if FULL else 0.75)


@pytest.mark.parametrize("befalls", ["hangs", "is dead"] if FULL else ["hangs"])
def test_port_without_vswitchd_is_configured_and_accepted_later(
    sandbox: Sandbox, hasty: Lab, switch: str, befalls: str
) -> None:
    if befalls == "hangs":
        sandbox.pause("ovs-vswitchd")
    else:
        sandbox.kill("ovs-vswitchd")
    status, took = timed_plug(hasty)
    if befalls == "hangs":
        sandbox.resume("ovs-vswitchd")
    else:
        sandbox.start("ovs-vswitchd")
    unaided = until(lambda: check(PORT, hasty.host) == ())
    note("hung", case=f"{switch}, vswitchd {befalls}", calls=1, longest_s=round(took, 2), ghosts=0, half=0, untyped=0)
    assert status is Status.CONFIGURED
    assert unaided
    assert took <= DEADLINE + (0.25 if FULL else 0.75)


def test_a_server_that_dies_and_comes_back_at_any_moment_has_one_row(sandbox: Sandbox, hasty: Lab, switch: str) -> None:
    # It may have died in an earlier test.
    assert until(lambda: report_of(lambda: plug(PORT, hasty.host)).ok, 20)
    whole = likeness(hasty)
    unplug(PORT.id, hasty.host)
    rounds, wrong = 12 if FULL else 2, 0
    for number in range(rounds):
        killing = threading.Timer(0.001 * number, lambda: sandbox.restart("ovsdb-server"))
        killing.start()
        report = report_of(lambda: plug(PORT, hasty.host))
        killing.join()
        assert report.ok or report.status in TYPED
        # ovs-vswitchd waits up to 8 s before it reconnects to the server.
        assert until(lambda: report_of(lambda: plug(PORT, hasty.host)).ok, 20)
        wrong += not until(lambda: not differences(whole, likeness(hasty)), 3)
        unplug(PORT.id, hasty.host)
    note("server-restarts", case=switch, rounds=rounds, wrong=wrong)
    assert wrong == 0


def test_a_database_without_room_is_a_failure_and_leaves_no_half_port(tmp_path: Path, switch: str) -> None:
    with Sandbox(ovs=False) as box:
        box.run(["sh", "-ec", "mkdir /run/small; mount -t tmpfs -o size=256k small /run/small"])
        box.start_switch(database="/run/small/conf.db")
        with connected(box, tmp_path, deadline=10, switch_executor=switch) as host:
            lab = Lab(box, host)
            check(PORT, host)
            empty = likeness(lab)
            lab.sh(FILL)
            report = report_of(lambda: plug(PORT, host))
            half = len(differences(empty, likeness(lab)))
            lab.sh("rm /run/small/filler")
            again = until(lambda: report_of(lambda: plug(PORT, host)).ok)
            note("disk-full", case=switch, calls=1, said_ok=report.ok, longest_exit_code=report.status.exit_code,
                 half=half, again=again)  # fmt: skip
            assert not report.ok
            assert report.status.exit_code == 1, report
            assert half == 0
            assert again
