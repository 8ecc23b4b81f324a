"""A vhost-user port of os-vif and one of the library: the same row, column by column."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hybridvif import PlugFailed, Port, Status, Update, check, plug, unplug
from hybridvif.model.steps import changes_of
from tests.functional.conftest import Lab
from tests.osvif.conftest import Nova

COLUMNS = ("name", "type", "options", "external_ids", "other_config", "mtu_request", "ofport_request", "mac", "lldp")
COLUMNS_OF_PORT = (
    "name",
    "tag",
    "trunks",
    "vlan_mode",
    "qos",
    "other_config",
    "external_ids",
    "bond_mode",
    "fake_bridge",
)


def configured(lab: Lab, port: Port) -> dict[str, Any]:
    """What is configured of the port, and by it of its bridge."""
    name = port.names.vhost_user
    row, holder = lab.row(name), lab.row(name, "Port")
    told = {key: row[key] for key in COLUMNS} | {f"port {key}": holder[key] for key in COLUMNS_OF_PORT}
    return told | {"bridge": lab.sh(f"ovs-vsctl port-to-br {name}").strip()}


@pytest.mark.parametrize("mode", ["client", "server"])
@pytest.mark.parametrize("mtu", [1500, 9000])
def test_the_row_is_os_vifs(lab: Lab, theirs: Nova, port: Port, mode: str, mtu: int) -> None:
    before = lab.snapshot()
    asked = replace(port, vhostuser_mode=mode, mtu=mtu)
    # What Open vSwitch refuses os-vif calls plugged.
    assert theirs.plug(asked, kind="vhostuser", mode=mode)["ok"]
    told = configured(lab, asked)
    # os-vif was given a path under /run, and Neutron's default is the same directory under /var/run.
    options = dict(told["options"][1])
    assert options == ({} if mode == "client" else {"vhost-server-path": f"/run/openvswitch/{port.names.vhost_user}"})
    told["options"] = ["map", [[key, f"/var{value}"] for key, value in options.items()]]
    assert theirs.unplug(asked, kind="vhostuser", mode=mode)["ok"]
    assert lab.snapshot() == before
    lab.box.pause("ovs-vswitchd")
    try:
        with pytest.raises(PlugFailed) as caught:
            plug(asked, lab.host)
        assert caught.value.report is not None
        assert caught.value.report.status is Status.CONFIGURED
        assert configured(lab, asked) == told
    finally:
        lab.box.resume("ovs-vswitchd")
    assert theirs.unplug(asked, kind="vhostuser", mode=mode)["ok"]
    assert lab.snapshot() == before


def test_a_row_of_os_vifs_is_told_from_one_in_order_and_unplugged(lab: Lab, theirs: Nova, port: Port) -> None:
    before = lab.snapshot()
    asked = replace(port, vhostuser_mode="client")
    assert theirs.plug(asked, kind="vhostuser", mode="client")["ok"]
    (step,) = check(asked, lab.host)
    assert isinstance(step, Update)
    assert changes_of(step) == {"realized": True}
    assert unplug(port.id, lab.host).changed
    assert lab.snapshot() == before
