"""The docs agree with the code, and their examples run."""

from __future__ import annotations

import ast
import configparser
import doctest
import importlib
import inspect
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

import hybridvif
from benchmarks.page import ROWS, with_figures, with_rows
from benchmarks.record import Record, merge_observed
from hybridvif import Port, RecordingHost, Report, Status, desired_state, plug_all
from hybridvif.cli import COMMANDS, EXIT_CODES, options
from hybridvif.cli.commands import check, plan, show, trace
from hybridvif.cli.commands.list import STATES, list_of
from hybridvif.cli.commands.reconcile import gc, reconcile
from hybridvif.cli.ports import PortRequest
from hybridvif.client import host
from hybridvif.engine import config, converge, locks
from hybridvif.engine.any_host import SimulatedHost, look
from hybridvif.executors.base import Executor
from hybridvif.model import errors, names, settings
from hybridvif.model.parts import PARTS, ForeignObject, ForeignPort, Part, Tap
from hybridvif.model.settings import Settings
from hybridvif.model.state import Facts, LinkFact, PortFact
from hybridvif.testing.sandbox.box import Sandbox, Vm
from tests.support.answers import DIAGNOSIS, arguments, plug_answer
from tests.support.strategies import NAMES, PORT, REASONS, VETH

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
SAMPLE = ROOT / "etc" / "hybridvif.conf.sample"


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code_blocks(text: str, language: str = r"\w*") -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)


def rows_of(text: str) -> Iterator[list[str]]:
    """Yield the cells of every row of every table."""
    for line in text.splitlines():
        if line.startswith("|") and not set(line) <= set("|-"):
            yield [cell.strip() for cell in re.split(r"\s\|(?=\s|$)", line[1:])][:-1]


def section(text: str, heading: str) -> str:
    """Return the text from a heading to the next one of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    found = re.search(rf"^{re.escape(heading)}\b[^\n]*\n(.*?)(?=^#{{1,{level}}} |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"no heading {heading!r}"
    return found[1]


def in_code(text: str) -> set[str]:
    """Return all text between backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


def keys_of(document: Any) -> set[str]:
    """Return the keys of a document, at every depth."""
    match document:
        case dict():
            return set(document) | {key for value in document.values() for key in keys_of(value)}
        case list() | tuple():
            return {key for value in document for key in keys_of(value)}
    return set()


# -- examples and links -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_example_prints_what_the_page_says(path: Path) -> None:
    assert doctest.testfile(str(path), module_relative=False, encoding="utf-8").failed == 0


def test_there_are_examples() -> None:
    assert sum(">>>" in block for path in PAGES for block in code_blocks(path.read_text(), "python")) > 15


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_other_example_is_python(path: Path) -> None:
    for block in code_blocks(path.read_text(encoding="utf-8"), "python"):
        if ">>>" not in block:
            ast.parse(block)


def test_the_tests_that_need_no_sandbox_pass_as_they_stand() -> None:
    ran = 0
    for block in code_blocks(page("docs/testing.md"), "python"):
        if "def test_" not in block:
            continue
        space: dict[str, Any] = {}
        exec(compile(block, "docs/testing.md", "exec"), space)
        for name, function in space.items():
            if name.startswith("test_") and set(inspect.signature(function).parameters) == {"recording_host"}:
                function(RecordingHost())
                ran += 1
    assert ran


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), target
        assert not anchor or anchor in anchors_of(there.read_text(encoding="utf-8")), target


def anchors_of(text: str) -> set[str]:
    """Return the anchors of a page, as on GitHub."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# -- docs/host.md -----------------------------------------------------------------------------------------------------


def parts_of_a_plugged_port() -> Iterable[Part]:
    hybrid = replace(PORT, mtu=1450, create_tap=True)
    vhost_user = replace(PORT, mtu=1450, vhostuser_mode="server")
    return [*desired_state(hybrid), Tap(name=NAMES.tap, master=NAMES.bridge), *desired_state(vhost_user)]


@pytest.mark.parametrize("part", parts_of_a_plugged_port(), ids=lambda part: part.kind)
def test_every_attribute_is_in_host_md_with_its_value_and_its_reason(part: Part) -> None:
    text = section(page("docs/host.md"), "## Attributes")
    [heading] = [line for line in text.splitlines() if line.startswith("### ") and f"`{part.kind}`" in line]
    listed = {cells[0].strip("`"): (cells[1], cells[3]) for cells in rows_of(section(text, heading)) if len(cells) == 4}
    del listed["attribute"]
    assert listed == {
        name: (f"`{json.dumps(getattr(part, name)).strip(chr(34)) or chr(34) * 2}`", str(reason))
        for (kind, name), reason in REASONS.items()
        if kind is type(part)
    }


# -- docs/cli.md ------------------------------------------------------------------------------------------------------


def test_every_exit_code_is_in_cli_md() -> None:
    listed = {cells[0]: cells[1] for cells in rows_of(section(page("docs/cli.md"), "## Exit codes"))}
    assert {code: listed.get(str(code)) for code in EXIT_CODES} == dict(EXIT_CODES)
    assert {status: listed.get(f"`{status.value}`") for status in Status} == {
        status: str(status.exit_code) for status in Status
    }


def test_every_command_and_every_option_is_in_cli_md() -> None:
    text = page("docs/cli.md")
    there = {"--version"}
    for command in COMMANDS:
        parser = options.command_parser(command, options.command_of(command))
        there |= {word for action in parser._actions for word in action.option_strings if word.startswith("--")}
        assert section(text, f"## {command}")
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)) == there


def test_every_format_and_every_column_is_in_cli_md() -> None:
    listed = {
        cells[0].strip("`"): (re.findall(r"`(\w+)`", cells[1]), re.findall(r"`(\w+)`", cells[2]) if cells[2:] else [])
        for cells in rows_of(section(page("docs/cli.md"), "## Formats"))
        if cells[0].startswith("`")
    }
    for name in COMMANDS:
        command = options.command_of(name)
        assert (name in listed) is bool(command.formats)
        assert listed.get(name, ([], [])) == ([*command.formats], [*command.columns])


def test_every_key_of_every_document_is_in_cli_md() -> None:
    asked = PortRequest(fields={"id": PORT.id, "mac": PORT.mac})
    host = RecordingHost(desired_state(PORT).with_parts(Tap(name=NAMES.tap, master=NAMES.bridge)))
    drifted = RecordingHost(host.state.with_parts(replace(VETH, mtu=1400)))
    failing = RecordingHost()
    failing.fail()
    stage = SimulatedHost(host.settings, look(drifted, [PORT.id]))
    half = RecordingHost(host.state.without(host.state.links[NAMES.bridge]))
    documents = [
        plug_answer([PORT], failing).document,
        plan.answer_of("plug", plug_all([PORT], stage), stage).document,
        check.answer_of([asked], drifted).document,
        show.answer_of(drifted).document,
        list_of(host).document,
        reconcile([PORT], host, arguments("reconcile")).document,
        reconcile([PORT], drifted, arguments("reconcile", "--dry-run")).document,
        gc(half, arguments("gc", "--older-than=0")).document,
        trace.answer_of(DIAGNOSIS).document,
    ]
    assert keys_of(documents) <= in_code(page("docs/cli.md"))
    assert set(STATES) <= in_code(section(page("docs/cli.md"), "## list"))


# -- docs/library.md and the sample configuration ---------------------------------------------------------------------


def test_every_field_of_a_port_is_in_library_md_with_its_default() -> None:
    listed = {
        cells[0].strip("`"): cells[1].strip("`") for cells in rows_of(section(page("docs/library.md"), "## Ports"))
    }
    for spec in fields(Port):
        assert listed[spec.name] == ("" if spec.default is MISSING else spelled(spec.default))
    assert listed.keys() - {"field"} == {spec.name for spec in fields(Port)}


def spelled(value: object) -> str:
    """Return a default in Python syntax."""
    return f'"{value}"' if isinstance(value, str) else str(value)


def test_every_field_of_a_report_and_every_status_is_in_library_md() -> None:
    listed = {cells[0] for cells in rows_of(section(page("docs/library.md"), "## Reports"))}
    assert {f"`{spec.name}`" for spec in fields(Report)} | {"`ok`"} <= listed
    assert {f"`{status.value}`" for status in Status} <= listed


def test_every_error_is_in_library_md_with_its_code_and_its_bases() -> None:
    listed = {cells[0].strip("`"): cells for cells in rows_of(section(page("docs/library.md"), "## Errors"))}
    classes = [cls for cls in vars(errors).values() if inspect.isclass(cls) and issubclass(cls, errors.HybridVifError)]
    for cls in classes:
        if cls is not errors.HybridVifError:
            bases = [base.__name__ for base in cls.__bases__ if base is not errors.HybridVifError]
            assert listed[cls.__name__][1] == f"`{cls.code}`"
            assert re.findall(r"`(\w+)`", listed[cls.__name__][2]) == bases
    assert set(listed) - {"exception"} == {cls.__name__ for cls in classes} - {"HybridVifError"}


def test_every_public_name_is_in_library_md() -> None:
    words = set(re.findall(r"\w+", page("docs/library.md")))
    assert set(hybridvif.__all__) - words == set()


def test_every_public_name_is_in_api_md() -> None:
    listed = re.findall(r"^\.\. auto\w+:: hybridvif\.(\w+)$", page("docs/api.md"), re.MULTILINE)
    assert sorted(set(hybridvif.__all__) - set(listed) - set(hybridvif._FORMER)) == []


def test_every_page_is_in_the_index() -> None:
    listed = set(re.findall(r"^([\w./]+\.md)$", page("docs/index.md"), re.MULTILINE))
    assert {f"{path.name}" for path in (ROOT / "docs").glob("*.md")} - {"index.md"} <= listed
    assert {f"../{path.name}" for path in ROOT.glob("*.md")} <= listed


def test_every_option_is_in_library_md_with_its_default() -> None:
    listed = {cells[0].strip("`"): cells[1] for cells in rows_of(section(page("docs/library.md"), "## Configuration"))}
    for option in config.OPTIONS:
        assert listed[option.dest] == f"`{as_configured(option.default)}`"


def test_every_option_is_in_the_sample_with_its_default() -> None:
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()
    own = lines[lines.index("[hybridvif]") : lines.index("[hybridvif_privileged]")]
    listed = [line for line in own if re.match(r"#\w+ = ", line)]
    assert sorted(listed) == sorted(f"#{option.dest} = {as_configured(option.default)}" for option in config.OPTIONS)


def as_configured(value: object) -> str:
    """Return a value in the syntax of a configuration file."""
    return ",".join(value) if isinstance(value, list) else str(value).lower() if value is False else str(value)


@pytest.mark.parametrize("options_set", [False, True], ids=["as it is", "every option set"])
def test_the_sample_says_the_defaults(tmp_path: Path, options_set: bool) -> None:
    text = SAMPLE.read_text(encoding="utf-8")
    copy = tmp_path / "hybridvif.conf"
    copy.write_text(re.sub(r"^#(\w+ = (?!<None>))", r"\1", text, flags=re.MULTILINE) if options_set else text)
    conf = cfg.ConfigOpts()
    config.register(conf)
    config.read(conf, [str(copy)])
    assert config.settings_of(conf) == Settings()


# -- figures ----------------------------------------------------------------------------------------------------------


FIGURES: list[tuple[str, str, tuple[object, ...]]] = [
    (
        "docs/architecture.md",
        r"up to (\d+) ports to plug,\s+(\d+) to unplug,\s+or\s+(\d+) to convert",
        (converge.PLUG_BATCH, converge.UNPLUG_BATCH, converge.CONVERSION_BATCH),
    ),
    ("docs/architecture.md", r"up to (\d+) plans in one call", (converge.MAX_ATTEMPTS,)),
    ("docs/architecture.md", r"(\d+) % of the time", (round(100 * converge.WORK_SHARE),)),
    ("docs/architecture.md", r"grace period of ([\d.]+) seconds", (host.GRACE_PERIOD,)),
    (
        "docs/library.md",
        r"up to (\d+) ports to plug,\s+(\d+) to unplug,\s+or\s+(\d+) to convert",
        (converge.PLUG_BATCH, converge.UNPLUG_BATCH, converge.CONVERSION_BATCH),
    ),
    ("docs/library.md", r"(\d+) % of the (?:time|deadline)", (round(100 * converge.WORK_SHARE),)),
    ("docs/library.md", r"grace period of ([\d.]+) seconds", (host.GRACE_PERIOD,)),
    ("docs/library.md", r"up to (\d+) times within the deadline", (len(converge.VERIFY_DELAYS) + 1,)),
    ("docs/library.md", r"([\d,]+) files, `port-0000`", (f"{locks.BUCKETS:,}",)),
    ("docs/library.md", r"first (\d+) characters", (names.KEY_LENGTH,)),
    ("docs/library.md", r"seconds, ([\d.]+) to (\d+);", (settings.MIN_DEADLINE, f"{settings.MAX_DEADLINE:.0f}")),
    ("docs/performance.md", r"at most (\d+) ports share one transaction", (converge.PLUG_BATCH,)),
]


@pytest.mark.parametrize(("name", "pattern", "expected"), FIGURES)
def test_a_figure_in_a_page_is_that_of_the_code(name: str, pattern: str, expected: tuple[object, ...]) -> None:
    text = re.sub(r"\s+", " ", page(name))
    found = [match.groups() for match in re.finditer(pattern, text)]
    assert found
    assert set(found) == {tuple(str(value) for value in expected)}


# -- docs/executors.md, docs/testing.md, CONTRIBUTING.md --------------------------------------------------------------


def test_every_executor_is_in_executors_md() -> None:
    declared = configparser.ConfigParser(delimiters=("=",))
    declared.read(ROOT / "setup.cfg")
    points = declared["options.entry_points"]
    lines = f"{points['hybridvif.link_executors']}\n{points['hybridvif.switch_executors']}".splitlines()
    listed = {cells[0].strip("`") for cells in rows_of(page("docs/executors.md").partition("## The protocol")[0])}
    assert listed - {"installed"} == {line.partition("=")[0].strip() for line in lines if line}


def test_every_member_of_the_protocol_is_in_executors_md() -> None:
    members = [name for name in {**vars(Executor), **Executor.__annotations__} if name[0] != "_"]
    listed = {cells[0] for cells in rows_of(section(page("docs/executors.md"), "## The protocol"))}
    assert [name for name in [*members, "__init__"] if not any(cell.startswith(f"`{name}") for cell in listed)] == []


@pytest.mark.parametrize("kind", [ForeignObject, ForeignPort, LinkFact, PortFact, Facts])
def test_every_field_of_a_fact_and_of_a_stray_is_in_executors_md(kind: type[Any]) -> None:
    rows = {cells[0]: cells[1] for cells in rows_of(section(page("docs/executors.md"), "## Parts and facts"))}
    listed = rows["`ForeignObject`" if kind is ForeignPort else f"`{kind.__name__}`"]
    names = {spec.name for spec in fields(kind)} if is_dataclass(kind) else set(kind._fields)
    assert names <= in_code(listed)


def test_the_helpers_of_executors_md_have_the_parameters_that_it_says() -> None:
    for cells in rows_of(section(page("docs/executors.md"), "## The helpers")):
        home, name = cells[0].strip("`"), cells[1].strip("`")
        if home == "from":
            continue
        named = getattr(importlib.import_module(home), name.partition("(")[0])
        if "(" in name:
            written = re.findall(r"(\w+)(?:=[^,)]*)?(?=[,)])", name.partition("(")[2])
            assert written == list(inspect.signature(named).parameters)


def test_every_fixture_and_all_of_the_sandbox_is_in_testing_md() -> None:
    text = page("docs/testing.md")
    plugin = page("hybridvif/testing/pytest_plugin.py")
    fixtures = re.findall(r"@pytest\.fixture.*?\ndef (\w+)", plugin)
    public = [name for cls in (Sandbox, Vm) for name in vars(cls) if not name.startswith("_")]
    words = set(re.findall(r"\w+", text))
    assert {*fixtures, *public} - words == set()


def test_reading_order_names_every_folder_and_module_beside() -> None:
    listed = in_code(section(page("CONTRIBUTING.md"), "## Reading order of the source"))
    folders = {f"{path.parent.name}/" for path in (ROOT / "hybridvif").glob("*/__init__.py")}
    beside = {path.stem for path in (ROOT / "hybridvif").glob("*.py") if not path.stem.startswith("__")}
    assert folders | beside <= listed
    assert folders <= in_code(page("docs/architecture.md"))


def test_every_kind_of_a_step_is_in_the_documents() -> None:
    kinds = {part.kind for part in PARTS if not issubclass(part, ForeignObject)}
    rows = [cells[1] for cells in rows_of(page("docs/cli.md")) if cells[:1] == ["`kind`"] and "`bridge`" in cells[1]]
    assert [in_code(row) for row in rows] == [kinds]


def test_no_page_or_module_refers_to_a_file_outside_the_repository() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in [*PAGES, *(ROOT / "hybridvif").rglob("*.py")]}
    names = {(path, name) for path, text in texts.items() for name in re.findall(r"(?<![\w./-])(\w+\.md)\b", text)}
    assert [
        (path.name, name)
        for path, name in sorted(names)
        if name != "page.md" and not any((folder / name).exists() for folder in (ROOT, ROOT / "docs"))
    ] == []


# -- docs/performance.md -----------------------------------------------------------------------------------------------


def record_of_the_kept_runs() -> Record:
    runs = re.findall(r"^tools/bench --read (.*?) --", page("docs/performance.md"), re.M)[0].split()
    return merge_observed(Record.of_json(page(run)) for run in runs)


def test_the_figures_in_performance_md_are_those_of_the_runs_that_are_kept() -> None:
    text = page("docs/performance.md")
    assert with_figures(text, record_of_the_kept_runs()) == text, "make the page anew, by the command that it names"


def test_every_missed_target_is_explained_in_performance_md() -> None:
    text = page("docs/performance.md")
    missed = [cells for cells in rows_of(section(text, "### Targets")) if cells[-1] == "not met"]
    explained = re.findall(r"^\*\*", section(text, "## Targets that are not met"), re.MULTILINE)
    assert len(explained) == len(missed)


def test_the_figures_in_the_readme_are_those_of_the_runs_that_are_kept() -> None:
    text = page("README.md")
    assert all(f"\n| {row} | " in text for row in ROWS)
    assert with_rows(text, record_of_the_kept_runs()) == text, "make the table anew, by the command in performance.md"
