"""Compare the decoder and the rules with the grammar, by stored and generated messages. tools/fuzz tries a million."""

from __future__ import annotations

import os
from dataclasses import fields

import pytest

from hybridvif.model.parts import PARTS
from hybridvif.model.port import desired_state
from hybridvif.model.settings import Settings
from hybridvif.privileged import codec
from tests.fuzz import grammar
from tests.fuzz.judge import CALL, Wrong, judge
from tests.fuzz.mutation import PORTS, messages, pack
from tests.fuzz.run import blindly, judged, kept

RUNS = 1_000_000 if os.environ.get("HYBRIDVIF_FULL") else 5_000
SEED = int(os.environ.get("HYBRIDVIF_SEED", "1"))


def test_stored_messages_are_judged_like_the_grammar() -> None:
    for message in kept():
        judged(message)


def test_valid_messages_are_permitted() -> None:
    assert {became for message in messages() for became in judged(pack(message))} == {"permitted", "asked"}


def test_generated_messages_are_judged_like_the_grammar() -> None:
    became = blindly(RUNS, SEED)
    assert {"permitted", "asked", "refused by messages", "refused by wire", "refused by authorize"} <= became.keys()


def test_grammar_contains_every_kind_and_field() -> None:
    """A new field needs a line in tests/fuzz/grammar.py, which states the legal values a second time on purpose."""
    assert {cls.__name__: {spec.name for spec in fields(cls)} for cls in PARTS} == {
        kind: set(known) for kind, known in grammar.FIELDS.items()
    }


@pytest.mark.parametrize(
    ("bridge", "allowed"), [("br-ex", ("br-int", "tbr-5f2c0e1a-7", "br-ex")), ("br-int", ("br-two",))]
)
def test_rules_that_differ_from_the_grammar_are_noticed(bridge: str, allowed: tuple[str, ...]) -> None:
    [row] = desired_state(PORTS[0]).ports.values()
    kind, values = codec.encode_part(row)
    plans = [[["create", [kind, {**values, "bridge": bridge}]]]]
    with pytest.raises(Wrong):
        judge(pack(["n", [CALL, "apply", [plans, 1.0], {}]]), Settings(integration_bridges=allowed))
