"""Notifications of ovsdb-server about the rows that an observation reads (`monitor`, RFC 7047, section 4.1.5).

Every executor of Open vSwitch subscribes this way, on a connection of our own client.
"""

from __future__ import annotations

import time
from contextlib import suppress

from hybridvif.executors.base import ExecutorError
from hybridvif.executors.ovsdb.rpc import DATABASE, FAILURES, Connection, ConnectionLost, Expired, Refused, unusable
from hybridvif.executors.sockets import closed
from hybridvif.model.settings import Settings

COLUMNS = {
    "Bridge": ["name", "datapath_type", "ports"],
    "Port": ["name", "interfaces", "tag"],
    "Interface": ["name", "type", "ofport", "error", "external_ids", "options"],
}
"""All observed columns but mtu_request. ovs-vswitchd writes others every few seconds, such as statistics."""
NEWER = ["mtu_request"]
"""The columns of an Interface that Open vSwitch before 2.6 lacks."""
MAX_READS = 4096
"""Messages to discard in one go. The socket stays readable if there are more."""


class RowSubscription:
    """A connection on which the server reports each change."""

    def __init__(self, settings: Settings, deadline: float) -> None:
        """Connect and subscribe. Raises ExecutorError."""
        self._remote = settings.ovsdb_connection
        self._connection = Connection(settings, deadline)
        self.fileno, self.close = self._connection.fileno, self._connection.close
        try:
            try:
                self._monitor(NEWER, deadline)
            except Refused as error:
                if NEWER[0] not in str(error):
                    raise
                self._monitor([], deadline)
        except FAILURES as error:
            self.close()
            raise unusable(self._remote, error) from error

    def _monitor(self, newer: list[str], deadline: float) -> None:
        tables = {**COLUMNS, "Interface": [*COLUMNS["Interface"], *newer]}
        requests = {name: {"columns": columns, "select": {"initial": False}} for name, columns in tables.items()}
        self._connection.ask("monitor", [DATABASE, None, requests], deadline)

    def drain(self) -> bool:
        """Discard the pending messages. Return whether one was a notification. Raises ExecutorError."""
        found = False
        try:
            with suppress(Expired):
                for _ in range(MAX_READS):
                    found |= self._connection.receive(time.monotonic()).get("method") == "update"
        except ConnectionLost as error:
            raise ExecutorError(closed(self._remote)) from error
        return found
