"""The kept messages, and a few thousand new ones, are judged as the grammar says; tools/fuzz tries a million."""

from __future__ import annotations

import os
from dataclasses import fields

import pytest

from hybridvif.model.desired import desired_state
from hybridvif.model.parts import PARTS
from hybridvif.model.settings import Settings
from hybridvif.privileged import codec
from tests.fuzz import grammar
from tests.fuzz.judge import CALL, Wrong, judge
from tests.fuzz.mutation import PORTS, messages, pack
from tests.fuzz.run import blindly, judged, kept

RUNS = 1_000_000 if os.environ.get("HYBRIDVIF_FULL") else 5_000
SEED = int(os.environ.get("HYBRIDVIF_SEED", "1"))


def test_every_kept_message_is_judged_as_the_grammar_says() -> None:
    for message in kept():
        judged(message)


def test_every_valid_message_is_let_through() -> None:
    assert {became for message in messages() for became in judged(pack(message))} == {"permitted", "asked"}


def test_messages_that_are_made_up_are_judged_as_the_grammar_says() -> None:
    became = blindly(RUNS, SEED)
    assert {"permitted", "asked", "refused by frames", "refused by wire", "refused by authorize"} <= became.keys()


def test_the_grammar_knows_every_kind_of_part_and_every_field() -> None:
    """Whoever adds a field adds its line to tests/fuzz/grammar.py: what it may be is stated twice, on purpose."""
    assert {cls.__name__: {spec.name for spec in fields(cls)} for cls in PARTS} == {
        kind: set(known) for kind, known in grammar.FIELDS.items()
    }


@pytest.mark.parametrize(
    ("bridge", "allowed"), [("br-ex", ("br-int", "tbr-5f2c0e1a-7", "br-ex")), ("br-int", ("br-two",))]
)
def test_a_policy_that_permits_more_or_less_than_the_grammar_is_noticed(bridge: str, allowed: tuple[str, ...]) -> None:
    [row] = desired_state(PORTS[0]).ports.values()
    kind, values = codec.encode_part(row)
    plans = [[["create", [kind, {**values, "bridge": bridge}]]]]
    with pytest.raises(Wrong):
        judge(pack(["n", [CALL, "apply", [plans, 1.0], {}]]), Settings(integration_bridges=allowed))
