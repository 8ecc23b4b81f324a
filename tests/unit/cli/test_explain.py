from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hybridvif.cli import EXIT_CODES, parse_arguments
from hybridvif.cli.commands.explain import answer_of
from hybridvif.cli.options import UsageError
from hybridvif.cli.output.topology import Condition
from hybridvif.model.errors import InvalidInput
from hybridvif.model.parts import DECLARATIONS
from hybridvif.model.report import Result, Status
from hybridvif.model.warnings import TEXTS
from tests.support.answers import text_of

ROOT = Path(__file__).parents[3]
UNKNOWN = re.compile(r"'ageign' is neither an attribute nor a code; did you mean ageing\?")


def attributes_of(word: str) -> list[Any]:
    attributes = answer_of(word).document["attributes"]
    assert isinstance(attributes, list)
    return attributes


@pytest.mark.parametrize("kind", DECLARATIONS, ids=lambda kind: kind.kind)
def test_every_attribute_is_explained_by_its_name_and_its_label(kind: Any) -> None:
    for name, of in DECLARATIONS[kind].items():
        for word in filter(None, (f"{kind.kind} {name}", f"{kind.kind}.{name.replace('_', '-')}", name, of.label)):
            found = [document for document in attributes_of(word) if kind.kind in document["kinds"]]
            assert [(document["why"], document["bugs"]) for document in found if document["attribute"] == name] == [
                (of.reason.text, list(of.reason.bugs))
            ], word
        text = text_of(answer_of(name))
        assert f"  why: {of.reason.text}\n" in f"{text}\n"
        assert f"  legal: {of.is_legal.words}\n" in text
        assert all(f"/bugs/{bug}" in text for bug in of.reason.bugs)


def test_kind_and_qvo_choose_among_attributes() -> None:
    assert [document["kinds"] for document in attributes_of("bridge mtu")] == [["bridge"]]
    assert [document["attribute"] for document in attributes_of("qvo mtu")] == ["peer_mtu"]
    assert len(attributes_of("mtu")) == 3


def test_create_only_attribute_says_so() -> None:
    assert "never compared or changed afterwards" in text_of(answer_of("isolated"))
    assert "never compared" not in text_of(answer_of("ageing"))


def test_every_code_is_explained() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "hybridvif").rglob("*.py"))
    written = set(re.findall(r"""\bcode"?(?: =|=|:) ?"([a-z-]+)\"""", sources))
    assert {"refused", "sandbox", "changed-meanwhile", "no-answer"} <= written
    listed = re.findall(r"^- `([\w-]+)`: ", (ROOT / "docs" / "library.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert "not-realized" in listed
    words = {*written, *listed, *(status.value for status in Status), *(result.value for result in Result)}
    words |= {condition.value for condition in Condition} | {*TEXTS}
    trace = (ROOT / "docs" / "trace.md").read_text(encoding="utf-8")
    reasons = {
        word
        for row in re.findall(r"^\| (`[a-z-]+`(?:, `[a-z-]+`)*) \|", trace, re.MULTILINE)
        for word in row.split("`")[1::2]
    }
    assert {"guest-stuck", "switch-dead", "no-traffic"} <= reasons
    words |= reasons
    for word in words:
        codes: Any = answer_of(word).document["codes"]
        assert [code["code"] for code in codes] == [word]
        assert len(codes[0]["text"]) > 20


def test_exit_codes_are_those_of_the_command() -> None:
    for number, text in EXIT_CODES.items():
        assert text_of(answer_of(str(number))) == f"exit code {number}\n  {text}"
    assert text_of(answer_of("name-collision")).startswith("name-collision (exit code 6)\n")
    assert text_of(answer_of("configured")).startswith("configured (exit code 65)\n")
    assert text_of(answer_of("internal")).startswith("internal\n")


def test_reason_of_a_trace_with_the_name_of_something_else_has_both() -> None:
    assert "In a trace: packets reach the switch" in text_of(answer_of("no-answer"))
    assert [len(answer_of(word).document["codes"]) for word in ("mtu", "mac")] == [1, 1]  # type: ignore[arg-type]


def test_unknown_word_suggests_the_similar_one() -> None:
    with pytest.raises(InvalidInput, match=UNKNOWN):
        answer_of("ageign")
    with pytest.raises(InvalidInput, match="neither an attribute nor a code; did you mean name-collision"):
        answer_of("name-colision")


def test_explain_needs_a_word() -> None:
    args = parse_arguments(["explain"])
    with pytest.raises(UsageError, match="name an attribute"):
        args.spec.run(args)
