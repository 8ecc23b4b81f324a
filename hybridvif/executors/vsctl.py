"""ovs-vsctl: ports of Open vSwitch through its own command; one command line, and so one transaction, per batch.

Every value in a command line is a device name of a port, a UUID, a MAC address or a configured bridge. The daemon
authorizes nothing else. Each command begins after `--`, so no value can be read as an option.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from hybridvif.executors import ovs_rows
from hybridvif.executors.base import ExecutorError, rejected_transaction
from hybridvif.executors.command import Finished, Program, lines_of
from hybridvif.executors.command_lines import bridge_words, switch_words
from hybridvif.executors.ovs_rows import IDS, Row, elements, iface_id_of, observed, optional, row_of
from hybridvif.executors.side_effects import (
    bridges_to_create,
    deleted_ports,
    is_trunk_patch,
    ports_with_qos,
    qos_rows_of_ports,
    removable_trunks,
)
from hybridvif.executors.sockets import numeric, tls_context, tls_files
from hybridvif.model.errors import escaped
from hybridvif.model.names import key_of
from hybridvif.model.parts import OvsPort, Part, Role, VhostUserPort
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import Settings
from hybridvif.model.state import HostState, Observed
from hybridvif.model.steps import Create, Delete, Step, Update, changes_of

SETTLE_TIME = 0.1
"""Seconds to wait for ofport and error to follow cur_cfg."""
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
    serves: ClassVar[frozenset[type[Part]]] = frozenset({OvsPort, VhostUserPort})
    programs: ClassVar[tuple[str, ...]] = ("ovs-vsctl",)
    atomic: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        self._vsctl = Program("ovs-vsctl", settings.program_path)
        self._database = settings.ovsdb_connection
        self._settings = settings
        self._mtu_request = ",mtu_request"
        """The column; empty if this Open vSwitch lacks it."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the ports under these names, or all device names of ports, and all bridges."""
        rows, bridges, version = self._read(names, deadline)
        every = [(row.name, iface_id_of(row.external_ids)) for row in rows] if names is None else []
        ours = [row for row in rows if names is not None or key_of(row.name)]
        return observed(ours, bridges, version, self._settings.vhost_socket_dir, every)

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Run all steps in one command line, which waits until ovs-vswitchd has applied them."""
        try:
            return self._apply(steps, deadline)
        except ExecutorError as error:
            return [error.outcome_of(step) for step in steps]

    def _apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        names = {step.part.name for step in steps}
        before = self.observe(names, deadline)
        rejected = rejected_transaction(before.state, steps)
        if rejected:
            return rejected
        made = bridges_to_create(steps, before.facts.switches, self._settings.creates)
        missing = _missing_bridges({*before.facts.switches, *made}, steps)
        if missing:
            return [ovs_rows.bridge_missing(missing[0]).outcome_of(step) for step in steps]
        qos = self._qos_rows(steps, deadline)
        steps_as_found = [_as_found(step, before.state) for step in steps]
        words = [word for name, kind in made.items() for word in bridge_words(name, kind)]
        words += [word for step in steps_as_found for word in self._words_of(step, qos)]
        words += [word for name in self._empty_trunks(steps_as_found, deadline) for word in ("--", "del-br", name)]
        if not words:
            # For example a move that another program has done already. The result is still verified.
            return self._outcomes(steps, "", deadline)
        until = deadline - (deadline - time.monotonic()) * READ_SHARE
        result = self._run(words, until)
        if result.expired or result.code < 0:
            return self._outcomes_after_timeout(steps, deadline)
        if result.code:
            retry = any(message in result.stderr for message in _ROWS_CHANGED)
            reason = f"ovs-vsctl failed: {result.said.removeprefix('ovs-vsctl: ').rstrip('.')}"
            return [Outcome(step, Result.FAILED, reason, retry=retry) for step in steps]
        try:
            return self._outcomes(steps, result.stderr, deadline)
        except ExecutorError as error:
            # It was committed, so it has not failed; only the result is unknown.
            return [Outcome(step, Result.UNKNOWN, f"committed in OVSDB, and not read back: {error}") for step in steps]

    def _words_of(self, step: Step, qos: Mapping[str, Sequence[str]]) -> list[str]:
        part = step.part
        if isinstance(step, Create) and isinstance(part, OvsPort) and not self._mtu_request:
            step = Create(replace(part, mtu_request=None))
        return switch_words(step, qos.get(part.name, ()), self._settings.vhost_socket_dir)

    def _outcomes_after_timeout(self, steps: Sequence[Step], deadline: float) -> list[Outcome]:
        """Return the outcomes of a command line that did not end: committed but not acknowledged, or unknown."""
        try:
            state = self.observe({step.part.name for step in steps}, deadline).state
        except ExecutorError:
            reason = "ovs-vsctl did not end before the deadline; whether its transaction takes effect is not known"
            return [Outcome(step, Result.UNKNOWN, reason) for step in steps]
        committed = all(_is_committed(state.ports.get(step.part.name), step) for step in steps)
        if committed:
            return ovs_rows.not_acknowledged(steps)
        reason = "ovs-vsctl did not end before the deadline, and its transaction has not been seen"
        return [Outcome(step, Result.UNKNOWN, reason) for step in steps]

    def _outcomes(self, steps: Sequence[Step], warnings: str, deadline: float) -> list[Outcome]:
        """Return the outcomes as ovs-vswitchd reports them; ovs-vsctl exits with 0 in any case.

        warnings: the stderr of ovs-vsctl.
        """
        changed = [step.part.name for step in steps if ovs_rows.needs_device(step)]
        rows = self._reported_rows(changed, deadline) if changed else {}
        return ovs_rows.committed(
            steps, lambda name: ovs_rows.error_about(rows.get(name)) or _warning_about(warnings, name)
        )

    def _reported_rows(self, names: Collection[str], deadline: float) -> dict[str, Row]:
        """Return these rows once ovs-vswitchd has reported on them, or after a short wait."""
        end = min(deadline, time.monotonic() + SETTLE_TIME)
        while True:
            rows = {row.name: row for row in self._read(names, deadline)[0]}
            if not any(map(ovs_rows.is_undecided, rows.values())) or time.monotonic() >= end:
                return rows

    def _read(self, names: Collection[str] | None, deadline: float) -> tuple[list[Row], dict[str, str], str]:
        """Return the rows under these names, the bridges and the version, with one command line."""
        columns = {
            "Interface": f"_uuid,name,type,external_ids,ofport,error,options{self._mtu_request}",
            "Port": "_uuid,name,interfaces,tag",
        }
        wanted = sorted(name for name in names or () if key_of(name))
        words = ["--", "--columns=name,ports,datapath_type", "list", "Bridge"]
        words += ["--", "--columns=ovs_version", "list", "Open_vSwitch"]
        if names is None or wanted:
            for table, some in columns.items():
                words += ["--", "--if-exists", f"--columns={some}", "list", table, *wanted]
        done = self._run(words, deadline, options=["--format=json", "--no-wait"])
        if done.expired or done.code < 0:
            raise ExecutorError(f"OVSDB at {self._database} does not answer ovs-vsctl (is ovsdb-server hung?)")
        if done.code and self._mtu_request and "mtu_request" in done.stderr:
            # The column came with Open vSwitch 2.6.
            self._mtu_request = ""
            return self._read(names, deadline)
        if done.code:
            lacking = "database connection failed" in done.stderr
            raise ExecutorError(
                f"cannot read OVSDB at {self._database}: {done.said.removeprefix('ovs-vsctl: ').rstrip('.')}; start "
                "Open vSwitch (systemctl start openvswitch-switch), or set [hybridvif] ovsdb_connection",
                precondition=lacking,
            )
        bridges, root, *tables = [list(_records(line)) for line in lines_of(done.stdout) if line.strip()]
        interfaces, ports = tables or ([], [])
        port_of = {port["name"]: port for port in ports}
        holder_of = {uuid[1]: bridge["name"] for bridge in bridges for uuid in elements(bridge["ports"])}
        rows = [row_of(interface, port_of.get(interface["name"]), holder_of) for interface in interfaces]
        version = next((text for row in root if (text := optional(row["ovs_version"]))), "")
        return rows, {bridge["name"]: bridge["datapath_type"] for bridge in bridges}, version

    def _qos_rows(self, steps: Sequence[Step], deadline: float) -> dict[str, list[str]]:
        """Return the uuids of the QoS rows that go with each port of these steps, by port name."""
        names = ports_with_qos(steps)
        if not names:
            return {}
        words = ["--", "--columns=_uuid,external_ids", "list", "QoS", "--", "--columns=name,qos", "list", "Port"]
        done = self._run(words, deadline, options=["--format=json", "--no-wait"])
        if done.expired or done.code:
            raise ExecutorError(f"cannot read the QoS rows of OVSDB at {self._database}: {done.said or 'no answer'}")
        rows, ports = [list(_records(line)) for line in lines_of(done.stdout) if line.strip()]
        holders = [port for port in ports if elements(port["qos"])]
        return qos_rows_of_ports(names, [{"rows": rows}], {"rows": holders})

    def _empty_trunks(self, steps: Sequence[Step], deadline: float) -> list[str]:
        """Return the trunk bridges to remove."""
        bridge_of = {step.part.name: step.part.bridge for step in steps if isinstance(step.part, OvsPort)}
        trunks = removable_trunks(steps, bridge_of, self._settings)
        return [name for name in trunks if self._is_empty_trunk(name, deleted_ports(steps), deadline)]

    def _is_empty_trunk(self, bridge: str, deleted: Collection[str], deadline: float) -> bool:
        """Return whether a trunk bridge contains only Neutron's patch ports once these ports are deleted."""
        done = self._run(["--", "list-ports", bridge, "--", "list-ifaces", bridge], deadline, options=["--no-wait"])
        rest = sorted({*lines_of(done.stdout), ""} - {"", *deleted})
        if done.code or not rest:
            return not done.code
        words = ["--", "--if-exists", "--columns=name,type", "list", "Interface", *rest]
        listing = self._run(words, deadline, options=["--format=json", "--no-wait"])
        if listing.code:
            return False
        rows = [row for line in lines_of(listing.stdout) if line.strip() for row in _records(line)]
        kinds = {row["name"]: row["type"] for row in rows}
        return all(is_trunk_patch(name, kinds.get(name, "")) for name in rest)

    def _run(self, words: Sequence[str], deadline: float, *, options: Sequence[str] = ()) -> Finished:
        # ovs-vsctl counts whole seconds; the exact deadline is enforced by Program.
        seconds = max(int(deadline - time.monotonic()), 1)
        return self._vsctl.run([f"--timeout={seconds}", *self._connection(deadline), *options, *words], deadline)

    def _connection(self, deadline: float) -> list[str]:
        files = tls_files(self._settings)
        if files:
            tls_context(self._settings)
        names = ("--private-key", "--certificate", "--ca-cert")
        given = [f"{name}={path}" for name, path in zip(names, files, strict=False)]
        return [f"--db={numeric(self._settings, deadline)}", *given]


def _missing_bridges(bridges: Collection[str], steps: Iterable[Step]) -> list[str]:
    parts = [step.part for step in steps if not isinstance(step, Delete)]
    return [part.bridge for part in parts if isinstance(part, OvsPort) and part.bridge not in bridges]


def _as_found(step: Step, state: HostState) -> Step:
    """Return the step with the port as it was found: its bridge in the request was not authorized."""
    found = state.ports.get(step.part.name)
    if not isinstance(found, OvsPort):
        return step
    if isinstance(step, Delete):
        return Delete(found)
    if isinstance(step, Update) and isinstance(step.before, OvsPort) and "bridge" in changes_of(step):
        return Update(replace(step.before, bridge=found.bridge), step.after)
    return step


def _is_committed(part: Part | None, step: Step) -> bool:
    """Return whether the change of a step has been committed."""
    if isinstance(step, Delete):
        return part is None
    if not isinstance(part, OvsPort):
        return False
    written = changes_of(step) if isinstance(step, Update) else {name: getattr(step.part, name) for name in IDS}
    return all(getattr(part, name) == value for name, value in written.items() if name != "realized")


def _warning_about(warnings: str, name: str) -> str:
    """Return the warning of ovs-vsctl about a port that could not be set up (exit code 0)."""
    for line in lines_of(warnings):
        if "Error detected while setting up" in line and f"'{name}'" in line:
            return f"ovs-vswitchd did not take {name}: {escaped(line.split(': ', 1)[-1].rstrip('.'))}"
    return ""


def _records(line: str) -> Iterator[dict[str, Any]]:
    """Return the rows of one table in ovs-vsctl's JSON, with values as in RFC 7047, section 5.1."""
    table = json.loads(line)
    for values in table["data"]:
        yield dict(zip(table["headings"], values, strict=True))
