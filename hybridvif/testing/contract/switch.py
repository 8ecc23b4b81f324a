"""The contract of switch executors, as a table of checks."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from hybridvif.model.parts import (
    CONVERTING,
    PLACEHOLDER_TYPE,
    IvsPort,
    NativePort,
    OvsPort,
    Part,
    Role,
    SwitchPort,
    Tap,
    Veth,
    VhostUserPort,
)
from hybridvif.model.planner import as_native
from hybridvif.model.port import desired_state
from hybridvif.model.report import Result
from hybridvif.model.settings import SOCKET_DIR
from hybridvif.model.state import Create, Delete, HostState, Observed, Replace, Step, Update
from hybridvif.testing.contract.bench import (
    FAILED,
    NAMES,
    NOT_DONE,
    PORT,
    REFUSED,
    STRANGER,
    Bench,
    Check,
    Worker,
    bad_names,
    variants,
)

_, QVB, QVO, TAP, VHU = NAMES
OTHER_ID = "c0117ac7-9999-4000-8000-000000000009"
QOS_ID = str(uuid.uuid5(uuid.UUID("68da264a-847f-42a8-8ab0-5e774aee3d95"), QVO))
"""The id by which os-vif finds the QoS row of the port."""
BESIDE = "hvbeside"
"""A foreign port of the first bridge."""
UNTYPED = "hvuntyped"
"""A bridge with an empty datapath_type, which means `system` (ovs-vswitchd.conf.db(5), Bridge)."""
PREPARE = "ovs-vsctl --may-exist add-br br-two -- set Bridge br-two datapath_type=netdev"
CLEAN = f"for name in {QVO} {TAP} {VHU} {BESIDE} hvbond; do ovs-vsctl --if-exists del-port $name; done"
DEVICE = (
    f"ip link add {QVB} type veth peer name {QVO}; ip link set {QVB} up; ip link set {QVO} up; "
    f"ip link add {TAP} type veth peer name hvpeer; ip link set {TAP} up; ip link set hvpeer up"
)
NO_DEVICE = f"for link in {QVB} {TAP}; do ip link delete $link 2>/dev/null || true; done"
STALE = "No usable peer"
"""The error of ovs-vswitchd for a placeholder row. It may remain afterwards."""
OPTIONS = {"dpdkvhostuser": "{}", "dpdkvhostuserclient": f'{{vhost-server-path="{SOCKET_DIR}/{VHU}"}}'}
"""Interface.options by type, as written by os-vif with Neutron's default vhostuser_socket_dir."""


def check(host: Worker, serves: Collection[type[Part]], bridges: tuple[str, ...], clean: str = CLEAN) -> None:
    """Run all checks. Raises AssertionError with one sentence."""
    is_ovs = bool(host.box.run(["ovs-vsctl", "list-br"], check=False).stdout) if OvsPort in serves else False
    veth = next(link for link in desired_state(PORT).links.values() if isinstance(link, Veth))
    own = (
        f"ovs-vsctl --if-exists del-br {UNTYPED} -- --all destroy QoS; ovs-vsctl add-port {bridges[0]} {BESIDE} tag=8 "
        f"-- set Interface {BESIDE} type=internal external_ids:own=theirs; ovs-vsctl --no-wait add-br {UNTYPED}"
    )
    sweep = f"{clean}; {NO_DEVICE}; {DEVICE}" + (f"; {own}" if is_ovs else "")
    facts = wrong_facts(bridges if OvsPort in serves else (), is_ovs=is_ovs)
    # A bridge, and an internal port, take the smallest MTU of the ports. A Linux bridge takes their smallest MAC, too.
    changing = [f"link {name}" for name in (*bridges, BESIDE, "hvpeer")]
    beside = [veth, Tap(name=TAP, master="")]
    bench = Bench(host, Role.SWITCH, sweep=sweep, beside=beside, changing=changing, facts=facts)
    try:
        if OvsPort in serves:
            port = _port(bridge=bridges[0])
            bench.run([*(rows(port, bridges) if is_ovs else ()), *ovs_ports(port, bridges)])
        if NativePort in serves and is_ovs:
            bench.run(conversions(_port(bridge=bridges[0])))
        if IvsPort in serves:
            bench.run(any_port(IvsPort(name=QVO)))
        if VhostUserPort in serves and is_ovs:
            bench.run(vhost_user(_port(bridge=bridges[0], call_iptables=False, vhostuser_mode="server"), bridges))
    finally:
        undo = f"{clean}; ovs-vsctl --if-exists del-br {UNTYPED} -- --all destroy QoS" if is_ovs else clean
        bench.sh(f"{undo}; {NO_DEVICE}")


def _port(**changes: Any) -> Any:
    (port,) = desired_state(replace(PORT, **changes)).ports.values()
    return port


def any_port(port: SwitchPort) -> Iterator[Check]:
    """Yield what holds for a port of any switch."""
    there = HostState({}, {port.name: port})
    yield Check(name="come and go", steps=(Delete(port), Create(port), Delete(port), Delete(port)))
    yield Check(name="it is there", start=there, steps=(Create(port),), results=FAILED, retry=True)
    yield from bad_names(port)
    yield Check(name="the deadline", steps=(Create(port),), results=NOT_DONE, patience=-1.0)


def ovs_ports(port: OvsPort, bridges: Sequence[str]) -> Iterator[Check]:
    """Yield each step from every start state, and what an executor refuses."""
    yield from any_port(port)
    others = {
        "bridge": tuple(bridges),
        "iface_id": ("", OTHER_ID),
        "iface_status": ("",),
        "attached_mac": ("", "fa:16:3e:00:00:99"),
        "vm_uuid": ("", OTHER_ID),
        "port_id": (PORT.id,),
        "converting": (CONVERTING,),
        "mtu_request": (PORT.mtu, 1400),
    }
    wiring = _only(port)
    for other in (*variants(port, others), replace(port, type=PLACEHOLDER_TYPE, realized=False)):
        yield Check(name=f"to {other}", start=wiring, steps=(Update(port, other),))
        yield Check(name=f"from {other}", start=_only(other), steps=(Update(other, port),))
    changed = replace(port, attached_mac="fa:16:3e:00:00:77")
    yield Check(name="it is gone", steps=(Update(changed, port),), results=FAILED, retry=True)
    # The ownership was checked at the observation. Meanwhile the row may belong to another port.
    for row in (replace(port, iface_id=STRANGER), replace(port, port_id=STRANGER)):
        steps = (Update(port, changed), Delete(port))
        yield Check(name=f"a row of {STRANGER}", start=_only(row), steps=steps, results=REFUSED, reason=STRANGER)
    nowhere = Create(replace(port, bridge="br-nowhere"))
    yield Check(name="a missing bridge", steps=(nowhere,), results=frozenset({Result.FAILED, Result.REFUSED}))
    # The row is committed, and the switch cannot accept it.
    yield Check(name="a missing device", script=NO_DEVICE, steps=(Create(port),), results=FAILED, code="not-realized")


def rows(port: OvsPort, bridges: Sequence[str]) -> Iterator[Check]:
    """Yield what an executor of Open vSwitch does with the columns of others, and with the rows beside a port's."""
    changed = replace(port, attached_mac="fa:16:3e:00:00:55")
    moved = replace(changed, bridge=bridges[-1])
    script = (
        f"ovs-vsctl set Port {QVO} tag=7 other_config:own=theirs external_ids:own=theirs "
        f"-- set Interface {QVO} other_config:own=theirs external_ids:own=theirs"
    )
    query = (
        f"ovs-vsctl get Port {QVO} tag other_config external_ids -- get Interface {QVO} other_config external_ids:own"
    )
    output = "7 {own=theirs} {own=theirs} {own=theirs} theirs"
    steps: tuple[Step, ...] = (Update(port, changed), Update(changed, moved))
    yield Check(name="columns of others", start=_only(port), script=script, steps=steps, query=query, output=output)
    # The dead VLAN is create-only: an update neither removes nor sets it.
    isolated, query = replace(port, isolated=True), f"ovs-vsctl get Port {QVO} tag vlan_mode trunks"
    for born, output in ((isolated, "4095 trunk [4095]"), (port, "[] [] []")):
        steps = (Create(born), Update(port, replace(isolated, vm_uuid="")), Update(replace(port, vm_uuid=""), isolated))
        yield Check(name=f"isolated={born.isolated}", steps=steps, query=query, output=output)
    # The QoS row of a port is created and deleted with it. QoS rows of other ports or ids stay.
    held = "ovs-vsctl -- --id=@q create QoS type=linux-noop external_ids:id={} -- set Port " + f"{BESIDE} qos=@q"
    orphan = f"ovs-vsctl create QoS type=linux-htb external_ids:id={QOS_ID}"
    query = "ovs-vsctl --bare --columns=type,external_ids list QoS | sort"
    own, born, other = f"_type=linux-noop id={QOS_ID} linux-noop", replace(port, qos_type="linux-noop"), "id=another"
    update = Update(port, replace(port, qos_type="linux-htb", vm_uuid=""))
    beside = f"{held.format('another')}; {orphan}"
    output = f"{own.rpartition(' ')[0]} {other} linux-noop linux-noop"
    yield Check(name="a QoS row", script=beside, steps=(Create(born), update), query=query, output=output)
    output = f"{other} linux-noop"
    yield Check(name="no QoS row", script=beside, steps=(Create(born), Delete(port)), query=query, output=output)
    output = f"id={QOS_ID} linux-noop"
    steps = (Create(born), Delete(port))
    yield Check(name="a shared QoS row", script=held.format(QOS_ID), steps=steps, query=query, output=output)
    steps = (Update(changed, port), Delete(port))
    for script in (
        f"ovs-vsctl --no-wait add-bond {port.bridge} {QVO} {QVO} hvslave",
        f"ovs-vsctl --no-wait add-bond {port.bridge} hvbond {QVO} hvslave",
        f"ovs-vsctl add-port {port.bridge} {QVO} -- set Interface {QVO} type=vxlan options:remote_ip=192.0.2.1",
        f"ovs-vsctl add-port {port.bridge} {QVO} -- set Interface {QVO} type=internal",
    ):
        yield Check(
            name=script, script=f"{NO_DEVICE}; {script}", foreign=True, steps=steps, results=REFUSED, reason=QVO
        )


def conversions(port: OvsPort) -> Iterator[Check]:
    """Yield the replacement of a row by one of the tap, and back, with all that others wrote into it."""
    marked = replace(port, converting=CONVERTING)
    (native,) = (row for row in as_native(_only(port), PORT.id, _only(port)).ports.values())
    assert isinstance(native, NativePort)
    marked_native = replace(native, converting=CONVERTING)
    to_native, back = Replace(marked, marked_native), Replace(marked_native, marked)
    columns = "tag vlan_mode trunks other_config external_ids"
    script = (
        f"ovs-vsctl --id=@q create QoS type=linux-noop external_ids:id={QOS_ID} external_ids:_type=linux-noop "
        f"-- set Port {QVO} qos=@q tag=7 vlan_mode=access external_ids:own=theirs "
        f'\'other_config={{net="a, b","x y"="=1"}}\' '
        f"-- set Interface {QVO} external_ids:own=theirs other_config:own=theirs ingress_policing_rate=900"
    )
    output = '7 access [] {net="a, b", "x y"="=1"} {own=theirs} theirs {own=theirs} 900 ofport'

    def query(name: str) -> str:
        return (
            f"ovs-vsctl get Port {name} {columns} -- get Interface {name} external_ids:own other_config "
            "ingress_policing_rate; printf 'ofport '; ovs-vsctl --bare --columns=ofport_request list Interface "
            rf"{name} | sed 's/[0-9]\+/requested/'; "
            f"ovs-vsctl get QoS $(ovs-vsctl get Port {name} qos) external_ids:id | tr -d '\"'"
        )

    native_id = str(uuid.uuid5(uuid.UUID("68da264a-847f-42a8-8ab0-5e774aee3d95"), TAP))
    done = {"start": _only(marked), "script": script}
    for steps, name, end in (
        ([to_native], TAP, f"requested {native_id}"),
        ([to_native, Update(marked_native, native)], TAP, native_id),
        ([to_native, back], QVO, f"requested {QOS_ID}"),
        ([to_native, back, Update(marked, port), Delete(port)], "", ""),
    ):
        if name:
            wanted = {"query": query(name), "output": f"{output} {end}"}
        else:
            wanted = {"query": "ovs-vsctl --bare --columns=_uuid list QoS", "output": ""}
        yield Check(name=f"conversion in {len(steps)} steps", steps=tuple(steps), **done, **wanted)  # type: ignore[arg-type]
    yield Check(name="a native row goes", start=_only(marked), steps=(to_native, Delete(marked_native)))
    yield Check(name="a row that is not marked", start=_only(port), steps=(to_native,), results=FAILED, retry=True)
    yield Check(name="no row to replace", steps=(to_native,), results=FAILED, retry=True)
    stranger = replace(marked, port_id=STRANGER)
    yield Check(
        name="a row of another port", start=_only(stranger), steps=(to_native,), results=REFUSED, reason=STRANGER
    )
    yield Check(name="a native row is not created", steps=(Create(native),), results=REFUSED, reason=TAP)


def vhost_user(port: VhostUserPort, bridges: Sequence[str]) -> Iterator[Check]:
    """Yield the rows of vhost-user ports. Without DPDK, ovs-vswitchd does not accept them, but they are written."""
    others = {
        "type": ("dpdkvhostuser",),
        "mtu_request": (9000, 0),
        "bridge": tuple(bridges),
        "attached_mac": ("", "fa:16:3e:00:00:66"),
        "port_id": (PORT.id,),
    }
    query = f"ovs-vsctl get Interface {VHU} type options mtu_request"
    either: dict[str, Any] = {"results": frozenset({Result.DONE, Result.FAILED}), "code": "not-realized"}
    done: list[Step] = [Create(port)]
    for other in variants(port, others):
        assert isinstance(other, VhostUserPort)
        done += [Update(port, other), Update(other, port)]
        output = f"{other.type} {OPTIONS[other.type]} {other.mtu_request or '[]'}"
        yield Check(name=f"{other}", steps=(Create(port), Update(port, other)), query=query, output=output, **either)
    done += [Update(replace(port, realized=False), port), Delete(port), Delete(port)]
    yield Check(name="vhost-user", steps=tuple(done), **either)
    output = f"{port.type} {OPTIONS[port.type]} []"
    unknown = (Create(replace(port, mtu_request=None)),)
    yield Check(name="an MTU that is not known", steps=unknown, query=query, output=output, **either)
    # A wrong socket path is drift. Other options stay.
    script = (
        f"ovs-vsctl --no-wait add-port {port.bridge} {VHU} -- set Interface {VHU} type={port.type} "
        "options:vhost-server-path=/elsewhere options:tx-retries-max=2"
    )
    bare = replace(port, iface_id="", iface_status="", attached_mac="", vm_uuid="", mtu_request=0, realized=False)
    found = replace(bare, socket_as_configured=False)
    wanted = replace(bare, realized=True, socket_as_configured=True)
    client = replace(wanted, type="dpdkvhostuser")
    output = (
        f"{port.type} {OPTIONS[port.type].replace('{', '{tx-retries-max=2, '.replace('2', chr(34) + '2' + chr(34)))} []"
    )
    for steps in ([Update(found, wanted)], [Update(found, wanted), Update(wanted, client), Update(client, wanted)]):
        yield Check(name="a socket elsewhere", script=script, steps=tuple(steps), query=query, output=output, **either)


def _only(port: Any) -> HostState:
    return HostState({}, {port.name: port})


def wrong_facts(bridges: Sequence[str], *, is_ovs: bool) -> Callable[[Bench, Observed], Iterable[str]]:
    """Return a comparison of the facts with the observed ports, and with `ovs-vsctl`."""

    def wrong(bench: Bench, observed: Observed) -> Iterator[str]:
        facts, ports = observed.facts, observed.state.ports
        for name in sorted(ports.keys() ^ facts.ports.keys()):
            yield f"facts.ports {'has' if name in facts.ports else 'lacks'} {name}"
        for bridge in bridges:
            if not facts.switches.get(bridge):
                yield f"facts.switches lacks {bridge}, or its datapath type"
        if is_ovs:
            seen = {name: (fact.ofport, fact.error, fact.tag) for name, fact in facts.ports.items()}
            wanted, switches = _rows_of(bench)
            if seen != wanted:
                yield f"the facts (ofport, error, tag) are {seen}, not {wanted}"
            if dict(facts.switches) != switches:
                yield f"facts.switches is {dict(facts.switches)}, not {switches}"
            for name, port in ports.items():
                if isinstance(port, VhostUserPort) and port.realized is not ((wanted[name][0] or 0) > 0):
                    yield f"{name} is observed as realized={port.realized}, and its row is {wanted[name]}"

    return wrong


def _rows_of(bench: Bench) -> tuple[dict[str, tuple[int | None, str, int | None]], dict[str, str]]:
    """Return the values of the port and of all bridges by `ovs-vsctl`."""
    columns = ("name,datapath_type list Bridge", "name,tag list Port", "name,type,ofport,error list Interface")
    command = "ovs-vsctl --no-wait --format=json " + " -- ".join(f"--columns={words}" for words in columns)
    tables = [json.loads(line)["data"] for line in bench.sh(command).splitlines()]
    plain: list[Any] = [[[None if cell == ["set", []] else cell for cell in row] for row in rows] for rows in tables]
    bridges, tags, found = dict(plain[0]), dict(plain[1]), {}
    for name, kind, ofport, error in plain[2]:
        if name in NAMES:
            # An error from the time as a placeholder is stale once the port has a number.
            is_stale = kind != PLACEHOLDER_TYPE and STALE in (error or "") and (ofport or 0) > 0
            found[name] = (ofport, "" if is_stale else error or "", tags.get(name))
    return found, {name: kind or "system" for name, kind in bridges.items()}
