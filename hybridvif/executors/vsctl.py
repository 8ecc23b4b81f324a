"""ovs-vsctl: ports of Open vSwitch through its own command; one command line, and so one transaction, per batch.

It reads rows and waits for ovs-vswitchd as `ovsdb` does. Every value in a command line is a device name of a port, a
UUID, a MAC address, a configured bridge, or the value of a row. The daemon authorizes nothing else. Each command begins
after `--`, so no value can be read as an option.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from hybridvif.executors.base import NOT_ACKNOWLEDGED, StepFailed
from hybridvif.executors.command import Program
from hybridvif.executors.command_lines import words_of
from hybridvif.executors.ovs_rows import Operation, error_in
from hybridvif.executors.ovsdb.executor import ROWS_CHANGED, OvsdbExecutor, Unanswered
from hybridvif.executors.ovsdb.rpc import FAILURES, Database, Expired, numeric, tls_files
from hybridvif.model.report import Result
from hybridvif.model.settings import Settings
from hybridvif.model.state import Observed

_ROWS_CHANGED = ("constraint violation", "referential integrity violation", "no row")
"""Errors of ovs-vsctl if rows have changed since they were read."""


class VsctlExecutor(OvsdbExecutor):
    """Ports of Open vSwitch through ovs-vsctl."""

    programs: ClassVar[tuple[str, ...]] = ("ovs-vsctl",)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._vsctl = Program("ovs-vsctl", settings.program_path)

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the ports under these names, or all device names of ports, and all bridges."""
        self._vsctl.require()
        return super().observe(names, deadline)

    def _transact(self, database: Database, changes: Sequence[Operation], deadline: float) -> list[Any]:
        """Change the rows by the program, then request the acknowledgment of ovs-vswitchd."""
        if words := [word for operation in changes for word in words_of(operation)]:
            # ovs-vsctl counts whole seconds; the exact deadline is enforced by Program.
            seconds = max(int(deadline - time.monotonic()), 1)
            names = ("--private-key", "--certificate", "--ca-cert")
            files = [f"{name}={path}" for name, path in zip(names, tls_files(self._settings), strict=False)]
            options = ["--no-wait", f"--timeout={seconds}", f"--db={numeric(self._settings, deadline)}", *files]
            result = self._vsctl.run([*options, *words], deadline)
            if result.expired or result.code < 0:
                raise Expired
            if result.code and any(message in result.stderr for message in _ROWS_CHANGED):
                return [{"error": ROWS_CHANGED[0]}]
            if result.code:
                raise StepFailed(f"ovs-vsctl failed: {result.said.removeprefix('ovs-vsctl: ').rstrip('.')}")
        try:
            results = super()._transact(database, [], deadline)
        except FAILURES:
            raise Unanswered(Result.CONFIGURED, NOT_ACKNOWLEDGED) from None
        if error_in(results):
            raise Unanswered(Result.CONFIGURED, NOT_ACKNOWLEDGED)
        return results
