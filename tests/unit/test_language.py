"""The mechanical rules of plain English: the counts may only be lowered. tests/support/language.py has the rules."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.support.language import RULES, Violation, counts, in_page, in_source, violations

# The violations that are left, by folder. A count that is too high fails, and so does one that is too low: the change
# that mends a folder lowers its number. `python -m tests.support.language PATH` lists them; --counts prints this table.
ALLOWED: Mapping[str, Mapping[str, int]] = {
    "docstring": {},
    "sentence": {},
    "test name": {},
    "local": {},
}


@pytest.fixture(scope="module")
def found() -> list[Violation]:
    return violations()


@pytest.mark.parametrize("rule", RULES)
def test_violations_of_a_rule_are_exactly_those_allowed(rule: str, found: list[Violation]) -> None:
    measured = counts(found)[rule]
    differing = {folder for folder in {*measured, *ALLOWED[rule]} if measured.get(folder) != ALLOWED[rule].get(folder)}
    listed = [str(violation) for violation in found if violation.rule == rule and violation.folder in differing]
    assert measured == ALLOWED[rule], "\n".join(listed)


# -- planted samples ---------------------------------------------------------------------------------------------------

PLANTED_SOURCE = '''\
"""What this module is."""
LIMIT = 1
"""How many there may be."""

class Box:
    """Whose it is."""
    what: str = ""
    """Those that are in it."""

def plug(one, *, left=None):
    """Return the report."""
    for at, step in enumerate(one):
        said = [told for told in step]
    def inner(what):
        """Whether it is so."""
    match left:
        case [*one]:
            return lambda at: at

async def test_aaaaaaaaa_bbbbbbbbb_ccccccccc():
    """Which is fine."""

def test_aaaaaaaaa_bbbbbbbbb_ccccccccc_ddddddddd_eeeeeeeee_fffffffff_ggggggg():
    return None
'''


def test_planted_violations_of_source_are_found() -> None:
    assert [(item.rule, item.line) for item in sorted(in_source(PLANTED_SOURCE, "planted.py"))] == [
        ("docstring", 1),
        ("docstring", 3),
        ("docstring", 6),
        ("docstring", 8),
        ("local", 10),
        ("local", 10),
        ("local", 12),
        ("local", 13),
        ("local", 13),
        ("local", 14),
        ("docstring", 15),
        ("local", 18),
        ("docstring", 21),
        ("test name", 23),
    ]


@pytest.mark.parametrize(
    "source",
    [
        '"""Return what is there."""',
        '"""Whatever is there."""',
        "def plug(port):\n    port.at = port.left\n",
        "class Foreign:\n    what: str\n",
        "one = 1\n",
        "def test_a_port_is_plugged(): ...\n",
    ],
)
def test_legal_source_has_no_violation(source: str) -> None:
    assert list(in_source(source, "planted.py")) == []


LONG = " ".join(["word"] * 31)
SHORT = " ".join(["word"] * 30)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{LONG}.", 1),
        (f"# Title\n\nShort one. {LONG}.", 3),
        (f"First line.\n{LONG}", 2),
        (f"- item\n- {LONG}.\n- item", 2),
        (f"| cell | {LONG} |", 1),
        (f"{SHORT} `a. b`.", 1),
        (f"```\n{LONG}\n```\n\n{LONG}", 5),
        (f"{SHORT} [link](there.md).", 1),
    ],
)
def test_a_long_sentence_is_found_at_its_line(text: str, line: int) -> None:
    assert [(item.rule, item.line) for item in in_page(text, "page.md")] == [("sentence", line)]


@pytest.mark.parametrize(
    "text",
    [
        f"{SHORT}. {SHORT}!",
        f"- {SHORT}\n- {SHORT}",
        f"1. {SHORT}",
        f"| {SHORT} | {SHORT} |",
        f"```\n{LONG}\n```",
        f"<!-- {LONG} -->",
        f"`{LONG}` is code.",
        f"## {SHORT}\n{SHORT}",
    ],
)
def test_sentences_of_thirty_words_are_legal(text: str) -> None:
    assert list(in_page(text, "page.md")) == []


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("hybridvif/cli/commands/plug.py", "hybridvif/cli"),
        ("hybridvif/executors/netlink/socket.py", "hybridvif/executors"),
        ("hybridvif/client/host.py", "hybridvif/client"),
        ("hybridvif/children.py", "hybridvif"),
        ("docs/cli.md", "docs"),
        ("README.md", "README.md"),
    ],
)
def test_a_violation_is_counted_in_its_folder(path: str, folder: str) -> None:
    assert Violation(path, 1, "local", "at").folder == folder
