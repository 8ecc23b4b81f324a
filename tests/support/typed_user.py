"""A program that uses the library, for the type checkers: tests/unit/test_typing.py."""

from __future__ import annotations

from collections.abc import Sequence

import hybridvif
from hybridvif import (
    Bridge,
    Create,
    Host,
    HostProtocol,
    HostState,
    NameCollision,
    PlugFailed,
    Port,
    RecordingHost,
    Report,
    Status,
    Step,
    Update,
    connect,
)


class Agent:
    """An agent that plugs on a real host, or on a simulated one in its tests."""

    def __init__(self, host: HostProtocol) -> None:
        self.host = host

    def plug(self, port: Port) -> Status:
        """Plug a port."""
        try:
            report: Report = hybridvif.plug(port, self.host)
        except NameCollision as error:
            return error.report.status if error.report else Status.UNKNOWN
        except PlugFailed:
            return Status.UNKNOWN
        return report.status

    def clean(self, ports: Sequence[Port]) -> list[str]:
        """Call everything else that takes a host."""
        steps: tuple[Step, ...] = hybridvif.check(ports[0], self.host)
        created: list[str] = [step.part.name for step in steps if isinstance(step, Create | Update)]
        reports: list[Report] = hybridvif.plug_all(ports, self.host)
        reports += hybridvif.convert_all([port.id for port in ports], self.host)
        reports += hybridvif.unplug_all([port.id for port in ports], self.host)
        reports += hybridvif.reconcile(ports, self.host, prune=True).reports
        collected = [orphan.remain.port_id for orphan in hybridvif.gc(self.host, dry_run=True)]
        return [*created, *collected, *(report.reason for report in reports if not report.ok)]


def mtu_of(state: HostState, port: Port) -> int | None:
    """Return the MTU of the bridge of a port."""
    bridge = state.links.get(port.names.bridge)
    return bridge.mtu if isinstance(bridge, Bridge) else None


def main() -> None:
    """Run on this host, and on a simulated one."""
    real: Host = connect(["/etc/hybridvif/hybridvif.conf"])
    simulated: RecordingHost = RecordingHost()
    hosts: list[HostProtocol] = [real, simulated]
    for host in hosts:
        with host as opened:
            Agent(opened).clean([])
    with connect() as connected:
        Agent(connected).clean([])
