"""Foreign text in a row, an alias or a name: the object is observed, repaired and deleted."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping

import pytest

from hybridvif import Bridge, OvsPort, Status, plug, unplug
from hybridvif.model.errors import MAX_SHOWN, escaped
from hybridvif.model.parts import ForeignObject, Role
from hybridvif.privileged.execute import installed
from tests.contract.bench import PATIENCE, Bench
from tests.functional.conftest import make_port
from tests.support.sizes import sample

PORT = make_port()
QBR, QVB, QVO, TAP, _ = PORT.names
LINKS = [{"link_executor": name} for name in installed(Role.LINK) if name != "recording"]
SWITCHES = [{"switch_executor": name} for name in installed(Role.SWITCH) if name not in ("recording", "ivs-ctl")]
TEXTS = {
    "line-separator": "a\u2028b",
    "paragraph-separator": "a\u2029b",
    "next-line": "a\x85b",
    "file-separator": "a\x1cb",
    "group-separator": "a\x1db",
    "record-separator": "a\x1eb",
    "escape": "\x1b[31mred\x1b]0;title\x07",
    "start": "\x01\x02",
    "delete": "a\x7fb",
    "newline": "a\nb",
    "return": "a\rb",
    "form-feed": "a\x0b\x0cb",
    "quotes": 'it\'s "a" \\ `b` $c # d',
    "right-to-left": "a\u202eb\ufeff",
    "emoji": "\U0001f600",
    "braces": '"}]}\n{"data":[]}',
    "empty-looking": "\u2028",
}


def samples_of(argument: str, cases: Mapping[str, str | bytes]) -> pytest.MarkDecorator:
    """Give a test every fourth case, and at full size all."""
    chosen = sample(cases, 4)
    return pytest.mark.parametrize(argument, [cases[key] for key in chosen], ids=chosen)


@pytest.fixture(scope="module", params=[*LINKS, *SWITCHES], ids=lambda executor: next(iter(executor.values())))
def executor(request: pytest.FixtureRequest) -> dict[str, str]:
    return dict(request.param)


def quoted(text: str) -> str:
    """Return a text quoted for ovs-vsctl."""
    return json.dumps(text)


@pytest.mark.prove
@samples_of("text", TEXTS)
def test_any_text_in_a_row_is_observed_and_mended(bench: Bench, text: str) -> None:
    assert plug(PORT, bench.host).ok
    keys = ("iface-id", "iface-status", "attached-mac", "vm-uuid", "hybridvif-port-id", "bridge_name", "other")
    ids = [f"external_ids:{key}={quoted(text)}" for key in keys]
    more = [f"other_config:x={quoted(text)}"]
    bench.box.run(["ovs-vsctl", "set", "Interface", QVO, *ids, *more])
    bench.box.run(["ovs-vsctl", "set", "Port", QVO, *more, "--", "set", "Bridge", "br-int", *more])
    try:
        for names in (set(PORT.names), None):
            row = bench.observed(names).state.ports[QVO]
            assert isinstance(row, OvsPort)
            assert {row.iface_id, row.attached_mac, row.vm_uuid, row.port_id} == {escaped(text)}
        assert plug(PORT, bench.host).changed
    finally:
        bench.sh("ovs-vsctl --no-wait remove Bridge br-int other_config x")

    assert dict(bench.row(QVO)["external_ids"][1])["iface-id"] == PORT.id
    assert dict(bench.row(QVO)["external_ids"][1])["other"] == text
    bench.box.run(["ovs-vsctl", "set", "Interface", QVO, *ids])
    assert unplug(PORT.id, bench.host).ok
    assert bench.row(QVO) == {}


@pytest.mark.prove
@samples_of("text", TEXTS)
def test_any_name_in_the_switch_leaves_ports_readable(bench: Bench, text: str) -> None:
    bench.box.run(["ovs-vsctl", "--no-wait", "add-port", "br-int", text, "--", "add-br", f"{text} bridge"])
    try:
        assert plug(PORT, bench.host).ok
        seen = bench.observed(None)
        assert QVO in seen.state.ports
        assert f"{text} bridge" in seen.facts.switches
        assert unplug(PORT.id, bench.host).ok
    finally:
        bench.box.run(["ovs-vsctl", "--no-wait", "del-port", text, "--", "del-br", f"{text} bridge"])


@pytest.mark.parametrize("text", [TEXTS["line-separator"], TEXTS["escape"], TEXTS["quotes"], "long" * 20])
def test_a_row_on_a_bridge_of_any_name_moves(bench: Bench, text: str) -> None:
    assert plug(PORT, bench.host).ok
    move = ["--", "--id=@p", "get", "Port", QVO, "--", "remove", "Bridge", "br-int", "ports", "@p"]
    bench.box.run(["ovs-vsctl", "--no-wait", "add-br", text, *move, "--", "add", "Bridge", text, "ports", "@p"])
    try:
        row = bench.see().ports[QVO]
        assert isinstance(row, OvsPort)
        assert row.bridge == text
        assert plug(PORT, bench.host).changed
        assert bench.box.run(["ovs-vsctl", "port-to-br", QVO]).stdout == "br-int\n"
    finally:
        bench.box.run(["ovs-vsctl", "--no-wait", "del-br", text])


def test_values_of_any_length_in_a_row_are_mended(bench: Bench) -> None:
    assert plug(PORT, bench.host).ok
    long = "x" * 70_000
    ids = [f"external_ids:{key}={long}" for key in ("iface-id", "attached-mac", "vm-uuid", "other")]

    def spoil() -> None:
        # One argument of a program is at most 128 KiB long.
        for column in ids:
            bench.box.run(["ovs-vsctl", "set", "Interface", QVO, column])

    spoil()
    row = bench.see().ports[QVO]
    assert isinstance(row, OvsPort)
    assert MAX_SHOWN < len(row.iface_id) < 2 * MAX_SHOWN
    assert plug(PORT, bench.host).changed
    assert plug(PORT, bench.host).status is Status.DONE
    spoil()
    assert unplug(PORT.id, bench.host).ok
    assert bench.row(QVO) == {}


ALIASES = {**TEXTS, "no-utf-8": "a\udcff\udcc3b", "longest": "\x1b" * 255}


@pytest.mark.prove
@samples_of("text", ALIASES)
def test_any_alias_is_observed_alike_and_mended(bench: Bench, text: str) -> None:
    assert plug(PORT, bench.host).ok
    for name in (QBR, QVB, QVO):
        bench.box.run(["ip", "link", "set", "dev", name, "alias", text])
    bench.box.run(["ip", "link", "add", "hvforeign", "type", "bridge"])
    bench.box.run(["ip", "link", "set", "dev", "hvforeign", "alias", text])
    for names in (set(PORT.names), None):
        bridge = bench.observed(names).state.links[QBR]
        assert isinstance(bridge, Bridge)
        assert bridge.alias == escaped(text)
    assert plug(PORT, bench.host).changed
    assert bench.link(QBR)["ifalias"] == PORT.id


NAMES = {
    "escape": b"hv\x1b[3m",
    "next-line": b"hv\xc2\x85x",
    "line-separator": b"hv\xe2\x80\xa8x",
    "no-utf-8": b"hv\xff",
    "quotes": b"hv'\"\\",
    "comment": b"hv#x",
    "word": b"type",
}


@pytest.mark.prove
@samples_of("name", NAMES)
def test_any_name_of_a_device_leaves_ports_readable(bench: Bench, name: bytes) -> None:
    assert plug(PORT, bench.host).ok
    text = os.fsdecode(name)
    bench.box.run(["ip", "link", "add", "name", text, "type", "veth", "peer", "name", "hvother"])
    bench.box.run(["ip", "link", "set", "dev", text, "master", QBR])
    bench.box.run(["ip", "link", "property", "add", "dev", QBR, "altname", f"{text}-alt"])
    try:
        for names in (set(PORT.names), None):
            seen = bench.observed(names)
            assert seen.facts.members[QBR] == tuple(sorted([escaped(text), QVB]))
            assert escaped(text) in seen.facts.links
        assert not plug(PORT, bench.host).changed
    finally:
        bench.sh("ip link delete hvother")


@pytest.mark.prove
@samples_of("name", NAMES)
def test_any_name_of_a_peer_is_a_stray(bench: Bench, name: bytes) -> None:
    text = os.fsdecode(name)
    bench.box.run(["ip", "link", "add", QVB, "type", "veth", "peer", "name", text])
    try:
        for names in (set(PORT.names), None):
            stray = bench.observed(names).state.links[QVB]
            assert isinstance(stray, ForeignObject)
            assert stray.what == f"a veth whose peer is {escaped(text)}"
    finally:
        bench.sh(f"ip link delete {QVB}")


def test_one_observation_ends_in_time_beside_large_rows(bench: Bench) -> None:
    """Ten rows of 100 kB each do not block the observation of a port."""
    for number in range(10):
        name, column = f"hv{number}", f"external_ids:k={'y' * 100_000}"
        bench.box.run(["ovs-vsctl", "--no-wait", "add-port", "br-int", name, "--", "set", "Interface", name, column])
    begun = time.monotonic()
    assert bench.observed(None).facts.switches
    assert time.monotonic() - begun < PATIENCE
