"""Our switch executors by way of the daemon, beyond the shipped contract: random states, threads, hung daemons."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from hypothesis import given

from hybridvif import (
    Create,
    Delete,
    HostState,
    HybridVifError,
    Outcome,
    OvsPort,
    Result,
    Status,
    Step,
    Tap,
    Update,
    Veth,
    check,
    desired_state,
    plan,
    plug,
    simulate,
)
from hybridvif.model.errors import Refused
from hybridvif.model.parts import PLACEHOLDER_TYPE, Role
from hybridvif.privileged.execute import installed
from hybridvif.testing.contract.bench import wrong
from tests.contract.bench import Bench, make, sampled, states
from tests.functional.conftest import make_port, until
from tests.support.strategies import the

EXECUTORS = [name for name in installed(Role.SWITCH) if name not in ("recording", "ivs-ctl")]


@pytest.fixture(scope="module", params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> dict[str, str]:
    return {"switch_executor": request.param}


PORT = make_port()
QBR, QVB, QVO, TAP, _ = PORT.names
ROW = the(OvsPort, desired_state(PORT))
OVSS_OWN = "peer_promisc"
"""ovs-vswitchd switches promiscuity on when it opens a device, and restores it by name when it closes it."""


def parks(step: Step) -> bool:
    """Return whether a step makes a row that is not accepted a placeholder."""
    match step:
        case Update(OvsPort(realized=False) as before, OvsPort(type=kind)):
            return bool(kind) and not before.type
    return False


@pytest.mark.prove
@sampled(8)
@given(state=states(PORT), target=states(PORT, target=True))
def test_each_step_does_what_simulate_says(standing: Bench, state: HostState, target: HostState) -> None:
    standing.furnish(state)
    assert wrong(standing.see(), state, but=OVSS_OWN) == []
    for step in plan(state, target):
        before = standing.see()
        (outcome,) = standing.do(step)
        assert outcome.result is Result.DONE, outcome
        # A row whose device ovs-vswitchd has missed needs no placeholder.
        expected = (
            before if parks(step) and wrong(standing.see(), before, but=OVSS_OWN) == [] else simulate(before, step)
        )
        assert wrong(standing.see(), expected, but=OVSS_OWN) == []
    reached = standing.see()
    taps = [part for part in reached if isinstance(part, Tap)]
    assert wrong(reached, target.with_parts(*taps), but=OVSS_OWN) == []


def test_a_step_writes_nothing_but_what_differs(bench: Bench) -> None:
    bench.furnish(bench.wiring)
    bench.sh(f"ovs-vsctl set Interface {QVO} external_ids:vm-uuid=theirs")
    # Observed first: unchanged values are not written.
    bench.do(Update(replace(ROW, attached_mac=""), ROW), Update(ROW, replace(ROW, iface_status="")))
    ids = dict(bench.row(QVO)["external_ids"][1])
    assert (ids["vm-uuid"], ids["attached-mac"], "iface-status" in ids) == ("theirs", PORT.mac, False)


# Acceptance by ovs-vswitchd.


def test_switch_version_is_a_fact(bench: Bench) -> None:
    bench.sh("ovs-vsctl set Open_vSwitch . ovs_version=3.1.0")
    assert bench.facts().switch_version == "ovs 3.1.0"
    bench.sh("ovs-vsctl clear Open_vSwitch . ovs_version")
    assert bench.facts().switch_version == "ovs"


def test_a_device_that_cannot_be_opened_fails_with_what_the_switch_says(bench: Bench) -> None:
    (outcome,) = bench.do(Create(ROW))
    assert outcome.result is Result.FAILED
    assert bench.row(QVO)["error"]
    assert bench.row(QVO)["error"] in outcome.reason
    assert QVO in outcome.reason
    assert bench.see() == HostState().with_parts(replace(ROW, realized=False))
    assert [outcome.result for outcome in bench.do(Delete(ROW))] == [Result.DONE]


@pytest.mark.parametrize("found", [ROW, replace(ROW, realized=False)], ids=["no change", "realized alone"])
def test_update_that_writes_nothing_is_not_done_without_device(bench: Bench, found: OvsPort) -> None:
    """ovs-vsctl has nothing to do then, so the executor must still check the device."""
    bench.do(Create(ROW))
    (outcome,) = bench.do(Update(found, ROW))
    assert (outcome.result, outcome.code) == (Result.FAILED, "not-realized")


def test_a_bridge_that_is_missing_fails_by_name(bench: Bench) -> None:
    bench.sh("ovs-vsctl del-br br-two")
    outcome = bench.try_out(Create(replace(ROW, bridge="br-two")))
    assert (outcome.result, outcome.code) == (Result.FAILED, "bridge-missing")
    assert "br-two" in outcome.reason
    bench.furnish(bench.wiring)
    bench.sh("ovs-vsctl del-br br-two")
    assert bench.try_out(Update(ROW, replace(ROW, bridge="br-two"))).code == "bridge-missing"


# Settings of others.


def test_mtu_request_of_another_is_cleared_and_stays_so(bench: Bench) -> None:
    """ovs-vswitchd would otherwise set the old MTU again, soon after the plug has read the new one."""
    plug(PORT, bench.host)
    for mtu in (1450, 1500, 9000, 1500):
        port = replace(PORT, mtu=mtu)
        bench.sh(f"ovs-vsctl set Interface {QVO} mtu_request=1400")
        assert plug(port, bench.host).status is Status.DONE
        # It returns when ovs-vswitchd has applied its configuration once more.
        bench.sh(f"ovs-vsctl set Open_vSwitch . external_ids:mtu={mtu}")
        assert bench.link(QVO)["mtu"] == mtu
        assert bench.row(QVO)["mtu_request"] == ["set", []]
        assert check(port, bench.host) == ()


def test_mtu_request_that_agrees_is_left_alone(bench: Bench) -> None:
    plug(PORT, bench.host)
    bench.sh(f"ovs-vsctl set Interface {QVO} mtu_request={PORT.mtu}")
    before = bench.snapshot()
    assert not plug(PORT, bench.host).changed
    assert bench.snapshot() == before
    assert plug(replace(PORT, mtu=1400), bench.host).status is Status.DONE
    assert bench.row(QVO)["mtu_request"] == ["set", []]


def test_mtu_request_is_cleared_and_never_written(bench: Bench) -> None:
    plug(PORT, bench.host)
    bench.sh(f"ovs-vsctl set Interface {QVO} mtu_request=1400")
    cleared = replace(ROW, mtu_request=0)
    assert [outcome.result for outcome in bench.do(Update(replace(ROW, mtu_request=1400), cleared))] == [Result.DONE]
    assert bench.see().ports == {QVO: cleared}
    with pytest.raises(Refused, match="may not be given that mtu_request"):
        bench.do(Update(cleared, replace(ROW, mtu_request=1400)))
    assert bench.row(QVO)["mtu_request"] == ["set", []]


def test_a_device_that_is_called_a_system_device_is_one(bench: Bench) -> None:
    bench.furnish(bench.wiring)
    bench.sh(f"ovs-vsctl set Interface {QVO} type=system")
    assert bench.see() == bench.wiring


# Many rows at once.


def test_of_fifty_in_a_batch_the_guilty_alone_fails(bench: Bench) -> None:
    ports = [make_port(number) for number in range(1, 51)]
    rows = [row for port in ports for row in desired_state(port).ports.values()]
    veths = [
        replace(veth, master="")
        for port in ports
        for veth in desired_state(port).links.values()
        if isinstance(veth, Veth)
    ]
    unopenable, bonded = 16, 32
    make(bench.box, HostState().with_parts(*(veth for index, veth in enumerate(veths) if index != unopenable)))
    bench.sh(f"ovs-vsctl --no-wait add-bond br-int hvbond {rows[bonded].name} hvother")

    outcomes = bench.host.apply([[Create(row)] for row in rows], time.monotonic() + 10)

    results = [outcome.result for (outcome,) in outcomes]
    assert [index for index, result in enumerate(results) if result is not Result.DONE] == [unopenable, bonded]
    assert rows[unopenable].name in outcomes[unopenable][0].reason
    assert rows[bonded].name in outcomes[bonded][0].reason
    seen = bench.observed({row.name for row in rows}).state.ports
    assert [index for index, row in enumerate(rows) if seen[row.name] != row] == [unopenable, bonded]

    gone = bench.host.apply([[Delete(row)] for index, row in enumerate(rows) if index != bonded], time.monotonic() + 10)
    assert {outcome.result for (outcome,) in gone} == {Result.DONE}
    bench.box.run(
        ["ip", "-force", "-batch", "-"],
        input="".join(f"link set {veth.name} group 99\n" for veth in veths) + "link delete group 99\n",
        check=False,
    )


def test_callers_in_several_threads_do_not_disturb_each_other(bench: Bench) -> None:
    rows = [the(OvsPort, desired_state(make_port(number))) for number in range(1, 9)]
    parked = [replace(row, type=PLACEHOLDER_TYPE, realized=False) for row in rows]

    def turns(row: OvsPort) -> list[Outcome]:
        steps: list[Step] = [Create(row), Update(row, replace(row, iface_status="")), Delete(row)] * 2
        return [outcome for step in steps for (outcome,) in bench.host.apply([[step]], time.monotonic() + 10)]

    with ThreadPoolExecutor(8) as pool:
        outcomes = [outcome for some in pool.map(turns, parked) for outcome in some]
    assert [outcome for outcome in outcomes if outcome.result is not Result.DONE] == []
    assert len(outcomes) == 48
    assert bench.observed(None).state == HostState()


# Other writers.

WRITER = f"""
i=0
while :; do
    i=$((i+1))
    ovs-vsctl --no-wait set Interface {QVO} external_ids:x=$i
    [ "$(ovs-vsctl --no-wait get Interface {QVO} external_ids:x)" = "\\"$i\\"" ] || echo "lost $i"
    echo "wrote $i"
done
"""
SETTER = f"while read -r value; do ovs-vsctl --no-wait set Interface {QVO} external_ids:iface-status=$value; echo; done"


def test_two_writers_of_one_row_lose_nothing(bench: Bench, tmp_path: Path) -> None:
    bench.furnish(bench.wiring)
    other = replace(ROW, attached_mac="fa:16:3e:ff:ff:ff", vm_uuid="")
    output = tmp_path / "said"
    with output.open("w") as out, bench.box.popen(["sh", "-c", WRITER], stdout=out) as writer:
        assert until(lambda: "wrote 1\n" in output.read_text())
        rounds = 0
        while rounds < 12 or "wrote 11\n" not in output.read_text():
            rounds += 1
            for step in (Update(ROW, other), Update(other, ROW)):
                (outcome,) = bench.do(step)
                assert outcome.result is Result.DONE, outcome
                assert bench.see().ports[QVO] == step.after
        writer.kill()
    lines = output.read_text().splitlines()
    assert len(lines) > 10
    assert [line for line in lines if not line.startswith("wrote")] == []
    # The writer may have been killed between its commit and its output.
    assert int(dict(bench.row(QVO)["external_ids"][1])["x"]) - len(lines) in (0, 1)


RESTLESS = f"""
import itertools, json, socket
server = socket.socket(socket.AF_UNIX)
server.connect("/run/openvswitch/db.sock")
where = [["name", "==", "{QVO}"]]
for number in itertools.count():
    change = [["external_ids", "delete", ["set", ["x"]]], ["external_ids", "insert", ["map", [["x", str(number)]]]]]
    mutate = {{"op": "mutate", "table": "Interface", "where": where, "mutations": change}}
    server.sendall(json.dumps({{"id": number, "method": "transact", "params": ["Open_vSwitch", mutate]}}).encode())
    server.recv(65536)
    if number == 0:
        print("at it", flush=True)
"""
"""Writes some thousand times a second, so that an observation is soon outdated."""


def test_how_often_it_was_tried_anew_is_told(bench: Bench, executor: dict[str, str]) -> None:
    tells = executor["switch_executor"] != "ovs-vsctl"  # which retries by itself, and does not report how often
    bench.furnish(bench.wiring)
    other = replace(ROW, attached_mac="fa:16:3e:ff:ff:ff")
    assert [outcome.retries for outcome in bench.do(Update(ROW, other))] == [0]
    with bench.box.popen([sys.executable, "-c", RESTLESS], stdout=PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "at it\n"
        outcomes: list[Outcome] = []

        def has_retries() -> bool:
            outcomes.extend(bench.do(Update(other, ROW)) + bench.do(Update(ROW, other)))
            return not tells or max(outcome.retries for outcome in outcomes) > 0

        assert until(has_retries, 20)
        writer.kill()
    assert [outcome for outcome in outcomes if outcome.result is not Result.DONE and not outcome.retry] == []


def test_what_another_client_has_committed_is_seen_at_once(bench: Bench) -> None:
    bench.furnish(bench.wiring)
    with bench.box.popen(["sh", "-c", SETTER], stdin=PIPE, stdout=PIPE) as setter:
        assert setter.stdin is not None
        assert setter.stdout is not None
        for number in range(100):
            setter.stdin.write(f"round-{number}\n")
            setter.stdin.flush()
            setter.stdout.readline()
            found = bench.see().ports[QVO]
            assert isinstance(found, OvsPort)
            assert found.iface_status == f"round-{number}"
        setter.stdin.close()


# A hung switch.


@pytest.fixture
def paused(bench: Bench) -> Iterator[Callable[[Any], None]]:
    """Stop a daemon until the end of the test."""
    names: list[Any] = []

    def pause(name: Any) -> None:
        bench.box.pause(name)
        names.append(name)

    yield pause
    for name in names:
        bench.box.resume(name)


def within(seconds: float, started: float) -> bool:
    """Return True within the seconds, plus the permitted 0.25 s and as much for a busy machine."""
    return time.monotonic() - started < seconds + 0.5


@pytest.mark.alone
def test_a_hung_server_is_told_by_the_deadline_and_nothing_comes_late(
    bench: Bench, paused: Callable[[Any], None]
) -> None:
    bench.furnish(HostState(bench.wiring.links))
    assert bench.see().ports == {}
    paused("ovsdb-server")

    started = time.monotonic()
    with pytest.raises(HybridVifError, match=r"not answer|hung|busy"):
        bench.host.observe({QVO}, started + 0.6)
    assert within(0.6, started)
    started = time.monotonic()
    (outcome,) = bench.do(Create(ROW), patience=0.6)
    assert within(0.6, started)
    assert outcome.result in (Result.FAILED, Result.UNKNOWN)
    assert outcome.reason

    bench.box.resume("ovsdb-server")
    if outcome.result is Result.FAILED:
        time.sleep(0.3)
        assert bench.see().ports == {}
    assert plug(PORT, bench.host).status is Status.DONE


def test_a_server_that_restarted_between_two_calls_is_met_again(bench: Bench) -> None:
    bench.furnish(bench.wiring)
    assert bench.see() == bench.wiring
    bench.box.restart("ovsdb-server")
    assert set(bench.see().ports) == {QVO}
    bench.box.restart("ovsdb-server")
    # ovs-vswitchd connects again after up to eight seconds: it waits longer after each restart.
    bench.sh("ovs-vsctl --timeout=20 set Open_vSwitch . external_ids:connected=$$")
    changed = replace(ROW, iface_status="")
    assert [outcome.result for outcome in bench.do(Update(ROW, changed), Update(changed, ROW))] == [Result.DONE] * 2
    assert until(lambda: check(PORT, bench.host) == ())


@pytest.mark.alone
def test_a_hung_vswitchd_leaves_it_configured_and_realizes_it_later(
    bench: Bench, paused: Callable[[Any], None]
) -> None:
    bench.furnish(HostState(bench.wiring.links))
    paused("ovs-vswitchd")
    started = time.monotonic()
    (outcome,) = bench.do(Create(ROW), patience=1.2)
    assert within(1.2, started)
    assert outcome.result is Result.CONFIGURED
    assert "ovs-vswitchd" in outcome.reason
    assert bench.see().ports == {QVO: replace(ROW, realized=False)}

    bench.box.resume("ovs-vswitchd")
    assert until(lambda: bench.see().ports == {QVO: ROW})
