"""The audit: one log line per changed port, from the daemon through the channel to the formatters of the client."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from oslo_log.formatters import JSONFormatter

from hybridvif.model.parts import IvsPort, Veth
from hybridvif.model.port import desired_state
from hybridvif.model.report import Outcome, Result
from hybridvif.model.state import Create, Delete, Update
from hybridvif.privileged.channel import Channel, Message
from hybridvif.privileged.execute import audit_of
from hybridvif.privileged.main import Sender
from tests.support.answers import ID, PORT

BRIDGE, VETH, ROW = desired_state(PORT)
assert isinstance(VETH, Veth)
PLUGGED = [
    Outcome(Create(BRIDGE), Result.DONE),
    Outcome(Update(replace(VETH, mtu=1400), VETH), Result.DONE),
    Outcome(Delete(ROW), Result.FAILED, "no"),
]


class Kept(logging.Handler):
    """A handler that keeps its records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def through_the_channel(level: int = logging.INFO) -> Iterator[tuple[Sender, Kept]]:
    """A sender of the daemon, and the handler of the client's logger."""
    near, far = socket.socketpair()
    log, kept = logging.getLogger("hybridvif.privileged.of-this-test"), Kept()
    log.setLevel(level)
    log.addHandler(kept)
    channel = Channel(far, log)
    with near:
        yield Sender(near), kept
    channel.close()
    log.removeHandler(kept)


def sent(level: int = logging.INFO) -> list[logging.LogRecord]:
    """Return what the client's handlers get of the audit."""
    with through_the_channel(level) as (sender, kept):
        record = logging.LogRecord("hybridvif.privileged.execute", logging.INFO, __file__, 1, "text", (), None)
        record.audit = audit_of(PLUGGED)
        sender.handle(record)
        sender.send(("id", (Message.RET.value, ["ok"])))
    return kept.records


def test_audit_names_port_and_each_change_with_values() -> None:
    audit = audit_of(PLUGGED)
    assert (audit["port"], audit["done"]) == (ID, False)
    assert audit["changes"] == [
        {"verb": "create", "kind": "bridge", "name": BRIDGE.name, "result": "done", "reason": "", "attributes": {}},
        {
            "verb": "update",
            "kind": "veth",
            "name": VETH.name,
            "result": "done",
            "reason": "",
            "attributes": {"mtu": [1400, 1450]},
        },
        {"verb": "delete", "kind": "ovs-port", "name": ROW.name, "result": "failed", "reason": "no", "attributes": {}},
    ]


def test_audit_of_parts_without_a_tag_names_the_key() -> None:
    row = IvsPort(name=PORT.names.switch_end)
    assert audit_of([Outcome(Create(row), Result.DONE)])["port"] == ID[:11]
    assert audit_of([Outcome(Create(row), Result.DONE)])["done"] is True


def test_json_formatter_of_oslo_log_writes_the_audit() -> None:
    (record,) = sent()
    document = json.loads(JSONFormatter().format(record))
    assert document["message"] == "text"
    assert document["extra"] == {**audit_of(PLUGGED), "client_pid": os.getpid(), "client_uid": os.getuid()}


def test_journald_gets_fields_with_legal_names_and_text() -> None:
    (record,) = sent()
    fields = {name: value for name, value in vars(record).items() if name.startswith("HYBRIDVIF_")}
    assert all(re.fullmatch("[A-Z][A-Z0-9_]{0,63}", name) and type(value) is str for name, value in fields.items())
    assert fields["HYBRIDVIF_PORT"] == ID
    assert fields["HYBRIDVIF_DONE"] == "false"
    assert fields["HYBRIDVIF_CLIENT_UID"] == str(os.getuid())
    assert json.loads(fields["HYBRIDVIF_CHANGES"]) == audit_of(PLUGGED)["changes"]


@pytest.mark.parametrize(("level", "count"), [(logging.INFO, 1), (logging.WARNING, 0)])
def test_audit_follows_the_level_of_the_logger(level: int, count: int) -> None:
    assert len(sent(level)) == count
