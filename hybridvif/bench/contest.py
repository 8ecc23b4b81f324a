"""Contenders take turns on one throw-away host; what each turn took is kept."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from subprocess import PIPE, CalledProcessError
from typing import IO, Any

from hybridvif.errors import HybridVifError
from hybridvif.sandbox import Sandbox
from hybridvif.sandbox.switch import SOCKET

WORKER = Path(__file__).with_name("worker.py")
INSTANCE = "0b1c2d3e-0000-4000-8000-000000000002"
SINGLES = 5
"""Ports that are plugged one at a time on a host that has its ports already; the median counts."""
CROWD, THREADS = 40, 10
"""Ports that threads plug at once, and how many threads."""
Say = Callable[[str], None]


class BenchError(HybridVifError):
    """A contender did not do what it was told."""

    code = "bench"


@dataclass(frozen=True, slots=True)
class Turn:
    """What one contender took for one thing, once."""

    contender: str
    measure: str
    ports: int
    """On the host, or of the call: the size of this contest."""
    seconds: float


@dataclass(slots=True)
class Record:
    """A whole run, as it is written to a file."""

    on: dict[str, str]
    rounds: int
    turns: list[Turn] = field(default_factory=list)
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    """Kilobytes of client and daemon together, by contender and size: the most that was seen."""

    def as_json(self) -> str:
        """The run as a document."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def of_json(cls, text: str) -> Record:
        """The run that was written."""
        read = json.loads(text)
        return cls(read["on"], read["rounds"], [Turn(**turn) for turn in read["turns"]], read["memory"])


@dataclass(frozen=True, slots=True)
class Contest:
    """Who takes part, how often, and with how many ports."""

    sizes: Sequence[int]
    rounds: int
    contenders: Sequence[str]
    os_vif: str = ""
    """The Python of an environment that has os-vif."""
    singles: int = SINGLES
    crowd: int = CROWD

    def run(self, say: Say) -> Record:
        """Hold it, and tell on the way what is going on. Raises BenchError, SandboxError."""
        with Sandbox() as box, tempfile.TemporaryDirectory(prefix="hybridvif-bench-") as directory:
            config = _configuration(Path(directory))
            record = Record(_where(box), self.rounds)
            for size in self.sizes:
                for number in range(self.rounds):
                    # Nobody always goes first.
                    first = number % len(self.contenders)
                    for name in (*self.contenders[first:], *self.contenders[:first]):
                        say(f"{size} ports, round {number + 1} of {self.rounds}: {name}")
                        _Turns(self, box, config, name, size, record).take()
            return record

    def python_of(self, contender: str) -> str:
        """The interpreter that a contender runs with."""
        return self.os_vif if contender == "os-vif" else sys.executable


class _Turns:
    """One round of one contender."""

    def __init__(self, contest: Contest, box: Sandbox, config: Path, name: str, size: int, record: Record) -> None:
        self._contest, self._box, self._name, self._size = contest, box, name, size
        self._record = record
        self._env = {"HYBRIDVIF_BENCH_CONFIG": str(config), "PYTHONWARNINGS": "ignore"}
        self._config = config

    def take(self) -> None:
        ports = [_port(number) for number in range(1, self._size + 1)]
        others = [_port(50_000 + number) for number in range(self._contest.crowd)]
        started = time.perf_counter()
        with self._worker() as tell:
            tell("plug", others[:1])
            self._note("first", time.perf_counter() - started)
            tell("unplug", others[:1])
            self._note("plug", tell("plug", ports))
            if self._name != "floor":
                # That one looks at nothing, so it can only do what is not done yet.
                self._note("plug again", tell("plug", ports))
                self._take_singles(tell, others[0])
            if self._name in ("hybridvif", "os-vif"):
                self._note("ten threads", tell("plug", others, THREADS))
                tell("unplug", others)
            self._note("unplug", tell("unplug", ports))
        self._take_command(others[0])

    def _take_singles(self, tell: Callable[..., float], port: tuple[str, str, str]) -> None:
        taken = [(tell("plug", [port]), tell("plug", [port]), tell("unplug", [port]))
                 for _ in range(self._contest.singles)]  # fmt: skip
        for measure, seconds in zip(
            ("one plug", "one plug again", "one unplug"), zip(*taken, strict=True), strict=True
        ):
            self._note(measure, median(seconds))

    def _take_command(self, port: tuple[str, str, str]) -> None:
        """A whole process for one port."""
        python = self._contest.python_of(self._name)
        order = json.dumps({"verb": "plug", "ports": [port], "threads": 1}) + "\n"
        argv = [python, str(WORKER), self._name, SOCKET]
        if self._name == "hybridvif":
            words = ["plug", port[0], "--mac", port[1], "--instance", port[2], "-q"]
            argv = [python, "-m", "hybridvif", "--config-file", str(self._config), *words]
        elif self._name != "os-vif":
            return
        started = time.perf_counter()
        self._run(argv, order)
        self._note("command", time.perf_counter() - started)
        undo = json.dumps({"verb": "unplug", "ports": [port], "threads": 1}) + "\n"
        self._run([python, str(WORKER), self._name, SOCKET], undo)

    def _run(self, argv: Sequence[str], text: str) -> None:
        try:
            self._box.run(argv, input=text, env=self._env)
        except CalledProcessError as error:
            raise BenchError(f"{self._name} failed: {error.stderr.strip().splitlines()[-1:]}") from error

    def _note(self, measure: str, seconds: float) -> None:
        self._record.turns.append(Turn(self._name, measure, self._size, seconds))

    @contextmanager
    def _worker(self) -> Iterator[Callable[..., float]]:
        argv = [self._contest.python_of(self._name), str(WORKER), self._name, SOCKET]
        with (
            tempfile.TemporaryFile("w+") as said,
            self._box.popen(argv, stdin=PIPE, stdout=PIPE, stderr=said, env=self._env) as process,
        ):
            orders, answers = _pipes(process.stdin, process.stdout)

            def tell(verb: str, ports: Sequence[tuple[str, str, str]], threads: int = 1) -> float:
                orders.write(json.dumps({"verb": verb, "ports": ports, "threads": threads}) + "\n")
                orders.flush()
                line = answers.readline()
                if not line:
                    said.seek(0)
                    last = (said.read().strip().splitlines() or ["it said nothing"])[-1]
                    raise BenchError(f"{self._name} did not {verb} {len(ports)} ports: {last}")
                answer = json.loads(line)
                held = self._record.memory.setdefault(self._name, {})
                held[str(self._size)] = max(held.get(str(self._size), 0), answer["rss"])
                return float(answer["seconds"])

            try:
                yield tell
            finally:
                orders.close()


def _pipes(orders: IO[str] | None, answers: IO[str] | None) -> tuple[IO[str], IO[str]]:
    if orders is None or answers is None:
        raise BenchError("a contender has no pipes")
    return orders, answers


def _port(number: int) -> tuple[str, str, str]:
    return (
        f"{number:08x}-7b00-4c00-8000-00000000{number:04x}",
        f"fa:16:3e:00:{number >> 8:02x}:{number & 255:02x}",
        INSTANCE,
    )


def _configuration(directory: Path) -> Path:
    """A file for callers and daemons, of hybridvif and of os-vif; what it does not say is as on any host."""
    path = directory / "hybridvif.conf"
    path.write_text(
        f"[hybridvif]\novsdb_connection = unix:{SOCKET}\nlock_path = {directory}/locks\ndeadline = 120\n"
        f"[os_vif_ovs]\novsdb_connection = unix:{SOCKET}\n"
    )
    return path


def _where(box: Sandbox) -> dict[str, str]:
    """What the figures are figures of."""
    version = box.run(["ovs-vswitchd", "--version"]).stdout.splitlines()[0]
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "kernel": platform.release(),
        "processors": str(os.cpu_count()),
        "load at the start": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "switch": version.rpartition(" ")[2],
        "datapath": "netdev" if box.rung.value == "packets" else "dummy",
    }


def as_dict(record: Record) -> dict[str, Any]:
    """The run as primitives."""
    return asdict(record)
