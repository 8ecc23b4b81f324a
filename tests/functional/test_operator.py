"""The commands of an operator who knows a tap or an instance, and has no file of ports."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from hybridvif import HostState, Port, plug_all
from hybridvif.cli.ports import options_of
from tests.functional.conftest import INSTANCE, Lab, make_port
from tests.functional.test_cli import Command


@pytest.fixture
def cli(lab: Lab) -> Command:
    """The command, on an empty host."""
    return Command(lab)


def test_commands_find_ports_by_device_name_key_and_instance(cli: Command, lab: Lab, port: Port) -> None:
    other = make_port(2, instance_id=port.id)
    cli.plug(port, other)
    for word in (port.names.tap, port.names.bridge, port.names.bridge_end, port.names.switch_end, port.id[:11]):
        assert cli.document("check", word)["ports"][0]["port"] == port.id
        assert cli.document("show", word)["ports"][0]["port"] == port.id
        assert cli.document("plan", "unplug", word)["ports"][0]["port"] == port.id
    assert [entry["port"] for entry in cli.document("check", INSTANCE)["ports"]] == [port.id]
    assert "did you mean" in cli("check", f"{port.names.switch_end[:-1]}9", exit_code=2).stderr

    # An id that is both of a port and of an instance names nothing for sure.
    assert "name-collision" in cli("unplug", port.id, "-f", "json", exit_code=6).stdout
    cli("unplug", other.names.tap, port.names.switch_end)
    assert cli("list", "-f", "value").stdout == ""


def test_instance_id_unplugs_all_ports_of_the_instance(cli: Command) -> None:
    cli.plug(make_port(1), make_port(2))
    assert [entry["status"] for entry in cli.document("unplug", INSTANCE)["ports"]] == ["done", "done"]
    assert cli("list", "-f", "value").stdout == ""


def test_exported_host_is_the_same_after_unplug_and_plug(cli: Command, lab: Lab, tmp_path: Path) -> None:
    named = "c3a7e900-2000-4c00-8000-000000000003"
    ports = [
        make_port(1, mtu=1450),
        make_port(2, interface_id=named, mtu=9000),
        make_port(3, create_tap=True),
        make_port(5, isolate=True),
    ]
    reports = plug_all(ports, lab.host)
    assert [report.reason for report in reports] == [""] * len(ports)
    before = lab.host.observe(None, time.monotonic() + 30)
    file = tmp_path / "ports.json"
    file.write_text(cli("export").stdout, encoding="utf-8")
    assert [Port(**entry) for entry in json.loads(file.read_text())] == ports

    cli("check", "-F", str(file))
    cli("unplug", "-F", str(file))
    assert lab.host.observe(None, time.monotonic() + 30).state == HostState()
    cli("plug", "-F", str(file))
    after = lab.host.observe(None, time.monotonic() + 30)
    assert after.state == before.state
    assert {name: fact.tag for name, fact in after.facts.ports.items()} == {
        name: fact.tag for name, fact in before.facts.ports.items()
    }


def test_port_that_cannot_be_exported_is_named_with_exit_code_3(cli: Command, lab: Lab, port: Port) -> None:
    cli.plug(port, make_port(2))
    lab.sh(f"ovs-vsctl remove Interface {port.names.switch_end} external_ids attached-mac")
    done = cli("export", exit_code=3)
    assert [entry["id"] for entry in json.loads(done.stdout)] == [make_port(2).id]
    assert done.stderr == f"warning: not exported: {port.id[:11]}...: its mac cannot be inferred\n"


def test_repair_mends_a_running_host_and_refuses_the_ambiguous_port(cli: Command, lab: Lab, port: Port) -> None:
    other, third = make_port(2, mtu=1450), make_port(3)
    cli.plug(port, other, third)
    before = lab.host.observe(None, time.monotonic() + 30).state
    lab.sh(f"ip link set {other.names.bridge_end} nomaster; ip link set {other.names.bridge} down")
    lab.sh(f"ovs-vsctl remove Interface {third.names.switch_end} external_ids attached-mac")

    planned = cli("repair", "--all", "--dry-run", exit_code=6)
    assert "Plan: 0 to create, 2 to change, 0 to delete; 1 of 2 ports" in planned.stdout
    done = cli("repair", "--all", exit_code=6)
    assert f"{other.id}  repaired: 2 changed\n" in done.stdout
    assert (
        f"port {third.id}: its mac cannot be inferred; plug it by: hybridvif plug {third.id} --mac MAC" in done.stderr
    )
    lab.sh(f"ovs-vsctl set Interface {third.names.switch_end} 'external_ids:attached-mac=\"{third.mac}\"'")
    assert lab.host.observe(None, time.monotonic() + 30).state == before
    assert cli("repair", port.names.tap).stdout == f"{port.id}  was in order, nothing written\n"
    assert cli("repair", "--all").stdout == ""


def test_wait_ends_when_the_stopped_switch_runs_again(cli: Command, lab: Lab, port: Port, tmp_path: Path) -> None:
    config = tmp_path / "hybridvif.conf"
    config.write_text("[hybridvif]\ndeadline = 15\n")
    lab.box.pause("ovs-vswitchd")
    resume = threading.Timer(4, lab.box.resume, ["ovs-vswitchd"])
    try:
        assert (
            f"try: hybridvif wait {port.id}: "
            in cli("plug", *options_of(port), "--config-file", str(config), exit_code=65).stderr
        )
        assert "within 1 s" in cli("wait", port.names.switch_end, "--timeout", "1", exit_code=65).stderr
        resume.start()
        (entry,) = cli.document("wait", port.names.bridge, "--timeout", "600")["ports"]
        assert (entry["accepted"], entry["ofport"] > 0) == (True, True)
    finally:
        resume.cancel()
        lab.box.resume("ovs-vswitchd")
