"""Bench for an executor under test: ip and ovs-vsctl bring a host into a state, and it is observed afterwards.

Only do() and see() use an executor. So the code under test does not prepare its own tests.
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

from hypothesis import HealthCheck, settings, strategies as st

from hybridvif import Host, HostState, Outcome, Port, Step, desired_state
from hybridvif.model.names import MAX_TAP_MTU
from hybridvif.model.parts import ANYBODY, PLACEHOLDER_TYPE, Bridge, ManagedTap, OvsPort, Part, Tap, Veth
from hybridvif.model.state import Facts, Observed
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import Lab, make_port
from tests.support.sizes import FULL

FOREIGN = "hvforeign"
"""Name of a foreign Linux bridge."""
IDS = {
    "iface_id": "iface-id",
    "iface_status": "iface-status",
    "attached_mac": "attached-mac",
    "vm_uuid": "vm-uuid",
    "port_id": "hybridvif-port-id",
    "bridge_name": "bridge_name",
}
"""Keys of Interface.external_ids, by attribute. All but the last are those of Neutron's agent."""
PATIENCE = 8.0
"""Seconds for one step."""


def sampled(examples: int) -> settings:
    """Settings of a test that creates a host per example: the number of examples, times twenty at full size."""
    unhurried = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    size = examples * (20 if FULL else 1)
    return settings(max_examples=size, derandomize=not FULL, deadline=None, suppress_health_check=unhurried)


class Bench(Lab):
    """A connected sandbox with one port under test."""

    def __init__(self, box: Sandbox, host: Host) -> None:
        super().__init__(box, host)
        self.port = make_port()
        self.names = self.port.names
        self.wiring = HostState().with_parts(*map(possible, desired_state(self.port)))

    def observed(self, names: Collection[str] | None = ()) -> Observed:
        """Return the parts that an executor observes under these names, by default the port's."""
        asked = set(self.names) if names == () else names
        return self.host.observe(asked, time.monotonic() + PATIENCE)

    def see(self) -> HostState:
        """Return the port as the executors observe it."""
        return self.observed().state

    def facts(self) -> Facts:
        """Return the facts of the port as the executors observe them."""
        return self.observed().facts

    def do(self, *steps: Step, patience: float = PATIENCE) -> tuple[Outcome, ...]:
        """Return the outcomes of the steps of one plan."""
        (outcomes,) = self.host.apply([steps], time.monotonic() + patience)
        return outcomes

    def try_out(self, step: Step) -> Outcome:
        """Return the outcome of one step, and check that the host is unchanged."""
        before = self.snapshot()
        (outcome,) = self.do(step)
        assert self.snapshot() == before
        return outcome

    def snapshot(self) -> dict[str, Any]:
        """Return the whole state of the host, without timers and carriers."""
        columns = "_uuid,name,type,options,external_ids,ofport,other_config,error"
        keys = ("arp_ignore", "arp_announce", "forwarding", "proxy_arp", "rp_filter")
        files = " ".join(f"ipv4/conf/[qt]*/{key}" for key in keys)
        links, *tables = self.sh(
            "ip -d -j link; ovs-vsctl --format=json --no-wait "
            f"list Bridge -- list Port -- --columns={columns} list Interface; "
            f"cd /proc/sys/net; grep -sH . {files} ipv6/conf/[qt]*/disable_ipv6 || true"
        ).splitlines()
        rows, sysctls = tables[:3], tables[3:]
        return {
            "links": sorted((_settled(link) for link in json.loads(links)), key=lambda link: str(link["ifname"])),
            "rows": [sorted(map(str, json.loads(table)["data"])) for table in rows],
            "sysctls": sysctls,
        }

    def furnish(self, state: HostState) -> None:
        """Bring the host into a state of the port, from any state."""
        self.sweep()
        make(self.box, state)

    def sweep(self) -> None:
        """Restore an empty host with two empty bridges, in few commands and transactions."""
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


def _settled(link: dict[str, Any]) -> dict[str, Any]:
    own = link.get("linkinfo", {})
    for options in (own.get("info_data", {}), own.get("info_slave_data", {})):
        for name in [name for name in options if name.endswith("timer") or name == "state"]:
            del options[name]
    flags = sorted({*link["flags"]} - {"NO-CARRIER", "LOWER_UP"})
    return {**link, "flags": flags, "operstate": ""}


def make(box: Sandbox, state: HostState) -> None:
    """Create all parts of a state on an empty host."""
    bridges = [part for part in state if isinstance(part, Bridge)]
    veths = [part for part in state if isinstance(part, Veth)]
    taps = [part for part in state if isinstance(part, Tap | ManagedTap)]
    rows = [part for part in state if isinstance(part, OvsPort)]
    links = [*map(_bridge, bridges), *map(_veth, veths), *map(_tap, taps)]
    script = [
        *(_stale(veth, row) for veth in veths for row in rows if veth.peer == row.name),
        _batch(line for lines in links for line in lines),
        *(line for bridge in bridges for line in _sysctls(bridge)),
        *(line for veth in veths for line in (*_ip(veth.name, veth.host_ip), *_ip(veth.peer, veth.peer_host_ip))),
        *(line for tap in taps if isinstance(tap, ManagedTap) for line in _ip(tap.name, tap.host_ip)),
        # IPv6 is off before a bridge is up.
        _batch(f"link set {bridge.name} up" for bridge in bridges if bridge.up),
        *map(_row, rows),
    ]
    box.run(["sh", "-e"], input="\n".join(script))


def _stale(veth: Veth, row: OvsPort) -> str:
    """Return commands for a row with a deleted device, if needed. A later device of that name is not accepted."""
    if row.type or row.realized:
        return ""
    return f"ip link add {veth.name} type veth peer name {veth.peer}\n{_row(row)}\nip link delete {veth.name}"


def _bridge(part: Bridge) -> list[str]:
    name = part.name
    # Created with another MTU, then set: so the kernel keeps it when members come and go.
    lines = [
        f"link add {name} address 0a:00:00:00:01:7b mtu {part.mtu ^ 1} type bridge",
        f"link set {name} mtu {part.mtu} group {part.group}",
        _alias(name, part.alias),
        f"link set {name} type bridge stp_state {part.stp:d}",
        f"link set {name} type bridge forward_delay {part.forward_delay} ageing_time {part.ageing}",
        f"link set {name} type bridge mcast_snooping {part.multicast_snooping:d}",
    ]
    calls = {option: getattr(part, option) for option in ("nf_call_iptables", "nf_call_ip6tables")}
    lines += [f"link set {name} type bridge {option} {on:d}" for option, on in calls.items() if on is not None]
    lines.append(_arp(name, part.host_ip))
    return lines if part.addr_gen_mode is None else [*lines, f"link set {name} addrgenmode {part.addr_gen_mode}"]


def _sysctls(part: Bridge) -> list[str]:
    values = [("ipv4", "arp_ignore", part.arp_ignore), ("ipv4", "arp_announce", part.arp_announce)]
    if part.disable_ipv6 is not None:
        values.append(("ipv6", "disable_ipv6", part.disable_ipv6))
    values += [("ipv4", key, value) for key, value in _ipv4(part.host_ip).items()]
    return [f"echo {value:d} > /proc/sys/net/{family}/conf/{part.name}/{key}" for family, key, value in values]


def _arp(name: str, host_ip: str | None) -> str:
    return f"link set {name} arp {'on' if 'ARP on' in (host_ip or '') else 'off'}"


def _ipv4(host_ip: str | None) -> dict[str, int]:
    """Return the sysctl files and values for the host's IPv4 on a device."""
    words = dict(word.rsplit(" ", 1) for word in (host_ip or "").split(", ") if " " in word)
    return {key: int(words.get(key, off)) for key, off in (("forwarding", 0), ("proxy_arp", 0), ("rp_filter", 1))}


def _ip(name: str, host_ip: str | None) -> list[str]:
    """Return the sysctl files and values for the host's IP on a device. Below 1280 bytes it has no IPv6."""
    files = [f"echo {value} > /proc/sys/net/ipv4/conf/{name}/{key}" for key, value in _ipv4(host_ip).items()]
    ipv6 = f"/proc/sys/net/ipv6/conf/{name}"
    mode = "eui64" if "addr_gen_mode eui64" in (host_ip or "") else "none"
    off = int("IPv6 on" not in (host_ip or ""))
    lines = f"echo {off} > {ipv6}/disable_ipv6; ip link set {name} addrgenmode {mode}"
    return [*files, f"if [ -d {ipv6} ]; then {lines}; fi"]


def _port(part: Veth | ManagedTap) -> list[str]:
    """Return the commands that create this port of a bridge."""
    flags = part.bridge_port if part.master and part.bridge_port != "open" else None
    return [f"link set {part.name} type bridge_slave {flags.replace(',', '')}"] if flags else []


def _veth(part: Veth) -> list[str]:
    ends = [
        (part.name, part.alias, part.up, part.promisc, f"{_master(part.master)} group {part.group}", part.host_ip),
        (part.peer, part.peer_alias, part.peer_up, part.peer_promisc, "", part.peer_host_ip),
    ]
    lines = [f"link add {part.name} mtu {part.mtu} type veth peer name {part.peer} mtu {part.peer_mtu}"]
    for name, alias, up, promisc, more, host_ip in ends:
        lines += [
            _alias(name, alias),
            _arp(name, host_ip),
            f"link set {name} {'up' if up else 'down'} promisc {'on' if promisc else 'off'} {more}",
        ]
    return [*lines, *_port(part)]


def _tap(part: Tap | ManagedTap) -> list[str]:
    if isinstance(part, ManagedTap):
        return [
            f"tuntap add {part.name} mode tap{' multi_queue' if part.multi_queue else ''}"
            + (f" user {part.owner}" if part.owner != ANYBODY else ""),
            _alias(part.name, part.alias),
            _arp(part.name, part.host_ip),
            f"link set {part.name} address {part.mac} mtu {part.mtu} group {part.group}",
            f"link set {part.name} {'up' if part.up else 'down'} {_master(part.master)}",
            *_port(part),
        ]
    foreign = [f"link add {FOREIGN} type bridge"] if part.master == FOREIGN else []
    # A user without /dev/net/tun gets a device of another kind, which is a tap by its name only.
    open_tun = os.access("/dev/net/tun", os.R_OK | os.W_OK)
    made = "tuntap add {0} mode tap" if open_tun else "link add {0} type veth peer name {0}p"
    return [*foreign, made.format(part.name), f"link set {part.name} {_master(part.master)}"]


def _row(part: OvsPort) -> str:
    values = {key: getattr(part, attribute) for attribute, key in IDS.items()}
    columns = [f'external_ids:{key}="{value}"' for key, value in values.items() if value]
    columns += [f"type={PLACEHOLDER_TYPE}", "options:peer=nobody"] if part.type == PLACEHOLDER_TYPE else []
    add = ["--may-exist", "add-port", part.bridge, part.name]
    put = ["--", "set", "Interface", part.name, *columns] if columns else []
    # The error that the device cannot be opened is on stderr, and some states need it.
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
HOST_IPS = ["off", "forwarding 1", "proxy_arp 1, rp_filter 0", "ARP on", "forwarding 1, IPv6 on, addr_gen_mode eui64"]
BRIDGE_PORTS = ["open", "isolated on", "flood off, bcast_flood off, locked on"]


def attributes_of(port: Port, *, target: bool = False) -> dict[type[Part], dict[str, list[Any]]]:
    """Draw values for the attributes of a port's parts. A target has legal values only."""
    flags, words = [True, False], [] if target else ["x", "someone wrote here"]
    aliases = [port.id, "", *([] if target else ["someone wrote here", port.id.upper()])]
    groups = [0] if target else [0, 7]
    host_ips, bridge_ports = (["off"], ["open"]) if target else (HOST_IPS, BRIDGE_PORTS)
    return {
        Bridge: {
            "alias": aliases,
            "mtu": MTUS,
            "up": flags,
            # In hundredths of a second. A kernel with 250 ticks per second has only the even ones.
            "forward_delay": [0, 200, 1500, 3000],
            "ageing": [0, 2, 30000],
            "stp": [False] if target else flags,
            "multicast_snooping": [False] if target else flags,
            "disable_ipv6": [True] if target else flags,
            "addr_gen_mode": ["none"] if target else ["none", "eui64", "random"],
            "arp_ignore": [1] if target else [0, 1, 2, 3, 8],
            "arp_announce": [2] if target else [0, 1, 2],
            "nf_call_iptables": flags,
            "nf_call_ip6tables": flags,
            "group": groups,
            "host_ip": [text for text in host_ips if "IPv6" not in text],
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
            "host_ip": host_ips,
            "peer_host_ip": host_ips,
            "bridge_port": bridge_ports,
        },
        ManagedTap: {
            "mac": ["fe:16:3e:00:00:09", "02:00:00:00:00:09"],
            "mtu": [mtu for mtu in MTUS if mtu <= MAX_TAP_MTU],
            "up": flags,
            "group": groups,
            "host_ip": host_ips,
            "bridge_port": bridge_ports,
            "owner": [0] if target else [0, ANYBODY, 1000],
        },
        OvsPort: {
            "bridge": TWO_BRIDGES,
            "iface_id": [port.id, ""],
            "iface_status": ["active", "", *words],
            "attached_mac": [port.mac, "", *words],
            "vm_uuid": [port.instance_id, port.id, "", *words],
            "port_id": [port.id, ""],
            "type": ["", PLACEHOLDER_TYPE],
        },
    }


@st.composite
def states(draw: st.DrawFn, port: Port, *, target: bool = False, rows: bool = True) -> HostState:
    """Draw any state of a port without foreign objects. Shrinks to the plugged port."""
    names, wiring = port.names, desired_state(port)
    attributes = attributes_of(port, target=target)
    state = HostState()
    for part in wiring:
        if (rows or not isinstance(part, OvsPort)) and not draw(st.sampled_from([False, False, False, True])):
            optional = {name: st.sampled_from(values) for name, values in attributes[type(part)].items()}
            drawn = replace(part, **draw(st.fixed_dictionaries({}, optional=optional)))
            # If a kernel lacks an attribute, a goal has its isolating value.
            state = state.with_parts(drawn if target else possible(drawn))
    veth, row = state.links.get(names.bridge_end), state.ports.get(names.switch_end)
    masters = [names.bridge, ""] if names.bridge in state.links else [""]
    if isinstance(veth, Veth):
        state = state.with_parts(_in(draw(st.sampled_from(masters)), veth, target=target))
    if isinstance(row, OvsPort):
        can = isinstance(veth, Veth) and not row.type
        state = state.with_parts(replace(row, realized=can and (target or draw(st.sampled_from([True, True, False])))))
    tap = state.links.get(names.tap)
    if isinstance(tap, ManagedTap):
        state = state.with_parts(_in(draw(st.sampled_from(masters)), tap, target=target))
    elif not target and draw(st.booleans()):
        state = state.with_parts(Tap(name=names.tap, master=draw(st.sampled_from([*masters, FOREIGN]))))
    return state


def _in(master: str, member: Veth | ManagedTap, *, target: bool) -> Part:
    """Return the device in this bridge. Without a master it is not a bridge port."""
    return replace(member, master=master, bridge_port=member.bridge_port if master or target else None)


def any_links(port: Port, choice: Random) -> HostState:
    """Draw the links of a port, each attribute at random."""
    values = attributes_of(port)
    drawn = [
        possible(replace(part, **{name: choice.choice(some) for name, some in values[type(part)].items()}))
        for part in desired_state(port).links.values()
    ]
    return HostState().with_parts(*drawn)


def possible(part: Part) -> Part:
    """Return the part as a kernel can have it."""
    if isinstance(part, Bridge):
        part = replace(
            part, nf_call_iptables=bool(part.nf_call_iptables), nf_call_ip6tables=bool(part.nf_call_ip6tables)
        )
        if part.mtu < 1280:
            # Too small for IPv6 (RFC 8200), so the kernel keeps no IPv6 settings.
            part = replace(part, disable_ipv6=None, addr_gen_mode=None)
    if isinstance(part, Veth):
        part = replace(
            part,
            host_ip=_possible_ip(part.host_ip, part.mtu),
            peer_host_ip=_possible_ip(part.peer_host_ip, part.peer_mtu),
        )
    if isinstance(part, ManagedTap):
        part = replace(part, host_ip=_possible_ip(part.host_ip, part.mtu))
    if isinstance(part, Bridge) and part.stp:
        # The kernel requires 2 s. It ages faster while the topology changes, which is never so here.
        part = replace(part, forward_delay=max(part.forward_delay, 200), up=False)
    return part


def _possible_ip(host_ip: str | None, mtu: int) -> str:
    words = [word for word in (host_ip or "").split(", ") if mtu >= 1280 or not word.startswith(("IPv6", "addr_gen"))]
    return ", ".join(words)
