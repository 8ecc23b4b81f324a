"""Fault 24: invalid input is reported with field, value and rule, in one sentence, with exit code 2."""

from __future__ import annotations

import io
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from hybridvif import Port, cli
from hybridvif.cli.portfile import LIMIT, read_ports
from hybridvif.cli.ports import FIELDS, PLACEHOLDERS, PortRequest, options_of, requested_ports
from hybridvif.model.errors import InvalidInput
from hybridvif.model.port import VifType
from tests.support.answers import ID, MAC, OPTIONS, OTHER_ID, PORT, VM
from tests.support.schemas import validate

ENTRY: dict[str, Any] = {"id": ID, "mac": MAC, "instance_id": VM}


def file_of(directory: Path, content: object) -> str:
    path = directory / "ports.yaml"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["plug", "nonsense", *OPTIONS], ["port id 'nonsense'", "UUID"]),
        (["plug", ID.upper(), *OPTIONS], ["port id", f"write it as {ID}"]),
        (["plug", ID, "--mac", "01:00:5e:00:00:01", "--instance", VM], ["mac '01:00:5e:00:00:01'", "unicast"]),
        (["plug", ID, "--mac", MAC, "--instance", "vm"], ["instance_id 'vm'", "UUID"]),
        (["plug", ID, "--mac", MAC, "--instance", VM.upper()], ["instance_id", f"write it as {VM}"]),
        (["plug", ID, *OPTIONS, "--interface-id", "x"], ["interface_id 'x'", "UUID"]),
        (["plug", ID, *OPTIONS, "--mtu", "67"], ["mtu 67", "68 to 65535"]),
        (["plug", ID, *OPTIONS, "--mtu", "big"], ["mtu 'big'", "68 to 65535"]),
        (["plug", ID, *OPTIONS, "--bridge", "a/b"], ["bridge 'a/b'", "letters"]),
        (["plug", ID, "--mac", MAC], [ID, "instance_id", "--instance"]),
        (["plug", ID, "--mtu", "1500", "--dry-run"], [ID, "--mac and --instance"]),
        (["plug"], ["name a port"]),
        (["plug", ID, "-F", "x"], ["-F stands for all ports"]),
        (["unplug", ID, ID], [ID, "more than once"]),
        (["unplug", "x"], ["port id 'x'", "UUID"]),
        (["check", "x"], ["port id 'x'", "UUID"]),
        (["check", ID, OTHER_ID, "--mtu", "1500"], ["for one port", "-F"]),
        (["plan", "plug", ID, "--mac", "x"], ["mac 'x'"]),
        (["plan", "plug", ID, *OPTIONS, "--force"], ["--force"]),
        (["plan", "unplug", ID, "--mtu", "1500"], ["no more of a port than its id"]),
        (["show", "x"], ["port id 'x'", "UUID"]),
        (["check", "tapxf2c0e1a-7b"], ["is not a UUID", "or a name of a plugged port, such as tap5f2c0e1a-7b"]),
        (["check", "--all", ID], ["--all stands for all ports"]),
        (["check", "--all", "--mtu", "1500"], ["--all stands for all ports"]),
        (["unplug", ID, "--detailed-exitcode"], ["--detailed-exitcode is for --dry-run"]),
    ],
)
def test_invalid_option_is_reported_in_one_line(
    words: list[str], fragments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert len(captured.err.splitlines()) == 1
    assert all(fragment in captured.err for fragment in fragments)


@pytest.mark.parametrize(
    ("content", "fragments"),
    [
        ("", ["nothing in it"]),
        ("# nothing\n", ["nothing in it"]),
        (ENTRY, ["a mapping, not a list"]),
        ("plug", ["text, not a list"]),
        ([5], ["entry 1", "a number, not a mapping"]),
        ([ENTRY, None], ["entry 2", "empty, not a mapping"]),
        ([{**ENTRY, "macc": 1}], ["entry 1", "unknown field 'macc'", "instance_id", "did you mean mac?"]),
        ([ENTRY, {"mac": MAC}], ["entry 2", "field 'id' is missing"]),
        ([{"id": ID, "mac": MAC}], ["entry 1", "instance_id"]),
        ([{**ENTRY, "mac": "fa:16"}], ["entry 1", "mac 'fa:16'", "unicast"]),
        ([{**ENTRY, "mac": [MAC]}], ["entry 1", "field 'mac' is a list"]),
        ([{**ENTRY, "mtu": 67}], ["entry 1", "mtu 67"]),
        ([{**ENTRY, "mtu": True}], ["entry 1", "mtu True"]),
        ([{**ENTRY, "mtu": "1500"}], ["entry 1", "mtu '1500'"]),
        ([{**ENTRY, "vif_type": "vhostuser"}], ["entry 1", "vif_type 'vhostuser'", "ovs, ivs"]),
        ([ENTRY, ENTRY], ["entry 2", ID, "entry 1 too"]),
        (f"- id: {ID}\n  mac: {MAC}\n  mac: {MAC}\n", ["'mac' is there twice", "line 1"]),
        ("- {id: [", ["neither YAML nor JSON", "line 1"]),
        ("- !!python/object/apply:os.getcwd []", ["neither YAML nor JSON"]),
        ("- ? [1]\n  : 2\n", ["neither YAML nor JSON"]),
    ],
)
def test_invalid_file_is_reported_with_file_entry_and_field(
    content: object, fragments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = file_of(tmp_path, content)
    assert cli.main(["plug", "-F", name]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {name}: ")
    assert len(captured.err.splitlines()) == 1
    assert all(fragment in captured.err for fragment in fragments)


def test_unreadable_file_is_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, reason in (
        (tmp_path, "Is a directory"),
        (tmp_path / "no", "No such file"),
        (tmp_path / "binary", "UTF-8"),
    ):
        assert cli.main(["plug", "-F", str(name)]) == 2
        assert reason in capsys.readouterr().err


def test_error_with_json_format_is_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plug", ID, "--mac", "x", "--instance", VM, "-f", "json"]) == 2
    captured = capsys.readouterr()
    error = validate(json.loads(captured.out))["error"]
    assert (error["code"], error["exit_code"]) == ("invalid-input", 2)
    assert captured.err == f"error: {error['message']}\n"


def test_usage_error_with_json_format_is_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["-f", "json", "plug", "--macc"]) == 2
    assert validate(json.loads(capsys.readouterr().out))["error"]["code"] == "usage"


def test_port_file_may_be_yaml_or_json(tmp_path: Path) -> None:
    written = f"- {{id: {ID}, mac: {MAC}, instance_id: {VM}, mtu: 1450}}\n- id: {OTHER_ID}\n"
    as_json = [{**ENTRY, "mtu": 1450}, {"id": OTHER_ID}]
    assert read_ports(file_of(tmp_path, written)) == [
        PortRequest(fields=entry, where=request.where)
        for entry, request in zip(as_json, read_ports(file_of(tmp_path, as_json)), strict=True)
    ]


@pytest.mark.parametrize("mac", ["52:54:00:12:34:56", "10:20:30:40:50:58", "00:11:22:33:44:55"])
def test_mac_of_digits_is_not_a_sexagesimal_number(mac: str, tmp_path: Path) -> None:
    (port,) = read_ports(file_of(tmp_path, f"- {{id: {ID}, mac: {mac}, instance_id: {VM}}}"))
    assert port.to_port().mac == mac


def test_port_file_may_be_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps([ENTRY]).encode())))
    (port,) = read_ports("-")
    assert port.to_port() == Port(**ENTRY)
    assert port.where == "stdin: entry 1"


def test_port_file_accepts_every_field(tmp_path: Path) -> None:
    full: dict[str, Any] = {**ENTRY, "interface_id": OTHER_ID, "mtu": 9000, "bridge": "br-x", "vif_type": "ovs"}
    full |= {
        "call_iptables": True,
        "isolate": True,
        "create_tap": True,
        "multiqueue": True,
        "vhostuser_mode": "",
        "qos_type": "linux-noop",
        "datapath_type": "netdev",
    }
    assert set(full) == {spec.name for spec in fields(Port)} == set(FIELDS)
    (port,) = read_ports(file_of(tmp_path, [full]))
    assert port.to_port() == Port(**{**full, "vif_type": VifType.OVS})
    (port,) = read_ports(file_of(tmp_path, [{**ENTRY, "vhostuser_mode": "server"}]))
    assert port.to_port() == Port(**ENTRY, vhostuser_mode="server")


def test_options_of_a_port_parse_to_the_same_port() -> None:
    full = Port(id=ID, mac=MAC, instance_id=VM, interface_id=OTHER_ID, mtu=9000, bridge="br-x")
    full = replace(full, call_iptables=True, isolate=True, qos_type="none", datapath_type="system")
    tapped = replace(full, create_tap=True, multiqueue=True)
    for port in (PORT, full, tapped, replace(full, call_iptables=False, vhostuser_mode="client")):
        (asked,) = requested_ports(cli.parse_arguments(["plug", *options_of(port)]))
        assert asked.to_port() == port


def test_unknown_options_have_their_metavar_as_value() -> None:
    assert options_of(PORT, ("mac",)) == [ID, "--mac", "MAC", "--instance", VM, "--mtu", "1450"]


def test_port_request_validates_the_given_fields() -> None:
    with pytest.raises(InvalidInput, match="mtu 67"):
        PortRequest(fields={"id": ID, "mtu": 67})
    assert PortRequest(fields={"id": ID}).missing == ("mac", "instance_id") == tuple(PLACEHOLDERS)


def test_endless_file_of_ports_is_bad_input() -> None:
    with pytest.raises(InvalidInput, match=f"/dev/zero: it has more than {LIMIT >> 20} MiB"):
        read_ports("/dev/zero")
