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
    BRIDGE,
    FLAGS,
    IPV4,
    IPV6,
    LINK,
    PORT,
    PORT_STATES,
    Device,
    observed,
)
from hybridvif.executors.netlink.messages import device_of, get_link
from hybridvif.executors.netlink.operations import unreadable
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
        return observed(_ask(ip, ["link show"], deadline), names)
    questions = [f"link show dev {name}" for name in sorted(names) if key_of(name)]
    # ip also accepts an alternative name, so a device of another name may be among these.
    found = {device.name: device for device in _ask(ip, questions, deadline)}
    devices = {name: device for name, device in found.items() if name in names}
    # A device with a foreign peer is a ForeignObject. Its peer's name is not sent: ip could read it as a quote or a
    # comment.
    others = {peer for device in devices.values() if key_of(peer := str(device.peer))} - devices.keys()
    bridges = [device.name for device in devices.values() if device.kind == "bridge"]
    more = [f"link show dev {name}" for name in sorted(others)] + [f"link show master {name}" for name in bridges]
    return observed(({device.name: device for device in _ask(ip, more, deadline)} | found).values(), names)


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
        return [_device_of(entry, deadline) for entry in _documents(result.stdout) if "ifname" in entry]
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


def _device_of(entry: Mapping[str, Any], deadline: float) -> Device:
    info = entry.get("linkinfo", {})
    kind, data, flags = info.get("info_kind", ""), info.get("info_data", {}), entry.get("flags", [])
    name = entry["ifname"]
    values: dict[str, Any] = {key: row.key in flags for key, row in FLAGS.items()}
    values |= {key: entry.get(row.key) for key, row in LINK.items()}
    values |= {key: data.get(row.key) for key, row in BRIDGE.items()}
    values |= {"group": int(entry.get("group", "0"), 0), "alias": escaped(entry.get("ifalias", ""))}
    if key_of(name):
        values |= {key: sysctl.read(name, key) for key in (*IPV4, "disable_ipv6")}
        values["addr_gen_mode"] = entry.get(IPV6["addr_gen_mode"].key)
    port = info.get("info_slave_data", {}) if info.get("info_slave_kind") == "bridge" else {}
    return Device(
        index=entry["ifindex"],
        name=escaped(name),
        kind=kind,
        # ip does not print the carrier of a device that is down, which may be a tap that a VM holds.
        carrier="LOWER_UP" in flags or ("UP" not in flags and _has_carrier(entry["ifindex"], deadline)),
        # iproute2 prints NO-CARRIER for a device that is up without IFF_RUNNING.
        runs="LOWER_UP" in flags and "NO-CARRIER" not in flags,
        values=values,
        master=escaped(entry.get("master", "")),
        # A link in another namespace is printed as its index there.
        peer=escaped(entry.get("link", "")) if kind == "veth" and "link_netnsid" not in entry else "",
        altnames=tuple(map(escaped, entry.get("altnames", ()))),
        port={key: _port_value(port[key]) for key in PORT if key in port},
        owner=_owner_of(data) if kind == "tun" else ANYBODY,
        is_tap=kind != "tun" or data.get("type") != "tun",
    )


def _has_carrier(index: int, deadline: float) -> bool:
    try:
        with Channel(deadline) as channel:
            (answer,) = channel.exchange([get_link(index)])
    except OSError as error:
        raise unreadable(error.errno or 0) from error
    return isinstance(answer, bytes) and device_of(answer).carrier


def _port_value(value: bool | str) -> int:
    """Return a flag or the state as a number. iproute2 prints an unknown state as its number."""
    return int(value) if isinstance(value, bool | int) else PORT_STATES.index(value) if value in PORT_STATES else -1


def _owner_of(tap: Mapping[str, Any]) -> int:
    owner = tap.get("user", ANYBODY)
    if isinstance(owner, int):
        return owner
    try:
        # iproute2 prints the user's name if there is one, despite -N.
        return pwd.getpwnam(owner).pw_uid
    except KeyError:
        return ANYBODY
