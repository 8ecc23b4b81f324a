"""One client of the stress: its threads plug and unplug random ports, and it prints the results as JSON.

python -m tests.faults.stress_client CONFIGURATION SEED SECONDS. It prints a line when its daemon runs, and then one
result per line of its input. "call" lets the threads call for that time. The others are calls for the whole pool.
After the last line it prints its own leftovers.
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
from hybridvif.engine.any_host import AnyHost
from tests.faults.conftest import report_of
from tests.functional.conftest import make_port, until
from tests.support.sizes import FULL

POOL = [make_port(number) for number in range(1, 193 if FULL else 49)]
"""Number of ports. With 192, most callers wait for the switch together, and deadlocks in the group commit
(test_group_commit.py) were found in all four runs of 20 s. With 48, callers waited for locks, and none was found."""
WANTED, SOUGHT = 24, 0.25
"""So many of them are what such a part of the calls is about, so that callers meet at their locks as well."""
THREADS = 16
MANY = 1 / 3
"""Share of the calls with 2 to 6 ports."""
HASTE, HASTY = 0.25, 0.5
"""Share of the calls with the shortest deadline that the configuration permits."""
LATE = GRACE_PERIOD + 0.8
"""Permitted seconds of a call beyond its deadline: the grace period of the daemon, and the wait of a thread for a
processor. Two processors carry 32 callers, two daemons and Open vSwitch."""
UNTYPED = ("the daemon failed", "see the daemon's log")
"""One of these is in the reason where an exception that nobody foresaw was met at the boundary (requests.py)."""


class Tally:
    """Results of the calls of all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls = 0
        self.latest = 0.0
        self.statuses: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.faults: list[str] = []

    def add(self, label: str, reports: list[Report], ports: list[Port], late: float) -> None:
        """Record a call that ended this many seconds after its deadline."""
        reasons = {report.reason for report in reports} | {
            item.reason for report in reports for item in report.outcomes
        }
        with self._lock:
            self.calls += 1
            self.latest = max(self.latest, late)
            self.statuses.update(report.status.value for report in reports)
            self.reasons.update(f"{report.status.value}: {report.reason}" for report in reports if not report.ok)
            self.faults += [f"{label}: {reason}" for reason in reasons if any(text in reason for text in UNTYPED)]
            self.faults += [f"{label}: refused, {item.reason}" for item in reports if item.status is Status.REFUSED]
            if late > LATE:
                self.faults.append(f"{label} ended {late:.2f} s after its deadline")
            if [report.port_id for report in reports] != [port.id for port in ports]:
                self.faults.append(f"{label}: {len(reports)} reports of other ports than it was called for")

    def fault(self, fault: str) -> None:
        """Record a fault."""
        with self._lock:
            self.faults.append(fault)


class Overheard(logging.Handler):
    """Handler for errors that this process or the daemon logs."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(logging.ERROR)
        self.tally = tally

    def emit(self, record: logging.LogRecord) -> None:
        """Record it as a fault."""
        self.tally.fault(f"logged: {self.format(record)}")


def call(chance: random.Random, patient: Host, hasty: Host, tally: Tally) -> None:
    """Call a verb, with ports and a deadline chosen at random."""
    host = hasty if chance.random() < HASTE else patient
    verb, many = chance.choice(["plug", "unplug"]), chance.random() < MANY
    ports = chance.sample(POOL[:WANTED] if chance.random() < SOUGHT else POOL, chance.randint(2, 6) if many else 1)
    calls: dict[tuple[str, bool], Callable[[], list[Report]]] = {
        ("plug", False): lambda: [report_of(lambda: plug(ports[0], host))],
        ("plug", True): lambda: plug_all(ports, host),
        ("unplug", False): lambda: [report_of(lambda: unplug(ports[0].id, host))],
        ("unplug", True): lambda: unplug_all([port.id for port in ports], host),
    }
    label = f"{verb} of {len(ports)} with {host.settings.deadline} s"
    threading.current_thread().name = label
    begun = time.monotonic()
    try:
        reports = calls[verb, many]()
    except Exception:  # noqa: BLE001  # whatever is raised beside a typed failure is what is looked for
        tally.fault(f"{label}: {traceback.format_exc()}")
    else:
        tally.add(label, reports, ports, time.monotonic() - begun - host.settings.deadline)


def stressed(patient: Host, seed: str, seconds: float, tally: Tally) -> dict[str, object]:
    """Return the results of all threads in that time. A thread that misses its deadline by this much hangs."""
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


def call_for_pool(verb: str, host: AnyHost) -> dict[str, object]:
    """Return the result of one call for the whole pool."""
    match verb:
        case "plug":
            reports = plug_all(POOL, host)
        case "unplug":
            reports = unplug_all([port.id for port in POOL], host)
        case _:
            return {"drift": [port.id for port in POOL if check(port, host) != ()]}
    return {"wrong": [f"{report.status.value} {report.reason}" for report in reports if report.status != Status.DONE]}


def leftovers_of(locks: str) -> list[str]:
    """Return the threads, children and open lock files that outlive the host."""
    threads = [item.name for item in threading.enumerate() if item is not threading.main_thread()]
    children = [item for task in Path("/proc/self/task").iterdir() for item in _read(task / "children").split()]
    files = [_read(fd) for fd in Path("/proc/self/fd").iterdir()]
    return [*threads, *children, *(name for name in files if name.startswith(locks))]


def _read(path: Path) -> str:
    # A thread or a file may disappear between the listing and the reading.
    with suppress(OSError):
        return str(path.readlink()) if path.is_symlink() else path.read_text(encoding="ascii")
    return ""


def main() -> None:
    """Execute the commands of each input line, and close."""
    config, seed, seconds = sys.argv[1:]
    tally = Tally()
    logging.getLogger().addHandler(Overheard(tally))
    threading.excepthook = lambda raised: tally.fault("".join(traceback.format_exception(raised.exc_value)))

    def say(document: dict[str, object]) -> None:
        print(json.dumps({**document, "faults": tally.faults}), flush=True)

    with connect([config]) as host:
        check(POOL[0], host)
        say({})
        for line in sys.stdin:
            verb = line.strip()
            say(stressed(host, seed, float(seconds), tally) if verb == "call" else call_for_pool(verb, host))
    # The thread that reads the helper's output ends after the daemon.
    until(lambda: not leftovers_of(host.settings.lock_path))
    say({"left": leftovers_of(host.settings.lock_path)})


if __name__ == "__main__":
    main()
