"""What `ip -details -json link` and /proc/sys say -> devices."""

from __future__ import annotations

import json
import pwd
from collections.abc import Collection, Mapping
from typing import Any

from hybridvif.executors import procfs
from hybridvif.executors.base import ExecutorError
from hybridvif.executors.command import Program
from hybridvif.executors.linkmessages import carrier_of, get_link
from hybridvif.executors.linkstate import (
    IPV4_OFF,
    PORT_FLAGS,
    BridgeOptions,
    Device,
    host_ip_of,
    members_of,
    observed,
    port_flags_of,
)
from hybridvif.executors.rtnetlink import Channel
from hybridvif.facts import Observed
from hybridvif.names import key_of
from hybridvif.parts import ANYBODY

ALL_FROM = 48
"""From so many names on, one listing of all devices is cheaper than asking for each."""
TRIES = 10


def observe(ip: Program, names: Collection[str] | None, deadline: float) -> Observed:
    """The links under these names, or all of our grammar."""
    if names is None or len(names) > ALL_FROM:
        devices = _ask(ip, ["link show"], deadline)
        return observed(devices, names, members_of(devices))
    questions = [f"link show dev {name}" for name in sorted(names) if key_of(name)]
    found = {device.name: device for device in _ask(ip, questions, deadline)}
    # An alternative name answers as well; a device is ours only by its first one.
    found = {name: device for name, device in found.items() if name in names}
    others = {device.peer for device in found.values()} - found.keys() - {""}
    bridges = [device.name for device in found.values() if device.options is not None]
    more = [f"link show dev {name}" for name in sorted(others)] + [f"link show master {name}" for name in bridges]
    for device in _ask(ip, more, deadline):
        found.setdefault(device.name, device)
    members = {bridge: [one.name for one in found.values() if one.master == bridge] for bridge in bridges}
    return observed(found.values(), names, members)


def _ask(ip: Program, questions: list[str], deadline: float) -> list[Device]:
    """What ip answers; a device that is absent has no answer, anything else that it cannot say is an error."""
    if not questions:
        return []
    for _ in range(TRIES):
        done = ip.run(["-force", "-details", "-json", "-N", "-batch", "-"], deadline, stdin="\n".join(questions) + "\n")
        if done.expired:
            break
        # Killed, it says nothing of what it had not come to, as of what is absent.
        if done.code < 0 or "Dump was interrupted" in done.stderr:
            continue
        complaints = [line for line in done.stderr.splitlines() if not _is_absence(line)]
        if complaints:
            raise ExecutorError(f"cannot read the links of this host: {complaints[-1]}")
        entries = [entry for entry in _documents(done.stdout) if "ifname" in entry]
        held = _carriers([entry["ifindex"] for entry in entries if "UP" not in entry.get("flags", [])], deadline)
        return [_device_of(entry, held) for entry in entries]
    raise ExecutorError("the links of this host could not be read: ip was interrupted again and again; call again")


def _is_absence(line: str) -> bool:
    return (
        not line.strip()
        or "does not exist" in line
        or "Cannot find device" in line
        or line.startswith("Command failed")
    )


def _documents(text: str) -> list[dict[str, Any]]:
    """The entries of the JSON lists that ip writes one after another."""
    decoder, at, entries = json.JSONDecoder(), 0, []
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        document, at = decoder.raw_decode(text, at)
        entries += document
    return entries


def _carriers(indexes: list[int], deadline: float) -> frozenset[int]:
    """Those of these devices, which are down, that have carrier: of such a device ip does not tell.

    A VM may hold a tap that is down.
    """
    if not indexes:
        return frozenset()
    try:
        with Channel(deadline) as channel:
            answers = channel.exchange([get_link(index) for index in indexes])
    except OSError as error:
        raise ExecutorError(f"cannot read the links of this host: {error.strerror or error}") from error
    told = zip(indexes, answers, strict=True)
    return frozenset(index for index, answer in told if isinstance(answer, bytes) and carrier_of(answer))


def _device_of(entry: Mapping[str, Any], held: frozenset[int]) -> Device:
    info = entry.get("linkinfo", {})
    kind = info.get("info_kind", "")
    flags = entry.get("flags", [])
    ours = key_of(entry["ifname"]) is not None
    port = info.get("info_slave_data", {}) if ours and info.get("info_slave_kind") == "bridge" else {}
    return Device(
        index=entry["ifindex"],
        name=entry["ifname"],
        kind=kind,
        up="UP" in flags,
        promisc="PROMISC" in flags,
        carrier="LOWER_UP" in flags or entry["ifindex"] in held,
        mtu=entry.get("mtu", 0),
        mac=entry.get("address", ""),
        alias=entry.get("ifalias", ""),
        group=int(entry.get("group", "0"), 0),
        master=entry.get("master", ""),
        # A link of another namespace is given by its index there.
        peer=entry.get("link", "") if kind == "veth" and "link_netnsid" not in entry else "",
        options=_options_of(entry, info.get("info_data", {})) if kind == "bridge" else None,
        # iproute2 prints NO-CARRIER for a device that is up and does not have IFF_RUNNING.
        runs="LOWER_UP" in flags and "NO-CARRIER" not in flags,
        host_ip=_host_ip_of(entry, kind) if ours else None,
        port_state=str(port.get("state", "")),
        port_flags=port_flags_of({name: bool(port[name]) for name in PORT_FLAGS if name in port}),
        owner=_owner_of(info.get("info_data", {})) if kind == "tun" else ANYBODY,
    )


def _host_ip_of(entry: Mapping[str, Any], kind: str) -> str:
    name = entry["ifname"]
    arp = "NOARP" not in entry.get("flags", [])
    ipv4 = {key: procfs.read(name, key) for key in IPV4_OFF}
    if kind == "bridge":
        # Its IPv6 has attributes of its own.
        return host_ip_of(arp=arp, ipv4=ipv4)
    disable_ipv6, mode = procfs.read(name, "disable_ipv6"), entry.get("inet6_addr_gen_mode")
    return host_ip_of(arp=arp, ipv4=ipv4, disable_ipv6=disable_ipv6, addr_gen_mode=mode)


def _owner_of(tap: Mapping[str, Any]) -> int:
    owner = tap.get("user", ANYBODY)
    if isinstance(owner, int):
        return owner
    try:
        # iproute2 prints the user's name in spite of -N, if it finds one.
        return pwd.getpwnam(owner).pw_uid
    except KeyError:
        return ANYBODY


def _flag(value: int | None) -> bool | None:
    return None if value is None else bool(value)


def _options_of(entry: Mapping[str, Any], options: Mapping[str, Any]) -> BridgeOptions:
    name = entry["ifname"]
    ours = key_of(name) is not None
    disable_ipv6 = procfs.read(name, "disable_ipv6") if ours else None
    return BridgeOptions(
        forward_delay=options.get("forward_delay", 0),
        ageing=options.get("ageing_time", 0),
        stp=bool(options.get("stp_state", 0)),
        multicast_snooping=bool(options.get("mcast_snooping", 0)),
        disable_ipv6=_flag(disable_ipv6),
        addr_gen_mode=entry.get("inet6_addr_gen_mode"),
        nf_call_iptables=_flag(options.get("nf_call_iptables")),
        nf_call_ip6tables=_flag(options.get("nf_call_ip6tables")),
        arp_ignore=(procfs.read(name, "arp_ignore") if ours else 0) or 0,
        arp_announce=(procfs.read(name, "arp_announce") if ours else 0) or 0,
    )
