"""Valid messages and their mutations: changes of the structure, and rarely of the bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgpack

from hybridvif.model.errors import Conflict
from hybridvif.model.parts import IvsPort, Part
from hybridvif.model.planner import plan
from hybridvif.model.port import Port, desired_state
from hybridvif.model.state import NOTHING, Create, Delete, HostState, Step, Update
from hybridvif.privileged import codec
from tests.fuzz.judge import CALL, OPTIONS

PORTS = [
    Port(
        id=f"{key}00-4c00-8000-000000000001",
        mac="fa:16:3e:aa:bb:cc",
        instance_id="0b1c2d3e-0000-4000-8000-000000000002",
    )
    for key in ("5f2c0e1a-7b", "91d3aa02-41")
]
TEXTS = [
    *(
        "",
        "eth0",
        "br-int",
        "br-ex",
        "tbr-5f2c0e1a-7",
        "../all",
        "\0",
        "a\n",
        "\udcff",
        "x" * 70_000,
        "-x",
        "active",
        "patch",
    ),
    *(
        "internal",
        "none",
        "stable_secret",
        "create",
        "update",
        "delete",
        "exec",
        "observe",
        "apply",
        "watch",
        "name",
        "master",
        "__class__",
    ),
    *(
        "Bridge",
        "Veth",
        "Tap",
        "ManagedTap",
        "OvsPort",
        "VhostUserPort",
        "dpdkvhostuser",
        "dpdkvhostuserclient",
        "dpdk",
        "IvsPort",
        "ForeignObject",
        "ForeignPort",
        "Part",
        "fa:16:3e:aa:bb:cc",
        "01:00:5e:00:00:01",
    ),
    *(
        "linux-htb",
        "linux-codel",
        "linux-",
        "00:00:00:00:00:00",
        "FA:16:3e:aa:bb:cc",
        "fa:16:3e:aa:bb:cc\n",
        "0b1c2d3e-0000-4000-8000-000000000002",
    ),
    *(text for port in PORTS for text in (*port.names, port.id, port.id.upper(), port.id + "\n")),
]
NUMBERS = [
    -1,
    0,
    1,
    2,
    3,
    8,
    9,
    67,
    68,
    1500,
    3000,
    3001,
    65535,
    65536,
    360_000_000,
    360_000_001,
    2**31,
    2**63,
    -(2**63),
]
LEAVES: list[Any] = [*TEXTS, *NUMBERS, None, True, False, 0.5, float("nan"), b"", b"qbr5f2c0e1a-7b", [], {}]


def valid_plans() -> Iterator[list[list[Step]]]:
    """Yield plans of the planner, and other legal plans."""
    first, other = PORTS
    whole = desired_state(first)
    halves = [HostState().with_parts(*list(whole)[:count]) for count in range(len(list(whole)))]
    for state in (*halves, whole):
        for goal in (whole, NOTHING):
            try:
                yield [list(plan(state, goal))]
            except Conflict:
                continue
    yield [list(plan(NOTHING, desired_state(port))) for port in (first, other)]
    for more in ({"isolate": True, "qos_type": "linux-htb"}, {"bridge": "tbr-5f2c0e1a-7", "qos_type": "linux-noop"}):
        yield [list(plan(NOTHING, desired_state(replace(first, **more))))]
    for part in whole:
        for drifted in drifts(part):
            yield [[Update(drifted, part)]]
    yield [[Create(IvsPort(name=first.names.switch_end))], [Delete(IvsPort(name=other.names.switch_end))]]
    yield []


def drifts(part: Part) -> Iterator[Part]:
    for name in part.__dataclass_fields__:
        value: Any = getattr(part, name)
        if type(value) is bool:
            yield changed(part, name, not value)
        elif type(value) is int:
            yield changed(part, name, value + 1)


def changed(part: Part, name: str, value: Any) -> Part:
    values: dict[str, Any] = {name: value}
    return replace(part, **values)


def messages() -> list[Any]:
    """Return legal requests, as primitives."""
    asked = [None, [], *[[name] for name in PORTS[0].names], [name for port in PORTS for name in port.names]]
    return [
        *(["n", [CALL, "observe", [names, 1.0], {}]] for names in asked),
        *(["n", [CALL, "watch", [[names, "digest"], 1.0], {}]] for names in asked),
        *(["n", [CALL, "apply", [codec.encode_plans(plans), 1.0], {}]] for plans in valid_plans()),
    ]


def pack(message: Any) -> bytes:
    packed: bytes = msgpack.packb(message, use_bin_type=True, unicode_errors="surrogateescape")
    return packed


def unpack(packed: bytes) -> Any:
    """Return the first message, with lists. Raises the exceptions of msgpack."""
    unpacker = msgpack.Unpacker(**{**OPTIONS, "use_list": True})
    unpacker.feed(packed)
    return unpacker.unpack()


def mutated(packed: bytes, chance: random.Random) -> bytes:
    """Return a mutation of this message."""
    if chance.random() < 0.08:
        return _other_bytes(packed, chance)
    try:
        message = unpack(packed)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            message = _mutated(message, chance)
        return pack(message)
    except Exception:  # noqa: BLE001  # of many kinds: these bytes are no message, or this is none that can be sent
        return _other_bytes(packed, chance)


def _mutated(message: Any, chance: random.Random) -> Any:
    """Return the value with one change. All places in the message are equally likely."""
    places: list[tuple[Any, Any]] = []
    _collect(message, places)
    if not places:
        return chance.choice(LEAVES)
    # The nested values are the judged ones: the plans, their parts, the parts' fields.
    holder, key = chance.choice(places)
    old = holder[key]
    match chance.randrange(8):
        case 0 | 1 | 2:
            alike = [leaf for leaf in LEAVES if type(leaf) is type(old)] or LEAVES
            holder[key] = chance.choice(alike)
        case 3:
            holder[key] = chance.choice(LEAVES)
        case 4:
            holder[key] = _nudged(old, chance)
        case 5:
            del holder[key]
        case 6:
            if isinstance(holder, list):
                holder.insert(key, chance.choice((old, chance.choice(LEAVES))))
            else:
                holder[chance.choice(TEXTS)] = old
        case 7:
            elsewhere, other = chance.choice(places)
            holder[key], elsewhere[other] = elsewhere[other], old
    return message


def _collect(value: Any, places: list[tuple[Any, Any]]) -> None:
    keys = range(len(value)) if isinstance(value, list) else list(value) if isinstance(value, dict) else ()
    for key in keys:
        places.append((value, key))
        _collect(value[key], places)


def _nudged(value: Any, chance: random.Random) -> Any:
    match value:
        case bool():
            return int(value)
        case int():
            return value + chance.choice((-1, 1, 2**16))
        case str() if value:
            index = chance.randrange(len(value))
            return value[:index] + chance.choice(("", "0", "f", "A", "-", "\n", "\0", "é", value)) + value[index + 1 :]
        case list() | dict():
            return [value]
    return [value, value]


def _other_bytes(packed: bytes, chance: random.Random) -> bytes:
    index = chance.randrange(len(packed) + 1)
    match chance.randrange(4):
        case 0:
            return packed[:index]
        case 1:
            return packed[:index] + bytes([chance.randrange(256)]) + packed[index + 1 :]
        case 2:
            return packed[:index] + chance.randbytes(chance.randrange(1, 9)) + packed[index:]
    return packed[index:] + packed
