"""ovsdb: ports of Open vSwitch over OVSDB, through a small client that reads only the rows it needs."""

from __future__ import annotations

from hybridvif.executors.ovsdb.commit import TransactionExecutor
from hybridvif.executors.ovsdb.rpc import Connection, Session
from hybridvif.model.settings import Settings

MAX_CONNECTIONS = 64


class OvsdbExecutor(TransactionExecutor):
    """Ports of Open vSwitch over OVSDB."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, Session(settings, Connection, MAX_CONNECTIONS))
