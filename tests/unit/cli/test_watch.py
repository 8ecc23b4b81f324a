"""hybridvif watch: the events of a host, and the repair of ports that drift."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from hybridvif import RecordingHost, plug, unplug
from hybridvif.cli import parse_arguments
from hybridvif.cli.commands import list as listing, watch as command
from hybridvif.cli.commands.watch import Session
from hybridvif.cli.terminal import Answer, Terminal, enveloped
from hybridvif.engine import watch as watching
from hybridvif.engine.watch import Watch
from hybridvif.model.errors import HybridVifError, InvalidInput, NotReady
from hybridvif.model.parts import Tap
from hybridvif.model.state import Update
from tests.support.answers import ID, OTHER, OTHER_ID, PORT, QBR, QVB, QVO, TAP, VM, plugged, text_of
from tests.support.schemas import schema_of, validate

KEY = ID[:11]
SLICE, QUIET = 0.1, 3
"""Seconds of a run of the session, and runs without an event after which none is expected."""


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses."""
    monkeypatch.setattr(command, "SETTLE", 0.02)
    monkeypatch.setattr(watching, "REST", 0.01)
    monkeypatch.setattr(watching, "RETRY", 0.01)


class Run:
    """A session whose output is stored."""

    def __init__(self, host: RecordingHost, port_ids: Sequence[str] = (), limit: int = 0) -> None:
        self.texts, self.documents, self.repairs = list[str](), list[Any](), list[float]()
        self.session = Session(host, [*port_ids], self._write, limit)

    def _write(self, answer: Answer) -> None:
        document = validate(json.loads(json.dumps(enveloped(answer.document, "watch"))))
        cases = {case["if"]["properties"]["event"]["const"]: case["then"] for case in schema_of("watch")["allOf"]}
        # Each event has exactly its own keys.
        assert {*document} == {*schema_of("watch")["required"], *cases[document["event"]]["required"]}
        self.documents.append(document)
        self.repairs += [time.monotonic()] * (document["event"] == "repair")
        self.texts.append(text_of(answer).partition("  ")[2])

    def on(self, *changes: Callable[[], object]) -> list[str]:
        """Return the lines after each change."""
        before = len(self.texts)
        for change in changes:
            change()
            quiet = 0
            while quiet < QUIET:
                count = len(self.texts)
                self.session.run(time.monotonic() + SLICE)
                quiet = quiet + 1 if len(self.texts) == count else 0
        return self.texts[before:]

    def events(self, kind: str) -> list[Any]:
        return [document for document in self.documents if document["event"] == kind]

    def undo_until(self, undo: Callable[[], object], kind: str, count: int) -> None:
        """Undo each repair at once, until there are so many events of a kind."""
        end = time.monotonic() + 60
        while len(self.events(kind)) < count and time.monotonic() < end:
            undo()
            self.session.run(time.monotonic() + SLICE / 5)


def alter(host: RecordingHost, name: str, **values: object) -> None:
    """Change attributes of a link, as another tool would."""
    link: Any = host.state.links[name]
    host.state = host.state.with_parts(replace(link, **values))


def set_mtu(host: RecordingHost, mtu: int) -> None:
    alter(host, QBR, mtu=mtu)


def test_session_begins_with_the_number_of_ports() -> None:
    host = plugged(PORT, OTHER)
    set_mtu(host, 1400)
    run = Run(host)
    run.session.begin()
    assert run.texts == ["watching 2 ports, 1 of them not in order"]


def test_drift_is_reported_with_both_values_and_both_states() -> None:
    host = plugged(PORT)
    run = Run(host)
    assert run.on(lambda: set_mtu(host, 1400), lambda: set_mtu(host, 1450)) == [
        f"{ID}  {QBR}: mtu 1450 -> 1400",
        f"{ID}  drift: {QBR}: mtu 1400 -> ?",
        f"{ID}  {QBR}: mtu 1400 -> 1450",
        f"{ID}  in-order",
    ]
    change, state = run.documents[:2]
    assert [change[key] for key in ("port", "key", "attribute", "before", "after")] == [ID, KEY, "mtu", 1450, 1400]
    assert [state[key] for key in ("before", "after")] == ["in-order", "drift"]
    assert [item["attribute"] for item in state["drift"]] == ["mtu", "mtu", "peer_mtu"]


def test_port_that_comes_or_goes_is_one_event() -> None:
    host = RecordingHost()
    run = Run(host)
    assert run.on(lambda: plug(PORT, host), lambda: unplug(ID, host)) == [f"{ID}  in-order", f"{ID}  gone"]
    assert [(document["port"], document["after"]) for document in run.documents] == [(ID, "in-order"), (ID, None)]


def test_port_without_evidence_of_its_id_is_named_by_its_key() -> None:
    host = plugged(PORT)
    host.state = host.state.without(host.state.links[QBR]).without(host.state.ports[QVO])
    alter(host, QVB, alias="", peer_alias="")
    run = Run(host)
    assert run.on(lambda: alter(host, QVB, up=False)) == [f"{KEY}...  {QVB}: up -> down"]


def test_vm_that_starts_and_stops_is_reported() -> None:
    host = plugged(PORT)
    host.state = host.state.with_parts(Tap(name=TAP, master=QBR))
    run = Run(host)
    assert run.on(lambda: host.carrier.add(TAP), host.carrier.clear) == [
        f"{ID}  the VM on {TAP} runs",
        f"{ID}  the VM on {TAP} has stopped",
    ]


def test_only_named_ports_are_watched() -> None:
    host = plugged(PORT, OTHER)
    run = Run(host, [OTHER_ID])
    run.session.begin()
    assert run.on(lambda: set_mtu(host, 1400), lambda: unplug(OTHER_ID, host)) == [f"{OTHER_ID}  gone"]
    assert run.texts[0] == "watching 1 ports, 0 of them not in order"


def test_host_that_fails_is_reported_and_watched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(RecordingHost):
        error: HybridVifError | None = None

        def next_observation(self, *arguments: Any) -> Any:
            if self.error:
                raise self.error
            return super().next_observation(*arguments)

    host = Failing(plugged(PORT).state)
    run = Run(host)
    monkeypatch.setattr(watching, "MAX_DEADLINE", 0.02)
    failure = HybridVifError("no OVSDB")
    assert run.on(lambda: setattr(host, "error", failure), lambda: setattr(host, "error", None)) == [
        "the host cannot be observed: no OVSDB",
        "the host is observed again",
    ]


# -- repair ------------------------------------------------------------------------------------------------------------


def test_drift_is_repaired_and_reported() -> None:
    host = plugged(PORT)
    run = Run(host, limit=3)
    assert run.on(lambda: set_mtu(host, 1400))[2:] == [
        f"{ID}  repaired: 1 changed",
        f"{ID}  {QBR}: mtu 1400 -> 1450",
        f"{ID}  in-order",
    ]
    assert [event["status"] for event in run.events("repair")] == ["done"]


def test_repair_restores_the_port_as_it_was_last_in_order() -> None:
    """The three devices do not tell the MTU, and two that differ alike would tell a wrong one."""
    host = plugged(PORT)
    run = Run(host, limit=3)
    run.on(lambda: alter(host, QVB, mtu=1300, peer_mtu=1300))
    assert host.state == plugged(PORT).state


def test_port_with_drift_from_the_start_is_repaired_by_its_row() -> None:
    host = plugged(PORT)
    alter(host, QBR, up=False)
    run = Run(host, limit=3)
    run.on(lambda: None)
    assert host.state == plugged(PORT).state


def test_port_whose_values_are_unknown_is_left_and_said_once() -> None:
    host = plugged(PORT)
    set_mtu(host, 1400)
    alter(host, QVB, mtu=1300)
    run = Run(host, limit=3)
    run.on(lambda: None, lambda: host.carrier.add(QVB), lambda: None)
    assert run.texts == [f"{ID}  its mtu cannot be inferred; give --mtu"]
    assert host.steps == []


def test_port_of_another_tool_is_left() -> None:
    host = plugged(PORT)
    alter(host, QBR, alias="")
    alter(host, QVB, alias="", peer_alias="")
    run = Run(host, limit=3)
    run.on(lambda: set_mtu(host, 1400))
    assert host.steps == []


def incomplete(host: RecordingHost, *, running: bool) -> None:
    host.state = host.state.with_parts(Tap(name=TAP, master=QBR)).without(host.state.links[QVB])
    host.carrier = {TAP} if running else set()


@pytest.mark.parametrize("running", [True, False])
def test_incomplete_port_is_repaired_if_its_vm_runs(running: bool) -> None:
    host = plugged(PORT)
    run = Run(host, limit=3)
    run.on(lambda: incomplete(host, running=running))
    assert (QVB in host.state.links) is running


def test_repair_that_is_undone_again_and_again_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "WINDOW", 2.0)
    host = plugged(PORT, OTHER)
    run = Run(host, limit=2)
    run.undo_until(lambda: set_mtu(host, 1400), "repair", 5)
    assert len(run.events("limit")) == 1
    assert f"{ID}  2 repairs within a minute failed or were undone; it goes on slowly" in run.texts
    # At most two within two seconds. An event comes after its repair.
    assert all(later - earlier > 1.0 for earlier, later in zip(run.repairs, run.repairs[2:], strict=False))
    # The other port has a limit of its own.
    run.on(lambda: alter(host, OTHER.names.bridge, mtu=1400))
    assert OTHER_ID in [event["port"] for event in run.events("repair")]


def test_limit_is_reported_again_after_a_quiet_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "WINDOW", 1.5)
    host = plugged(PORT)
    run = Run(host, limit=1)
    for number in (1, 2):
        run.undo_until(lambda: set_mtu(host, 1400), "limit", number)
        assert len(run.events("limit")) == number
        time.sleep(1.5)
        run.on(lambda: None)
        time.sleep(1.5)


def test_failed_repair_is_reported_with_its_reason() -> None:
    host = plugged(PORT)
    host.fail(verb=Update, reason="the kernel refused")
    run = Run(host, limit=3)
    run.on(lambda: set_mtu(host, 1400))
    (repair,) = run.events("repair")
    assert (repair["ok"], repair["status"]) == (False, "rolled-back")
    assert "the kernel refused" in repair["reason"]


def test_port_that_another_call_has_plugged_meanwhile_is_left() -> None:
    """Under the lock the port is in order with another MTU. That plug was later, so it counts."""

    class Meanwhile(RecordingHost):
        def locked(self, keys: Any, deadline: float) -> Any:
            self.state = plugged(replace(PORT, mtu=1300)).state
            return super().locked(keys, deadline)

    host = Meanwhile(plugged(PORT).state)
    run = Run(host, limit=3)
    run.on(lambda: set_mtu(host, 1400))
    assert run.events("repair") == []
    assert host.steps == []


def test_port_that_is_gone_is_not_plugged_again() -> None:
    class Gone(RecordingHost):
        def locked(self, keys: Any, deadline: float) -> Any:
            self.state = RecordingHost().state
            return super().locked(keys, deadline)

    host = Gone(plugged(PORT).state)
    run = Run(host, limit=3)
    run.on(lambda: set_mtu(host, 1400))
    assert host.steps == []


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["nonsense"], ["--limit", "0"]])
def test_invalid_argument_is_bad_input(words: list[str]) -> None:
    args = parse_arguments(["watch", *words])
    with pytest.raises(InvalidInput):
        command.run(args)


@pytest.mark.parametrize("word", [ID, TAP, ID[:11], VM])
def test_watched_port_is_found_by_any_of_its_names(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ending(RecordingHost):
        def next_observation(self, names: Any, digest: str, deadline: float) -> Any:
            if digest:
                raise KeyboardInterrupt
            return super().next_observation(names, digest, deadline)

    host, texts = Ending(plugged(PORT).state), list[str]()
    monkeypatch.setattr(command, "connected", lambda *_: nullcontext(host))
    args = parse_arguments(["watch", word])
    args.terminal = SimpleNamespace(write_event=lambda answer: texts.append(text_of(answer)))
    assert command.run(args) == 130
    assert [text.partition("  ")[2] for text in texts] == ["watching 1 ports, 0 of them not in order"]


def test_each_event_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal("json", parse_arguments(["watch", "-f", "json"]))
    session = Session(plugged(PORT), [], terminal.write_event)
    session.begin()
    session.begin()
    assert [validate(json.loads(line))["event"] for line in capsys.readouterr().out.splitlines()] == ["watching"] * 2


def test_list_is_written_again_after_each_change(capsys: pytest.CaptureFixture[str]) -> None:
    class Ending(RecordingHost):
        waits = 0

        def next_observation(self, names: Any, digest: str, deadline: float) -> Any:
            self.waits += bool(digest)
            if self.waits > 1:
                raise KeyboardInterrupt
            if digest:
                set_mtu(self, 1400)
            return super().next_observation(names, digest, deadline)

    host, terminal = Ending(plugged(PORT).state), Terminal("value", parse_arguments(["list", "-c", "state"]))
    with pytest.raises(KeyboardInterrupt):
        listing.watch_list(Watch(host), terminal, lambda: listing.list_of(host))
    assert capsys.readouterr().out == "in-order\ndrift\n"


def test_list_is_written_again_once_the_host_is_back(capsys: pytest.CaptureFixture[str]) -> None:
    """Open vSwitch restarts: neither the watch nor the list can observe the host for some time."""

    class Restarting(RecordingHost):
        looks = 0

        def observe(self, names: Any, deadline: float) -> Any:
            self.looks += 1
            if self.looks == 3:
                set_mtu(self, 1400)
            if self.looks > 9:
                raise KeyboardInterrupt
            if 3 <= self.looks < 7:
                raise NotReady("OVSDB closed the connection")
            return super().observe(names, deadline)

    host, terminal = Restarting(plugged(PORT).state), Terminal("value", parse_arguments(["list", "-c", "state"]))
    with pytest.raises(KeyboardInterrupt):
        listing.watch_list(Watch(host), terminal, lambda: listing.list_of(host))
    written = capsys.readouterr()
    assert [*dict.fromkeys(written.out.splitlines())] == ["in-order", "drift"]
    assert written.err.splitlines() == ["warning: OVSDB closed the connection", "warning: the host is observed again"]
