"""Fault injection at the border of the kernel: strace attaches to unmodified programs.

strace counts the calls of each thread and of each kind separately (`when=3` of two kinds is the third of either). An
injected SIGKILL comes before the call takes effect.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from select import select

from hybridvif.testing.pytest_plugin import lacking

MUTATING = (
    "sendto,sendmsg,sendmmsg,write,writev,pwrite64,execve,vfork,fork,clone,clone3,mkdir,mkdirat,unlink,unlinkat,rename,"
    "renameat,renameat2,setsockopt,bind,connect,ftruncate,fchmod,chmod"
)
"""System calls by which a program can change anything that outlives it."""


def require_strace() -> None:
    """Skip if faults cannot be injected."""
    if shutil.which("strace") is None:
        lacking("strace is not installed; try: apt-get install strace")
    if os.geteuid() != 0:
        lacking("strace may attach to the daemon only as root")


def counting() -> list[str]:
    """Return the rule that traces changing calls without injecting a fault."""
    return ["-e", f"trace={MUTATING}"]


def counted(log: Path) -> dict[str, int]:
    """Count the calls of each kind in the thread that made the most."""
    made: Counter[tuple[str, str]] = Counter()
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        # strace writes an interrupted call twice; the second time as "<... resumed>".
        if call := re.match(r"(\d+ +)?(\w+)\(", line):
            made[call[1] or "", call[2]] += 1
    most: dict[str, int] = {}
    for (_, name), count in made.items():
        most[name] = max(count, most.get(name, 0))
    return most


def killing_at(number: int, calls: str = MUTATING) -> list[str]:
    """Return the rule by which each thread is killed before its call of this number and kind."""
    return ["-e", f"trace={calls}", "-e", f"inject={calls}:signal=KILL:when={number}"]


def failing_with(call: str, error: str, when: str) -> list[str]:
    """Return the rule by which a call fails with an error and is not executed."""
    return ["-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}"]


@contextmanager
def attached(pid: int, rules: Sequence[str], log: Path, *, children: bool = False) -> Iterator[Path]:
    """Attach strace to all present and future threads of a program, and yield its log.

    children: also to the programs that it starts. Otherwise future threads are not traced either: the thread of a
    delete makes one call, so a kill before that call equals a kill before the thread starts.
    """
    threads = [pid] if children else sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))
    targets = [argument for thread in threads for argument in ("-p", str(thread))]
    follow = ["-f"] if children else []
    command = ["strace", *follow, "-o", str(log), *rules, *targets]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as tracer:
        assert tracer.stderr is not None
        try:
            output, count = b"", 0
            while count < len(threads):
                if not select([tracer.stderr], [], [], 10)[0]:
                    raise AssertionError(f"strace did not attach: {output.decode()}")
                some = os.read(tracer.stderr.fileno(), 65536)
                if not some:
                    raise AssertionError(f"strace ended: {output.decode()}")
                output += some
                # A thread that has just sent a delete may exit meanwhile.
                count = len(re.findall(r"(attached( with \d+ threads)?|No such process)\n", output.decode()))
            yield log
        finally:
            # If the traced program has just died, strace exits by itself, and its last line is the expected one.
            with suppress(subprocess.TimeoutExpired):
                tracer.wait(0.5)
            tracer.terminate()
            with suppress(subprocess.TimeoutExpired):
                tracer.wait(5)
            tracer.kill()


def killed(log: Path) -> bool:
    """Return True if anything was killed."""
    return "killed by SIGKILL" in log.read_text(encoding="utf-8", errors="replace")


def injected(log: Path) -> int:
    """Return the number of failed calls."""
    return log.read_text(encoding="utf-8", errors="replace").count("(INJECTED)")
