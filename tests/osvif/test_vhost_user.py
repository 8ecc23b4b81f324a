"""The rows of a vhost-user port, by os-vif and by the library: equal in every column."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hybridvif import PlugFailed, Port, Status, Update, check, plug, unplug
from hybridvif.model.state import changes_of
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
    """Return the configured columns of a port, and its bridge."""
    name = port.names.vhost_user
    row, holder = lab.row(name), lab.row(name, "Port")
    columns = {key: row[key] for key in COLUMNS} | {f"port {key}": holder[key] for key in COLUMNS_OF_PORT}
    return columns | {"bridge": lab.sh(f"ovs-vsctl port-to-br {name}").strip()}


@pytest.mark.parametrize("mode", ["client", "server"])
@pytest.mark.parametrize("mtu", [1500, 9000])
def test_row_matches_os_vif(lab: Lab, theirs: Nova, port: Port, mode: str, mtu: int) -> None:
    before = lab.snapshot()
    requested = replace(port, vhostuser_mode=mode, mtu=mtu)
    # os-vif reports success even if Open vSwitch refuses the port.
    assert theirs.plug(requested, kind="vhostuser", mode=mode)["ok"]
    columns = configured(lab, requested)
    # The VIF has a path under /run. The default of Neutron is the same directory under /var/run.
    options = dict(columns["options"][1])
    assert options == ({} if mode == "client" else {"vhost-server-path": f"/run/openvswitch/{port.names.vhost_user}"})
    columns["options"] = ["map", [[key, f"/var{value}"] for key, value in options.items()]]
    assert theirs.unplug(requested, kind="vhostuser", mode=mode)["ok"]
    assert lab.snapshot() == before
    lab.box.pause("ovs-vswitchd")
    try:
        with pytest.raises(PlugFailed) as caught:
            plug(requested, lab.host)
        assert caught.value.report is not None
        assert caught.value.report.status is Status.CONFIGURED
        assert configured(lab, requested) == columns
    finally:
        lab.box.resume("ovs-vswitchd")
    assert theirs.unplug(requested, kind="vhostuser", mode=mode)["ok"]
    assert lab.snapshot() == before


def test_row_of_os_vif_not_accepted_is_drift_and_is_unplugged(lab: Lab, theirs: Nova, port: Port) -> None:
    before = lab.snapshot()
    requested = replace(port, vhostuser_mode="client")
    assert theirs.plug(requested, kind="vhostuser", mode="client")["ok"]
    (step,) = check(requested, lab.host)
    assert isinstance(step, Update)
    assert changes_of(step) == {"realized": True}
    assert unplug(port.id, lab.host).changed
    assert lab.snapshot() == before
