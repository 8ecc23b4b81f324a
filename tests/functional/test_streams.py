"""Every command with each of its streams closed, full, broken or narrow: one sentence and the right exit code."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from subprocess import PIPE

import pytest

from hybridvif.cli import BROKEN_PIPE, COMMANDS, EXIT_CODES
from tests.functional.conftest import Lab, make_port
from tests.functional.test_cli import feed, file_of
from tests.support.sizes import sample

PORT = make_port(mtu=1450)
WORDS = {
    "plug": ["-F", "-"],
    "unplug": ["-F", "-", "--dry-run"],
    "convert": ["--all", "--to", "native", "--dry-run"],
    "plan": ["plug", "-F", "-"],
    "check": ["-F", "-"],
    "ports": ["--from-neutron"],
    "reconcile": ["-F", "-"],
    "sandbox": ["--", "true"],
    "demo": ["--level", "none"],
    "repair": ["--all"],
    "wait": [PORT.id],
    "explain": ["mtu"],
}
"""The arguments of a command. A command without any is not listed."""
PRINTS_NOTHING = ("adopt", "ports", "repair", "sandbox")
ENDLESS = ("watch",)
"""Its signals and readers are in test_watch.py."""
PRINTS_WHILE_IT_WORKS = ("demo",)


@dataclass(frozen=True)
class Streams:
    """A redirection in the shell, and its effect."""

    redirection: str
    exit_code: int | None = None
    """The exit code of a command that would end with 0. None: unchanged."""
    sentence: str = ""
    """The one sentence on stderr."""
    of_stdin: bool = False
    """True if only commands that read stdin are affected."""


CLOSED = "error: stdin: it cannot be read: it is closed; give a file of ports with -F"
LOST = "error: the output could not be written to stdout: No space left on device; what was done is done"
STREAMS = {
    "stdin closed": Streams("<&-", 2, CLOSED, of_stdin=True),
    "stdout closed": Streams(">&-"),
    "stderr closed": Streams("2>&-"),
    "all closed": Streams("<&- >&- 2>&-", 2, of_stdin=True),
    "stdout full": Streams(">/dev/full", 7, LOST),
    "stderr full": Streams("2>/dev/full"),
    "reader gone": Streams("| true"),
    "no UTF-8, and narrow": Streams("PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 LC_ALL=C LANG=C COLUMNS=20"),
}


def run(lab: Lab, command: str, redirection: str) -> subprocess.CompletedProcess[str]:
    words = " ".join([command, *WORDS.get(command, ())])
    script = f'exec env {redirection} "$@" {words}' if "=" in redirection else f'"$@" {words} {redirection}'
    argv = ["bash", "-c", f"set -o pipefail; {script}", "bash", sys.executable, "-P", "-m", "hybridvif"]
    return lab.box.run(argv, check=False, input=file_of([PORT]))


@pytest.mark.prove
@pytest.mark.parametrize("command", sample((command for command in COMMANDS if command not in ENDLESS), 4))
def test_command_under_odd_streams_ends_with_a_sentence(command: str, lab: Lab) -> None:
    lab.box.run([sys.executable, "-P", "-m", "hybridvif", "plug", "-F", "-"], input=file_of([PORT]))
    usual = run(lab, command, "")
    for name, streams in STREAMS.items():
        done = run(lab, command, streams.redirection)
        expected, sentence = streams.exit_code, streams.sentence
        if expected is None or (streams.of_stdin and "-" not in WORDS.get(command, ())):
            expected, sentence = usual.returncode, ""
        if streams.exit_code == 7 and (command in PRINTS_NOTHING or usual.returncode):
            expected, sentence = usual.returncode, ""
        if name == "reader gone" and command in PRINTS_WHILE_IT_WORKS:
            expected = BROKEN_PIPE
        # doctor fails a daemon or a switch that is slow to answer, as on a loaded machine.
        assert done.returncode == expected or (command, done.returncode) == ("doctor", 5), (name, done.stderr)
        seen = set(done.stderr.splitlines()) - set(usual.stderr.splitlines())
        assert seen == ({sentence} if sentence else set()), name
        assert not sentence or not done.stdout, name


BULK = ("plug", "unplug", "check", "reconcile")


@pytest.mark.parametrize("words", BULK)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_in_a_bulk_call_leaves_a_whole_document(words: str, number: signal.Signals, lab: Lab) -> None:
    """After the start of Python: no handler can be set before. The same command again completes the work."""
    ports = [make_port(index) for index in range(1, 41)]
    argv = [sys.executable, "-P", "-m", "hybridvif", *words.split(), "-F", "/dev/stdin", "-f", "json"]
    started = time.monotonic()
    lab.box.run([*argv[:4], "plug", "-F", "-"], input=file_of(ports))
    duration = time.monotonic() - started
    for _ in range(2):
        process = lab.box.popen(argv, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        feed(process, file_of(ports))
        time.sleep(random.uniform(0, duration))
        lab.box.send_signal(process, number)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode in EXIT_CODES, stderr
        assert isinstance(json.loads(stdout), dict)
        if process.returncode == 130:
            assert json.loads(stdout)["error"]["code"] == "interrupted"
            (line,) = stderr.splitlines()
            assert line.startswith("error: interrupted; ")
    done = lab.box.run([*argv[:4], "reconcile", "-F", "-"], input=file_of(ports), check=False)
    assert done.returncode == 0, os.linesep.join((done.stdout, done.stderr))
