"""ovs-vsctl: ports of Open vSwitch through its own command; one command line, and so one transaction, per batch.

Every value in a command line is a device name of a port, a UUID, a MAC address or a configured bridge. The daemon
authorizes nothing else. Each command begins after `--`, so no value can be read as an option.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from hybridvif.executors import ovs_rows
from hybridvif.executors.base import ExecutorError, StepFailed, rejected_transaction
from hybridvif.executors.command import Finished, Program, lines_of
from hybridvif.executors.command_lines import bridge_words, replace_words, switch_words
from hybridvif.executors.ovs_rows import IDS, Operation, Snapshot
from hybridvif.executors.ovsdb.notifications import RowSubscription
from hybridvif.executors.side_effects import side_effects_of
from hybridvif.executors.sockets import numeric, tls_files
from hybridvif.model.names import key_of
from hybridvif.model.parts import NativePort, OvsPort, Part, Role, VhostUserPort
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import Settings
from hybridvif.model.state import Create, Delete, Observed, Replace, Step, Update, changes_of, names_of_step

_ROWS_CHANGED = (
    "constraint violation",
    "referential integrity violation",
    "cannot create a port",
    "cannot create a bridge",
)
"""Errors of ovs-vsctl if rows have changed since they were read."""
READ_SHARE = 0.25
"""Share of the remaining time that is reserved for reading back after a command line that did not end."""


class VsctlExecutor:
    """Ports of Open vSwitch through ovs-vsctl."""

    role: ClassVar[Role] = Role.SWITCH
    serves: ClassVar[frozenset[type[Part]]] = frozenset({OvsPort, NativePort, VhostUserPort})
    programs: ClassVar[tuple[str, ...]] = ("ovs-vsctl",)
    atomic: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        self._vsctl = Program("ovs-vsctl", settings.program_path)
        self._database = settings.ovsdb_connection
        self._settings = settings
        self._has_mtu_request = True

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the ports under these names, or all device names of ports, and all bridges."""
        return ovs_rows.observed(self._snapshot(names, deadline), self._settings.vhost_socket_dir)

    def subscribe(self, deadline: float) -> RowSubscription:
        """Subscribe to the changes of rows. `ovsdb-client monitor` would be one more program to wait for."""
        return RowSubscription(self._settings, deadline)

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Run all steps in one command line, which waits until ovs-vswitchd has applied them."""
        try:
            return self._apply(steps, deadline)
        except (ExecutorError, StepFailed) as error:
            return [error.outcome_of(step) for step in steps]

    def _apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        snapshot = self._snapshot({name for step in steps for name in names_of_step(step)}, deadline)
        rejected = rejected_transaction(ovs_rows.observed(snapshot, self._settings.vhost_socket_dir).state, steps)
        if rejected:
            return rejected
        effects = side_effects_of(steps, snapshot, lambda queries: self._read(queries, deadline), self._settings)
        ovs_rows.require_bridges(steps, {*snapshot.bridges, *effects.bridges_to_create})
        words = [word for name, kind in effects.bridges_to_create.items() for word in bridge_words(name, kind)]
        for step in steps:
            if isinstance(step, Replace):
                words += replace_words(step, snapshot.rows[step.before.name], effects.carried[step.before.name])
                continue
            qos = effects.qos.get(step.part.name, ())
            words += switch_words(_as_found(step, snapshot), qos, self._settings.vhost_socket_dir)
        words += [word for name in effects.bridges_to_remove for word in ("--", "del-br", name)]
        if not words:
            # For example a move that another program has done already. The result is still verified.
            return self._outcomes(steps, deadline)
        result = self._run(words, deadline - (deadline - time.monotonic()) * READ_SHARE)
        if result.expired or result.code < 0:
            return self._outcomes_after_timeout(steps, deadline)
        if result.code:
            retry = any(message in result.stderr for message in _ROWS_CHANGED)
            raise StepFailed(f"ovs-vsctl failed: {_error_in(result)}", retry=retry)
        try:
            return self._outcomes(steps, deadline)
        except ExecutorError as error:
            # It was committed, so it has not failed; only the result is unknown.
            return _unknown(steps, f"committed in OVSDB, and not read back: {error}")

    def _outcomes_after_timeout(self, steps: Sequence[Step], deadline: float) -> list[Outcome]:
        """Return the outcomes of a command line that did not end: committed but not acknowledged, or unknown."""
        try:
            ports = self.observe({step.part.name for step in steps}, deadline).state.ports
        except ExecutorError:
            reason = "ovs-vsctl did not end before the deadline; whether its transaction takes effect is not known"
            return _unknown(steps, reason)
        if all(_is_committed(ports.get(step.part.name), step) for step in steps):
            return ovs_rows.not_acknowledged(steps)
        return _unknown(steps, "ovs-vsctl did not end before the deadline, and its transaction has not been seen")

    def _outcomes(self, steps: Sequence[Step], deadline: float) -> list[Outcome]:
        """Return the outcomes as ovs-vswitchd reports them; ovs-vsctl exits with 0 in any case."""
        names = {step.part.name for step in steps if ovs_rows.needs_device(step)}
        rows = ovs_rows.settled_rows(lambda: self._snapshot(names, deadline).rows, names, deadline) if names else {}
        return ovs_rows.committed(steps, rows)

    def _snapshot(self, names: Collection[str] | None, deadline: float) -> Snapshot:
        wanted = None if names is None else [name for name in names if key_of(name)]
        try:
            responses = self._read(ovs_rows.row_queries(wanted, mtu_request=self._has_mtu_request), deadline)
        except ExecutorError as error:
            if not self._has_mtu_request or "mtu_request" not in str(error):
                raise
            # The column came with Open vSwitch 2.6.
            self._has_mtu_request = False
            return self._snapshot(names, deadline)
        return ovs_rows.snapshot_of(wanted, responses, mtu_request=self._has_mtu_request)

    def _read(self, queries: Sequence[Operation], deadline: float) -> list[Any]:
        """Return the responses to these queries, with one command line."""
        words = [word for query in queries for word in _query_words(**query)]
        result = self._run(words, deadline, options=["--format=json", "--no-wait"])
        if result.expired or result.code < 0:
            raise ExecutorError(f"OVSDB at {self._database} does not answer ovs-vsctl (is ovsdb-server hung?)")
        if result.code:
            raise ExecutorError(
                f"cannot read OVSDB at {self._database}: {_error_in(result)}; start Open vSwitch "
                "(systemctl start openvswitch-switch), or set [hybridvif] ovsdb_connection",
                precondition="database connection failed" in result.stderr,
            )
        tables = [json.loads(line) for line in lines_of(result.stdout) if line.strip()]
        return [
            {"rows": [dict(zip(table["headings"], values, strict=True)) for values in table["data"]]}
            for table in tables
        ]

    def _run(self, words: Sequence[str], deadline: float, *, options: Sequence[str] = ()) -> Finished:
        # ovs-vsctl counts whole seconds; the exact deadline is enforced by Program.
        seconds = max(int(deadline - time.monotonic()), 1)
        names = ("--private-key", "--certificate", "--ca-cert")
        files = [f"{name}={path}" for name, path in zip(names, tls_files(self._settings), strict=False)]
        connection = [f"--db={numeric(self._settings, deadline)}", *files]
        return self._vsctl.run([f"--timeout={seconds}", *connection, *options, *words], deadline)


def _query_words(table: str, where: Sequence[Any], columns: Sequence[str] = (), **_: Any) -> list[str]:
    """Return the words of a query. columns: none for all."""
    given = [f"--columns={','.join(columns)}"] if columns else []
    match where:
        case [["name", "==", name]] | [["_uuid", "==", ["uuid", name]]]:
            return ["--", "--if-exists", *given, "list", table, name]
        case [["external_ids", "includes", ["map", [[key, value]]]]]:
            return ["--", *given, "find", table, f"external_ids:{key}={json.dumps(value)}"]
        case [[column, "!=", ["set", []]]]:
            return ["--", *given, "find", table, f"{column}!=[]"]
        case [[column, "==", str(value)]]:
            return ["--", *given, "find", table, f"{column}={value}"]
    return ["--", *given, "list", table]


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


def _error_in(result: Finished) -> str:
    return result.said.removeprefix("ovs-vsctl: ").rstrip(".")


def _unknown(steps: Sequence[Step], reason: str) -> list[Outcome]:
    return [Outcome(step, Result.UNKNOWN, reason) for step in steps]


def _is_committed(part: Part | None, step: Step) -> bool:
    """Return whether the change of a step has been committed."""
    if isinstance(step, Delete):
        return part is None
    if not isinstance(part, OvsPort):
        return False
    written = changes_of(step) if isinstance(step, Update) else {name: getattr(step.part, name) for name in IDS}
    return all(getattr(part, name) == value for name, value in written.items() if name != "realized")
