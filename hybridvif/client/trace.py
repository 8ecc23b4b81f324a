"""Observe the path of a port's packets as the caller: its devices, iptables, and the flows of ovs-vswitchd.

No privilege is needed for the devices. A caller who may not look at the rest gets a sentence about it in place of an
error. The row of the port comes from the daemon.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import re
import secrets
import select
import shutil
import socket
import struct
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from hybridvif.client.filters import TIMEOUT, ask, control_socket, output_of, socket_directory
from hybridvif.engine import locks
from hybridvif.engine.any_host import AnyHost
from hybridvif.executors.netlink.connection import IFNAME, device_of
from hybridvif.executors.netlink.devices import Device, bridge_port_of
from hybridvif.executors.netlink.socket import (
    NLM_F_DUMP,
    RTM_GETLINK,
    Interrupted,
    NetlinkAttributes,
    NetlinkRequest,
    NetlinkSocket,
    link_header,
    packed,
)
from hybridvif.model.errors import InvalidInput, NotReady, PreconditionError, shown
from hybridvif.model.names import PortNames, is_mac, names_of
from hybridvif.model.parts import OvsPort, Tap
from hybridvif.model.planner import check_ownership
from hybridvif.model.settings import Settings
from hybridvif.model.state import PortFact
from hybridvif.model.trace import Diagnosis, Evidence, Hop, Look, SwitchView, diagnose, dropped_by, drops_of

MAX_SECONDS = 3600.0
BROADCAST, EVERYBODY, SENDER = "ff:ff:ff:ff:ff:ff", "255.255.255.255", "02:00:00:00:00:01"
NOBODY = "0.0.0.0"  # noqa: S104  # the sender of a DHCP request, no address to bind to
_PORTS = ("udp_src=68,udp_dst=67", "udp_src=67,udp_dst=68")
_NEIGHBOR = struct.Struct("=B3xiHBB")
"""struct ndmsg: the family, the index of the device, state, flags and type."""
_RTM_GETNEIGH, _LLADDR, _MASTER, _PERMANENT = 30, 2, 9, 0x80
_STATS64, _STATS = 23, struct.Struct("=8Q")
"""IFLA_STATS64 begins with the packets, bytes, errors and drops in both directions (struct rtnl_link_stats64)."""
NO_BRIDGE = "no such bridge"
"""The error of ovs-vswitchd about a bridge that is in the database, and that it could not create."""
_PORT_LINE = re.compile(r"^ +(\S+) (\d+)/(\d+): ", re.MULTILINE)
_FLOW_LINE = re.compile(r"in_port\((\d+)\).*?eth\(src=([0-9a-f:]{17})(?:.*?,vlan\(vid=(\d+))?")
_LEARNED_LINE = re.compile(r"^ *(\d+) +(\d+) +([0-9a-f:]{17}) ", re.MULTILINE)


def destination(address: str) -> tuple[str, str]:
    """Return the MAC and IPv4 address of the followed frame, of which one may be given. Raises InvalidInput."""
    if not address or is_mac(address.lower()):
        return address.lower() or BROADCAST, EVERYBODY
    try:
        return BROADCAST, str(ipaddress.IPv4Address(address))
    except ValueError as error:
        raise InvalidInput(f"to {address!r} is neither an IPv4 address nor the MAC address of a device") from error


def trace(port_id: str, host: AnyHost, *, seconds: float = 5.0, to: str = "", generate: bool = False) -> Diagnosis:
    """Observe the packets of a plugged port for some seconds. Return the hop where they stop, with the reason.

    to: the IPv4 or MAC address of another machine, whose path ovs-vswitchd computes. generate: send marked frames in
    at the tap and look for them at each hop; for root only. Raises InvalidInput, NameCollision, PreconditionError,
    NoResponse.
    """
    names, settings, target = names_of(port_id), host.settings, destination(to)
    if not 0 <= seconds <= MAX_SECONDS:
        raise InvalidInput(f"seconds {seconds!r} is not a number from 0 to {MAX_SECONDS:g}")
    observed = host.observe(None, time.monotonic() + settings.deadline)
    if observed.facts.simulated:
        raise PreconditionError("a simulated host has no packets; configure other executors than recording")
    if not any(part.name in names and not isinstance(part, Tap) for part in observed.state):
        raise InvalidInput(f"port {port_id} is not plugged here, nothing has its names; see hybridvif list")
    check_ownership(observed.state.of(names), port_id)
    notes: list[str] = []
    drops = _drops(settings, notes)
    before = Look(hops=_hops(names, settings)[0], drops=drops)
    evidence = Evidence(port_id=port_id, names=names, seconds=seconds, observed=observed, before=before, after=before)
    due = time.monotonic() + seconds
    if generate:
        evidence = replace(evidence, marked=send_marked(evidence, *target, settings))
    time.sleep(max(due - time.monotonic(), 0))
    hops, entries = _hops(names, settings)
    after = Look(hops=hops, entries=entries, drops=_drops(settings, notes))
    switch = _switch(evidence, target, settings, notes)
    return diagnose(replace(evidence, after=after, switch=switch, not_looked_at=tuple(dict.fromkeys(notes))))


# -- the kernel --------------------------------------------------------------------------------------------------------


def _hops(names: PortNames, settings: Settings) -> tuple[dict[str, Hop], tuple[tuple[str, str, bool], ...]]:
    """Return the devices of a port by name, and the forwarding entries of its Linux bridge. Raises NotReady."""
    try:
        with NetlinkSocket(time.monotonic() + settings.deadline) as channel:
            # The requests of a plug omit the counters.
            requests = [NetlinkRequest(RTM_GETLINK, 0, link_header() + packed(IFNAME, name)) for name in names[:4]]
            bodies = [body for body in channel.exchange(requests) if isinstance(body, bytes)]
            # The kernel also finds a device by an alternative name.
            found = [(device, body) for body in bodies if (device := device_of(body)).name in names]
            bridge = next((device for device, _ in found if device.name == names.bridge), None)
            hops = {device.name: _hop(device, bridge, names, _counters(body)) for device, body in found}
            return hops, _entries(channel, bridge.index) if bridge else ()
    except OSError as error:
        raise NotReady(f"the devices of the port cannot be read: {error.strerror or error}; call again") from error


def _hop(device: Device, bridge: Device | None, names: PortNames, counters: dict[str, int]) -> Hop:
    is_member = bridge is not None and device.master == bridge.index
    return Hop(
        up=device.value("up"),
        carrier=device.carrier,
        mtu=device.value("mtu"),
        master=_name_of(device.master) if device.master else "",
        bridge_port=bridge_port_of(device, bridge if is_member else None, names),
        **counters,
    )


def _name_of(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}"


def _counters(body: bytes) -> dict[str, int]:
    counters = NetlinkAttributes(body[16:])[_STATS64]
    numbers = _STATS.unpack_from(counters) if counters else (0,) * 8
    rx, tx, _, _, rx_errors, tx_errors, rx_dropped, tx_dropped = numbers
    return {"rx": rx, "tx": tx, "rx_dropped": rx_errors + rx_dropped, "tx_dropped": tx_errors + tx_dropped}


def _entries(channel: NetlinkSocket, bridge: int) -> tuple[tuple[str, str, bool], ...]:
    request = NetlinkRequest(
        _RTM_GETNEIGH, NLM_F_DUMP, _NEIGHBOR.pack(socket.AF_BRIDGE, 0, 0, 0, 0) + packed(_MASTER, bridge)
    )
    entries = []
    with suppress(Interrupted):
        for body in channel.dump(request):
            _, index, state, _, _ = _NEIGHBOR.unpack_from(body)
            found = NetlinkAttributes(body[_NEIGHBOR.size :])
            if not (found[_MASTER] and found[_LLADDR]):
                # An address list of the device itself.
                continue
            entries.append((found[_LLADDR].hex(":"), _name_of(index), bool(state & _PERMANENT)))
    return tuple(entries)


# -- iptables ----------------------------------------------------------------------------------------------------------


def _drops(settings: Settings, notes: list[str]) -> dict[str, int] | None:
    """Return the packets dropped by iptables, by rule; None, with a note, if this user cannot read it."""
    drops = Counter[str]()
    for name in filter(partial(shutil.which, path=settings.program_path), ("iptables-save", "ip6tables-save")):
        try:
            drops.update(drops_of(output_of(settings, [name, "-c"], time.monotonic() + TIMEOUT)))
        except NotReady as error:
            notes.append(f"iptables: {error}; run this as root")
            return None
    return drops


# -- ovs-vswitchd ------------------------------------------------------------------------------------------------------


def _switch(evidence: Evidence, target: tuple[str, str], settings: Settings, notes: list[str]) -> SwitchView:
    """Return the answers of ovs-vswitchd about the port, as far as this user may ask."""
    row, fact, (mac, ip) = evidence.row, evidence.fact, target
    if not isinstance(row, OvsPort):
        return SwitchView()
    directory = Path(socket_directory(settings))
    try:
        with control_socket(directory) as channel:
            found = _LEARNED_LINE.findall(ask(channel, "fdb/show", row.bridge))
            learned = [(int(port), int(vlan), address) for port, vlan, address in found]
            view = SwitchView(learned=tuple(learned))
            if not evidence.mac or fact.ofport is None or fact.ofport < 0:
                return view
            # A DHCP request and its response: port security lets them pass, and drops ARP with an unknown IP address.
            request = f"in_port={fact.ofport},udp,dl_src={evidence.mac},dl_dst={mac},nw_src={NOBODY},nw_dst={ip}"
            drops_from_vm = dropped_by(ask(channel, "ofproto/trace", row.bridge, f"{request},{_PORTS[0]}"))
            # The bridge itself is in every VLAN.
            vlan = f",dl_vlan={fact.tag}" if fact.tag else ""
            ends = f"dl_src={SENDER if mac == BROADCAST else mac},dl_dst={evidence.mac},nw_dst={EVERYBODY}"
            response = f"in_port=LOCAL{vlan},udp,{ends},nw_src={NOBODY if ip == EVERYBODY else ip},{_PORTS[1]}"
            ports = {
                number: (name, int(ofport)) for name, ofport, number in _PORT_LINE.findall(ask(channel, "dpif/show"))
            }
            own = next((number for number, (name, _) in ports.items() if name == row.name), "")
            drops_to_vm = dropped_by(ask(channel, "ofproto/trace", row.bridge, response), own)
            # Flows of port security drop an address before it is learned, and two devices may send from one.
            for number, address, vid in _FLOW_LINE.findall(ask(channel, "dpif/dump-flows", row.bridge)):
                name, ofport = ports.get(number, ("", 0))
                tag = evidence.observed.facts.ports.get(name, PortFact(tag=int(vid or 0))).tag
                learned.append((ofport, tag or 0, address))
            return SwitchView(drops_from_vm=drops_from_vm, drops_to_vm=drops_to_vm, learned=tuple(learned))
    except (TimeoutError, BlockingIOError):
        # BlockingIOError: too many others wait for an answer.
        return SwitchView(failure="switch-hung")
    except PermissionError as error:
        notes.append(f"{row.bridge}: {error.strerror} for the management socket of ovs-vswitchd; run this as root")
    except (ConnectionError, FileNotFoundError):
        # A container may have only the socket of the database there.
        if (directory / "ovsdb-server.pid").exists():
            return SwitchView(failure="switch-dead")
        notes.append(f"{row.bridge}: there is no management socket of ovs-vswitchd in {directory}")
    except (OSError, ValueError, locks.Unfit) as error:
        if str(error) == NO_BRIDGE:
            return SwitchView(failure="no-bridge")
        notes.append(f"{row.bridge}: ovs-vswitchd cannot be asked: {shown(str(error))}")
    return SwitchView()


# -- marked frames -----------------------------------------------------------------------------------------------------

# They come from the VM of a port, as the kernel sees it. A frame written to a tap of this process is redirected to the
# receive side of the VM's tap, so the bridge and iptables treat it as one of the VM. Nothing of the port is changed,
# and the tap of this process ends with it.


COPIES = 3
WAIT = 0.5
"""Seconds for a copy to arrive."""
_TUNSETIFF, _TAP = 0x400454CA, 0x1002
"""linux/if_tun.h: IFF_TAP | IFF_NO_PI."""
_ALL, _IPV4 = 3, 0x0800
"""linux/if_ether.h: ETH_P_ALL and ETH_P_IP."""


def send_marked(evidence: Evidence, mac: str, ip: str, settings: Settings) -> dict[str, int]:
    """Send marked frames from the VM to these addresses. Return the number of copies that each device let pass.

    Raises PreconditionError if this user or this kernel cannot send them.
    """
    names = evidence.names
    if os.geteuid() != 0:
        raise PreconditionError("--generate sends frames in the name of the VM; run it as root")
    tap = evidence.before.hops.get(names.tap)
    if names.tap not in evidence.chain or tap is None or not tap.up:
        raise PreconditionError(f"--generate needs the VM's device {names.tap}, and it is not up; trace without it")
    if not evidence.mac:
        raise PreconditionError("--generate needs the MAC address of the VM in the row of the port; plug it again")
    mark = f"hybridvif trace {secrets.token_hex(8)}".encode()
    watched = [names.bridge_end, names.switch_end] if names.bridge in evidence.chain else []
    hops = [name for name in watched if evidence.before.hops.get(name, Hop(up=False)).up]
    seen = {names.tap: COPIES, **dict.fromkeys(watched, 0)}
    try:
        with ExitStack() as stack:
            sockets = {stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW)): name for name in hops}
            for receiver, name in sockets.items():
                receiver.bind((name, _ALL))
            _receive_at(names.tap, frame(evidence.mac, mac, ip, mark), settings)
            due = time.monotonic() + WAIT
            while (remaining := due - time.monotonic()) > 0 and any(seen[name] < COPIES for name in hops):
                for receiver in select.select([*sockets], [], [], remaining)[0]:
                    seen[sockets[receiver]] += mark in receiver.recv(2048)
    except (OSError, NotReady) as error:
        raise NotReady(f"--generate cannot send frames: {error}; trace without it") from error
    return seen


def _receive_at(tap: str, content: bytes, settings: Settings) -> None:
    """Let the kernel receive copies of a frame on a device. Raises OSError, NotReady."""
    source = os.open("/dev/net/tun", os.O_RDWR)
    try:
        request = fcntl.ioctl(source, _TUNSETIFF, struct.pack("16sH22x", b"hvtrace%d", _TAP))
        name = request[:16].rstrip(b"\0").decode()
        for line in (
            f"tc qdisc add dev {name} clsact",
            f"tc filter add dev {name} ingress protocol all u32 match u32 0 0 action mirred ingress redirect dev {tap}",
            f"ip link set {name} addrgenmode none up",
        ):
            output_of(settings, line.split(), time.monotonic() + TIMEOUT)
        for _ in range(COPIES):
            os.write(source, content)
    finally:
        os.close(source)


def frame(source: str, mac: str, ip: str, payload: bytes) -> bytes:
    """Return a UDP frame from the port of a DHCP client to that of a server, which ignores such a payload."""
    udp = struct.pack("!HHHH", 68, 67, 8 + len(payload), 0) + payload
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), socket.inet_aton(ip))
    total = sum(struct.unpack("!10H", header))
    checksum = ~((total >> 16) + (total & 0xFFFF)) & 0xFFFF
    header = header[:10] + struct.pack("!H", checksum) + header[12:]
    ends = bytes.fromhex((mac + source).replace(":", ""))
    return (ends + struct.pack("!H", _IPV4) + header + udp).ljust(60, b"\0")
