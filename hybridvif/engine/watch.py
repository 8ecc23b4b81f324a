"""Watch the ports of a host: the changes of their parts and facts, as they happen.

The daemon waits for notifications of the kernel and of OVSDB (privileged/requests.py). Each change is the difference of
two observations, so a notification that is lost or late loses no change.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from hybridvif.engine.any_host import HostClosed, WatchableHost
from hybridvif.model.changes import Change
from hybridvif.model.errors import HybridVifError
from hybridvif.model.names import key_of, names_of, names_of_device
from hybridvif.model.parts import Part, Role
from hybridvif.model.settings import MAX_DEADLINE, MAX_NAMES
from hybridvif.model.state import LinkFact, Observed

REST = 0.1
"""Seconds between a change and the next request: changes in between are in one observation."""
RETRY = 1.0
"""Seconds between two attempts while the host cannot be observed."""
FACTS = ("tag", "ofport", "error")
"""The facts about a switch port that are watched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One change of one object, or of the host."""

    name: str
    """The device or row. "" for the host itself, with the attribute `error`: the reason that it cannot be observed."""
    kind: str
    """The kind of part; "host" for the host itself."""
    attribute: str | None
    """The attribute or fact; None: the object itself, which is "absent" or "present".

    `carrier` of a tap: True while a VM runs on it.
    """
    before: object
    after: object

    @property
    def key(self) -> str:
        """The first 11 characters of the port id; "" for the host itself."""
        return key_of(self.name) or ""


class Watch:
    """The changes of some ports, or of all ports.

    ::

        with connect() as host:
            watch = Watch(host)
            while True:
                for event in watch.wait():
                    print(event)

    observed is the last observation. Raises InvalidInput for an id that is no UUID, PreconditionError, NoResponse.
    """

    def __init__(self, host: WatchableHost, port_ids: Collection[str] = ()) -> None:
        names = {name for port_id in port_ids for name in names_of(port_id)}
        self._host, self._names = host, names if 0 < len(names) <= MAX_NAMES else None
        self._keys = {key_of(name) for name in names}
        self._ready = 0.0
        self._error: str | None = None
        first = host.next_observation(self._names, "", time.monotonic() + host.settings.deadline)
        if first is None:
            raise HybridVifError("the host could not be observed by the deadline")
        self._digest, self.observed = first

    def wait(self, until: float = float("inf")) -> list[Event]:
        """Wait for changes and return them; empty at `until`, an instant of time.monotonic().

        Changes that follow each other within a tenth of a second may be merged. While the host cannot be observed, for
        example because Open vSwitch restarts, there is one event about that. It is observed again every second, and no
        change is lost. Raises PreconditionError if the program closes the host.
        """
        while (now := time.monotonic()) < until:
            if now < self._ready:
                time.sleep(min(self._ready, until) - now)
                continue
            reason: str | None = None
            events: list[Event] = []
            try:
                found = self._host.next_observation(self._names, self._digest, min(until, now + MAX_DEADLINE))
            except HostClosed:
                raise
            except HybridVifError as error:
                self._ready, reason = time.monotonic() + RETRY, str(error)
            else:
                if found:
                    self._ready, events = time.monotonic() + REST, self._changes(*found)
            if (reason is None) is not (self._error is None):
                before, self._error = self._error, reason
                events.insert(0, Event(name="", kind="host", attribute="error", before=before, after=reason))
            if events:
                return events
        return []

    def _changes(self, digest: str, observed: Observed) -> list[Event]:
        before, self._digest, self.observed = self.observed, digest, observed
        return [event for event in changes_between(before, observed) if not self._keys or event.key in self._keys]


def changes_between(before: Observed, after: Observed) -> Iterator[Event]:
    """Yield the changes of parts, by role and name, then those of facts about ports and VMs."""
    for role in Role:
        old, new = before.state.side(role), after.state.side(role)
        for name in sorted({*old, *new}):
            yield from _changes_of_part(old.get(name), new.get(name))
    ports, now = before.facts.ports, after.facts.ports
    for name in sorted({*ports} & {*now}):
        kind = after.state.ports[name].kind if name in after.state.ports else "ovs-port"
        for attribute in FACTS:
            first, second = getattr(ports[name], attribute), getattr(now[name], attribute)
            if first != second:
                yield Event(name=name, kind=kind, attribute=attribute, before=first, after=second)
    for name in sorted({*before.facts.links} | {*after.facts.links}):
        yield from _changes_of_link(name, before.facts.links.get(name), after.facts.links.get(name))


def _changes_of_part(old: Part | None, new: Part | None) -> Iterator[Event]:
    for change in (Change(old, new),) if type(old) is type(new) else (Change(old, None), Change(None, new)):
        for found in change.differences if any(change) else ():
            part, values = change.part, {"before": found.before, "after": found.after}
            yield Event(name=part.name, kind=part.kind, attribute=found.attribute or None, **values)


def _changes_of_link(name: str, old: LinkFact | None, new: LinkFact | None) -> Iterator[Event]:
    names = names_of_device(name)
    if name == names.switch_end and old and new and old.master != new.master:
        yield Event(name=name, kind="veth", attribute="master", before=old.master, after=new.master)
    # A tap has carrier only while a VM holds it open.
    first, second = (fact is not None and fact.carrier for fact in (old, new))
    if name == names.tap and first != second:
        yield Event(name=name, kind="tap", attribute="carrier", before=first, after=second)
