"""The output of commands: one whole document on stdout for machines, and text on stderr."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybridvif import RecordingHost, __version__, desired_state
from hybridvif.cli import main, parse_arguments, stdio
from hybridvif.cli.commands.list import list_of
from hybridvif.cli.stdio import OutputLost
from hybridvif.cli.terminal import SIMULATED, Answer, Failure, Paint, Terminal, set_up_logs
from hybridvif.model.errors import InvalidInput
from tests.support.answers import ID, OPTIONS, OTHER_ID, PORT, QVO, plug_answer
from tests.support.schemas import validate

TRUNK_PORT = replace(PORT, bridge="tbr-5f2c0e1a-7b", mtu=65535)
WIDE = RecordingHost(desired_state(TRUNK_PORT))
DOCUMENT = {"ports": [{"port": "a", "mtu": None, "up": True}]}
FAILURE = Failure(code="conflict", message="in the way", exit_code=6)


def answer(**more: Any) -> Answer:
    rows = [{"port": "a", "mtu": None, "state": True}, {"port": "bbb", "mtu": 1500, "state": False}]
    lines = {"lines": lambda paint: [paint("all well", "green")]}
    return Answer(**{"document": DOCUMENT, "rows": rows, **lines, **more})


def terminal(*words: str) -> Terminal:
    return Terminal(words[1] if words[:1] == ("-f",) else None, parse_arguments(["list", *words]))


class FakeTerminal(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


class Full(io.StringIO):
    """A file on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


class Hung(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_text_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert terminal().write_answer(answer(exit_code=3)) == 3
    assert capsys.readouterr().out == "all well\n"


@pytest.mark.parametrize(("form", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_json_puts_one_document_on_stdout_and_text_on_stderr(
    form: str, load: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    terminal("-f", form).write_answer(answer(document={**DOCUMENT, "simulated": True}, failures=[FAILURE], exit_code=6))
    captured = capsys.readouterr()
    document = load(captured.out)
    assert {key: document.pop(key) for key in ("command", "version", "host")} == {
        "command": "list",
        "version": __version__,
        "host": os.uname().nodename,
    }
    assert before <= datetime.fromisoformat(document.pop("time")) <= datetime.now(UTC)
    assert document == {**DOCUMENT, "simulated": True}
    assert captured.err == f"{SIMULATED}\nerror: in the way\n"


def test_sentences_that_differ_in_their_port_are_written_once(capsys: pytest.CaptureFixture[str]) -> None:
    """60 ports printed the same two sentences 60 times."""
    ids = [f"{number:08x}-7b00-4c00-8000-000000000001" for number in range(60)]
    messages = [f"port {port}: refused to unplug, since tap{port[:11]} has carrier; stop the VM" for port in ids]
    failures = [Failure(code="port-running", message=message, exit_code=6) for message in messages]
    other = Failure(code="conflict", message="in the way", exit_code=6)
    warnings = [f"port {port}: its flows drop every packet from {number}" for number, port in enumerate(ids)]
    assert terminal().write_answer(answer(failures=[*failures, other], warnings=warnings, exit_code=6)) == 6
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {warnings[0]} (and 59 more like this)",
        f"error: {messages[0]} (and 59 more like this)",
        "error: in the way",
    ]


def test_error_is_a_document_unless_one_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    output = terminal("-f", "json")
    assert output.write_failure(FAILURE) == 6
    document = validate(json.loads(capsys.readouterr().out))
    assert document["error"] == {"code": "conflict", "message": "in the way", "exit_code": 6}
    output = terminal("-f", "json")
    output.write_answer(answer())
    output.write_failure(FAILURE)
    assert json.loads(capsys.readouterr().out)["ports"] == DOCUMENT["ports"]


def test_table_is_aligned_and_value_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    terminal("-f", "table", "-c", "port", "-c", "mtu", "-c", "state").write_answer(answer())
    assert capsys.readouterr().out == "port  mtu   state\na     -     true\nbbb   1500  false\n"
    terminal("-f", "value", "-c", "mtu", "-c", "port").write_answer(answer())
    assert capsys.readouterr().out == "- a\n1500 bbb\n"


@pytest.mark.parametrize("words", [["list"], ["plug", ID, *OPTIONS]])
def test_unknown_column_is_an_error_before_any_work(words: list[str]) -> None:
    with pytest.raises(InvalidInput, match="no column 'nope'; there are port, "):
        parse_arguments([*words, "-f", "table", "-c", "nope"])


def test_drawing_has_its_own_format(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal("dot").write_answer(answer(drawings={"dot": lambda: "graph {}\n"}))
    assert capsys.readouterr().out == "graph {}\n"


def test_quiet_omits_success(capsys: pytest.CaptureFixture[str]) -> None:
    terminal("-q").write_answer(answer(silent=True, failures=[FAILURE]))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "error: in the way\n")
    terminal("-q").write_answer(answer())
    assert capsys.readouterr().out == "all well\n"


@pytest.mark.parametrize(
    ("words", "no_color", "coloured"),
    [((), "", True), ((), "1", False), (("--color", "always"), "1", True), (("--color", "never"), "", False)],
)
def test_colors_need_a_terminal_without_no_color(
    words: tuple[str, ...], no_color: str, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdout = FakeTerminal()
    monkeypatch.setattr("sys.stdout", stdout)
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    terminal(*words).write_answer(answer())
    assert ("\x1b[32mall well\x1b[0m" in stdout.getvalue()) is coloured


def test_file_gets_no_colors(capsys: pytest.CaptureFixture[str]) -> None:
    terminal().write_answer(answer())
    assert "\x1b" not in capsys.readouterr().out


def test_control_characters_in_output_are_escaped() -> None:
    assert Paint(on=False)("a\x1b[2Jb\nc", "") == "a\\x1b[2Jb\\nc"


def test_full_disk_is_an_output_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", Full())
    with pytest.raises(OutputLost, match="No space left"):
        terminal("-f", "json").write_answer(answer())


def test_closed_pipe_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", Hung())
    assert terminal("-f", "json").write_answer(answer(exit_code=3)) == 3


PRINTING = [["demo", "--level", "none"], ["--help"], ["--version"], ["plug", "--help"]]
"""Command lines that print while they work."""


def run_in_shell(words: list[str], redirection: str) -> subprocess.CompletedProcess[str]:
    """Run the command with its streams redirected."""
    argv = ["sh", "-c", f'exec "$0" -P -m hybridvif "$@" {redirection}', sys.executable, *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_broken_pipe_ends_a_printing_command_quietly(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    argv = [sys.executable, "-P", "-m", "hybridvif", *words]
    done = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_full_disk_ends_a_printing_command_with_a_sentence(words: list[str]) -> None:
    done = run_in_shell(words, "> /dev/full")
    assert done.returncode == 7
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the output could not be written to stdout: No space left on device")


def test_error_document_on_a_full_disk_keeps_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout", Full())
    assert main(["plug", "-f", "json"]) == 2
    assert capsys.readouterr().err == "error: name a port, or a file of ports with -F\n"


@pytest.mark.parametrize(("redirection", "reason"), [("<&-", "it is closed"), ("0> /dev/null", "Bad file descriptor")])
def test_unreadable_stdin_is_reported_in_one_line(redirection: str, reason: str) -> None:
    done = run_in_shell(["plug", "-F", "-"], redirection)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: stdin: it cannot be read: ")
    assert reason in line


@pytest.mark.parametrize(("error", "is_written"), [("KeyboardInterrupt", False), ("ValueError", True)])
def test_interrupt_of_a_callback_prints_no_traceback(error: str, is_written: bool) -> None:
    """Python drops what a callback of a weak reference raises. The import system has such callbacks."""
    code = (
        "import weakref; from hybridvif.cli import stdio; stdio.own_process()\n"
        f"class Lock: pass\ndef ended(_): raise {error}\n"
        "lock = Lock(); reference = weakref.ref(lock, ended); del lock; print('goes on')"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "goes on\n"
    assert ("Traceback" in done.stderr) is is_written


def test_interrupt_that_a_callback_loses_ends_the_work() -> None:
    """An endless `watch` would go on, and the user would have to kill it."""
    code = (
        "import signal, time; from hybridvif.cli import stdio; stdio.own_process()\n"
        "class Callback:\n"
        "    def __del__(self): signal.raise_signal(signal.SIGINT)\n"
        "with stdio.interruptible(ends=True):\n"
        "    try:\n"
        "        Callback()\n"
        "        time.sleep(60)\n"
        "    except KeyboardInterrupt: print('interrupted')\n"
    )
    argv = [sys.executable, "-P", "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=50)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_interrupt_inside_of_exec_does_not_change_the_exit_code(tmp_path: Path) -> None:
    """`python -m` ends by SIGINT then, even if the interrupt was handled. An import of dataclasses runs exec()."""
    (tmp_path / "interrupted.py").write_text(
        "import os, signal, sys\nfrom hybridvif.cli import main, stdio\n"
        "with stdio.interruptible(ends=False):\n"
        "    try: exec('os.kill(os.getpid(), signal.SIGTERM)\\nfor _ in range(1000): pass')\n"
        "    except KeyboardInterrupt: pass\n"
        "answered = sys.argv[1:] == ['nonsense'] and main()\nsys.exit(130)\n"
    )
    for words, exit_code in (([], -signal.SIGINT), (["nonsense"], 130)):
        argv = [sys.executable, "-m", "interrupted", *words]
        assert subprocess.run(argv, capture_output=True, check=False, cwd=tmp_path).returncode == exit_code


@pytest.mark.parametrize(
    ("words", "consequence"), [("check", "nothing was changed"), ("unplug", "what was begun may be half done")]
)
def test_interrupted_command_says_whether_it_may_have_changed_the_host(
    words: str, consequence: str, tmp_path: Path
) -> None:
    fifo = tmp_path / "ports.yaml"
    os.mkfifo(fifo)
    argv = [sys.executable, "-P", "-m", "hybridvif", words, "-F", str(fifo)]
    # The file opens when the command opens it, which it does after its handlers are set.
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process, fifo.open("w"):
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.startswith(f"error: interrupted; {consequence}")


def test_failures_of_ports_are_written_even_if_stdout_is_full(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout", Full())
    assert terminal().write_answer(answer(failures=[FAILURE], exit_code=6)) == 6
    failure, lost = capsys.readouterr().err.splitlines()
    assert failure == "error: in the way"
    assert lost.startswith("error: the output could not be written to stdout: No space left on device")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_deferred_while_a_document_is_written(number: signal.Signals) -> None:
    # A shell starts a background job with SIGINT ignored, and what is ignored stays so.
    inherited = signal.signal(number, signal.default_int_handler)
    try:
        with stdio.interruptible(ends=False):
            assert not stdio.was_interrupted()
            with stdio.uninterrupted():
                os.kill(os.getpid(), number)
            assert stdio.was_interrupted()
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, inherited)


@pytest.fixture
def loggers() -> Iterator[logging.Logger]:
    root, own = logging.getLogger(), logging.getLogger("hybridvif")
    before = [(logger, logger.level, list(logger.handlers)) for logger in (root, own)]
    yield own
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.mark.parametrize(
    ("verbose", "lines"),
    [
        (0, []),
        (1, ["INFO hybridvif.engine.converge: hello"]),
        (2, ["INFO hybridvif.engine.converge: hello", "INFO oslo.privsep: noise"]),
    ],
)
def test_logging_depends_on_verbosity(
    verbose: int, lines: list[str], loggers: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logs(verbose)
    logging.getLogger("hybridvif.engine.converge").info("hello")
    logging.getLogger("oslo.privsep").info("noise")
    assert capsys.readouterr().err.splitlines() == lines


def test_traceback_is_printed_only_with_vv(loggers: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    for verbose in (0, 2):
        set_up_logs(verbose)
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            loggers.exception("failed")
        output = capsys.readouterr().err
        assert output.startswith("ERROR hybridvif: failed")
        assert ("Traceback" in output) is (verbose == 2)


CONTROL = "qvo\x1b[31m\x07\u2028\x85\x00\r\nforged"


@pytest.mark.parametrize("verbose", [1, 2])
def test_control_characters_in_a_log_line_are_escaped(
    verbose: int, loggers: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logs(verbose)
    loggers.getChild("x").error("%s", CONTROL)
    logged = capsys.readouterr().err
    assert not set("\x1b\x07\u2028\x85\x00\r") & set(logged)
    assert "qvo\\x1b[31m" in logged
    if verbose == 1:
        assert logged.count("\n") == 1


def test_control_characters_in_a_traceback_are_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["-vv", "check", f"no-uuid{CONTROL}"]) == 2
    captured = capsys.readouterr()
    assert "Traceback" in captured.err
    assert all(line.isprintable() for line in (captured.out + captured.err).split("\n"))


LONG = f"  {QVO}: iface-id {ID} -> {OTHER_ID}"


@pytest.mark.parametrize("color", ["", "yellow"])
def test_long_line_is_continued_on_a_terminal_only(color: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    wrapped = answer(lines=lambda paint: [paint(LONG, color), "short"])
    for stream, expected in (
        (FakeTerminal(), [f"  {QVO}: iface-id {ID} ->", f"      {OTHER_ID}", "short"]),
        (io.StringIO(), [LONG, "short"]),
    ):
        monkeypatch.setattr("sys.stdout", stream)
        Terminal("text", parse_arguments(["list"])).write_answer(wrapped)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
        assert plain.splitlines() == expected


def test_command_stays_on_one_line_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = FakeTerminal()
    monkeypatch.setattr("sys.stdout", stream)
    line = f"    +-- fix: hybridvif plug {ID} --mtu 1450"
    Terminal("text").write_answer(answer(lines=lambda _: [line]))
    assert stream.getvalue() == f"{line}\n"


def test_word_longer_than_the_terminal_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    stream = FakeTerminal()
    monkeypatch.setattr("sys.stdout", stream)
    Terminal("text").write_answer(answer(lines=lambda _: [f"{ID}  in order as far as checked"]))
    assert stream.getvalue().splitlines() == [ID, "    in order as far", "    as checked"]


@pytest.mark.parametrize(
    ("words", "answered"),
    [(["list"], list_of(WIDE)), (["plug", ID, *OPTIONS], plug_answer([TRUNK_PORT], WIDE))],
)
def test_rows_of_a_table_fit_80_columns(words: list[str], answered: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    Terminal("table", parse_arguments([*words, "-f", "table"])).write_answer(answered)
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 80
    assert TRUNK_PORT.id in table
    args = parse_arguments([*words, "-f", "value"])
    Terminal("value", args).write_answer(answered)
    assert len(capsys.readouterr().out.splitlines()[0].split()) == len(args.spec.columns)


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        (["plgu"], "did you mean plug?"),
        (["lst", "-f", "json"], "did you mean list?"),
        (["plug", ID, "--intsance", ID], "did you mean --instance?; see: hybridvif plug --help"),
        (["list", "--stat=drift"], "did you mean --state?"),
        (["xyzzy"], "executors, sandbox, demo\n"),
    ],
)
def test_unknown_command_or_option_suggests_a_similar_one(
    words: list[str], suggestion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert suggestion in capsys.readouterr().err


def test_unknown_column_suggests_a_similar_one() -> None:
    with pytest.raises(InvalidInput, match="no column 'prot'; there are .*; did you mean port?"):
        parse_arguments(["list", "-f", "table", "-c", "prot"])
