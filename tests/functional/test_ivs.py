"""A port of an Indigo Virtual Switch, end to end, with a stand-in for ivs-ctl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridvif import Conflict, Host, NotReady, VifType, check, plug, unplug
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import make_port
from tests.support.ivs import program_path_with_ivs

PORT = make_port(vif_type=VifType.IVS)
NAMES = PORT.names


@pytest.fixture(params=["iproute2-netlink", "subprocess-brctl"])
def ivs_host(sandbox: Sandbox, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Host]:
    path = program_path_with_ivs(tmp_path)
    with connected(
        sandbox, tmp_path, link_executor=request.param, switch_executor="ivs-ctl", program_path=path
    ) as host:
        yield host
        unplug(PORT.id, host, force=True)


def ports_in(directory: Path) -> list[str]:
    return (directory / "ports").read_text().split()


def test_a_port_is_plugged_into_ivs_and_taken_out_again(sandbox: Sandbox, ivs_host: Host, tmp_path: Path) -> None:
    report = plug(PORT, ivs_host)
    assert [outcome.step.part.kind for outcome in report.outcomes] == ["bridge", "veth", "ivs-port"]
    assert ports_in(tmp_path) == [NAMES.switch_end]
    assert f"master {NAMES.bridge}" in sandbox.run(["ip", "link", "show", NAMES.bridge_end]).stdout
    # No row in OVSDB, and no ids, because the switch is another.
    assert NAMES.switch_end not in sandbox.run(["ovs-vsctl", "list-ports", "br-int"]).stdout
    assert not plug(PORT, ivs_host).changed
    assert unplug(PORT.id, ivs_host).changed
    assert ports_in(tmp_path) == []
    assert sandbox.run(["ip", "link", "show", NAMES.bridge], check=False).returncode
    assert not unplug(PORT.id, ivs_host).changed


def test_what_ivs_lost_is_named_and_given_back_alone(ivs_host: Host, tmp_path: Path) -> None:
    plug(PORT, ivs_host)
    (tmp_path / "ports").write_text("")
    assert [step.part.name for step in check(PORT, ivs_host)] == [NAMES.switch_end]
    assert [outcome.step.part.kind for outcome in plug(PORT, ivs_host).outcomes] == ["ivs-port"]
    assert check(PORT, ivs_host) == ()


def test_a_port_of_open_vswitch_is_refused_before_any_step(sandbox: Sandbox, ivs_host: Host) -> None:
    other = make_port(2)
    with pytest.raises(NotReady, match="switch executor does not serve ovs-port") as caught:
        plug(other, ivs_host)
    assert caught.value.report is not None
    assert not caught.value.report.changed
    assert sandbox.run(["ip", "link", "show", other.names.bridge], check=False).returncode


@pytest.mark.parametrize("name", [NAMES.tap, NAMES.bridge, NAMES.bridge_end])
def test_a_tap_that_is_a_port_of_ivs_is_a_conflict(ivs_host: Host, tmp_path: Path, name: str) -> None:
    (tmp_path / "ports").write_text(f"{name}\n")
    with pytest.raises(Conflict, match=f"{name} is a port of the switch itself.*ivs-ctl del-port {name}"):
        plug(PORT, ivs_host)
    assert ports_in(tmp_path) == [name]
