"""Requests and responses survive encoding; malformed requests are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given, strategies as st

from hybridvif.model import settings
from hybridvif.model.errors import MAX_SHOWN, Refused
from hybridvif.model.parts import PARTS, ForeignObject, ForeignPort, IvsPort, OvsPort, Part
from hybridvif.model.report import Outcome, Result
from hybridvif.model.state import (
    Create,
    Delete,
    Facts,
    HostState,
    LinkFact,
    Observed,
    PortFact,
    Replace,
    Step,
    Update,
    changes_of,
)
from hybridvif.privileged import codec
from tests.support.strategies import (
    BRIDGE,
    MADE_TAP,
    NAMES,
    NATIVE,
    PORT,
    ROW,
    TAP,
    VETH,
    VHOST_USER,
    ports,
    states_of,
)

ODD_NAME = "qbr\udcff\x00/../all"
EVERY_KIND = [
    BRIDGE,
    VETH,
    TAP,
    MADE_TAP,
    ROW,
    NATIVE,
    VHOST_USER,
    IvsPort(name=ROW.name),
    ForeignObject(name=BRIDGE.name, what="a veth link", alias=PORT.id),
    ForeignPort(name=ROW.name, what="a bond"),
]


def carried(value: Any) -> Any:
    """Pack and unpack a value like oslo.privsep's channel, which turns lists into tuples (oslo_privsep.comm)."""
    packed = msgpack.packb(value, use_bin_type=True, unicode_errors="surrogateescape")
    return msgpack.unpackb(packed, use_list=False, raw=False, strict_map_key=False, unicode_errors="surrogateescape")


# Requests.


def test_every_kind_of_part_is_in_this_test() -> None:
    assert {type(part) for part in EVERY_KIND} == set(PARTS)


@pytest.mark.parametrize("part", EVERY_KIND, ids=lambda part: part.kind)
def test_part_survives_encoding(part: Part) -> None:
    assert codec.decode_part(carried(codec.encode_part(part))) == part


@given(st.data(), ports())
def test_plans_survive_encoding(data: st.DataObject, port: Any) -> None:
    parts = list(data.draw(states_of(port)))
    steps: list[Step] = [
        *map(Create, parts),
        *(Update(part, part) for part in parts),
        *map(Delete, parts),
        Replace(ROW, NATIVE),
    ]
    plans = [steps[start : start + codec.MAX_STEPS] for start in range(0, len(steps), codec.MAX_STEPS)]
    decoded = codec.decode_plans(carried(codec.encode_plans(plans)))
    assert decoded == [tuple(plan) for plan in plans]


def test_plans_and_steps_beyond_their_limits_are_refused() -> None:
    step = codec.encode_plans([[Delete(BRIDGE)]])[0][0]
    assert len(codec.decode_plans([[]] * codec.MAX_PLANS)) == codec.MAX_PLANS
    assert len(codec.decode_plans([[step] * codec.MAX_STEPS])[0]) == codec.MAX_STEPS
    excesses: list[Any] = [[[]] * (codec.MAX_PLANS + 1), [[step] * (codec.MAX_STEPS + 1)]]
    for too_much in excesses:
        with pytest.raises(Refused, match="^refused: .* no list of at most"):
            codec.decode_plans(too_much)


@pytest.mark.parametrize("names", [None, [], ["qbr5f2c0e1a-7b", ODD_NAME]])
def test_names_survive_encoding(names: list[str] | None) -> None:
    assert codec.decode_names(carried(names)) == (None if names is None else set(names))


@pytest.mark.parametrize(
    "names",
    ["qbr5f2c0e1a-7b", 7, True, {"a": 1}, ["a"] * (settings.MAX_NAMES + 1), [7], [None], [b"qbr"], [["a"]]],
    ids=repr,
)
def test_names_that_are_not_a_list_of_strings_are_refused(names: object) -> None:
    with pytest.raises(Refused, match=r"^refused: "):
        codec.decode_names(names)


@pytest.mark.parametrize("names", [None, ["qbr5f2c0e1a-7b"]])
def test_names_and_digest_of_a_watch_survive_encoding(names: list[str] | None) -> None:
    assert codec.decode_known(carried([names, "0af"])) == (codec.decode_names(names), "0af")


@pytest.mark.parametrize(
    "value", [None, "ab", [], [None], [None, 1], [None, b"x"], [None, "x", "x"], [7, "x"], {"names": None}], ids=repr
)
def test_watch_without_names_and_digest_is_refused(value: object) -> None:
    with pytest.raises(Refused, match=r"^refused: "):
        codec.decode_known(value)


def of(part: Part, **values: object) -> list[Any]:
    kind, fields = codec.encode_part(part)
    return [kind, {**fields, **values}]


def lacking(part: Part, name: str) -> list[Any]:
    kind, fields = codec.encode_part(part)
    return [kind, {key: value for key, value in fields.items() if key != name}]


ILLEGAL_PARTS: dict[str, Any] = {
    "no part": None,
    "a text": "Bridge",
    "no fields": ["Bridge"],
    "fields as a list": ["Bridge", [["name", "x"]]],
    "one element too many": [*of(BRIDGE), 1],
    "an unknown kind": ["Wire", {}],
    "a kind in lower case": ["bridge", codec.encode_part(BRIDGE)[1]],
    "the base of all kinds": ["Part", {"name": "x"}],
    "another class": ["Outcome", {"name": "x"}],
    "a dotted kind": ["os.system", {"name": "x"}],
    "a kind that is a number": [7, {}],
    "an unknown field": of(BRIDGE, command="reboot"),
    "a method's name as a field": of(BRIDGE, __class__="x"),
    "a field that is no text": ["IvsPort", {"name": "x", 7: 8}],
    "a missing field": lacking(BRIDGE, "mtu"),
    "another kind's fields": ["Veth", codec.encode_part(BRIDGE)[1]],
    "True for 1": of(BRIDGE, mtu=True),
    "1 for True": of(BRIDGE, up=1),
    "a float for a number": of(BRIDGE, mtu=1500.0),
    "a text for a number": of(BRIDGE, mtu="1500"),
    "bytes for a text": of(BRIDGE, name=b"qbr5f2c0e1a-7b"),
    "a list for a text": of(BRIDGE, alias=["x"]),
    "nothing for a text": of(BRIDGE, mac=None),
    "a number for perhaps a flag": of(BRIDGE, disable_ipv6=0),
    "a text of ten million characters": of(BRIDGE, alias="x" * 10_000_000),
}


@pytest.mark.parametrize("part", ILLEGAL_PARTS.values(), ids=ILLEGAL_PARTS)
@pytest.mark.parametrize("verb", ["create", "update", "delete"])
def test_malformed_part_is_refused(verb: str, part: Any) -> None:
    good = codec.encode_part(BRIDGE)
    steps = {"create": [["create", part]], "delete": [["delete", part]]}.get(
        verb, [["update", good, part], ["update", part, good]]
    )
    for step in steps:
        with pytest.raises(Refused, match=r"^refused: "):
            codec.decode_plans([[step]])


@pytest.mark.parametrize("missing", ["disable_ipv6", "addr_gen_mode"])
def test_attribute_missing_in_the_kernel_may_be_none(missing: str) -> None:
    part = replace(BRIDGE, **{missing: None})  # type: ignore[arg-type]
    assert codec.decode_part(carried(codec.encode_part(part))) == part


GOOD = codec.encode_part(BRIDGE)
ILLEGAL_STEPS: dict[str, Any] = {
    "nothing": None,
    "a text": "create",
    "a verb alone": ["create"],
    "an unknown verb": ["exec", GOOD],
    "a verb in capitals": ["Create", GOOD],
    "two parts to create": ["create", GOOD, GOOD],
    "one part to update": ["update", GOOD],
    "an update of two kinds": ["update", GOOD, codec.encode_part(VETH)],
    "an update of two names": ["update", GOOD, of(BRIDGE, name="qbr91d3aa02-41")],
    "a replace of no rows": ["replace", GOOD, GOOD],
    "a mapping": {"create": GOOD},
}


@pytest.mark.parametrize("step", ILLEGAL_STEPS.values(), ids=ILLEGAL_STEPS)
def test_malformed_step_is_refused(step: Any) -> None:
    with pytest.raises(Refused, match=r"^refused: "):
        codec.decode_plans([[step]])


@pytest.mark.parametrize("plans", [None, "plans", 7, True, {}, [7], ["plan"], [{}], b"x"], ids=repr)
def test_malformed_plans_are_refused(plans: Any) -> None:
    with pytest.raises(Refused, match=r"^refused: "):
        codec.decode_plans(plans)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.binary()
        | st.sampled_from(["create", GOOD]),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=12,
    )
)
def test_any_message_is_decoded_or_refused(value: Any) -> None:
    # Any other exception fails the test.
    for decode in (codec.decode_plans, codec.decode_names, codec.decode_known):
        with suppress(Refused):
            decode(value)


@given(st.data(), st.sampled_from(EVERY_KIND))
def test_part_with_any_value_is_decoded_or_refused(data: st.DataObject, part: Part) -> None:
    field = data.draw(st.sampled_from(sorted(codec.encode_part(part)[1])))
    value = data.draw(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
    )
    with suppress(Refused):
        decoded = codec.decode_part(carried(of(part, **{field: value})))
        assert type(decoded) is type(part)
        assert type(getattr(decoded, field)) is type(value)


def test_names_up_to_the_limit_are_decoded() -> None:
    assert len(codec.decode_names([str(number) for number in range(settings.MAX_NAMES)]) or ()) == settings.MAX_NAMES


def test_text_beyond_the_limit_is_refused() -> None:
    longest = [["delete", of(BRIDGE, alias="x" * codec.MAX_TEXT)]]
    (whole,) = codec.decode_plans([longest])
    assert codec.encode_plans([whole]) == [longest]
    with pytest.raises(Refused, match="^refused: alias of a Bridge is too long$"):
        codec.decode_plans([[["delete", of(BRIDGE, alias="x" * (codec.MAX_TEXT + 1))]]])


@pytest.mark.parametrize(
    ("decode", "value", "sentence"),
    [
        (codec.decode_names, "qbr", f"names are no list of at most {settings.MAX_NAMES}"),
        (codec.decode_names, [7], "a name is no text"),
        (codec.decode_plans, 7, f"plans are no list of at most {codec.MAX_PLANS}"),
        (codec.decode_plans, [7], f"a plan is no list of at most {codec.MAX_STEPS}"),
        (codec.decode_plans, [[7]], "a step is none of create, update, delete, replace"),
        (codec.decode_plans, [[ILLEGAL_STEPS["an update of two names"]]], "an update is not of one part"),
        (codec.decode_plans, [[ILLEGAL_STEPS["a replace of no rows"]]], "a replace is not of two rows"),
        (codec.decode_part, ILLEGAL_PARTS["an unknown kind"], "a part is of no known kind"),
        (codec.decode_part, ILLEGAL_PARTS["a missing field"], "the fields of a Bridge are not its own"),
        (codec.decode_part, ILLEGAL_PARTS["True for 1"], "mtu of a Bridge is of the wrong type"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusal_contains_the_error(decode: Callable[[Any], Any], value: Any, sentence: str) -> None:
    with pytest.raises(Refused) as refused:
        decode(value)
    assert str(refused.value) == f"refused: {sentence}"


# Replies.


def test_outcomes_survive_encoding_with_the_clients_steps() -> None:
    plans: list[Sequence[Step]] = [[Create(BRIDGE), Update(VETH, VETH)], [], [Delete(ROW)]]
    outcomes = [
        (
            Outcome(plans[0][0], Result.FAILED, "no", retry=True, code="precondition"),
            Outcome(plans[0][1], Result.SKIPPED, simulated=True),
        ),
        (),
        (Outcome(plans[2][0], Result.UNKNOWN, "lost"),),
    ]
    assert codec.decode_outcomes(carried(codec.encode_outcomes(outcomes)), plans) == outcomes


@pytest.mark.parametrize("result", Result)
def test_every_result_survives_encoding(result: Result) -> None:
    outcomes = [(Outcome(Delete(ROW), result),)]
    assert codec.decode_outcomes(carried(codec.encode_outcomes(outcomes)), [[Delete(ROW)]]) == outcomes


def test_outcomes_of_other_plans_are_rejected() -> None:
    encoded = codec.encode_outcomes([(Outcome(Delete(ROW), Result.DONE),)])
    others: list[list[list[Step]]] = [[], [[]], [[Delete(ROW), Delete(BRIDGE)]]]
    for plans in others:
        with pytest.raises(ValueError, match="zip"):
            codec.decode_outcomes(encoded, plans)


FACTS = Facts(
    links={NAMES.bridge: LinkFact(ifindex=7, kind="bridge", up=True, carrier=False, master="", mtu=1500)},
    members={NAMES.bridge: (NAMES.bridge_end, NAMES.tap)},
    ports={NAMES.switch_end: PortFact(ofport=-1, error="could not open", tag=4095)},
    switches={"br-int": "netdev"},
    switch_version="ovs 3.1.0",
    serves=frozenset({"bridge", "ovs-port"}),
    unchecked=(f"{NAMES.bridge}: disable_ipv6",),
    simulated=True,
)


@pytest.mark.parametrize("facts", [Facts(), FACTS], ids=["none", "all"])
@pytest.mark.parametrize("parts", [[], [BRIDGE, VETH, TAP, ROW], [*EVERY_KIND[6:]]], ids=["nothing", "all", "strays"])
def test_observation_survives_encoding(parts: list[Part], facts: Facts) -> None:
    seen = Observed(HostState().with_parts(*parts), facts)
    assert codec.decode_observed(carried(codec.encode_observed(seen))) == seen


@given(st.data(), ports())
def test_any_state_survives_encoding(data: st.DataObject, port: Any) -> None:
    seen = Observed(data.draw(states_of(port)), Facts())
    assert codec.decode_observed(carried(codec.encode_observed(seen))) == seen


@pytest.mark.parametrize("change", [lambda row: row[:-1], lambda row: [*row, 1]], ids=["too few", "too many"])
@pytest.mark.parametrize("place", ["", "links", "ports"])
def test_response_of_another_release_is_rejected(place: str, change: Callable[[Any], Any]) -> None:
    encoded = list(carried(codec.encode_observed(Observed(HostState().with_parts(BRIDGE), FACTS))))
    if not place:
        encoded[0] = [change(list(row)) for row in encoded[0]]
    else:
        encoded[1][place] = {name: change(list(row)) for name, row in encoded[1][place].items()}
    with pytest.raises((ValueError, TypeError), match=r"zip|arguments"):
        codec.decode_observed(encoded)


LONG = "x" * 5_000


@pytest.mark.parametrize(
    "part",
    [
        replace(ROW, iface_id=LONG),
        replace(ROW, attached_mac=LONG),
        ForeignObject(name=NAMES.tap, what="a link", alias=LONG),
    ],
    ids=["iface-id", "attached-mac", "alias"],
)
def test_long_foreign_value_survives_encoding(part: Part) -> None:
    """Otherwise one foreign row would prevent the observation of all ports of a call."""
    seen = Observed(HostState().with_parts(part), Facts())
    assert codec.decode_observed(carried(codec.encode_observed(seen))) == seen


def test_long_foreign_value_can_be_in_a_plan() -> None:
    theirs = replace(ROW, iface_id=LONG)
    for plan in ([Update(theirs, ROW)], [Update(theirs, replace(theirs, type="patch"))], [Delete(theirs)]):
        assert codec.decode_plans(carried(codec.encode_plans([plan]))) == [tuple(plan)]


@pytest.mark.parametrize(
    "step", [Update(replace(ROW, iface_id="x" * 70_000), ROW), Delete(replace(ROW, vm_uuid="\u2028" * 10**6))]
)
def test_value_beyond_the_limit_is_shortened_in_a_plan(step: Step) -> None:
    """Otherwise a row with such a value could be neither plugged nor unplugged."""
    ((found,),) = codec.decode_plans(carried(codec.encode_plans([[step]])))
    assert type(found) is type(step)
    before, asked = (step.before if isinstance(step, Update) else step.part for step in (found, step))
    assert isinstance(before, OvsPort)
    assert isinstance(asked, OvsPort)
    assert max(len(before.iface_id), len(before.vm_uuid)) < 2 * MAX_SHOWN
    assert before.bridge == asked.bridge
    assert found.part == step.part or isinstance(step, Delete)


def test_equal_values_beyond_the_limit_are_no_change() -> None:
    long = replace(ROW, iface_id="x" * 70_000)
    ((found,),) = codec.decode_plans(carried(codec.encode_plans([[Update(long, replace(long, type="patch"))]])))
    assert isinstance(found, Update)
    assert changes_of(found) == {"type": "patch"}


def test_control_characters_in_a_reason_are_escaped() -> None:
    encoded = codec.encode_outcomes([[Outcome(Delete(ROW), Result.FAILED, "a\x1b[31m\nb")]])
    (((outcome,)),) = codec.decode_outcomes(carried(encoded), [[Delete(ROW)]])
    assert outcome.reason == "a\\x1b[31m\\nb"
