"""One line of configuration selects another executor. An unusable one is reported by name before any change."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridvif import NotReady, check, plug, unplug
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import make_port


@pytest.mark.parametrize("link", ["iproute2-netlink", "subprocess-brctl"])
@pytest.mark.parametrize("switch", ["ovsdb", "ovs-vsctl"])
def test_every_pair_of_executors_plugs_and_unplugs(sandbox: Sandbox, tmp_path: Path, link: str, switch: str) -> None:
    port = make_port()
    with connected(sandbox, tmp_path, link_executor=link, switch_executor=switch) as host:
        assert plug(port, host).changed
        assert check(port, host) == ()
        assert not plug(port, host).changed
        assert unplug(port.id, host).changed
        assert not unplug(port.id, host).changed


def test_the_recording_executors_say_that_nothing_was_done(sandbox: Sandbox, tmp_path: Path) -> None:
    port = make_port()
    with connected(sandbox, tmp_path, link_executor="recording", switch_executor="recording") as host:
        report = plug(port, host)
        assert report.ok
        assert report.simulated
        assert all(outcome.simulated for outcome in report.outcomes)
        assert plug(port, host).simulated
    assert not sandbox.run(["ip", "link", "show", port.names.bridge], check=False).stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"link_executor": "iproute3"}, r"no executor named 'iproute3' is installed; .* there are .*iproute2-netlink"),
        (
            {"switch_executor": "iproute2-netlink"},
            r"no executor named 'iproute2-netlink' is installed; .* there are .*ovsdb",
        ),
        ({"link_executor": "subprocess-brctl", "program_path": "/nowhere"}, r"brctl is not installed .*bridge-utils"),
        (
            {"switch_executor": "ovs-vsctl", "program_path": "/nowhere"},
            r"ovs-vsctl is not installed .*openvswitch-switch",
        ),
        ({"switch_executor": "ivs-ctl"}, r"ivs-ctl is not installed"),
    ],
)
def test_an_executor_that_cannot_work_is_a_precondition_told_by_name(
    sandbox: Sandbox, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    port = make_port()
    with connected(sandbox, tmp_path, **options) as host:
        with pytest.raises(NotReady, match=message) as caught:
            plug(port, host)
        assert caught.value.report is not None
        assert caught.value.report.status.exit_code == 5
    assert not sandbox.run(["ip", "link", "show", port.names.bridge], check=False).stdout
