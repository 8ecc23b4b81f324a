"""One client of the stress: its threads plug and unplug what comes to hand, and it says as JSON what came of that.

python -m tests.faults.stress_client CONFIGURATION SEED SECONDS. It says something when its daemon runs, and then what
came of each line of its input: "call" has the threads call for that time, the others ask something for the whole pool.
After the last line it says what is left of itself.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import random
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from hybridvif import Port, Report, Status, check, connect, plug, plug_all, unplug, unplug_all
from hybridvif.client.host import GRACE_PERIOD, Host
from hybridvif.engine.host_protocol import AnyHost
from tests.faults.conftest import report_of
from tests.functional.conftest import make_port, until
from tests.support.figures import FULL

POOL = [make_port(number) for number in range(1, 193 if FULL else 49)]
"""So many that most callers wait for the switch together. Of 48 ports they waited for each other's locks, and two who
take each other (test_group_commit.py) were met in none of four runs; of 192 ports in each of four runs of 20 s."""
WANTED, SOUGHT = 24, 0.25
"""So many of them are what such a part of the calls is about, so that callers meet at their locks as well."""
THREADS = 16
MANY = 1 / 3
"""Which part of the calls is about 2 to 6 ports."""
HASTE, HASTY = 0.25, 0.5
"""Which part of the calls has a deadline of so few seconds: the least that the configuration permits."""
LATE = GRACE_PERIOD + 0.8
"""Seconds after its deadline within which a call must have ended: the grace that the daemon has to say that it passed,
and what a thread may wait for a processor where two of them carry 32 callers, two daemons and Open vSwitch."""
UNTYPED = "the daemon failed"
"""Is in the reason where an exception that nobody foresaw was met at the boundary (requests.py)."""


class Tally:
    """What came of the calls of all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls = 0
        self.latest = 0.0
        self.statuses: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.faults: list[str] = []

    def add(self, what: str, reports: list[Report], ports: list[Port], late: float) -> None:
        """One call that has ended, so many seconds after its deadline."""
        said = {report.reason for report in reports} | {one.reason for report in reports for one in report.outcomes}
        with self._lock:
            self.calls += 1
            self.latest = max(self.latest, late)
            self.statuses.update(report.status.value for report in reports)
            self.reasons.update(f"{report.status.value}: {report.reason}" for report in reports if not report.ok)
            self.faults += [f"{what}: {reason}" for reason in said if UNTYPED in reason]
            self.faults += [f"{what}: refused, {one.reason}" for one in reports if one.status is Status.REFUSED]
            if late > LATE:
                self.faults.append(f"{what} ended {late:.2f} s after its deadline")
            if [report.port_id for report in reports] != [port.id for port in ports]:
                self.faults.append(f"{what}: {len(reports)} reports of other ports than it was called for")

    def fault(self, what: str) -> None:
        """What must not be."""
        with self._lock:
            self.faults.append(what)


class Overheard(logging.Handler):
    """What is logged as an error, here or by the daemon: nobody is told of it otherwise."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(logging.ERROR)
        self.tally = tally

    def emit(self, record: logging.LogRecord) -> None:
        """Take it for a fault."""
        self.tally.fault(f"logged: {self.format(record)}")


def call(chance: random.Random, patient: Host, hasty: Host, tally: Tally) -> None:
    """One call of a verb, on ports and with a deadline that are chosen at random."""
    host = hasty if chance.random() < HASTE else patient
    verb, many = chance.choice(["plug", "unplug"]), chance.random() < MANY
    ports = chance.sample(POOL[:WANTED] if chance.random() < SOUGHT else POOL, chance.randint(2, 6) if many else 1)
    calls: dict[tuple[str, bool], Callable[[], list[Report]]] = {
        ("plug", False): lambda: [report_of(lambda: plug(ports[0], host))],
        ("plug", True): lambda: plug_all(ports, host),
        ("unplug", False): lambda: [report_of(lambda: unplug(ports[0].id, host))],
        ("unplug", True): lambda: unplug_all([port.id for port in ports], host),
    }
    what = f"{verb} of {len(ports)} with {host.settings.deadline} s"
    threading.current_thread().name = what
    begun = time.monotonic()
    try:
        reports = calls[verb, many]()
    except Exception:  # noqa: BLE001  # whatever is raised beside a typed failure is what is looked for
        tally.fault(f"{what}: {traceback.format_exc()}")
    else:
        tally.add(what, reports, ports, time.monotonic() - begun - host.settings.deadline)


def stressed(patient: Host, seed: str, seconds: float, tally: Tally) -> dict[str, object]:
    """What came of the calls of all threads in that time; who has not ended so long after its deadline hangs."""
    hasty = Host(replace(patient.settings, deadline=HASTY))
    end = time.monotonic() + seconds

    def work(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        while time.monotonic() < end:
            call(chance, patient, hasty, tally)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(end + patient.settings.deadline + 2 * LATE - time.monotonic(), 0))
    hung = [thread.name for thread in threads if thread.is_alive()]
    if hung:
        faulthandler.dump_traceback()
    return {
        "calls": tally.calls,
        "hung": hung,
        "late": tally.latest,
        "statuses": tally.statuses,
        "reasons": tally.reasons,
    }


def asked(verb: str, host: AnyHost) -> dict[str, object]:
    """What came of one call for the whole pool."""
    match verb:
        case "plug":
            reports = plug_all(POOL, host)
        case "unplug":
            reports = unplug_all([port.id for port in POOL], host)
        case _:
            return {"drift": [port.id for port in POOL if check(port, host) != ()]}
    return {"wrong": [f"{report.status.value} {report.reason}" for report in reports if report.status != Status.DONE]}


def left(locks: str) -> list[str]:
    """What of this program outlives its host: threads, children, open lock files."""
    threads = [one.name for one in threading.enumerate() if one is not threading.main_thread()]
    children = [one for task in Path("/proc/self/task").iterdir() for one in _read(task / "children").split()]
    files = [_read(fd) for fd in Path("/proc/self/fd").iterdir()]
    return [*threads, *children, *(name for name in files if name.startswith(locks))]


def _read(path: Path) -> str:
    # A thread or a file may be gone between being listed and being read.
    with suppress(OSError):
        return str(path.readlink()) if path.is_symlink() else path.read_text(encoding="ascii")
    return ""


def main() -> None:
    """Do what each line asks for, and close."""
    config, seed, seconds = sys.argv[1:]
    tally = Tally()
    logging.getLogger().addHandler(Overheard(tally))
    threading.excepthook = lambda raised: tally.fault("".join(traceback.format_exception(raised.exc_value)))

    def say(what: dict[str, object]) -> None:
        print(json.dumps({**what, "faults": tally.faults}), flush=True)

    with connect([config]) as host:
        check(POOL[0], host)
        say({})
        for line in sys.stdin:
            verb = line.strip()
            say(stressed(host, seed, float(seconds), tally) if verb == "call" else asked(verb, host))
    # A thread that drains what the helper says ends when the daemon has.
    until(lambda: not left(host.settings.lock_path))
    say({"left": left(host.settings.lock_path)})


if __name__ == "__main__":
    main()
