"""The contract of switch executors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from hybridvif.executors.base import NOT_REALIZED
from hybridvif.model.desired import desired_state
from hybridvif.model.parts import PLACEHOLDER_TYPE, IvsPort, OvsPort, Part, Role, VhostUserPort
from hybridvif.model.report import Result
from hybridvif.model.state import NOTHING, HostState, Observed
from hybridvif.model.steps import Create, Delete, Step, Update
from hybridvif.testing.contract import ovsdb, vhostuser
from hybridvif.testing.contract.bench import (
    PORT,
    STRANGER,
    Bench,
    Make,
    describe,
    require_declared,
    require_equal,
    variants,
)
from hybridvif.testing.sandbox import Sandbox

NAMES = PORT.names
OTHER_ID = "c0117ac7-9999-4000-8000-000000000009"
MAKE_DEVICE = (
    f"ip link add {NAMES.bridge_end} type veth peer name {NAMES.switch_end}; "
    f"ip link set {NAMES.bridge_end} up; ip link set {NAMES.switch_end} up"
)


def check_switch_executor(
    make: Make,
    sandbox: Sandbox | None = None,
    *,
    bridges: Sequence[str] = ("br-int", "br-two"),
    prepare: str = "ovs-vsctl --may-exist add-br br-two -- set Bridge br-two "
    "datapath_type=$(ovs-vsctl get Bridge br-int datapath_type)",
    clean: str = f"ovs-vsctl --if-exists del-port {NAMES.switch_end}",
    **settings: Any,
) -> None:
    """Check that a switch executor keeps the contract. Raises AssertionError with one sentence.

    make: an executor class, or an importable function that creates an executor from Settings.
    bridges: integration bridges of the switch; two if it can move a port between bridges.
    prepare: a shell script that creates the bridges. clean: a shell script that deletes the port.
    settings: fields of Settings.
    """
    require_declared(make, Role.SWITCH)
    settings.setdefault("integration_bridges", tuple(bridges))
    if sandbox is None:
        with Sandbox() as box:
            _check(Bench(make, box, settings), bridges, prepare, clean)
    else:
        _check(Bench(make, sandbox, settings), bridges, prepare, clean)


def _check(bench: Bench, bridges: Sequence[str], prepare: str, clean: str) -> None:
    bench.sh(prepare)
    bench.sh(f"ip link delete {NAMES.bridge_end} 2>/dev/null || true; {clean}")
    # The switch needs an existing device, as at the end of every plug.
    bench.sh(MAKE_DEVICE)
    try:
        with bench:
            if IvsPort in bench.make.serves:  # type: ignore[attr-defined]
                _check_ivs(bench)
            if OvsPort in bench.make.serves:  # type: ignore[attr-defined]
                _check_ovs(bench, bridges)
            if VhostUserPort in bench.make.serves:  # type: ignore[attr-defined]
                _check_vhost_user(bench, bridges)
    finally:
        bench.sh(f"{clean}; ip link delete {NAMES.bridge_end} 2>/dev/null || true")


def _check_ivs(bench: Bench) -> None:
    port = IvsPort(name=NAMES.switch_end)
    whole = HostState({}, {port.name: port})
    _come_and_go(bench, whole)


def _check_vhost_user(bench: Bench, bridges: Sequence[str]) -> None:
    if bench.sh("ovs-vsctl list-br", check=False).strip():
        vhostuser.check(bench, bridges)


def _check_ovs(bench: Bench, bridges: Sequence[str]) -> None:
    wiring = HostState({}, desired_state(replace(PORT, bridge=bridges[0])).ports)
    port = wiring.ports[NAMES.switch_end]
    assert isinstance(port, OvsPort)
    _facts(bench, wiring, bridges)
    if bench.sh(f"ovs-vsctl --columns=name find Interface name={NAMES.switch_end}", check=False).strip():
        ovsdb.check(bench, wiring, bridges)
    _absent_device(bench, port)
    for state in _states(wiring, port, bridges):
        _try_path(bench, wiring, state)
        _try_path(bench, state, wiring)
    _come_and_go(bench, wiring)
    _reach(bench, wiring)
    changed = replace(port, attached_mac="fa:16:3e:00:00:77")
    # The ownership was checked at the observation. Meanwhile the row may belong to another port.
    mine = Update(replace(port, iface_id=PORT.id), changed)
    _reach(bench, wiring.with_parts(replace(port, iface_id=STRANGER)))
    for step in (mine, Delete(port)):
        outcome = bench.try_refused(step, results={Result.REFUSED})
        assert STRANGER in outcome.reason, f"{describe(step)}: the reason does not name whose it is: {outcome.reason}"
    bench.do([Delete(replace(port, iface_id=STRANGER))])
    nowhere = Create(replace(port, bridge="br-nowhere"))
    bench.try_refused(nowhere, results={Result.FAILED, Result.REFUSED})
    require_equal(bench.see(NAMES), NOTHING, "after a create on a bridge that does not exist")


def _facts(bench: Bench, wiring: HostState, bridges: Sequence[str]) -> None:
    """The facts include the port and the bridges. Otherwise plug reports a missing bridge."""
    _reach(bench, wiring)
    for names in (NAMES, None):
        facts = bench.observe(names).facts
        assert NAMES.switch_end in facts.ports, f"facts.ports lacks {NAMES.switch_end}"
        for bridge in bridges:
            assert facts.switches.get(bridge), f"facts.switches lacks {bridge}, or its datapath type"


def _absent_device(bench: Bench, port: OvsPort) -> None:
    """A row without its device is committed but not accepted. The step fails, and the row is observed."""
    bench.do([Delete(port)])
    bench.sh(f"ip link delete {NAMES.bridge_end}")
    (outcome,) = bench.do([Create(port)]) or (None,)
    assert outcome is not None, f"the executor can do nothing: {describe(Create(port))}"
    assert (outcome.result, outcome.code) == (Result.FAILED, NOT_REALIZED), (
        f"{describe(outcome.step)}, whose device is not there: {outcome.result.value} with code {outcome.code!r}, "
        f"but it must be failed with code {NOT_REALIZED!r}"
    )
    unrealized = HostState({}, {port.name: replace(port, realized=False)})
    seen = bench.observe(NAMES)
    require_equal(HostState({}, seen.state.ports), unrealized, "after a create without its device")
    _require_facts(bench, seen, "after a create without its device")
    bench.do([Delete(port)])
    bench.sh(MAKE_DEVICE)


def _states(wiring: HostState, port: OvsPort, bridges: Sequence[str]) -> Iterator[HostState]:
    others = {
        "bridge": tuple(bridges),
        "iface_id": ("", OTHER_ID),
        "iface_status": ("",),
        "attached_mac": ("", "fa:16:3e:00:00:99"),
        "vm_uuid": ("", OTHER_ID),
        "port_id": (PORT.id,),
        "mtu_request": (PORT.mtu, 1400),
    }
    yield NOTHING
    for variant in variants(port, others):
        yield wiring.with_parts(variant)
    yield wiring.with_parts(replace(port, type=PLACEHOLDER_TYPE, realized=False))


def _come_and_go(bench: Bench, whole: HostState) -> None:
    (port,) = whole.ports.values()
    bench.do([Delete(port)])
    (gone,) = bench.do([Delete(port)])
    assert gone.result is Result.DONE, f"{describe(gone.step)} of what is gone: {gone.result.value}"
    _try_path(bench, NOTHING, whole)
    again = bench.try_refused(Create(port), results={Result.FAILED})
    assert again.retry, f"{describe(again.step)}, which is there, must be worth a retry"
    require_equal(HostState({}, bench.see(None).of(NAMES).ports), whole, "observed without names")
    _try_path(bench, whole, NOTHING)
    for name in ("-x", "--help", "eth0", "qvo;reboot", "qvo$(id)", "q" * 40):
        for step in (Create(replace(port, name=name)), Delete(replace(port, name=name))):
            with bench.unchanged(f"by a step about {name!r}"):
                outcomes = bench.do([step])
            assert not [outcome for outcome in outcomes if outcome.result is Result.DONE], (
                f"a port named {name!r} was made or deleted"
            )
    late = bench.do([Create(port)], patience=-1.0)
    assert all(outcome.result is not Result.DONE for outcome in late), "a step was done after its deadline"
    require_equal(bench.see(NAMES), NOTHING, "after the deadline")


def _reach(bench: Bench, goal: HostState) -> None:
    """Converge through the empty state, because an update of a foreign row would be refused."""
    for part in bench.see(NAMES).ports.values():
        bench.do([Delete(part)])
    for part in goal.ports.values():
        bench.do([Create(part)])
    seen = bench.observe(NAMES)
    require_equal(HostState({}, seen.state.ports), goal, "on the way to a starting state")
    _require_facts(bench, seen, "on the way to a starting state")


def _try_path(bench: Bench, start: HostState, goal: HostState) -> None:
    _reach(bench, start)
    step = _step(start.ports.get(NAMES.switch_end), goal.ports.get(NAMES.switch_end))
    if step is None:
        return
    (outcome,) = bench.do([step]) or (None,)
    assert outcome is not None, f"the executor can do nothing: {describe(step)}"
    assert outcome.result is Result.DONE, f"{describe(step)}: {outcome.result.value}, {outcome.reason}"
    seen = bench.observe(NAMES)
    require_equal(HostState({}, seen.state.ports), goal, f"after {describe(step)}")
    _require_facts(bench, seen, f"after {describe(step)}")


def _require_facts(bench: Bench, seen: Observed, when: str) -> None:
    """Check that each port has facts. With Open vSwitch, compare them with ovs-vsctl."""
    for name in seen.state.ports.keys() ^ seen.facts.ports.keys():
        raise AssertionError(f"{when}: facts.ports {'has' if name in seen.facts.ports else 'lacks'} {name}")
    if OvsPort in bench.make.serves:  # type: ignore[attr-defined]
        ovsdb.require_facts(bench, when)


def _step(found: Part | None, wanted: Part | None) -> Step | None:
    if wanted is None:
        return None if found is None else Delete(found)
    if found is None:
        return Create(wanted)
    return None if found == wanted else Update(found, wanted)
