"""The commands of an operator who knows a tap or an instance, and has no file of ports."""

from __future__ import annotations

import pytest

from hybridvif import Port
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
