"""ovs-vsctl: ports of Open vSwitch through its own command; one command line, and so one transaction, per batch.

The rows are read as in `ovsdb`.

Every value in a command line is a device name of a port, a UUID, a MAC address or a configured bridge. The daemon
authorizes nothing else. Each command begins after `--`, so no value can be read as an option.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from hybridvif.executors import ovs_rows
from hybridvif.executors.base import ExecutorError, StepFailed
from hybridvif.executors.command import Finished, Program
from hybridvif.executors.command_lines import bridge_words, replace_words, switch_words
from hybridvif.executors.ovs_rows import IDS, Snapshot
from hybridvif.executors.ovsdb.executor import (
    NoResponse,
    OvsdbExecutor,
    Reported,
    not_acknowledged,
    reported_rows,
    unknown,
)
from hybridvif.executors.ovsdb.rpc import Database, numeric, tls_files
from hybridvif.executors.ovsdb.transaction import require_bridges
from hybridvif.executors.side_effects import SideEffects
from hybridvif.model.parts import OvsPort, Part
from hybridvif.model.report import Outcome
from hybridvif.model.settings import Settings
from hybridvif.model.state import Create, Delete, Observed, Replace, Step, Update, changes_of

_ROWS_CHANGED = (
    "constraint violation",
    "referential integrity violation",
    "cannot create a port",
    "cannot create a bridge",
)
"""Errors of ovs-vsctl if rows have changed since they were read."""
READ_SHARE = 0.25
"""Share of the remaining time that is reserved for reading back after a command line that did not end."""


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

    def _run(self, words: Sequence[str], deadline: float) -> Finished:
        # ovs-vsctl counts whole seconds; the exact deadline is enforced by Program.
        seconds = max(int(deadline - time.monotonic()), 1)
        names = ("--private-key", "--certificate", "--ca-cert")
        files = [f"{name}={path}" for name, path in zip(names, tls_files(self._settings), strict=False)]
        connection = [f"--db={numeric(self._settings, deadline)}", *files]
        return self._vsctl.run([f"--timeout={seconds}", *connection, *words], deadline)

    def _changes_of(self, steps: Sequence[Step], snapshot: Snapshot, effects: SideEffects) -> list[str]:
        """Return the words of the command line."""
        require_bridges(steps, {*snapshot.bridges, *effects.bridges_to_create})
        words = [word for name, kind in effects.bridges_to_create.items() for word in bridge_words(name, kind)]
        for step in steps:
            if isinstance(step, Replace):
                words += replace_words(step, snapshot.rows[step.before.name], effects.carried[step.before.name])
                continue
            qos = effects.qos.get(step.part.name, ())
            words += switch_words(_as_found(step, snapshot), qos, self._settings.vhost_socket_dir)
        return words + [word for name in effects.bridges_to_remove for word in ("--", "del-br", name)]

    def _send(
        self, database: Database, changes: Sequence[Any], names: Collection[str], deadline: float
    ) -> Reported | None:
        """Run a command line, which waits until ovs-vswitchd has applied it. It exits with 0 if a device is refused."""
        if changes:
            # Otherwise another program has done it already, for example a move.
            result = self._run(changes, deadline - (deadline - time.monotonic()) * READ_SHARE)
            if result.expired or result.code < 0:
                raise NoResponse
            if result.code and any(message in result.stderr for message in _ROWS_CHANGED):
                return None
            if result.code:
                raise StepFailed(f"ovs-vsctl failed: {result.said.removeprefix('ovs-vsctl: ').rstrip('.')}")
        queries = ovs_rows.select_named("Interface", ovs_rows.REPORTED_COLUMNS, names) if names else []
        return lambda: reported_rows(database.transact(queries, deadline) if queries else ())

    def _without_response(self, steps: Sequence[Step], deadline: float) -> list[Outcome]:
        """Return the outcomes of a command line that did not end: committed but not acknowledged, or unknown."""
        try:
            ports = self.observe({step.part.name for step in steps}, deadline).state.ports
        except ExecutorError:
            reason = "ovs-vsctl did not end before the deadline; whether its transaction takes effect is not known"
            return unknown(steps, reason)
        if all(_is_committed(ports.get(step.part.name), step) for step in steps):
            return not_acknowledged(steps)
        return unknown(steps, "ovs-vsctl did not end before the deadline, and its transaction has not been seen")


def _as_found(step: Step, snapshot: Snapshot) -> Step:
    """Return the step as this Open vSwitch can carry it out.

    The bridge of an existing port is as found, since the one in the request was not authorized.
    """
    row = snapshot.rows.get(step.part.name)
    bridge = row.bridge if row is not None else None
    match step:
        case Create(OvsPort() as port) if not snapshot.has_mtu_request:
            return Create(replace(port, mtu_request=None))
        case Delete(OvsPort() as port) if bridge:
            return Delete(replace(port, bridge=bridge))
        case Update(OvsPort() as before) if bridge and "bridge" in changes_of(step):
            return Update(replace(before, bridge=bridge), step.after)
    return step


def _is_committed(part: Part | None, step: Step) -> bool:
    """Return whether the change of a step has been committed."""
    if isinstance(step, Delete):
        return part is None
    if not isinstance(part, OvsPort):
        return False
    written = changes_of(step) if isinstance(step, Update) else {name: getattr(step.part, name) for name in IDS}
    return all(getattr(part, name) == value for name, value in written.items() if name != "realized")
