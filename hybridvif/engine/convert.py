"""convert: out of the hybrid plug and back, under a running VM. model/planner.py has the order of the steps.

A hybrid port is filtered by iptables on its tap, and a native port by OpenFlow only. So a conversion is refused unless
the other filter is in place. The flows are read by this process, not by the daemon.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import replace

from hybridvif.engine.any_host import FilteringHost, look
from hybridvif.engine.converge import Progress, converge, ignore_progress, only_report
from hybridvif.engine.goals import Goal
from hybridvif.model.errors import Conflict, InvalidInput, PlugFailed, Refused, Unfiltered
from hybridvif.model.names import names_of, names_of_key
from hybridvif.model.orphans import states_of_ports
from hybridvif.model.parts import ManagedTap, OvsPort, Tap
from hybridvif.model.planner import as_hybrid, as_native, check_ownership, native_row
from hybridvif.model.port import Port, desired_state
from hybridvif.model.report import Report
from hybridvif.model.state import HostState, Observed, agree, owners_of

NATIVE, HYBRID = TARGETS = ("native", "hybrid")


def convert(port_id: str, host: FilteringHost, to: str = NATIVE, *, unfiltered: bool = False) -> Report:
    """Convert one port under its running VM: to "native", or back to "hybrid".

    Afterwards it is plugged the other way, or as before the call. A port that is already plugged this way costs one
    observation and no write. unfiltered: even if nothing filters the port then, for a cloud without port security.
    Raises PlugFailed with the report. Its subclasses: Unfiltered or another Refused if the conversion is not permitted,
    NotReady if the host lacks something.
    """
    return only_report(convert_all([port_id], host, to, unfiltered=unfiltered), PlugFailed)


def convert_all(
    port_ids: Iterable[str],
    host: FilteringHost,
    to: str = NATIVE,
    *,
    unfiltered: bool = False,
    progress: Progress = ignore_progress,
) -> list[Report]:
    """Convert many ports. Return one report per port, in order. A failed port does not stop the others.

    progress: as in plug_all(). Raises InvalidInput for another target, an id that is not a UUID or that is there twice,
    PreconditionError and NoResponse before the first write.
    """
    if to not in TARGETS:
        raise InvalidInput(f"target {to!r} is not known; use one of {', '.join(TARGETS)}")
    port_ids = list(port_ids)
    observed = look(host, port_ids) if port_ids else Observed()
    ready = _Filters(host, to, unfiltered=unfiltered)
    return converge([_goal_for_conversion(port_id, observed, ready) for port_id in port_ids], host, progress)


def ports_to_convert(observed: Observed, to: str) -> list[str]:
    """Return the ids of the ports with a running VM that are plugged the other way, of all ports of a host."""
    found = []
    for key, state in states_of_ports(observed.state).items():
        row = _row_of(state, HYBRID if to == NATIVE else NATIVE)
        owners = owners_of(row) if row else set()
        if observed.facts.vm(names_of_key(key)) and len(owners) == 1 and (owner := min(owners)).startswith(key):
            found.append(owner)
    return found


class _Filters:
    """The filters of a host, read at the first question."""

    def __init__(self, host: FilteringHost, to: str, *, unfiltered: bool) -> None:
        self._host, self.to, self._unfiltered = host, to, unfiltered
        self._ofports: dict[str, Collection[int]] = {}
        self.settings = host.settings

    def require(self, port_id: str, bridge: str, ofport: int | None) -> None:
        """Refuse a port that nothing would filter. Raises Unfiltered, PreconditionError."""
        if self._unfiltered or (self.to == HYBRID and (self.settings.call_iptables or self._host.calls_iptables())):
            return
        if self.to == HYBRID:
            raise Unfiltered(
                f"port {port_id}: refused to convert it to hybrid, because its Linux bridge would not call iptables; "
                "set [hybridvif] call_iptables, or run: sysctl -w net.bridge.bridge-nf-call-iptables=1; "
                "without port security use --unfiltered"
            )
        if bridge not in self._ofports:
            deadline = time.monotonic() + self.settings.deadline
            self._ofports[bridge] = self._host.filtered_ofports(bridge, deadline)
        if ofport not in self._ofports[bridge]:
            raise Unfiltered(
                f"port {port_id}: refused to convert it to native, because no OpenFlow firewall filters port {ofport} "
                f"of {bridge}; set firewall_driver = openvswitch for Neutron's agent and restart it; "
                "without port security use --unfiltered"
            )


def _goal_for_conversion(port_id: str, observed: Observed, filters: _Filters) -> Goal:
    names = names_of(port_id)
    first = observed.of(names)
    desired, refusal = first.state, None
    try:
        desired = _desired(port_id, first, filters)
    except Refused as error:
        refusal = error

    def check_unchanged(now: Observed) -> None:
        """Check again under the lock: the desired state was derived from the first observation."""
        if refusal is not None:
            raise refusal
        if not agree(now.state, first.state) or _ofports_of(now) != _ofports_of(first):
            raise Conflict(f"port {port_id}: it has changed since it was observed; call again")

    return Goal(port_id, names, desired, precondition=check_unchanged, is_conversion=True)


def _ofports_of(seen: Observed) -> list[int | None]:
    return [seen.facts.port(row).ofport for _, row in sorted(seen.state.ports.items())]


def _desired(port_id: str, observed: Observed, filters: _Filters) -> HostState:
    """Return the desired state of a conversion. Raises Refused."""
    state, names = observed.state, names_of(port_id)
    row = _row_of(state, filters.to)
    if row is not None:
        # It is converted, but possibly not completely.
        return _wanted(port_id, observed, row, filters)
    row = _row_of(state, NATIVE if filters.to == HYBRID else HYBRID)
    if row is None:
        raise Refused(f"port {port_id}: it is no hybrid port of Open vSwitch, and no port that was converted from one")
    check_ownership(state, port_id)
    if owners_of(row) != {port_id}:
        raise Conflict(f"port {port_id}: {row.name} does not bear its id; plug the port first")
    if not observed.facts.vm(names) or not isinstance(state.links.get(names.tap), Tap | ManagedTap):
        raise Refused(
            f"port {port_id}: no VM runs on it, so there is nothing to convert: its next start plugs it as Neutron says"
        )
    if not row.realized and not row.converting:
        raise Conflict(f"port {port_id}: ovs-vswitchd has not accepted {row.name}; plug the port first")
    filters.require(port_id, row.bridge, observed.facts.port(row).ofport)
    return _wanted(port_id, observed, row, filters)


def _row_of(state: HostState, kind: str) -> OvsPort | None:
    if kind == NATIVE:
        return native_row(state)
    return next((row for row in state.ports.values() if type(row) is OvsPort), None)


def _wanted(port_id: str, observed: Observed, row: OvsPort, filters: _Filters) -> HostState:
    """Return the desired state with this row. The links have the MTU of the tap."""
    state, names = observed.state, names_of(port_id)
    native = native_row(state)
    hybrid = replace(row if native is None else as_hybrid(native), converting="", realized=True)
    if filters.to == NATIVE:
        return as_native(HostState({}, {hybrid.name: hybrid}), port_id, state)
    if native is None:
        links = {name: link for name, link in state.links.items() if not isinstance(link, Tap)}
        return HostState(links, {hybrid.name: hybrid})
    try:
        port = Port(
            id=port_id,
            mac=row.attached_mac,
            instance_id=row.vm_uuid,
            interface_id="" if row.iface_id == port_id else row.iface_id,
            mtu=observed.facts.links[names.tap].mtu,
            bridge=row.bridge,
        )
    except InvalidInput as error:
        raise Refused(f"{error}, so its Linux bridge cannot be made; plug the port first") from error
    return desired_state(port.on(filters.settings)).with_parts(hybrid)
