"""Encode and decode plans, outcomes and observations as the plain data that crosses the boundary.

Requests are decoded strictly, because the client may be captured. The verbs and kinds are a closed set, field names and
types are exact (True is no int), and sizes are bounded. authorize.py decides which values are legal.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

from hybridvif.model.errors import Refused, bounded, escaped
from hybridvif.model.parts import PARTS, Part
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import MAX_NAMES
from hybridvif.model.state import Facts, HostState, LinkFact, Observed, PortFact
from hybridvif.model.steps import Create, Delete, Step, Update

MAX_PLANS, MAX_STEPS, MAX_TEXT = 512, 16, 65_536
"""The limits of a request: plans, steps per plan, and characters per text, which another tool may have written."""

_CLASSES: Mapping[str, type[Part]] = {cls.__name__: cls for cls in PARTS}


def _legal_types(cls: type[Part]) -> dict[str, tuple[type, ...]]:
    hints = typing.get_type_hints(cls)
    return {
        spec.name: typing.get_args(hints[spec.name])
        if isinstance(hints[spec.name], types.UnionType)
        else (hints[spec.name],)
        for spec in fields(cls)
    }


_TYPES = {cls: _legal_types(cls) for cls in PARTS}
_FIELDS = {cls: tuple(spec.name for spec in fields(cls)) for cls in PARTS}
_ROW = {cls: attrgetter("__class__.__name__", *_FIELDS[cls]) for cls in PARTS}


def _refuse(legal: bool, sentence: str) -> None:
    if not legal:
        raise Refused(f"refused: {sentence}")


# -- requests: names and plans ----------------------------------------------------------------------------------------


def decode_names(value: object) -> frozenset[str] | None:
    """Decode the names of an observe request; None: all of our names. Raises Refused."""
    if value is None:
        return None
    _refuse(isinstance(value, tuple | list) and len(value) <= MAX_NAMES, f"names are no list of at most {MAX_NAMES}")
    names = typing.cast(Sequence[object], value)
    _refuse(all(type(name) is str for name in names), "a name is no text")
    return frozenset(typing.cast(Sequence[str], names))


def encode_plans(plans: Sequence[Sequence[Step]]) -> list[Any]:
    """Encode plans."""
    return [[_encode_step(step) for step in plan] for plan in plans]


def decode_plans(value: object) -> list[tuple[Step, ...]]:
    """Decode the plans of an apply request. Raises Refused."""
    _refuse(isinstance(value, tuple | list) and len(value) <= MAX_PLANS, f"plans are no list of at most {MAX_PLANS}")
    decoded = []
    for plan in typing.cast(Sequence[object], value):
        _refuse(isinstance(plan, tuple | list) and len(plan) <= MAX_STEPS, f"a plan is no list of at most {MAX_STEPS}")
        decoded.append(tuple(_decode_step(step) for step in typing.cast(Sequence[object], plan)))
    return decoded


def _encode_step(step: Step) -> list[Any]:
    match step:
        case Create(part):
            return ["create", _encode_bounded(part)]
        case Update(before, after):
            return ["update", _encode_bounded(before), _encode_bounded(after)]
    return ["delete", _encode_bounded(step.part)]


def _encode_bounded(part: Part) -> list[Any]:
    """Encode a part, and shorten texts over MAX_TEXT. Only another tool can have written those."""
    kind, values = encode_part(part)
    long = {name: bounded(value) for name, value in values.items() if type(value) is str and len(value) > MAX_TEXT}
    return [kind, values | long]


def _decode_step(value: object) -> Step:
    match value:
        case ("create", part):
            return Create(_decode_bounded(part))
        case ("update", before, after):
            old, new = _decode_bounded(before), _decode_bounded(after)
            _refuse(type(old) is type(new) and old.name == new.name, "an update is not of one part")
            return Update(old, new)
        case ("delete", part):
            return Delete(_decode_bounded(part))
    raise Refused("refused: a step is none of create, update, delete")


def _decode_bounded(value: object) -> Part:
    part = decode_part(value)
    for name in _TYPES[type(part)]:
        text = getattr(part, name)
        if type(text) is str and len(text) > MAX_TEXT:
            raise Refused(f"refused: {name} of a {type(part).__name__} is too long")
    return part


def encode_part(part: Part) -> list[Any]:
    """Encode a part as its kind and its fields."""
    return [type(part).__name__, {name: getattr(part, name) for name in _TYPES[type(part)]}]


def decode_part(value: object) -> Part:
    """Decode a part. Raises Refused."""
    match value:
        case (str(kind), dict(values)) if kind in _CLASSES:
            cls = _CLASSES[kind]
        case _:
            raise Refused("refused: a part is of no known kind")
    legal = _TYPES[cls]
    _refuse(values.keys() == legal.keys(), f"the fields of a {kind} are not its own")
    for name, kinds in legal.items():
        if type(values[name]) not in kinds:
            raise Refused(f"refused: {name} of a {kind} is of the wrong type")
    return cls(**values)


# -- replies: outcomes and what was observed --------------------------------------------------------------------------


def encode_outcomes(outcomes: Sequence[Sequence[Outcome]]) -> list[Any]:
    """Encode outcomes without their steps, which the client has."""
    return [[_encode_outcome(outcome) for outcome in plan] for plan in outcomes]


def _encode_outcome(outcome: Outcome) -> list[Any]:
    reason = escaped(outcome.reason)
    return [outcome.result.value, reason, outcome.retry, outcome.simulated, outcome.code, outcome.retries]


def decode_outcomes(value: Any, plans: Sequence[Sequence[Step]]) -> list[tuple[Outcome, ...]]:
    """Decode the outcomes of these plans."""
    return [
        tuple(Outcome(step, Result(result), *rest) for step, (result, *rest) in zip(plan, outcomes, strict=True))
        for plan, outcomes in zip(plans, value, strict=True)
    ]


def encode_observed(observed: Observed) -> list[Any]:
    """Encode an observation. Parts and facts are encoded as their values, in the order of their fields."""
    facts = observed.facts
    return [
        [_ROW[type(part)](part) for part in observed.state],
        dict(facts.links),
        {name: list(held) for name, held in facts.members.items()},
        dict(facts.ports),
        dict(facts.switches),
        facts.switch_version,
        sorted(facts.serves),
        list(facts.unchecked),
        facts.simulated,
        {iface_id: list(names) for iface_id, names in facts.bearers.items()},
    ]


def decode_observed(value: Any) -> Observed:
    """Decode an observation. The values are not checked, because the daemon is trusted."""
    parts, links, members, ports, switches, version, serves, unchecked, simulated, bearers = value
    return Observed(
        HostState().with_parts(*(_create(_CLASSES[kind], values) for kind, *values in parts)),
        Facts(
            links={name: LinkFact._make(values) for name, values in links.items()},
            members={name: tuple(held) for name, held in members.items()},
            ports={name: PortFact._make(values) for name, values in ports.items()},
            switches=switches,
            switch_version=version,
            serves=frozenset(serves),
            unchecked=tuple(unchecked),
            simulated=simulated,
            bearers={iface_id: tuple(names) for iface_id, names in bearers.items()},
        ),
    )


def _create(cls: type[Part], values: Sequence[Any]) -> Part:
    return cls(**dict(zip(_FIELDS[cls], values, strict=True)))
