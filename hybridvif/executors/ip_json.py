"""`ip -details -json link` and /proc/sys -> devices."""

from __future__ import annotations

import json
import pwd
from collections.abc import Collection, Mapping
from typing import Any

from hybridvif.children import LOST, WHY_LOST
from hybridvif.executors.base import ExecutorError
from hybridvif.executors.command import Program, lines_of
from hybridvif.executors.netlink import sysctl
from hybridvif.executors.netlink.devices import (
    IPV4_OFF,
    PORT_FLAGS,
    BridgeOptions,
    Device,
    host_ip_of,
    members_of,
    observed,
    port_flags_of,
)
from hybridvif.executors.netlink.messages import carrier_of, get_link
from hybridvif.executors.netlink.socket import Channel
from hybridvif.model.errors import escaped
from hybridvif.model.names import key_of
from hybridvif.model.parts import ANYBODY
from hybridvif.model.state import Observed

LISTING_THRESHOLD = 48
"""Number of names from which one listing of all devices is faster than one per name."""
MAX_ATTEMPTS = 10


def observe(ip: Program, names: Collection[str] | None, deadline: float) -> Observed:
    """Return the links under these names, or under all device names of ports."""
    sysctl.require()
    if names is None or len(names) > LISTING_THRESHOLD:
        devices = _ask(ip, ["link show"], deadline)
        return observed(devices, names, members_of(devices))
    questions = [f"link show dev {name}" for name in sorted(names) if key_of(name)]
    devices_by_name = {device.name: device for device in _ask(ip, questions, deadline)}
    # ip also accepts an alternative name; a device is ours only by its primary name.
    devices_by_name = {name: device for name, device in devices_by_name.items() if name in names}
    # A device with a foreign peer is a ForeignObject. Its peer's name is not sent: ip could read it as a quote or a
    # comment.
    others = {device.peer for device in devices_by_name.values() if key_of(device.peer)} - devices_by_name.keys()
    bridges = [device.name for device in devices_by_name.values() if device.options is not None]
    more = [f"link show dev {name}" for name in sorted(others)] + [f"link show master {name}" for name in bridges]
    for device in _ask(ip, more, deadline):
        devices_by_name.setdefault(device.name, device)
    members = {
        bridge: [device.name for device in devices_by_name.values() if device.master == bridge] for bridge in bridges
    }
    return observed(devices_by_name.values(), names, members)


def _ask(ip: Program, questions: list[str], deadline: float) -> list[Device]:
    """Return the devices that ip prints; absent ones are omitted, and any other error is raised."""
    if not questions:
        return []
    reason = "ip was interrupted again and again; call again"
    for _ in range(MAX_ATTEMPTS):
        result = ip.run(
            ["-force", "-details", "-json", "-N", "-batch", "-"], deadline, stdin="\n".join(questions) + "\n"
        )
        if result.expired:
            break
        # If it was killed, its output is incomplete and does not prove absence.
        if result.code < 0 or "Dump was interrupted" in result.stderr:
            reason = WHY_LOST if result.code == LOST else reason
            continue
        complaints = [line for line in lines_of(result.stderr) if not _is_absence(line)]
        if complaints:
            raise ExecutorError(f"cannot read the links of this host: {complaints[-1]}")
        entries = [entry for entry in _documents(result.stdout) if "ifname" in entry]
        with_carrier = _carriers(
            [entry["ifindex"] for entry in entries if "UP" not in entry.get("flags", [])], deadline
        )
        return [_device_of(entry, with_carrier) for entry in entries]
    raise ExecutorError(f"the links of this host could not be read: {reason}")


def _is_absence(line: str) -> bool:
    return (
        not line.strip()
        or "does not exist" in line
        or "Cannot find device" in line
        or line.startswith("Command failed")
    )


def _documents(text: str) -> list[dict[str, Any]]:
    """Return the entries of the JSON lists that ip prints one after another."""
    # ip does not escape control characters of an alias or an alternative name.
    decoder, offset, entries = json.JSONDecoder(strict=False), 0, []
    while offset < len(text):
        if text[offset].isspace():
            offset += 1
            continue
        document, offset = decoder.raw_decode(text, offset)
        entries += document
    return entries


def _carriers(indexes: list[int], deadline: float) -> frozenset[int]:
    """Return those of these devices that have carrier. ip does not print it for devices that are down.

    A VM may hold a tap that is down.
    """
    if not indexes:
        return frozenset()
    try:
        with Channel(deadline) as channel:
            answers = channel.exchange([get_link(index) for index in indexes])
    except OSError as error:
        raise ExecutorError(f"cannot read the links of this host: {error.strerror or error}") from error
    pairs = zip(indexes, answers, strict=True)
    return frozenset(index for index, answer in pairs if isinstance(answer, bytes) and carrier_of(answer))


def _device_of(entry: Mapping[str, Any], with_carrier: frozenset[int]) -> Device:
    info = entry.get("linkinfo", {})
    kind = info.get("info_kind", "")
    flags = entry.get("flags", [])
    ours = key_of(entry["ifname"]) is not None
    port = info.get("info_slave_data", {}) if ours and info.get("info_slave_kind") == "bridge" else {}
    return Device(
        index=entry["ifindex"],
        name=escaped(entry["ifname"]),
        kind=kind,
        up="UP" in flags,
        promisc="PROMISC" in flags,
        carrier="LOWER_UP" in flags or entry["ifindex"] in with_carrier,
        mtu=entry.get("mtu", 0),
        mac=entry.get("address", ""),
        alias=escaped(entry.get("ifalias", "")),
        group=int(entry.get("group", "0"), 0),
        master=escaped(entry.get("master", "")),
        # A link in another namespace is printed as its index there.
        peer=escaped(entry.get("link", "")) if kind == "veth" and "link_netnsid" not in entry else "",
        options=_options_of(entry, info.get("info_data", {})) if kind == "bridge" else None,
        # iproute2 prints NO-CARRIER for a device that is up without IFF_RUNNING.
        runs="LOWER_UP" in flags and "NO-CARRIER" not in flags,
        host_ip=_host_ip_of(entry, kind) if ours else None,
        port_state=str(port.get("state", "")),
        port_flags=port_flags_of({name: bool(port[name]) for name in PORT_FLAGS if name in port}),
        owner=_owner_of(info.get("info_data", {})) if kind == "tun" else ANYBODY,
    )


def _host_ip_of(entry: Mapping[str, Any], kind: str) -> str:
    name = entry["ifname"]
    arp = "NOARP" not in entry.get("flags", [])
    ipv4 = {key: sysctl.read(name, key) for key in IPV4_OFF}
    if kind == "bridge":
        # A bridge has attributes of its own for IPv6.
        return host_ip_of(arp=arp, ipv4=ipv4)
    disable_ipv6, mode = sysctl.read(name, "disable_ipv6"), entry.get("inet6_addr_gen_mode")
    return host_ip_of(arp=arp, ipv4=ipv4, disable_ipv6=disable_ipv6, addr_gen_mode=mode)


def _owner_of(tap: Mapping[str, Any]) -> int:
    owner = tap.get("user", ANYBODY)
    if isinstance(owner, int):
        return owner
    try:
        # iproute2 prints the user's name if there is one, despite -N.
        return pwd.getpwnam(owner).pw_uid
    except KeyError:
        return ANYBODY


def _flag(value: int | None) -> bool | None:
    return None if value is None else bool(value)


def _options_of(entry: Mapping[str, Any], options: Mapping[str, Any]) -> BridgeOptions:
    name = entry["ifname"]
    ours = key_of(name) is not None
    disable_ipv6 = sysctl.read(name, "disable_ipv6") if ours else None
    return BridgeOptions(
        forward_delay=options.get("forward_delay", 0),
        ageing=options.get("ageing_time", 0),
        stp=bool(options.get("stp_state", 0)),
        multicast_snooping=bool(options.get("mcast_snooping", 0)),
        disable_ipv6=_flag(disable_ipv6),
        addr_gen_mode=entry.get("inet6_addr_gen_mode"),
        nf_call_iptables=_flag(options.get("nf_call_iptables")),
        nf_call_ip6tables=_flag(options.get("nf_call_ip6tables")),
        arp_ignore=(sysctl.read(name, "arp_ignore") if ours else 0) or 0,
        arp_announce=(sysctl.read(name, "arp_announce") if ours else 0) or 0,
    )
