"""Count the violations of the mechanical rules of plain English in the source, the tests and the pages.

    python -m tests.support.language [PATH...]    list the violations with file and line, of these files or directories
    python -m tests.support.language --counts     print the counts by folder, as tests/unit/test_language.py has them

docstring   a docstring begins with a question word
sentence    a sentence of a Markdown page has more than 30 words
test name   the name of a test has more than 70 characters
local       a local variable has one of the banned names
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("hybridvif", "tests", "benchmarks", "examples", "docs")
PAGES = ("docs", "examples", "*.md")
RULES = ("docstring", "sentence", "test name", "local")

QUESTION_WORDS = frozenset({"What", "Who", "Whose", "Whether", "Those", "How", "Why", "Which"})
BANNED_LOCALS = frozenset({"one", "at", "said", "left", "told", "what"})
MAX_WORDS = 30
MAX_TEST_NAME = 70

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """A place that breaks a rule."""

    path: str
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        """Return the violation as a compiler prints an error."""
        return f"{self.path}:{self.line}: {self.rule}: {self.text}"

    @property
    def folder(self) -> str:
        """The folder that the violation is counted in: hybridvif/cli, docs; the file itself for a page of the root."""
        parts = self.path.split("/")
        return "/".join(parts[: min(len(parts) - 1, 2)]) or self.path


# -- Python -----------------------------------------------------------------------------------------------------------


def in_source(text: str, path: str) -> Iterator[Violation]:
    """Yield the violations of a Python module."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, Documented):
            yield from _docstrings(node, path)
        if isinstance(node, Function):
            yield from _locals(node, path)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and len(node.name) > MAX_TEST_NAME:
            yield Violation(path, node.lineno, "test name", f"{node.name} has {len(node.name)} characters")


def _docstrings(node: Documented, path: str) -> Iterator[Violation]:
    """Check the docstring of a module, class or function, and those of the constants in it."""
    for statement in node.body:
        match statement:
            case ast.Expr(ast.Constant(str(text))):
                words = re.findall(r"\w+", text)
                if words and words[0] in QUESTION_WORDS:
                    yield Violation(path, statement.lineno, "docstring", text.strip().partition("\n")[0])


def _locals(function: Function, path: str) -> Iterator[Violation]:
    """Report the first place of every banned name that a function binds, parameters included."""
    bound: dict[str, int] = {}
    for name, line in _bindings(function):
        if name in BANNED_LOCALS:
            bound.setdefault(name, line)
    for name, line in bound.items():
        yield Violation(path, line, "local", name)


def _bindings(function: Function) -> Iterator[tuple[str, int]]:
    arguments = function.args
    for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
        if argument:
            yield argument.arg, argument.lineno
    body = function.body if isinstance(function.body, list) else [function.body]
    for statement in body:
        yield from _bindings_in(statement)


def _bindings_in(node: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the names bound beneath a node, without those of inner functions and classes."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda() | ast.ClassDef():
            return
        case ast.Name(id=name, ctx=ast.Store()):
            yield name, node.lineno
        case ast.ExceptHandler(name=str(name)):
            yield name, node.lineno
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name, node.lineno
    for child in ast.iter_child_nodes(node):
        yield from _bindings_in(child)


# -- Markdown ---------------------------------------------------------------------------------------------------------


def in_page(text: str, path: str) -> Iterator[Violation]:
    """Yield the violations of a Markdown page."""
    for line, block in _blocks(text):
        for offset, sentence in _sentences(block):
            count = len(words_of(sentence))
            if count > MAX_WORDS:
                start = " ".join(block[offset:].split()[:8])
                yield Violation(path, line + block.count("\n", 0, offset), "sentence", f"{count} words: {start} ...")


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of every paragraph, list item, heading and table cell; code and comments are left out."""
    text = re.sub(r"^( *)(```|~~~).*?^\1\2`*[ \t]*$", _blank, text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->", _blank, text, flags=re.DOTALL)
    first, lines = 1, list[str]()
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        is_row = line.lstrip().startswith("|")
        begins = not line.strip() or is_row or re.match(r" *(#+|[-*+]|\d+\.|>) |    \S", line)
        if lines and (begins or lines[-1].startswith("#")):
            yield first, "\n".join(lines)
            lines = []
        if is_row:
            for cell in re.split(r"(?<!\\)\|", line):
                yield number, cell
        elif line.strip():
            first = first if lines else number
            lines.append(line)


def _blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def _sentences(block: str) -> Iterator[tuple[int, str]]:
    """Yield (offset, sentence): a full stop ends one where a space or the end follows."""
    # Code is one word, and what stands in it ends no sentence.
    plain = re.sub(r"`[^`]+`", lambda match: re.sub(r"\S", "x", re.sub(r"[^\S\n]", "x", match[0])), block)
    start = 0
    marker = re.match(r" *([-*+>]|#+|\d+\.) ", plain)
    if marker:
        plain = " " * marker.end() + plain[marker.end() :]
    for match in re.finditer(r"[.!?][\"')\]*_]*(?=\s|$)(?<!e\.g\.)(?<!i\.e\.)", plain):
        yield start, plain[start : match.end()]
        start = match.end() + len(plain[match.end() :]) - len(plain[match.end() :].lstrip())
    yield start, plain[start:]


def words_of(sentence: str) -> list[str]:
    """Return the words of a sentence; the target of a link is none."""
    return [word for word in re.sub(r"\]\([^)]*\)", "]", sentence).split() if re.search(r"\w", word)]


# -- the whole tree ---------------------------------------------------------------------------------------------------


def violations(root: Path = ROOT) -> list[Violation]:
    """Return all violations of the tree, in order."""
    found = list[Violation]()
    for directory in SOURCES:
        for path in (root / directory).rglob("*.py"):
            found += in_source(path.read_text(encoding="utf-8"), path.relative_to(root).as_posix())
    for pattern in PAGES:
        for path in root.glob(pattern if "*" in pattern else f"{pattern}/**/*.md"):
            found += in_page(path.read_text(encoding="utf-8"), path.relative_to(root).as_posix())
    return sorted(found)


def counts(found: Sequence[Violation]) -> Mapping[str, Mapping[str, int]]:
    """Return the number of violations by rule and folder."""
    return {rule: dict(sorted(Counter(item.folder for item in found if item.rule == rule).items())) for rule in RULES}


def main(arguments: Sequence[str]) -> int:
    """Run the program; return 1 if there are violations."""
    found = violations()
    if arguments == ["--counts"]:
        for rule, folders in counts(found).items():
            print(f'    "{rule}": {{')  # noqa: T201
            print(*(f'        "{folder}": {count},\n' for folder, count in folders.items()), sep="", end="    },\n")  # noqa: T201
        return 0
    paths = [Path(argument).resolve().relative_to(ROOT).as_posix() for argument in arguments]
    shown = [item for item in found if not paths or any(f"{item.path}/".startswith(f"{path}/") for path in paths)]
    print(*shown, sep="\n")  # noqa: T201
    return int(bool(shown))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
