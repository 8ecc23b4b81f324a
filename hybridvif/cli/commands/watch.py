"""hybridvif watch: the changes of plugged ports as they happen, and their repair."""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Protocol

from hybridvif.cli import INTERRUPTED
from hybridvif.cli.options import Command, UsageError, argument, connected, flag
from hybridvif.cli.output.changes import change_text
from hybridvif.cli.output.report import result_text
from hybridvif.cli.output.topology import Condition, PluggedPort, plugged_ports
from hybridvif.cli.ports import PORT_HELP, found_ids, requested_ports
from hybridvif.cli.terminal import Answer
from hybridvif.engine.any_host import AnyHost, WatchableHost
from hybridvif.engine.converge import converge
from hybridvif.engine.goals import goal_for_plug
from hybridvif.engine.watch import Event, Watch
from hybridvif.model.errors import Refused
from hybridvif.model.names import KEY_LENGTH, key_of
from hybridvif.model.orphans import tagged_ports
from hybridvif.model.parts import Difference
from hybridvif.model.port import Port
from hybridvif.model.state import HostState, Observed

LIMIT, WINDOW = 3, 60.0
"""Repairs of a port within so many seconds. A tool that undoes each repair causes no storm."""
SETTLE = 1.0
"""Seconds between drift and its repair, for a tool that sets one attribute after another."""

Ports = Mapping[str, PluggedPort]
"""The plugged ports by the 11 characters of their names."""


class RepairableHost(AnyHost, WatchableHost, Protocol):
    """A host that can be watched and changed."""


class InOrder(Refused):
    """The port needs no repair any more."""

    code = "in-order"


def run(args: argparse.Namespace) -> int:
    """Write events until a signal ends the command."""
    if args.limit < 1:
        raise UsageError("--limit must be at least 1")
    requests = requested_ports(args, optional=True)
    with connected(args) as host:
        port_ids = found_ids(requests, host)
        session = Session(host, port_ids, args.terminal.write_event, args.limit if args.repair else 0)
        try:
            session.begin()
            session.run()
        except KeyboardInterrupt:
            if session.is_repairing:
                raise
    return INTERRUPTED


class Session:
    """The events of some ports, and their repair. limit: repairs of a port within a minute; 0: no repair."""

    def __init__(
        self, host: RepairableHost, port_ids: list[str], write: Callable[[Answer], None], limit: int = 0
    ) -> None:
        self._host, self._write, self._limit = host, write, limit
        self._watch = Watch(host, port_ids)
        self._ports: Ports = self._look()
        self.is_repairing = False
        self._due: dict[str, float] = {}
        """The instant of the next repair of each port that drifts."""
        self._wanted: dict[str, Port] = {}
        """The ports as they were last in order. Devices that differ do not tell which of them is right."""
        self._repaired: dict[str, list[float]] = defaultdict(list)
        """The instants of the repairs within the last minute."""
        self._limited: set[str] = set()
        """Ports whose limit has been reported."""

    def begin(self) -> None:
        """Write the first event: the number of ports."""
        wrong = sum(port.condition is not Condition.IN_ORDER for port in self._ports.values())
        text = f"watching {len(self._ports)} ports, {wrong} of them not in order"
        self._event("watching", text, ports=len(self._ports), not_in_order=wrong)

    def run(self, until: float = float("inf")) -> None:
        """Write events until this instant."""
        while True:
            self._plan_repairs()
            now, due = time.monotonic(), min(self._due.values(), default=until)
            if now >= until:
                return
            if now >= due:
                self._repair(now)
                continue
            if events := self._watch.wait(min(due, until)):
                before, keys = self._ports, {event.key for event in events}
                others = {key: port for key, port in before.items() if key not in keys}
                self._ports = {**others, **self._look(keys)}
                self._report(events, before)

    def _look(self, keys: Collection[str] | None = None) -> Ports:
        """Compare these ports with their desired states; None: all ports."""
        state, facts = self._watch.observed
        if keys is not None:
            state = HostState().with_parts(*(part for part in state if key_of(part.name) in keys))
        return {port.key: port for port in plugged_ports(Observed(state, facts))}

    def _report(self, events: list[Event], before: Ports) -> None:
        for event in events:
            name = event.name
            if not event.key:
                text = f"the host cannot be observed: {event.after}" if event.after else "the host is observed again"
                self._event("host", text, "red" if event.after else "", reachable=not event.after, reason=event.after)
            elif event.attribute == "carrier":
                text = f"the VM on {name} {'runs' if event.after else 'has stopped'}"
                self._event("vm", text, key=event.key, name=name, running=event.after)
            elif event.key in before and event.key in self._ports:
                # All parts of a port that comes or goes are one event.
                values = {"attribute": event.attribute, "before": event.before, "after": event.after}
                text = f"{name}: {change_text(Difference(event.attribute or '', event.before, event.after))}"
                self._event("change", text, "yellow", key=event.key, kind=event.kind, name=name, **values)
        for key in sorted({*before, *self._ports}):
            port = self._ports.get(key)
            old, new = (ports[key].condition.value if key in ports else None for ports in (before, self._ports))
            if old != new:
                drift = port.drift if port else ()
                text = f"{new or 'gone'}{f': {drift[0]}' if drift else ''}"
                color = "green" if new == Condition.IN_ORDER.value else "red" if new else ""
                values = {"port": (port or before[key]).port_id, "drift": [item.document for item in drift]}
                self._event("state", text, color, key=key, before=old, after=new, **values)

    def _event(self, event: str, text: str, color: str = "", key: str = "", **values: Any) -> None:
        document = {"event": event, **values}
        if key:
            port = self._ports.get(key)
            document = {"event": event, "port": port and port.port_id, "key": key, **values}
            text = f"{document['port'] or key + '...'}  {text}"
        text = f"{time.strftime('%H:%M:%S')}  {text}"
        self._write(Answer(document=document, lines=lambda paint: [paint(text, color)]))

    # -- repair --------------------------------------------------------------------------------------------------------

    def _plan_repairs(self) -> None:
        """Determine the ports to repair, and forget those that are in order or gone."""
        if not self._limit:
            return
        now = time.monotonic()
        self._wanted = {key: port for key, port in self._wanted.items() if key in self._ports}
        self._due = {key: due for key, due in self._due.items() if key in self._ports and _drifts(self._ports[key])}
        for key, port in self._ports.items():
            if port.condition is Condition.IN_ORDER:
                self._wanted[key] = port.inferred.port
            elif _drifts(port):
                self._due.setdefault(key, now + SETTLE)

    def _repair(self, now: float) -> None:
        """Plug the ports again whose time has come."""
        goals = []
        for key in [key for key, due in self._due.items() if due <= now]:
            port = self._ports[key]
            recent = self._repaired[key] = [instant for instant in self._repaired[key] if now - instant < WINDOW]
            wanted = self._wanted.get(key) or (None if port.inferred.unknown else port.inferred.port)
            if wanted is None:
                self._due[key], reason = float("inf"), port.inferred.hint
                self._event("repair", reason, "red", key=key, ok=False, status=None, reason=reason)
            elif len(recent) >= self._limit:
                self._due[key] = recent[0] + WINDOW
                if key not in self._limited:
                    text = f"{len(recent)} repairs within a minute failed or were undone; it goes on slowly"
                    self._event("limit", text, "red", key=key, repairs=len(recent))
                self._limited.add(key)
            else:
                if not recent:
                    self._limited.discard(key)
                recent.append(now)
                # The next attempt, if this one fails.
                self._due[key] = now + WINDOW / self._limit
                goals.append(replace(goal_for_plug(wanted, self._host.settings), precondition=_require_drift))
        self.is_repairing = True
        for report in converge(goals, self._host):
            if report.code != InOrder.code:
                values = {"ok": report.ok, "status": report.status.value, "reason": report.reason}
                text = result_text("plug", report) + (f": {report.reason}" if report.reason else "")
                self._event("repair", text, "green" if report.ok else "red", key=report.port_id[:KEY_LENGTH], **values)
        self.is_repairing = False


def _drifts(port: PluggedPort) -> bool:
    """Return whether a port is to be repaired: one of ours.

    An incomplete port without a VM may be being plugged or unplugged.
    """
    tap = port.facts.links.get(port.names.tap)
    is_wrong = port.condition is Condition.DRIFT or (port.condition is Condition.HALF and tap and tap.carrier)
    return bool(is_wrong and tagged_ports(Observed(port.state, port.facts)))


def _require_drift(observed: Observed) -> None:
    """Check again under the lock: another call may have plugged the port otherwise, or unplugged it."""
    if not any(map(_drifts, plugged_ports(observed))):
        raise InOrder("the port needs no repair any more")


_LIMIT = f"repairs of a port within a minute, with --repair (default: {LIMIT})"
COMMANDS = {
    "watch": Command(
        run,
        ("text", "json"),
        (
            argument("port", nargs="*", metavar="PORT", text=f"these ports only; {PORT_HELP} (default: all)"),
            flag("--repair", "plug a port again that drifts"),
            argument("--limit", type=int, default=LIMIT, metavar="N", text=_LIMIT),
        ),
        "Ends with 130 on SIGINT or SIGTERM. With -f json, each event is one line.",
        writes=True,
    )
}
