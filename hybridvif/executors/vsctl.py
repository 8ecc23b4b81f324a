"""ovs-vsctl: the switch is Open vSwitch, by its own command; one command line, and so one transaction, a batch.

Every value that goes into a command line is a name of our grammar, a UUID, a MAC address or a configured bridge
(authorize.py permits nothing else), and each command begins after `--`, so none of them can be read as an option.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from hybridvif.executors.base import NOT_ACKNOWLEDGED, ExecutorError, objected
from hybridvif.executors.bridgerows import bridges_to_make, deleted_ports, is_trunk_patch, trunks_left
from hybridvif.executors.command import Finished, Program, lines_of
from hybridvif.executors.ovs_rows import IDS, Row, complaint_about, iface_id_of, is_undecided, not_realized, observed
from hybridvif.executors.qosrows import goes_with, ports_with_qos
from hybridvif.executors.recipes import bridge_words, switch_words
from hybridvif.executors.sockets import numeric, tls_context, tls_files
from hybridvif.model.errors import BridgeMissing
from hybridvif.model.facts import Observed
from hybridvif.model.names import key_of
from hybridvif.model.parts import HostState, OvsPort, Part, Role, VhostUserPort
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import Settings
from hybridvif.model.steps import Create, Delete, Step, Update, changes_of
from hybridvif.model.text import escaped

SETTLE = 0.1
"""Seconds to wait for ofport and error to follow cur_cfg."""
_MOVED_ON = (
    "constraint violation",
    "referential integrity violation",
    "cannot create a port",
    "cannot create a bridge",
)
"""What ovs-vsctl says where the rows are no longer as they were read."""
READ_SHARE = 0.25
"""Of the deadline, what is kept for reading back what became of a command line that did not end."""


class VsctlExecutor:
    """Ports of Open vSwitch by ovs-vsctl."""

    role: ClassVar[Role] = Role.SWITCH
    serves: ClassVar[frozenset[type[Part]]] = frozenset({OvsPort, VhostUserPort})
    programs: ClassVar[tuple[str, ...]] = ("ovs-vsctl",)
    atomic: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        self._vsctl = Program("ovs-vsctl", settings.program_path)
        self._database = settings.ovsdb_connection
        self._settings = settings
        self._mtu_request = ",mtu_request"
        """The column, unless this Open vSwitch was seen to have none."""

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """The ports under these names, or all of our grammar, and the bridges there are."""
        rows, bridges, version = self._read(names, deadline)
        every = [(row.name, iface_id_of(row.external_ids)) for row in rows] if names is None else []
        ours = [row for row in rows if names is not None or key_of(row.name)]
        return observed(ours, bridges, version, self._settings.vhost_socket_dir, every)

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """All the steps in one command line, which waits for ovs-vswitchd to have taken them."""
        try:
            return self._apply(steps, deadline)
        except ExecutorError as error:
            return [error.outcome_of(step) for step in steps]

    def _apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        names = {step.part.name for step in steps}
        seen = self.observe(names, deadline)
        against = objected(seen.state, steps)
        if against:
            return against
        made = bridges_to_make(steps, seen.facts.switches, self._settings.creates)
        missing = _missing_bridges({*seen.facts.switches, *made}, steps)
        if missing:
            reason = f"integration bridge {missing[0]} does not exist; create it: ovs-vsctl add-br {missing[0]}"
            return [Outcome(step, Result.FAILED, reason, code=BridgeMissing.code) for step in steps]
        qos = self._qos_rows(steps, deadline)
        found = [_as_found(step, seen.state) for step in steps]
        words = [word for name, kind in made.items() for word in bridge_words(name, kind)]
        words += [word for step in found for word in self._words_of(step, qos)]
        words += [word for name in self._emptied(found, deadline) for word in ("--", "del-br", name)]
        if not words:
            # As a move to where somebody else has moved it already. Whether the device was taken is looked at.
            return self._settled(steps, "", deadline)
        until = deadline - (deadline - time.monotonic()) * READ_SHARE
        done = self._run(words, until)
        if done.expired or done.code < 0:
            return self._resolved(steps, deadline)
        if done.code:
            retry = any(said in done.stderr for said in _MOVED_ON)
            reason = f"ovs-vsctl failed: {done.said.removeprefix('ovs-vsctl: ').rstrip('.')}"
            return [Outcome(step, Result.FAILED, reason, retry=retry) for step in steps]
        try:
            return self._settled(steps, done.stderr, deadline)
        except ExecutorError as lost:
            # It was committed, so it has not failed; what ovs-vswitchd made of it cannot be read.
            return [Outcome(step, Result.UNKNOWN, f"committed in OVSDB, and not read back: {lost}") for step in steps]

    def _words_of(self, step: Step, qos: Mapping[str, Sequence[str]]) -> list[str]:
        part = step.part
        if isinstance(step, Create) and isinstance(part, OvsPort) and not self._mtu_request:
            step = Create(replace(part, mtu_request=None))
        return switch_words(step, qos.get(part.name, ()), self._settings.vhost_socket_dir)

    def _resolved(self, steps: Sequence[Step], deadline: float) -> list[Outcome]:
        """A command line that did not end: committed and not acknowledged, or not known."""
        try:
            state = self.observe({step.part.name for step in steps}, deadline).state
        except ExecutorError:
            reason = "ovs-vsctl did not end before the deadline; whether its transaction takes effect is not known"
            return [Outcome(step, Result.UNKNOWN, reason) for step in steps]
        committed = all(_is_there(state.ports.get(step.part.name), step) for step in steps)
        if committed:
            return [Outcome(step, Result.CONFIGURED, NOT_ACKNOWLEDGED) for step in steps]
        reason = "ovs-vsctl did not end before the deadline, and its transaction has not been seen"
        return [Outcome(step, Result.UNKNOWN, reason) for step in steps]

    def _settled(self, steps: Sequence[Step], warnings: str, deadline: float) -> list[Outcome]:
        """What ovs-vswitchd made of it: ovs-vsctl exits 0 whatever that is. warnings: what it printed."""
        # A row that a rollback leaves without its device, as it was found, is as it should be.
        changed = [
            step.part.name
            for step in steps
            if isinstance(step.part, OvsPort) and step.part.realized and not isinstance(step, Delete)
        ]
        rows = self._rows_told(changed, deadline) if changed else {}
        outcomes = []
        for step in steps:
            name = step.part.name
            reason = (complaint_about(rows.get(name)) or _detected(warnings, name)) if name in changed else ""
            outcomes.append(not_realized(step, reason) if reason else Outcome(step, Result.DONE))
        return outcomes

    def _rows_told(self, names: Collection[str], deadline: float) -> dict[str, Row]:
        """These rows, once ovs-vswitchd has told what it made of them, or has not for a while."""
        end = min(deadline, time.monotonic() + SETTLE)
        while True:
            rows = {row.name: row for row in self._read(names, deadline)[0]}
            if not any(map(is_undecided, rows.values())) or time.monotonic() >= end:
                return rows

    def _read(self, names: Collection[str] | None, deadline: float) -> tuple[list[Row], dict[str, str], str]:
        """The rows under these names, the bridges, and the version, in one command line."""
        columns = {
            "Interface": f"name,type,external_ids,ofport,error,options{self._mtu_request}",
            "Port": "_uuid,name,interfaces,tag",
        }
        wanted = sorted(name for name in names or () if key_of(name))
        words = ["--", "--columns=name,ports,datapath_type", "list", "Bridge"]
        words += ["--", "--columns=ovs_version", "list", "Open_vSwitch"]
        if names is None or wanted:
            for table, some in columns.items():
                words += ["--", "--if-exists", f"--columns={some}", "list", table, *wanted]
            # A Port holds its Interfaces by uuid.
            words += ["--", "--if-exists", "--columns=_uuid,name", "list", "Interface", *wanted]
        done = self._run(words, deadline, options=["--format=json", "--no-wait"])
        if done.expired or done.code < 0:
            raise ExecutorError(f"OVSDB at {self._database} does not answer ovs-vsctl (is ovsdb-server hung?)")
        if done.code and self._mtu_request and "mtu_request" in done.stderr:
            # It came with Open vSwitch 2.6.
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
        interfaces, ports, uuids = tables or ([], [], [])
        version = next((str(one["ovs_version"]) for one in root if one["ovs_version"]), "")
        rows = _rows(interfaces, ports, uuids, bridges)
        return (
            list(rows),
            {one["name"]: one["datapath_type"] for one in bridges},
            version,
        )

    def _qos_rows(self, steps: Sequence[Step], deadline: float) -> dict[str, list[str]]:
        """By the name of a port of these steps: the uuids of the QoS rows that go with it."""
        names = ports_with_qos(steps)
        if not names:
            return {}
        words = ["--", "--columns=_uuid,external_ids", "list", "QoS", "--", "--columns=name,qos", "list", "Port"]
        done = self._run(words, deadline, options=["--format=json", "--no-wait"])
        if done.expired or done.code:
            raise ExecutorError(f"cannot read the QoS rows of OVSDB at {self._database}: {done.said or 'no answer'}")
        rows, ports = [list(_records(line)) for line in lines_of(done.stdout) if line.strip()]
        return {
            name: [
                row["_uuid"]
                for row in rows
                if goes_with(name, row["external_ids"], [one["name"] for one in ports if one["qos"] == row["_uuid"]])
            ]
            for name in names
        }

    def _emptied(self, steps: Sequence[Step], deadline: float) -> list[str]:
        """The trunk bridges that are left empty, and are to go."""
        bridge_of = {step.part.name: step.part.bridge for step in steps if isinstance(step.part, OvsPort)}
        trunks = trunks_left(steps, bridge_of, self._settings)
        return [name for name in trunks if self._may_go(name, deleted_ports(steps), deadline)]

    def _may_go(self, bridge: str, gone: Collection[str], deadline: float) -> bool:
        """Whether nothing is left in a trunk bridge, once these ports are gone, but Neutron's patch ports."""
        done = self._run(["--", "list-ports", bridge, "--", "list-ifaces", bridge], deadline, options=["--no-wait"])
        rest = sorted({*lines_of(done.stdout), ""} - {"", *gone})
        if done.code or not rest:
            return not done.code
        words = ["--", "--if-exists", "--columns=name,type", "list", "Interface", *rest]
        told = self._run(words, deadline, options=["--format=json", "--no-wait"])
        if told.code:
            return False
        rows = [row for line in lines_of(told.stdout) if line.strip() for row in _records(line)]
        kinds = {row["name"]: row["type"] for row in rows}
        return all(is_trunk_patch(name, kinds.get(name, "")) for name in rest)

    def _run(self, words: Sequence[str], deadline: float, *, options: Sequence[str] = ()) -> Finished:
        # ovs-vsctl counts whole seconds; what is left of one is ours to end.
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
    """The step, taking a port from the bridge where it was found: nobody has judged what the caller says of that."""
    found = state.ports.get(step.part.name)
    if not isinstance(found, OvsPort):
        return step
    if isinstance(step, Delete):
        return Delete(found)
    if isinstance(step, Update) and isinstance(step.before, OvsPort) and "bridge" in changes_of(step):
        return Update(replace(step.before, bridge=found.bridge), step.after)
    return step


def _is_there(part: Part | None, step: Step) -> bool:
    """Whether what the step writes has been committed."""
    if isinstance(step, Delete):
        return part is None
    if not isinstance(part, OvsPort):
        return False
    written = changes_of(step) if isinstance(step, Update) else {name: getattr(step.part, name) for name in IDS}
    return all(getattr(part, name) == value for name, value in written.items() if name != "realized")


def _detected(warnings: str, name: str) -> str:
    """What ovs-vsctl said of a port that could not be set up, in a warning and with exit code 0."""
    for line in lines_of(warnings):
        if "Error detected while setting up" in line and f"'{name}'" in line:
            return f"ovs-vswitchd did not take {name}: {escaped(line.split(': ', 1)[-1].rstrip('.'))}"
    return ""


def _records(line: str) -> Iterator[dict[str, Any]]:
    """The records of one table as ovs-vsctl's JSON has them (RFC 7047 section 5.1, sets and maps as pairs)."""
    table = json.loads(line)
    for values in table["data"]:
        yield {heading: _value(value) for heading, value in zip(table["headings"], values, strict=True)}


def _value(value: Any) -> Any:
    match value:
        case ["set", list(members)]:
            return [_value(member) for member in members]
        case ["map", list(pairs)]:
            return {_value(key): _value(one) for key, one in pairs}
        case ["uuid", str(text)]:
            return text
    return value


def _members(value: Any) -> list[Any]:
    """A set column, which OVSDB spells as the bare value where it has one member."""
    return value if isinstance(value, list) else [value]


def _rows(interfaces: list[Any], ports: list[Any], uuids: list[Any], bridges: list[Any]) -> Iterator[Row]:
    names = {one["_uuid"]: one["name"] for one in uuids}
    by_name = {port["name"]: port for port in ports}
    holders = {uuid: bridge["name"] for bridge in bridges for uuid in _members(bridge["ports"])}
    for one in interfaces:
        name = one["name"]
        port = by_name.get(name)
        alone = port is not None and [names.get(uuid) for uuid in _members(port["interfaces"])] == [name]
        ofport, error = _members(one["ofport"]), _members(one["error"])
        tag = _members(port["tag"]) if port is not None and alone else []
        yield Row(
            name=name,
            bridge=holders.get(port["_uuid"]) if port is not None and alone else None,
            type=one["type"],
            external_ids=one["external_ids"],
            ofport=ofport[0] if ofport else None,
            error=error[0] if error else "",
            tag=tag[0] if tag else None,
            options=one["options"],
            mtu_request=next(iter(_members(one["mtu_request"])), 0) if "mtu_request" in one else None,
        )
