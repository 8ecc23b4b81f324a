"""The bench an executor is tried on: a host that ip and ovs-vsctl bring into a state, and what is then seen of it.

Nothing here goes through an executor but do() and see(), so that whoever brings the host into its state is not the one
that is tried.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Collection, Iterable
from dataclasses import replace
from random import Random
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from hybridvif import Host, HostState, Outcome, Port, Step, wiring_of
from hybridvif.facts import Facts, Observed
from hybridvif.parts import PARKED, Bridge, MadeTap, OvsPort, Part, Tap, Veth, differences
from hybridvif.port import MAX_TAP_MTU
from hybridvif.sandbox import Sandbox
from tests.functional.conftest import Lab, make_port

FULL = bool(os.environ.get("HYBRIDVIF_FULL"))
FOREIGN = "hvforeign"
"""A Linux bridge that is not ours."""
IDS = {
    "iface_id": "iface-id",
    "iface_status": "iface-status",
    "attached_mac": "attached-mac",
    "vm_uuid": "vm-uuid",
    "port_id": "hybridvif-port-id",
    "bridge_name": "bridge_name",
}
"""The keys of Interface.external_ids, by attribute (semantics of Neutron's agent, but for the last)."""
PATIENCE = 8.0
"""Seconds a step is given."""


def sampled(examples: int) -> settings:
    """Settings of a test that makes a host for every example: so many of them, or twenty times as many at full size."""
    unhurried = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    size = examples * (20 if FULL else 1)
    return settings(max_examples=size, derandomize=not FULL, deadline=None, suppress_health_check=unhurried)


class Bench(Lab):
    """A connected sandbox with one port on trial."""

    def __init__(self, box: Sandbox, host: Host) -> None:
        super().__init__(box, host)
        self.port = make_port()
        self.names = self.port.names
        self.wiring = HostState().having(*map(possible, wiring_of(self.port)))

    def observed(self, names: Collection[str] | None = ()) -> Observed:
        """What an executor sees under these names, by default the port's."""
        asked = set(self.names) if names == () else names
        return self.host.observe(asked, time.monotonic() + PATIENCE)

    def see(self) -> HostState:
        """The port as the executors see it."""
        return self.observed().state

    def facts(self) -> Facts:
        """The facts of the port as the executors see them."""
        return self.observed().facts

    def do(self, *steps: Step, patience: float = PATIENCE) -> tuple[Outcome, ...]:
        """What came of the steps of one plan."""
        (outcomes,) = self.host.apply([steps], time.monotonic() + patience)
        return outcomes

    def try_out(self, step: Step) -> Outcome:
        """What came of one step, on a host that is then found to be bit-identical."""
        before = self.snapshot()
        (outcome,) = self.do(step)
        assert self.snapshot() == before
        return outcome

    def snapshot(self) -> dict[str, Any]:
        """Everything that anyone could miss, less what the kernel settles by itself: timers, who has carrier."""
        columns = "_uuid,name,type,options,external_ids,ofport,other_config,error"
        links, *tables = self.sh(
            "ip -d -j link; ovs-vsctl --format=json --no-wait "
            f"list Bridge -- list Port -- --columns={columns} list Interface; "
            "cd /proc/sys/net; grep -sH . ipv4/conf/q*/arp_* ipv6/conf/q*/disable_ipv6 || true"
        ).splitlines()
        rows, sysctls = tables[:3], tables[3:]
        return {
            "links": sorted((_settled(link) for link in json.loads(links)), key=lambda link: str(link["ifname"])),
            "rows": [sorted(map(str, json.loads(table)["data"])) for table in rows],
            "sysctls": sysctls,
        }

    def furnish(self, state: HostState) -> None:
        """Bring the host into a state of the port, whatever it is in."""
        self.sweep()
        make(self.box, state)

    def keep(self, state: HostState) -> None:
        """Bring the host into a state of the port, unless it is there."""
        if self.see() != state:
            self.furnish(state)

    def sweep(self) -> None:
        """Back to an empty host with two empty bridges, in as few commands and transactions as can be."""
        self.sh(
            """
            away=
            for b in $(ovs-vsctl list-br); do
                case $b in br-int|br-two) for p in $(ovs-vsctl list-ports $b); do away="$away -- del-port $p"; done ;;
                *) away="$away -- del-br $b" ;;
                esac
            done
            ovs-vsctl --timeout=10 --may-exist add-br br-two -- set Bridge br-two \
                datapath_type=$(ovs-vsctl get Bridge br-int datapath_type) $away
            for n in $(ls /run/netns 2>/dev/null); do ip netns delete $n || true; done
            links=$(ls /sys/class/net | grep -vE '^(lo|br-int|br-two|ovs-netdev)$') || exit 0
            { for l in $links; do echo link set $l group 99; done; echo link delete group 99; } |
                ip -force -batch - 2>/dev/null || true
            """
        )


def wrong(seen: HostState, expected: HostState, *, but: str = "") -> list[str]:
    """Where what is seen is not what was expected, as sentences; in whatever attribute but this one."""
    found = []
    for side in ("links", "ports"):
        ones, others = getattr(seen, side), getattr(expected, side)
        found += [f"{name} is there" for name in ones.keys() - others.keys()]
        found += [f"{name} is not there" for name in others.keys() - ones.keys()]
        for name in ones.keys() & others.keys():
            if type(ones[name]) is not type(others[name]):
                found.append(f"{ones[name]}, not a {others[name].kind}")
            else:
                changes = differences(ones[name], others[name])
                found += [f"{name}: {change}" for change in changes if change.attribute != but]
    return found


def _settled(link: dict[str, Any]) -> dict[str, Any]:
    own = link.get("linkinfo", {})
    for options in (own.get("info_data", {}), own.get("info_slave_data", {})):
        for name in [name for name in options if name.endswith("timer") or name == "state"]:
            del options[name]
    flags = sorted({*link["flags"]} - {"NO-CARRIER", "LOWER_UP"})
    return {**link, "flags": flags, "operstate": ""}


def make(box: Sandbox, state: HostState) -> None:
    """Make all that a state holds, on a host that has nothing of it."""
    bridges = [part for part in state if isinstance(part, Bridge)]
    veths = [part for part in state if isinstance(part, Veth)]
    taps = [part for part in state if isinstance(part, Tap | MadeTap)]
    rows = [part for part in state if isinstance(part, OvsPort)]
    links = [*map(_bridge, bridges), *map(_veth, veths), *map(_tap, taps)]
    script = [
        *(_stale(veth, row) for veth in veths for row in rows if veth.peer == row.name),
        _batch(line for lines in links for line in lines),
        *(line for bridge in bridges for line in _sysctls(bridge)),
        # IPv6 is off before a bridge is up.
        _batch(f"link set {bridge.name} up" for bridge in bridges if bridge.up),
        *map(_row, rows),
    ]
    box.run(["sh", "-e"], input="\n".join(script))


def _stale(veth: Veth, row: OvsPort) -> str:
    """If need be a row that ovs-vswitchd holds with a device that is gone: another of its name is not realized."""
    if row.type or row.realized:
        return ""
    return f"ip link add {veth.name} type veth peer name {veth.peer}\n{_row(row)}\nip link delete {veth.name}"


def _bridge(part: Bridge) -> list[str]:
    name = part.name
    # Made with another MTU and then given its own, for the kernel to leave it alone when members come and go.
    lines = [
        f"link add {name} address {part.mac} mtu {part.mtu ^ 1} type bridge",
        f"link set {name} mtu {part.mtu} group {part.group}",
        _alias(name, part.alias),
        f"link set {name} type bridge stp_state {part.stp:d}",
        f"link set {name} type bridge forward_delay {part.forward_delay} ageing_time {part.ageing}",
        f"link set {name} type bridge mcast_snooping {part.multicast_snooping:d}",
    ]
    calls = {option: getattr(part, option) for option in ("nf_call_iptables", "nf_call_ip6tables")}
    lines += [f"link set {name} type bridge {option} {on:d}" for option, on in calls.items() if on is not None]
    return lines if part.addr_gen_mode is None else [*lines, f"link set {name} addrgenmode {part.addr_gen_mode}"]


def _sysctls(part: Bridge) -> list[str]:
    values = [("ipv4", "arp_ignore", part.arp_ignore), ("ipv4", "arp_announce", part.arp_announce)]
    if part.disable_ipv6 is not None:
        values.append(("ipv6", "disable_ipv6", part.disable_ipv6))
    return [f"echo {value:d} > /proc/sys/net/{family}/conf/{part.name}/{key}" for family, key, value in values]


def _veth(part: Veth) -> list[str]:
    ends = [
        (part.name, part.alias, part.up, part.promisc, f"{_master(part.master)} group {part.group}"),
        (part.peer, part.peer_alias, part.peer_up, part.peer_promisc, ""),
    ]
    lines = [f"link add {part.name} mtu {part.mtu} type veth peer name {part.peer} mtu {part.peer_mtu}"]
    for name, alias, up, promisc, more in ends:
        lines += [
            _alias(name, alias),
            f"link set {name} {'up' if up else 'down'} promisc {'on' if promisc else 'off'} {more}",
        ]
    return lines


def _tap(part: Tap | MadeTap) -> list[str]:
    if isinstance(part, MadeTap):
        return [
            f"tuntap add {part.name} mode tap{' multi_queue' if part.multi_queue else ''}",
            _alias(part.name, part.alias),
            f"link set {part.name} address {part.mac} mtu {part.mtu} group {part.group}",
            f"link set {part.name} {'up' if part.up else 'down'} {_master(part.master)}",
        ]
    foreign = [f"link add {FOREIGN} type bridge"] if part.master == FOREIGN else []
    # Whose user may not open /dev/net/tun has a device of another kind: it is a tap by its name.
    open_tun = os.access("/dev/net/tun", os.R_OK | os.W_OK)
    made = "tuntap add {0} mode tap" if open_tun else "link add {0} type veth peer name {0}p"
    return [*foreign, made.format(part.name), f"link set {part.name} {_master(part.master)}"]


def _row(part: OvsPort) -> str:
    values = {key: getattr(part, attribute) for attribute, key in IDS.items()}
    columns = [f'external_ids:{key}="{value}"' for key, value in values.items() if value]
    columns += [f"type={PARKED}", "options:peer=nobody"] if part.type == PARKED else []
    add = ["--may-exist", "add-port", part.bridge, part.name]
    put = ["--", "set", "Interface", part.name, *columns] if columns else []
    # That the device cannot be opened is told on stderr, and is what some states want.
    return f"ovs-vsctl --timeout=10 {shlex.join([*add, *put])} 2>/dev/null"


def _batch(lines: Iterable[str]) -> str:
    return "ip -batch - <<'END'\n" + "\n".join(lines) + "\nEND"


def _alias(name: str, alias: str) -> str:
    return f'link set {name} alias "{alias}"'


def _master(master: str) -> str:
    return f"master {master}" if master else "nomaster"


# -- states a host can be brought into --

MTUS = [1500, 1280, 1279, 1400, 9000, 68, 65535]
TWO_BRIDGES = ["br-int", "br-two"]


def attributes_of(port: Port, *, target: bool = False) -> dict[type[Part], dict[str, list[Any]]]:
    """What the attributes of a port's parts can be; as a target only what policy lets anybody write."""
    flags, words = [True, False], [] if target else ["x", "someone wrote here"]
    aliases = [port.id, "", *([] if target else ["someone wrote here", port.id.upper()])]
    groups = [0] if target else [0, 7]
    return {
        Bridge: {
            "alias": aliases,
            "mac": ["0a:00:00:00:01:7b", "02:00:00:00:00:09"],
            "mtu": MTUS,
            "up": flags,
            # In hundredths of a second, of which a kernel that ticks 250 times a second knows the even ones only.
            "forward_delay": [0, 200, 1500, 3000],
            "ageing": [0, 2, 30000],
            "stp": flags,
            "multicast_snooping": flags,
            "disable_ipv6": flags,
            "addr_gen_mode": ["none", "eui64", "random"],
            "arp_ignore": [0, 1, 2, 3, 8],
            "arp_announce": [0, 1, 2],
            "nf_call_iptables": flags,
            "nf_call_ip6tables": flags,
            "group": groups,
        },
        Veth: {
            "alias": aliases,
            "peer_alias": aliases,
            "mtu": MTUS,
            "peer_mtu": MTUS,
            "up": flags,
            "peer_up": flags,
            "promisc": flags,
            "peer_promisc": flags,
            "group": groups,
        },
        MadeTap: {
            "mac": ["fe:16:3e:00:00:09", "02:00:00:00:00:09"],
            "mtu": [mtu for mtu in MTUS if mtu <= MAX_TAP_MTU],
            "up": flags,
            "group": groups,
        },
        OvsPort: {
            "bridge": TWO_BRIDGES,
            "iface_id": [port.id, ""],
            "iface_status": ["active", "", *words],
            "attached_mac": [port.mac, "", *words],
            "vm_uuid": [port.instance_id, port.id, "", *words],
            "port_id": [port.id, ""],
            "type": ["", PARKED],
        },
    }


@st.composite
def states(draw: st.DrawFn, port: Port, *, target: bool = False, rows: bool = True) -> HostState:
    """Any state of a port that ip and ovs-vsctl can make, with nothing foreign in it; shrinks to the plugged port."""
    names, wiring = port.names, wiring_of(port)
    attributes = attributes_of(port, target=target)
    state = HostState()
    for part in wiring:
        if (rows or not isinstance(part, OvsPort)) and not draw(st.sampled_from([False, False, False, True])):
            optional = {name: st.sampled_from(values) for name, values in attributes[type(part)].items()}
            state = state.having(possible(replace(part, **draw(st.fixed_dictionaries({}, optional=optional)))))
    veth, row = state.links.get(names.bridge_end), state.ports.get(names.switch_end)
    masters = [names.bridge, ""] if names.bridge in state.links else [""]
    if isinstance(veth, Veth):
        state = state.having(replace(veth, master=draw(st.sampled_from(masters))))
    if isinstance(row, OvsPort):
        can = isinstance(veth, Veth) and not row.type
        state = state.having(replace(row, realized=can and (target or draw(st.sampled_from([True, True, False])))))
    tap = state.links.get(names.tap)
    if isinstance(tap, MadeTap):
        state = state.having(replace(tap, master=draw(st.sampled_from(masters))))
    elif not target and draw(st.booleans()):
        state = state.having(Tap(name=names.tap, master=draw(st.sampled_from([*masters, FOREIGN]))))
    return state


def any_links(port: Port, choice: Random) -> HostState:
    """The links of a port in any state, each of their attributes by chance."""
    values = attributes_of(port)
    drawn = [
        possible(replace(part, **{name: choice.choice(some) for name, some in values[type(part)].items()}))
        for part in wiring_of(port).links.values()
    ]
    return HostState().having(*drawn)


def possible(part: Part) -> Part:
    """The part as a kernel can have it."""
    if isinstance(part, Bridge):
        part = replace(
            part, nf_call_iptables=bool(part.nf_call_iptables), nf_call_ip6tables=bool(part.nf_call_ip6tables)
        )
        if part.mtu < 1280:
            # Too small for IPv6 (RFC 8200), so the kernel keeps nothing about it.
            part = replace(part, disable_ipv6=None, addr_gen_mode=None)
        if part.stp:
            # The kernel asks for 2 s; and while the topology changes it ages faster, so here it never does.
            part = replace(part, forward_delay=max(part.forward_delay, 200), up=False)
    return part
