"""Encode and decode plans, outcomes and observations as the plain data that crosses the boundary.

Requests are decoded strictly, because the client may be captured. The verbs and kinds are a closed set, field names and
types are exact (True is no int), and sizes are bounded. authorize.py decides which values are legal.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

from hybridvif.model.errors import Refused, bounded, escaped
from hybridvif.model.parts import PARTS, OvsPort, Part
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import MAX_NAMES
from hybridvif.model.state import Create, Delete, Facts, HostState, LinkFact, Observed, PortFact, Replace, Step, Update

MAX_PLANS, MAX_STEPS, MAX_TEXT = 2048, 16, 65_536
"""The limits of a request: plans, steps per plan, and characters per text, which another tool may have written."""


_CLASSES: Mapping[str, type[Part]] = {cls.__name__: cls for cls in PARTS}
_TYPES: Mapping[type[Part], Mapping[str, tuple[type, ...]]] = {
    cls: {spec.name: typing.get_args(hints[spec.name]) or (hints[spec.name],) for spec in fields(cls)}
    for cls in PARTS
    for hints in [typing.get_type_hints(cls)]
}
"""The fields of a part, with their legal types."""
_OUTCOME = attrgetter("retry", "simulated", "code", "retries")
_NAMED_FACTS: Mapping[str, Any] = {"links": LinkFact, "ports": PortFact}
"""The facts that are tuples with names."""
_ROW = {cls: attrgetter("__class__.__name__", *_TYPES[cls]) for cls in PARTS}


# -- requests: names and plans -----------------------------------------------------------------------------------------


def decode_names(value: object) -> frozenset[str] | None:
    """Decode the names of an observe request; None: all of our names. Raises Refused."""
    if value is None:
        return None
    names = _list_of(value, MAX_NAMES, "names are")
    if not all(type(name) is str for name in names):
        raise Refused("refused: a name is no text")
    return frozenset(typing.cast(Sequence[str], names))


def decode_known(value: object) -> tuple[frozenset[str] | None, str]:
    """Decode the names of a watch request, and the digest of the observation that the client has. Raises Refused."""
    match value:
        case (names, str(digest)):
            return decode_names(names), digest
    raise Refused("refused: a watch request takes names and a digest")


def encode_plans(plans: Sequence[Sequence[Step]]) -> list[Any]:
    """Encode plans."""
    return [[_encode_step(step) for step in plan] for plan in plans]


def decode_plans(value: object) -> list[tuple[Step, ...]]:
    """Decode the plans of an apply request. Raises Refused."""
    plans = _list_of(value, MAX_PLANS, "plans are")
    return [tuple(_decode_step(step) for step in _list_of(plan, MAX_STEPS, "a plan is")) for plan in plans]


def _list_of(value: object, most: int, name: str) -> Sequence[object]:
    if not isinstance(value, tuple | list) or len(value) > most:
        raise Refused(f"refused: {name} no list of at most {most}")
    return value


def _encode_step(step: Step) -> list[Any]:
    parts = (step.before, step.after) if isinstance(step, Update | Replace) else (step.part,)
    return [type(step).__name__.lower(), *map(encode_part, parts)]


def _decode_step(value: object) -> Step:
    match value:
        case ("create", part):
            return Create(decode_part(part))
        case ("update", before, after):
            old, new = decode_part(before), decode_part(after)
            if type(old) is not type(new) or old.name != new.name:
                raise Refused("refused: an update is not of one part")
            return Update(old, new)
        case ("replace", before, after):
            old, new = decode_part(before), decode_part(after)
            if not isinstance(old, OvsPort) or not isinstance(new, OvsPort):
                raise Refused("refused: a replace is not of two rows")
            return Replace(old, new)
        case ("delete", part):
            return Delete(decode_part(part))
    raise Refused("refused: a step is none of create, update, delete, replace")


def encode_part(part: Part) -> list[Any]:
    """Encode a part as its kind and its fields. Only another tool can have written a text that is shortened here."""
    values = {name: getattr(part, name) for name in _TYPES[type(part)]}
    long = {name: bounded(value) for name, value in values.items() if type(value) is str and len(value) > MAX_TEXT}
    return [type(part).__name__, values | long]


def decode_part(value: object) -> Part:
    """Decode a part. Raises Refused."""
    match value:
        case (str(kind), dict(values)) if kind in _CLASSES:
            cls = _CLASSES[kind]
        case _:
            raise Refused("refused: a part is of no known kind")
    if values.keys() != _TYPES[cls].keys():
        raise Refused(f"refused: the fields of a {kind} are not its own")
    for name, legal in _TYPES[cls].items():
        field = values[name]
        if type(field) not in legal:
            raise Refused(f"refused: {name} of a {kind} is of the wrong type")
        if type(field) is str and len(field) > MAX_TEXT:
            raise Refused(f"refused: {name} of a {kind} is too long")
    return cls(**values)


# -- responses: outcomes and observations ------------------------------------------------------------------------------


def encode_outcomes(outcomes: Sequence[Sequence[Outcome]]) -> list[Any]:
    """Encode outcomes without their steps, which the client has."""
    return [
        [[outcome.result.value, escaped(outcome.reason), *_OUTCOME(outcome)] for outcome in plan] for plan in outcomes
    ]


def decode_outcomes(value: Any, plans: Sequence[Sequence[Step]]) -> list[tuple[Outcome, ...]]:
    """Decode the outcomes of these plans."""
    return [
        tuple(Outcome(step, Result(result), *rest) for step, (result, *rest) in zip(plan, outcomes, strict=True))
        for plan, outcomes in zip(plans, value, strict=True)
    ]


def encode_observed(observed: Observed) -> list[Any]:
    """Encode an observation. Parts are encoded as their values, in the order of their fields."""
    facts = {spec.name: getattr(observed.facts, spec.name) for spec in fields(Facts)}
    return [[_ROW[type(part)](part) for part in observed.state], {name: _plain(fact) for name, fact in facts.items()}]


def _plain(fact: object) -> object:
    if isinstance(fact, Mapping):
        return dict(fact)
    return sorted(fact) if isinstance(fact, frozenset) else fact


def decode_observed(value: Any) -> Observed:
    """Decode an observation. The values are not checked, because the daemon is trusted."""
    rows, facts = value
    parts = (_CLASSES[kind](**dict(zip(_TYPES[_CLASSES[kind]], values, strict=True))) for kind, *values in rows)
    by_name = {name: {key: cls._make(fact) for key, fact in facts[name].items()} for name, cls in _NAMED_FACTS.items()}
    others = {**facts, "serves": frozenset(facts["serves"])}
    return Observed(HostState().with_parts(*parts), Facts(**{**others, **by_name}))
