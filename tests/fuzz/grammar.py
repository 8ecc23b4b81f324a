"""A second, independent statement of the legal requests, without any import of hybridvif's own code.

A judge that used the code would agree with it. So this module has primitives only: one line per field, with its type
and its legal values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Rule = Callable[[str, Any], bool]
"""The 11 characters in the names of a port's devices, and a value."""
Field = tuple[tuple[type, ...], Rule]

KEY = r"[0-9a-f]{8}-[0-9a-f]{2}"
UUID = re.compile(r"\A[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")
UNICAST = re.compile(r"\A[0-9a-f][02468ace](:[0-9a-f]{2}){5}\Z")
NAMES = re.compile(rf"\A(?:qbr|qvb|qvo|tap|vhu)({KEY})\Z")
TRUNK = re.compile(r"\Atbr-[A-Za-z0-9_.-]{0,11}\Z")
BRIDGES = ("br-int", "tbr-5f2c0e1a-7")
"""Bridges that the fuzzed daemon is configured to allow."""
LONGEST, PLANS, STEPS, ASKED = 65_536, 2_048, 16, 16_384


def anything(key: str, value: Any) -> bool:
    return True


def nothing(key: str, value: Any) -> bool:
    return False


def own_id(key: str, value: Any) -> bool:
    return value == "" or (UUID.match(value) is not None and value.startswith(key))


def any_id(key: str, value: Any) -> bool:
    return value == "" or UUID.match(value) is not None


def unicast(key: str, value: Any) -> bool:
    return UNICAST.match(value) is not None and value != "00:00:00:00:00:00"


def between(low: int, high: int) -> Rule:
    return lambda key, value: low <= value <= high


def one_of(*values: Any) -> Rule:
    return lambda key, value: value in values


QOS = ("", "linux-htb", "linux-hfsc", "linux-sfq", "linux-codel", "linux-fq_codel", "linux-noop")
TEXT, NUMBER, FLAG, ABSENT = str, int, bool, type(None)
MTU_REQUEST: Field = ((NUMBER, ABSENT), lambda key, value: value in (None, 0) or 68 <= value <= 65_535)
FIELDS: Mapping[str, Mapping[str, Field]] = {
    "Bridge": {
        "name": ((TEXT,), lambda key, value: value == f"qbr{key}"),
        "alias": ((TEXT,), own_id),
        "mtu": ((NUMBER,), between(68, 65_535)),
        "up": ((FLAG,), anything),
        "forward_delay": ((NUMBER,), between(0, 3_000)),
        "ageing": ((NUMBER,), between(0, 360_000_000)),
        "stp": ((FLAG,), one_of(False)),
        "multicast_snooping": ((FLAG,), one_of(False)),
        "disable_ipv6": ((FLAG, ABSENT), one_of(True)),
        "addr_gen_mode": ((TEXT, ABSENT), one_of("none")),
        "arp_ignore": ((NUMBER,), one_of(1)),
        "arp_announce": ((NUMBER,), one_of(2)),
        "host_ip": ((TEXT, ABSENT), one_of("off")),
        "group": ((NUMBER,), one_of(0)),
        "nf_call_iptables": ((FLAG, ABSENT), anything),
        "nf_call_ip6tables": ((FLAG, ABSENT), anything),
    },
    "Veth": {
        "name": ((TEXT,), lambda key, value: value == f"qvb{key}"),
        "peer": ((TEXT,), lambda key, value: value == f"qvo{key}"),
        "alias": ((TEXT,), own_id),
        "peer_alias": ((TEXT,), own_id),
        "mtu": ((NUMBER,), between(68, 65_535)),
        "peer_mtu": ((NUMBER,), between(68, 65_535)),
        "up": ((FLAG,), anything),
        "peer_up": ((FLAG,), anything),
        "promisc": ((FLAG,), anything),
        "peer_promisc": ((FLAG,), anything),
        "master": ((TEXT,), lambda key, value: value in ("", f"qbr{key}")),
        "group": ((NUMBER,), one_of(0)),
        "host_ip": ((TEXT, ABSENT), one_of("off")),
        "peer_host_ip": ((TEXT, ABSENT), one_of("off")),
        "bridge_port": ((TEXT, ABSENT), one_of("open")),
    },
    "Tap": {
        "name": ((TEXT,), lambda key, value: value == f"tap{key}"),
        "master": ((TEXT,), lambda key, value: value in ("", f"qbr{key}")),
    },
    "ManagedTap": {
        "name": ((TEXT,), lambda key, value: value == f"tap{key}"),
        "alias": ((TEXT,), lambda key, value: value != "" and own_id(key, value)),
        "mac": ((TEXT,), unicast),
        "mtu": ((NUMBER,), between(68, 65_521)),
        "up": ((FLAG,), anything),
        "master": ((TEXT,), lambda key, value: value in ("", f"qbr{key}")),
        "group": ((NUMBER,), one_of(0)),
        "host_ip": ((TEXT, ABSENT), one_of("off")),
        "bridge_port": ((TEXT, ABSENT), one_of("open")),
        "owner": ((NUMBER, ABSENT), one_of(0)),
        "multi_queue": ((FLAG,), anything),
    },
    "OvsPort": {
        "name": ((TEXT,), lambda key, value: value == f"qvo{key}"),
        "bridge": ((TEXT,), one_of(*BRIDGES)),
        "iface_id": ((TEXT,), any_id),
        "iface_status": ((TEXT,), one_of("active", "")),
        "attached_mac": ((TEXT,), lambda key, value: value == "" or unicast(key, value)),
        "vm_uuid": ((TEXT,), any_id),
        "port_id": ((TEXT,), own_id),
        "converting": ((TEXT,), one_of("", "yes")),
        "type": ((TEXT,), one_of("", "patch")),
        "realized": ((FLAG,), anything),
        "mtu_request": ((NUMBER, ABSENT), one_of(0, None)),
        "isolated": ((FLAG,), anything),
        "qos_type": ((TEXT,), one_of(*QOS)),
        "bridge_name": ((TEXT,), lambda key, value: value == "" or TRUNK.match(value) is not None),
        "datapath_type": ((TEXT,), one_of("", "system", "netdev")),
    },
    "VhostUserPort": {
        "name": ((TEXT,), lambda key, value: value == f"vhu{key}"),
        "bridge": ((TEXT,), one_of(*BRIDGES)),
        "iface_id": ((TEXT,), any_id),
        "iface_status": ((TEXT,), one_of("active", "")),
        "attached_mac": ((TEXT,), lambda key, value: value == "" or unicast(key, value)),
        "vm_uuid": ((TEXT,), any_id),
        "port_id": ((TEXT,), own_id),
        "converting": ((TEXT,), one_of("", "yes")),
        "type": ((TEXT,), one_of("dpdkvhostuser", "dpdkvhostuserclient")),
        "realized": ((FLAG,), anything),
        "isolated": ((FLAG,), anything),
        "qos_type": ((TEXT,), one_of("")),
        "bridge_name": ((TEXT,), lambda key, value: value == "" or TRUNK.match(value) is not None),
        "datapath_type": ((TEXT,), one_of("", "system", "netdev")),
        "mtu_request": MTU_REQUEST,
        "socket_as_configured": ((FLAG,), one_of(True)),
    },
    "IvsPort": {"name": ((TEXT,), lambda key, value: value == f"qvo{key}")},
    "ForeignObject": {"name": ((TEXT,), nothing), "what": ((TEXT,), nothing), "alias": ((TEXT,), nothing)},
    "ForeignPort": {"name": ((TEXT,), nothing), "what": ((TEXT,), nothing), "alias": ((TEXT,), nothing)},
}
FIELDS = {
    **FIELDS,
    "NativePort": {
        **FIELDS["OvsPort"],
        "name": ((TEXT,), lambda key, value: value == f"tap{key}"),
        "port_id": ((TEXT,), lambda key, value: value != "" and own_id(key, value)),
    },
}
BIRTH = {"multi_queue", "isolated", "qos_type", "datapath_type"}
"""Create-only attributes. They are repeated in a move to a bridge that may have to be created."""
ROWS = {"OvsPort", "NativePort", "VhostUserPort"}
MADE = {"Bridge", "Veth", "ManagedTap", *ROWS, "IvsPort"}
"""Parts that a plan creates and deletes. A tap that it did not create is only moved. A native row is not created."""


# Well-formed requests.


def is_question(value: Any) -> bool:
    if value is None:
        return True
    return type(value) in (tuple, list) and len(value) <= ASKED and all(type(name) is str for name in value)


def is_known(value: Any) -> bool:
    """Return whether this is a legal question of a watch request."""
    return isinstance(value, list | tuple) and len(value) == 2 and is_question(value[0]) and type(value[1]) is str


def is_plans(value: Any) -> bool:
    return _is_list(value, PLANS) and all(_is_list(plan, STEPS) and all(map(_is_step, plan)) for plan in value)


def _is_list(value: Any, most: int) -> bool:
    return type(value) in (tuple, list) and len(value) <= most


def _is_step(step: Any) -> bool:
    if not _is_list(step, 3) or len(step) < 2 or not all(map(_is_part, step[1:])):
        return False
    match step[0], len(step):
        case ("create" | "delete", 2):
            return True
        case ("update", 3):
            return bool(step[1][0] == step[2][0] and step[1][1]["name"] == step[2][1]["name"])
        case ("replace", 3):
            return step[1][0] in ROWS and step[2][0] in ROWS
    return False


def _is_part(part: Any) -> bool:
    if not _is_list(part, 2) or len(part) != 2 or type(part[0]) is not str or type(part[1]) is not dict:
        return False
    fields, values = FIELDS.get(part[0]), part[1]
    if fields is None or set(values) != set(fields):
        return False
    return all(
        type(values[name]) in types and not (type(values[name]) is str and len(values[name]) > LONGEST)
        for name, (types, _) in fields.items()
    )


# Permitted requests.


def may_be_asked(names: Any) -> bool:
    return names is None or all(NAMES.match(name) for name in names)


def may_be_done(plans: Any) -> bool:
    """Return True if every step is about one port's own parts, and writes legal values only."""
    keys = [{key_of(part) for step in plan for part in step[1:]} for plan in plans if plan]
    if any(len(each) != 1 or None in each for each in keys):
        return False
    if len({min(map(str, each)) for each in keys}) != len(keys):
        return False
    return all(
        _is_of_one_port(plan) and _tap_stays(plan) and all(_may_be(step, str(key_of(step[1]))) for step in plan)
        for plan in plans
        if plan
    )


def _is_of_one_port(plan: Any) -> bool:
    """Return True if all ids and names in it belong to one port.

    The alias of a link is evidence. For a row the new ids are evidence, and the former ones if there is nothing else.
    """
    aliases, had = set(), set()
    for verb, *parts in plan:
        kind, values = parts[-1]
        if kind not in ROWS:
            aliases |= {mark for _, part in parts for mark in (part.get("alias"), part.get("peer_alias"))}
            continue
        before = parts[0][1]
        if verb != "create":
            had.add(_owner_of(before))
        if verb in ("create", "replace") or any(values[name] != before[name] for name in ("iface_id", "port_id")):
            aliases.add(_owner_of(values))
    key = str(key_of(plan[0][1]))
    aliases = {mark for mark in aliases if mark and UUID.match(mark)}
    owners = aliases or {mark for mark in had if mark and mark.startswith(key)}
    return len(owners) < 2 and all(mark.startswith(key) for mark in owners)


def _tap_stays(plan: Any) -> bool:
    """Return True if the VM's own tap leaves its bridge only in a plan that replaces the row of the port."""
    leaves = any(step[0] == "update" and step[2][0] == "Tap" and step[2][1]["master"] == "" for step in plan)
    return not leaves or any(step[0] == "replace" for step in plan)


def _owner_of(row: Any) -> str | None:
    marks = [mark for mark in (row["port_id"], row["iface_id"]) if UUID.match(mark)]
    return marks[0] if marks else None


def key_of(part: Any) -> str | None:
    match = NAMES.match(part[1]["name"])
    return match[1] if match else None


def _may_be(step: Any, key: str) -> bool:
    verb, (kind, values) = step[0], step[-1]
    fields = FIELDS[kind]
    ours = all(fields[name][1](key, values[name]) for name in ("name", "peer") if name in fields)
    if not ours or (verb != "update" and kind not in MADE) or (verb, kind) == ("create", "NativePort"):
        return False
    if verb == "replace":
        before, old = step[1]
        names = FIELDS[before]["name"][1](key, old["name"])
        return names and all(fields[name][1](key, values[name]) for name in ("port_id", "converting"))
    written = {} if verb == "delete" else values
    if verb == "update":
        before = step[1][1]
        # A device in a foreign bridge is not taken out of it.
        if before.get("master", "") not in ("", f"qbr{key}"):
            return False
        # A pair with another peer is not part of this port, so no plan has found one.
        if "peer" in before and before["peer"] != values["peer"]:
            return False
        # An attribute that the kernel lacks is not written; a new one is.
        changed = {name: value for name, value in values.items() if value is not None and value != before[name]}
        written = {name: value for name, value in changed.items() if name not in BIRTH}
        if "bridge" in written:
            written |= {name: values[name] for name in BIRTH & values.keys()}
    if "isolated" in written and values.get("isolated") and values["bridge"].startswith("tbr-"):
        # On a trunk bridge the tag belongs to the trunk.
        return False
    return all(fields[name][1](key, value) for name, value in written.items())
