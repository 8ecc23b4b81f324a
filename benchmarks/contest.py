"""Run the contenders in turn in one sandbox and record the time of each turn."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from compileall import compile_dir
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from subprocess import DEVNULL, PIPE, CalledProcessError, run
from typing import IO

import hybridvif
from benchmarks.record import Record, Turn
from benchmarks.tally import CROWD, WITH_NOVA
from hybridvif.model.errors import HybridVifError
from hybridvif.privileged.launch import private_directory
from hybridvif.testing.sandbox.box import Sandbox
from hybridvif.testing.sandbox.switch import SOCKET

WORKER = Path(__file__).with_name("worker.py")
INSTANCE = "0b1c2d3e-0000-4000-8000-000000000002"
SINGLES = 5
"""The number of single plugs on a host with all other ports. The median counts."""
THREADS = 10
THREADED = ("hybridvif", "os-vif")
UP_TO = {"os-vif": 300, "floor": 300, "recipe": 100, WITH_NOVA: 1}
"""The maximum number of ports by contender.

More would take minutes: os-vif and the recipe plug one port at a time, and the bridges of the floor have IPv6, so the
kernel searches all their routes for each multicast packet. In Nova's environment only the start differs.
"""
BULK_ONLY = 1001
"""From this number of ports on, only the bulk plug is timed. The rest would take minutes."""
BULK = ("plug", "plug again", "reconcile", "unplug")
"""The measures of all ports in one call. Their CPU time is recorded by process."""
REBOOTS_FROM = 300
"""The smallest number of ports that are repaired after a reboot. Each reboot takes seconds."""
CYCLE = ("plug", *["plug"] * 8, "unplug")
"""The cycle to measure memory growth: a plug, eight plugs again, an unplug."""
Say = Callable[[str], None]


class BenchError(HybridVifError):
    """A contender failed."""

    code = "bench"


@dataclass(frozen=True, slots=True)
class Contest:
    """The contenders, the rounds and the numbers of ports."""

    sizes: Mapping[int, int]
    """The numbers of ports, each with its rounds: turns of each contender."""
    contenders: Sequence[str]
    os_vif: str = ""
    """The Python interpreter of an environment with os-vif."""
    nova: str = ""
    """The Python interpreter of an environment with Nova and hybridvif."""
    singles: int = SINGLES
    crowd: int = CROWD
    crowded: int = 0
    """The number of ports on the host before threads plug concurrently; 0: no threads."""
    reboots: bool = False
    """Time the repair of all ports after a reboot, when their rows exist and their devices do not."""
    in_memory: bool = False
    """Time plan, check and list of many ports, without a host."""
    datapath: str = "netdev"
    """The datapath type of br-int: netdev, or system for that of the kernel."""
    operations: int = 0
    """The number of plugs and unplugs to measure memory growth; 0: not measured."""

    def run(self, say: Say) -> Record:
        """Run the contest and report progress. Raises BenchError, SandboxError, PreconditionError."""
        _compile()
        with Sandbox() as box, temporary_directory() as directory:
            _set_datapath(box, self.datapath)
            config = _configuration(directory)
            rounds = max(self.sizes.values())
            record = Record(_where(box) | {"datapath": self.datapath}, min(self.sizes.values()))
            if self.in_memory:
                say("plan, check and list in memory")
                record.turns += _planned()
            for number in range(rounds):
                # All sizes take their turns in every round, so a slow moment of the machine affects all of them.
                for size in (size for size, times in self.sizes.items() if number < times):
                    names = [name for name in self.contenders if size <= UP_TO.get(name, size)]
                    for name in self._order(number, names):
                        say(f"round {number + 1}, {size} ports: {name}")
                        _Turns(self, box, config, name, size, record).take()
            if self.crowded:
                self._take_threads(box, config, record, say)
            if self.operations:
                say(f"{self.operations} operations: hybridvif")
                _Turns(self, box, config, "hybridvif", 1, record).endure(self.operations)
            record.on["load at the end"] = f"{os.getloadavg()[0]:.1f}"
            return record

    def _order(self, number: int, names: Sequence[str]) -> Sequence[str]:
        """Return the contenders in the order of this round. The first one rotates."""
        first = number % len(names)
        return (*names[first:], *names[:first])

    def _take_threads(self, box: Sandbox, config: Path, record: Record, say: Say) -> None:
        """Time threads on a host that already has many ports."""
        ports = [_port(number) for number in range(1, self.crowded + 1)]
        with _Turns(self, box, config, "hybridvif", self.crowded, Record({}, 0)).worker() as tell:
            tell("plug", ports)
            for number in range(min(self.sizes.values())):
                for name in self._order(number, [name for name in self.contenders if name in THREADED]):
                    say(f"ten threads on {self.crowded} ports, round {number + 1}: {name}")
                    _Turns(self, box, config, name, self.crowded, record).take_threads()
            tell("unplug", ports)

    def python_of(self, contender: str) -> str:
        """Return the Python interpreter of a contender."""
        return {"os-vif": self.os_vif, WITH_NOVA: self.nova}.get(contender, sys.executable)


class _Turns:
    """One round of one contender."""

    def __init__(self, contest: Contest, box: Sandbox, config: Path, name: str, size: int, record: Record) -> None:
        self._contest, self._box, self._name, self._size = contest, box, name, size
        self._record, self._held = record, 0
        self._used: dict[str, float] = {}
        self._env = {
            "HYBRIDVIF_BENCH_CONFIG": str(config),
            "HYBRIDVIF_BENCH_DATAPATH": contest.datapath,
            "PYTHONWARNINGS": "ignore",
        }
        self._config = config

    def take(self) -> None:
        """Time plug, plug again and unplug of all ports and of one more port."""
        ports = [_port(number) for number in range(1, self._size + 1)]
        other = _port(50_000)
        started = time.perf_counter()
        with self.worker() as tell:
            tell("plug", [other])
            self._note("first", time.perf_counter() - started)
            tell("unplug", [other])
            self._note("plug", tell("plug", ports))
            if self._name != "floor" and self._size < BULK_ONLY:
                # The floor does not observe the host, so it cannot plug again.
                self._note("plug again", tell("plug", ports))
                self._take_singles(tell, other)
                self._take_command(other)
                if self._contest.reboots and self._size >= REBOOTS_FROM:
                    self._box.reboot()
                    self._note("reconcile", tell("plug", ports))
            self._note("unplug", tell("unplug", ports))

    def take_threads(self) -> None:
        """Time threads that plug different ports, one call per port."""
        others = [_port(50_000 + number) for number in range(self._contest.crowd)]
        with self.worker() as tell:
            tell("plug", others[:1])
            tell("unplug", others[:1])
            self._note("ten threads", tell("plug", others, THREADS))
            tell("unplug", others)

    def endure(self, operations: int) -> None:
        """Run this number of operations and record the memory ten times."""
        port = _port(50_000)
        with self.worker() as tell:
            for number in range(1, 11):
                for _ in range(operations // 10 // len(CYCLE)):
                    for verb in CYCLE:
                        tell(verb, [port])
                self._record.endurance.append((operations // 10 * number, self._held))

    def _take_singles(self, tell: Callable[..., float], port: tuple[str, str, str]) -> None:
        taken = [(tell("plug", [port]), tell("plug", [port]), tell("unplug", [port]))
                 for _ in range(self._contest.singles)]  # fmt: skip
        for measure, seconds in zip(
            ("one plug", "one plug again", "one unplug"), zip(*taken, strict=True), strict=True
        ):
            self._note(measure, median(seconds))

    def _take_command(self, port: tuple[str, str, str]) -> None:
        """Time a whole process that plugs one port."""
        python = self._contest.python_of(self._name)
        order = json.dumps({"verb": "plug", "ports": [port], "threads": 1}) + "\n"
        argv = [python, str(WORKER), self._name, SOCKET]
        if self._name in ("hybridvif", WITH_NOVA):
            words = ["plug", port[0], "--mac", port[1], "--instance", port[2], "-q"]
            argv = [python, "-P", "-m", "hybridvif", "--config-file", str(self._config), *words]
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
        self._record.turns.append(Turn(self._name, measure, self._size, seconds, self._used if measure in BULK else {}))

    @contextmanager
    def worker(self) -> Iterator[Callable[..., float]]:
        """Start the contender; yields a function that runs an operation and returns the seconds."""
        argv = [self._contest.python_of(self._name), str(WORKER), self._name, SOCKET]
        with (
            tempfile.TemporaryFile("w+", dir=self._config.parent) as log,
            self._box.popen(argv, stdin=PIPE, stdout=PIPE, stderr=log, env=self._env) as process,
        ):
            orders, answers = _pipes(process.stdin, process.stdout)

            def tell(verb: str, ports: Sequence[tuple[str, str, str]], threads: int = 1) -> float:
                orders.write(json.dumps({"verb": verb, "ports": ports, "threads": threads}) + "\n")
                orders.flush()
                line = answers.readline()
                if not line:
                    log.seek(0)
                    last = (log.read().strip().splitlines() or ["it said nothing"])[-1]
                    raise BenchError(f"{self._name} did not {verb} {len(ports)} ports: {last}")
                answer = json.loads(line)
                self._held, self._used = int(answer["rss"]), answer["cpu"]
                self._record.note_memory(self._name, self._size, self._held)
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


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """Create a private directory for files that root reads. tempfile might use the working directory.

    Raises PreconditionError if no directory can be created.
    """
    directory = private_directory()
    try:
        yield Path(directory)
    finally:
        shutil.rmtree(directory)


def _configuration(directory: Path) -> Path:
    """Write the configuration for clients and daemons of hybridvif and os-vif."""
    path = directory / "hybridvif.conf"
    path.write_text(
        f"[hybridvif]\novsdb_connection = unix:{SOCKET}\nlock_path = {directory}/locks\ndeadline = 120\n"
        f"[os_vif_ovs]\novsdb_connection = unix:{SOCKET}\n"
    )
    return path


def _set_datapath(box: Sandbox, datapath: str) -> None:
    """Give br-int a datapath. Raises BenchError if Open vSwitch cannot, for example without the kernel module."""
    box.run(["ovs-vsctl", "--timeout=10", "set", "Bridge", "br-int", f"datapath_type={datapath}"])
    error = box.run(["ovs-vsctl", "get", "Interface", "br-int", "error"]).stdout.strip()
    if error != "[]" or "br-int" not in box.run(["ls", "/sys/class/net"]).stdout.split():
        raise BenchError(f"br-int has no datapath of type {datapath} here ({error}); try: modprobe openvswitch")


def _planned() -> Iterator[Turn]:
    """Time plan, check and list in a process of their own, with the garbage collection of a command."""
    argv = [sys.executable, "-P", "-m", "benchmarks.planning"]
    completed = run(argv, stdout=PIPE, stderr=DEVNULL, text=True, check=False)
    if completed.returncode:
        raise BenchError(f"{' '.join(argv)} ended with {completed.returncode}")
    return (Turn(**turn) for turn in json.loads(completed.stdout))


def _compile() -> None:
    """Compile the package, as an installer does.

    With PYTHONDONTWRITEBYTECODE, Python compiles a checkout at each import: a fifth of the time of a command.
    """
    compile_dir(Path(hybridvif.__file__).parent, quiet=2)


def _where(box: Sandbox) -> dict[str, str]:
    """Return the conditions of the run."""
    version = box.run(["ovs-vswitchd", "--version"]).stdout.splitlines()[0]
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "kernel": platform.release(),
        "processors": str(os.cpu_count()),
        "load at the start": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "switch": version.rpartition(" ")[2],
    }
