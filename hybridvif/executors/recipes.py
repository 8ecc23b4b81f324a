"""A plan as the command lines that do it: run by the executors of programs, printed as a script (script.py). Pure.

The recipe that OpenStack's hybrid plug began with:

    brctl addbr qbr; brctl setfd qbr 0; brctl stp qbr off; multicast_snooping 0; disable_ipv6 1
    ip link add qvb type veth peer name qvo; each end: up, promisc on, mtu
    ip link set qbr up; brctl addif qbr qvb
    ovs-vsctl add-port br-int qvo -- set Interface qvo external_ids: iface-id, iface-status, attached-mac, vm-uuid

Where it differs, and why: the bridge has a MAC, an MTU, an ageing time of 0, an alias and its ARP switches set, the
ends have an alias, and the host's IP stack is off on all three (docs/host.md says why); multicast_snooping goes through
`ip`, since /sys/class/net shows the devices of whichever namespace it was mounted in; a healthy OVS port is never
deleted and added again, which would cost it its VLAN tag and its OpenFlow number.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from hybridvif.executors.linkstate import IPV4_OFF, STATE, opening_of, regained
from hybridvif.executors.ovsrows import IDS, SOCKET, columns_at_birth, ids_of, options_of
from hybridvif.executors.qosrows import ids_of_qos
from hybridvif.parts import ROOT, Bridge, MadeTap, OvsPort, Tap, Veth, VhostUserPort
from hybridvif.settings import SOCKET_DIR
from hybridvif.steps import Create, Delete, Step, Update, changes_of

_OPTIONS = {key: key for key in ("nf_call_iptables", "nf_call_ip6tables")} | {"multicast_snooping": "mcast_snooping"}
"""The options of a bridge that brctl has not, as ip spells them."""
SYSCTLS = {
    "arp_ignore": "net/ipv4/conf/{}/arp_ignore",
    "arp_announce": "net/ipv4/conf/{}/arp_announce",
    **{key: f"net/ipv4/conf/{{}}/{key}" for key in IPV4_OFF},
    "disable_ipv6": "net/ipv6/conf/{}/disable_ipv6",
}
RANDOM_MAC = r"$(od -An -N5 -tx1 /dev/urandom | sed 's/ /:/g; s/^/02/')"
"""A word of a command line: as a shell draws a MAC address; an executor draws its own."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command line.

    absent: that its device is gone already is success; without_ipv6: that the device has no IPv6 is.
    """

    program: str
    arguments: tuple[str, ...]
    absent: bool = False
    without_ipv6: bool = False

    def __str__(self) -> str:
        words = (word if word == RANDOM_MAC else shlex.quote(word) for word in self.arguments)
        return " ".join((self.program, *words))


@dataclass(frozen=True, slots=True)
class Sysctl:
    """One write under /proc/sys/net; a kernel without IPv6 has no such file, and nothing to switch off."""

    device: str
    attribute: str
    value: int

    def __str__(self) -> str:
        key = SYSCTLS[self.attribute].format(self.device)
        ignore = "-e " if self.attribute == "disable_ipv6" else ""
        return f"sysctl -q {ignore}-w {key}={self.value}"


_ATTACH = """import contextlib, fcntl, struct, sys
tap = open("/dev/net/tun", "r+b", 0)
for flags in (0x1002, 0x1102):
    with contextlib.suppress(OSError):
        fcntl.ioctl(tap, 0x400454ca, struct.pack("16sH22x", sys.argv[1].encode(), flags))
        break
fcntl.ioctl(tap, 0x400454cc, 0)
"""
"""What `ip tuntap` cannot do: attach to a tap that is there. The numbers are those of executors/tuntap.py."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Root becomes the owner of a tap that nobody holds, by attaching to it; it may have several queues."""

    device: str

    def __str__(self) -> str:
        return f"python3 -c {shlex.quote(_ATTACH)} {self.device}"


Line = Command | Sysctl | Owner


def bridges_that_go_up_later(steps: Iterable[Step]) -> frozenset[str]:
    """The new bridges that get their veth pair in the same plan: they go up just before that joins them."""
    made = {step.part.name for step in steps if isinstance(step, Create) and isinstance(step.part, Bridge)}
    joined = {step.part.master for step in steps if isinstance(step, Create) and isinstance(step.part, Veth)}
    return frozenset(made & joined)


def link_lines(step: Step, up_later: frozenset[str] = frozenset()) -> list[Line]:
    """The lines of one step of the link role."""
    match step:
        case Create(Bridge() as bridge):
            return list(_create_bridge(bridge, bridge.up and bridge.name not in up_later))
        case Create(Veth() as veth):
            return list(_create_veth(veth, veth.master in up_later))
        case Create(MadeTap() as tap):
            return list(_create_tap(tap))
        case Update(Bridge() as before, Bridge() as after):
            return list(_set_bridge(after.name, changes_of(step) | regained(before, after)))
        case Update(Veth() as before, Veth() as after):
            return list(_set_veth(before, after, changes_of(step)))
        case Update(Tap() as before, Tap() as after):
            return [_master(after.name, before.master, after.master)]
        case Update(MadeTap() as before, MadeTap() as after):
            return list(_set_tap(before, after, changes_of(step)))
        case Delete(Bridge(name=name)):
            # brctl deletes no bridge that is up.
            return [_ip("link", "set", "dev", name, "down", absent=True), _brctl("delbr", name, absent=True)]
        case Delete(Veth(name=name) | MadeTap(name=name)):
            return [_ip("link", "delete", name, absent=True)]
    raise ValueError(f"no recipe for {type(step).__name__} {step.part.kind} {step.part.name}")


def _create_bridge(bridge: Bridge, up: bool) -> Iterator[Line]:
    name = bridge.name
    yield _brctl("addbr", name)
    yield _brctl("setfd", name, _seconds(bridge.forward_delay))
    yield _brctl("stp", name, _on_off(bridge.stp))
    if bridge.stp:
        # STP lifts it to 2 s at least.
        yield _brctl("setfd", name, _seconds(bridge.forward_delay))
    # Only a change marks an MTU as chosen; the kernel resets any other when members come and go.
    yield _ip("link", "set", "dev", name, "mtu", str(bridge.mtu ^ 1))
    yield _ip("link", "set", "dev", name, "address", RANDOM_MAC)
    rest = (*_OPTIONS, "ageing", "mtu", "group", "alias", "addr_gen_mode", *_OF_A_BRIDGE, "host_ip")
    yield from _set_bridge(name, {key: getattr(bridge, key) for key in rest})
    if up:
        yield _set(name, {"up": True})


def _set_bridge(name: str, changes: Mapping[str, object]) -> Iterator[Line]:
    if "stp" in changes:
        # First: turning it on lifts forward_delay to 2 s.
        yield _brctl("stp", name, _on_off(changes["stp"]))
    if "forward_delay" in changes:
        yield _brctl("setfd", name, _seconds(changes["forward_delay"]))
    options = [(key, changes[key]) for key in _OPTIONS if changes.get(key) is not None]
    if options:
        words = [word for key, value in options for word in (_OPTIONS[key], str(int(bool(value))))]
        yield _ip("link", "set", "dev", name, "type", "bridge", *words)
    if "ageing" in changes:
        yield _brctl("setageing", name, _seconds(changes["ageing"]))
    # The MTU before IPv6 is switched off, since a device whose MTU rises to 1280 gets its IPv6 back; up comes last.
    plain = {key: changes[key] for key in ("mtu", "group", "alias", "host_ip") if key in changes}
    if plain:
        yield _set(name, plain)
    if changes.get("addr_gen_mode") is not None:
        yield replace(_set(name, {"addr_gen_mode": changes["addr_gen_mode"]}), without_ipv6=True)
    switches = {key: changes.get(key) for key in _OF_A_BRIDGE} | (IPV4_OFF if "host_ip" in changes else {})
    for key, value in switches.items():
        if value is not None:
            yield Sysctl(name, key, int(value))  # type: ignore[call-overload]  # a flag or a number, by limits.py
    if "up" in changes:
        yield _set(name, {"up": changes["up"]})


def _create_veth(veth: Veth, bridge_goes_up: bool) -> Iterator[Line]:
    yield _ip("link", "add", veth.name, "type", "veth", "peer", "name", veth.peer)
    for end in (veth.name, veth.peer):
        yield from _silence(end)
    keys = ("up", "promisc", "mtu", "alias", "host_ip")
    yield _set(veth.name, {key: getattr(veth, key) for key in keys})
    yield _set(veth.peer, {key: getattr(veth, f"peer_{key}") for key in keys})
    if bridge_goes_up:
        yield _set(veth.master, {"up": True})
    if veth.master:
        yield _brctl("addif", veth.master, veth.name)


def _set_veth(before: Veth, after: Veth, changes: Mapping[str, object]) -> Iterator[Line]:
    near = {key: value for key, value in changes.items() if key not in _OF_A_PORT and not key.startswith("peer_")}
    far = {key.removeprefix("peer_"): value for key, value in changes.items() if key.startswith("peer_")}
    yield from _set_end(after.name, near)
    yield from _set_end(after.peer, far)
    yield from _set_port(before, after, changes)


_OF_A_BRIDGE = ("arp_ignore", "arp_announce", "disable_ipv6")
"""Attributes of a bridge that are switches of their own."""
_OF_A_PORT = ("master", "bridge_port", "owner")


def _set_end(name: str, changes: Mapping[str, object]) -> Iterator[Line]:
    """Set a veth's end or a tap, up last.

    A device whose MTU rises to 1280 gets its IPv6 anew, at the kernel's defaults, so each change of it ends with
    IPv6 off.
    """
    early = {key: value for key, value in changes.items() if key != "up"}
    if {"host_ip", "mtu"} & changes.keys():
        yield _set(name, {**early, "host_ip": "off"})
        yield from _silence(name)
    elif early:
        yield _set(name, early)
    if "up" in changes:
        yield _set(name, {"up": changes["up"]})


def _silence(name: str) -> Iterator[Line]:
    """Switch the host's IP off, but for what `ip link set` does of it (host_ip)."""
    yield replace(_set(name, {"addr_gen_mode": "none"}), without_ipv6=True)
    yield from (Sysctl(name, key, value) for key, value in {**IPV4_OFF, "disable_ipv6": 1}.items())


def _set_port(before: Veth | MadeTap, after: Veth | MadeTap, changes: Mapping[str, object]) -> Iterator[Line]:
    """Put a device into its bridge, or out of it; or open its port of the bridge that it stays in."""
    if "master" in changes:
        yield _master(after.name, before.master, after.master)
    elif "bridge_port" in changes:
        flags = opening_of(before).items()
        words = [word for key, on in flags for word in (key, str(on) if key == STATE else _on_off(on))]
        yield _ip("link", "set", "dev", after.name, "type", "bridge_slave", *words)


def _create_tap(tap: MadeTap) -> Iterator[Line]:
    queues = ["multi_queue"] if tap.multi_queue else []
    yield _ip("tuntap", "add", "dev", tap.name, "mode", "tap", "user", str(ROOT), *queues)
    # First of all, since without it the tap is nobody's.
    yield _set(tap.name, {"alias": tap.alias})
    # Before it is up: an address of the host's there would be told to the VM (LP 2159024).
    yield from _set_end(tap.name, {"mac": tap.mac, "mtu": tap.mtu, "host_ip": tap.host_ip})
    if tap.master:
        yield _brctl("addif", tap.master, tap.name)
    if tap.up:
        yield _set(tap.name, {"up": True})


def _set_tap(before: MadeTap, after: MadeTap, changes: Mapping[str, object]) -> Iterator[Line]:
    yield from _set_end(after.name, {key: value for key, value in changes.items() if key not in _OF_A_PORT})
    yield from _set_port(before, after, changes)
    if "owner" in changes:
        yield Owner(after.name)


def _master(name: str, before: str, after: str) -> Command:
    return _brctl("addif", after, name) if after else _brctl("delif", before, name)


_SPELLED: Mapping[str, Callable[[object], tuple[str, ...]]] = {
    "up": lambda value: ("up" if value else "down",),
    "promisc": lambda value: ("promisc", _on_off(value)),
    "mtu": lambda value: ("mtu", str(value)),
    "mac": lambda value: ("address", str(value)),
    "group": lambda value: ("group", str(value)),
    "alias": lambda value: ("alias", str(value)),
    "addr_gen_mode": lambda value: ("addrgenmode", str(value)),
    "host_ip": lambda _: ("arp", "off"),
}


def _set(name: str, changes: Mapping[str, object]) -> Command:
    return _ip("link", "set", "dev", name, *(word for key, value in changes.items() for word in _SPELLED[key](value)))


def _brctl(*arguments: str, absent: bool = False) -> Command:
    return Command("brctl", arguments, absent)


def _ip(*arguments: str, absent: bool = False) -> Command:
    return Command("ip", arguments, absent)


def _on_off(value: object) -> str:
    return "on" if value else "off"


def _seconds(hundredths: object) -> str:
    return f"{int(str(hundredths)) / 100:g}"


def ivs_line(step: Step) -> Command:
    """The line of one step about a port of an Indigo Virtual Switch."""
    return Command("ivs-ctl", ("del-port" if isinstance(step, Delete) else "add-port", step.part.name))


def switch_words(step: Step, qos: Iterable[str] = (), socket_dir: str = SOCKET_DIR) -> list[str]:
    """The words of one step in an ovs-vsctl command line; each command begins with `--`.

    qos: the uuids of the QoS rows that go with the port.
    """
    gone = [word for one in qos for word in ("--", "--if-exists", "destroy", "QoS", one)]
    match step:
        case Create(OvsPort() as port):
            ids = [f"external_ids:{key}={_quoted(value)}" for key, value in ids_of(port).items()]
            words = ["--", "add-port", port.bridge, port.name, "--", "set", "Interface", port.name, *ids]
            columns = [f"{name}={value}" for name, value in columns_at_birth(port).items()]
            if port.qos_type:
                qos_ids = [f"external_ids:{key}={_quoted(value)}" for key, value in ids_of_qos(port).items()]
                words += ["--", f"--id=@{port.name}", "create", "QoS", f"type={port.qos_type}", *qos_ids]
                columns.append(f"qos=@{port.name}")
            words += ["--", "set", "Port", port.name, *columns] if columns else []
            words += _type_words(port, socket_dir) if port.type else []
            return gone + words + (_mtu_words(port) if isinstance(port, VhostUserPort) and port.mtu else [])
        case Update(OvsPort() as before, OvsPort() as after):
            return list(_update_words(before, after, changes_of(step), socket_dir))
        case Delete(OvsPort(name=name, bridge=bridge)):
            return _removal_words(name, bridge, gone) if gone else ["--", "--if-exists", "del-port", name]
    raise ValueError(f"no recipe for {type(step).__name__} {step.part.kind} {step.part.name}")


def _update_words(before: OvsPort, after: OvsPort, changes: Mapping[str, object], socket_dir: str) -> Iterator[str]:
    name = after.name
    written = {key: str(changes[attribute]) for attribute, key in IDS.items() if attribute in changes}
    for key, value in written.items():
        if value:
            yield from ("--", "set", "Interface", name, f"external_ids:{key}={_quoted(value)}")
        else:
            yield from ("--", "remove", "Interface", name, "external_ids", key)
    again = isinstance(after, VhostUserPort) and "realized" in changes
    if again or {"type", "socket_as_configured"} & changes.keys():
        # What is written again and is the same is no change; that it was asked has ovs-vswitchd try again.
        yield from _type_words(after, socket_dir)
    if isinstance(after, VhostUserPort) and "mtu" in changes:
        yield from _mtu_words(after)
    if "bridge" in changes:
        # Moved, not deleted and added: row, ofport and other_config stay. A command line takes each @name once.
        yield from ("--", f"--id=@{name}", "get", "Port", name)
        yield from ("--", "remove", "Bridge", before.bridge, "ports", f"@{name}")
        yield from ("--", "add", "Bridge", after.bridge, "ports", f"@{name}")


def bridge_words(name: str, datapath_type: str) -> list[str]:
    """The words that make a bridge."""
    kind = ["--", "set", "Bridge", name, f"datapath_type={datapath_type}"] if datapath_type else []
    return ["--", "add-br", name, *kind]


def _removal_words(name: str, bridge: str, gone: Sequence[str]) -> list[str]:
    """A port is taken out of its bridge, which is its end, and so are the rows that go with it.

    Its hold on a QoS row counts until the end of the transaction, and del-port would forget that it was let go.
    """
    found = ["--", "clear", "Port", name, "qos", "--", f"--id=@{name}", "get", "Port", name]
    return [*found, "--", "remove", "Bridge", bridge, "ports", f"@{name}", *gone]


def _type_words(port: OvsPort, socket_dir: str) -> list[str]:
    options = [f"options:{key}={_quoted(value)}" for key, value in options_of(port, socket_dir).items()]
    cleared = [] if options else ["--", "clear", "Interface", port.name, "options"]
    if isinstance(port, VhostUserPort) and not options:
        cleared = ["--", "remove", "Interface", port.name, "options", SOCKET]
    return ["--", "set", "Interface", port.name, f"type={_quoted(port.type)}", *options, *cleared]


def _mtu_words(port: VhostUserPort) -> list[str]:
    return ["--", "set", "Interface", port.name, f"mtu_request={port.mtu or '[]'}"]


def _quoted(value: str) -> str:
    """A value as OVSDB's own syntax has it, so that nothing in it can be read as anything else."""
    return json.dumps(value)
