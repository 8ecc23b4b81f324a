"""The exit code of a program is correct or known to be lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from hybridvif.children import LOST, Child, run
from hybridvif.executors.base import ExecutorError
from hybridvif.executors.command import Program
from hybridvif.executors.ivs import IvsExecutor
from hybridvif.executors.ovsdb.rpc import Expired
from hybridvif.executors.vsctl import VsctlExecutor
from hybridvif.model.settings import Settings
from hybridvif.testing.sandbox.missing import SandboxError
from hybridvif.testing.sandbox.switch import run_here
from tests.support.strategies import ROW

KEEPS = {"default": False, "ignored": True, "reaped by a handler": True, "reaped by a thread": True}


@contextmanager
def inherited(kind: str) -> Iterator[None]:
    """Set up SIGCHLD as a program that embeds the library may do."""
    stop = threading.Event()

    def reap(*_: object) -> None:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    def keep_reaping() -> None:
        while not stop.wait(0.0005):
            reap()

    before = signal.getsignal(signal.SIGCHLD)
    dispositions: dict[str, Any] = {"ignored": signal.SIG_IGN, "reaped by a handler": reap}
    signal.signal(signal.SIGCHLD, dispositions.get(kind, signal.SIG_DFL))
    thread = threading.Thread(target=keep_reaping, daemon=True)
    if kind == "reaped by a thread":
        thread.start()
    try:
        yield
        assert signal.getsignal(signal.SIGCHLD) is dispositions.get(kind, signal.SIG_DFL)
    finally:
        stop.set()
        if thread.ident is not None:
            thread.join()
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("kind", KEEPS)
@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", -9)])
def test_exit_code_is_correct_or_lost_for_any_sigchld_handler(kind: str, script: str, code: int) -> None:
    with inherited(kind):
        codes = {run(["sh", "-c", script], timeout=20).returncode for _ in range(5)}
    assert codes <= ({code, LOST} if KEEPS[kind] else {code})
    assert codes == {LOST} or kind != "ignored"


def test_running_child_has_no_exit_code_and_times_out() -> None:
    with Child(["sleep", "60"]) as child:
        assert child.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.01)
        child.kill()
    assert (child.returncode, child.poll()) == (-9, -9)


def test_threads_waiting_for_a_child_get_the_same_exit_code() -> None:
    for _ in range(20):
        with Child(["sh", "-c", "exit 3"]) as child, ThreadPoolExecutor(8) as pool:
            assert {waiting.result() for waiting in [pool.submit(child.wait) for _ in range(8)]} == {3}


def test_child_leaves_no_descriptor_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        run(["sh", "-c", "exit 1"], timeout=20)
    assert len(os.listdir("/proc/self/fd")) == before


def test_program_with_lost_exit_code_reports_it(tmp_path: Path) -> None:
    program(tmp_path, "ip", "exit 0")
    with inherited("ignored"):
        done = Program("ip", str(tmp_path)).run([], time.monotonic() + 20)
    assert done.code == LOST
    assert "ignores SIGCHLD" in done.said


def test_program_output_is_utf8_in_any_locale(tmp_path: Path) -> None:
    program(tmp_path, "ip", "cat; printf '\\303\\244\\377'")
    code = (
        "import time; from hybridvif.executors.command import Program\n"
        f"done = Program('ip', {f'{tmp_path}:/usr/bin:/bin'!r}).run([], time.monotonic() + 20, stdin='\\u00fc')\n"
        "print(ascii(done.stdout))"
    )
    for variables in ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "tr_TR"}):
        ran = subprocess.run([sys.executable, "-P", "-c", code], env=variables, capture_output=True, check=True)
        assert ran.stdout.startswith(rb"'\xfc\xe4")


def test_sandbox_program_with_lost_exit_code_fails() -> None:
    with inherited("ignored"), pytest.raises(SandboxError, match=r"false ended, .*ignores SIGCHLD"):
        run_here(["false"], check=False)


def program(directory: Path, name: str, script: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)


@pytest.mark.parametrize("script", ["exit 0", "exit 1", "kill -KILL $$"], ids=["silent", "failed", "killed"])
def test_lost_exit_code_is_not_absence_to_an_executor(tmp_path: Path, script: str) -> None:
    """Python returns 0 for a lost exit code. A killed program lists nothing, which must not count as absence.

    A command line of ovs-vsctl may have been carried out.
    """
    for name in ("ovs-vsctl", "ivs-ctl"):
        program(tmp_path, name, script)
    settings = Settings(program_path=f"{tmp_path}:/usr/bin:/bin")
    deadline = time.monotonic() + 20
    change = {"op": "update", "table": "Port", "where": [["name", "==", ROW.name]], "row": {"tag": 7}}
    with inherited("ignored"):
        with pytest.raises(ExecutorError) as raised:
            IvsExecutor(settings).observe({ROW.name}, deadline)
        with pytest.raises(Expired):
            # It does not get as far as the database.
            VsctlExecutor(settings)._transact(cast(Any, None), [change], deadline)
    assert not raised.value.precondition
