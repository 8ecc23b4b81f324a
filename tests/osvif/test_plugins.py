"""os_vif.plug() and os_vif.unplug() with the plugin `hybridvif` and with the drop-in for `ovs`."""

from __future__ import annotations

import importlib
import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hybridvif import Port, check
from hybridvif.testing.sandbox.switch import Daemon
from tests.functional.conftest import Lab, make_port, until
from tests.functional.test_boundary import daemons
from tests.osvif.conftest import Nova, StartNova, vif

DROP_IN = "hybridvif.osvif.plugins.HybridOvsPlugin"
PLUGINS = ["hybridvif", "ovs"]


@pytest.mark.parametrize("plugin", PLUGINS)
def test_vif_is_plugged_and_unplugged(lab: Lab, ours: Nova, port: Port, plugin: str) -> None:
    before = lab.snapshot()
    assert ours.plug(port, plugin) == {"ok": True}
    assert check(port, lab.host) == ()
    assert lab.link(port.names.bridge)["ifalias"] == port.id
    assert ours.plug(port, plugin) == {"ok": True}
    assert ours.unplug(port, plugin) == {"ok": True}
    assert lab.snapshot() == before
    assert ours.unplug(port, plugin) == {"ok": True}


def test_without_option_ovs_is_plugin_of_os_vif(lab: Lab, theirs: Nova, port: Port) -> None:
    assert theirs.ask("class", plugin="ovs")["class"] == "vif_plug_ovs.ovs.OvsPlugin"
    assert theirs.plug(port)["ok"]
    assert "ifalias" not in lab.link(port.names.bridge)


def test_with_option_ovs_is_drop_in_after_reset(ours: Nova) -> None:
    assert ours.ask("class", plugin="ovs")["class"] == DROP_IN
    ours.ask("initialize")
    assert ours.ask("class", plugin="ovs")["class"] == DROP_IN


def test_both_plugins_describe_supported_vifs(ours: Nova) -> None:
    response = str(ours.ask("describe")["plugins"])
    assert "'plugin_name': 'hybridvif'" in response
    assert "'plugin_name': 'ovs'" in response
    assert "VIFVHostUser" in response


@pytest.mark.parametrize("style", ["eventlet", "asyncio"])
def test_vif_is_plugged_under_eventlet_and_asyncio(lab: Lab, start_nova: StartNova, style: str) -> None:
    nova = start_nova(style, answer_to_ovs="true")
    ports = [make_port(number) for number in range(1, 4)]
    for index, port in enumerate(ports):
        assert nova.ask("plug", in_thread=index % 2, vif=vif(port)) == {"ok": True}
        assert check(port, lab.host) == ()
    for index, port in enumerate(ports):
        assert nova.ask("unplug", in_thread=index % 2, vif=vif(port)) == {"ok": True}
    assert lab.links() & {name for port in ports for name in port.names} == set()


@pytest.mark.parametrize("style", ["threads", "eventlet", "asyncio"])
def test_ports_are_plugged_concurrently(lab: Lab, start_nova: StartNova, style: str) -> None:
    nova = start_nova(style, answer_to_ovs="true")
    ports = [make_port(number) for number in range(1, 9)]
    response = nova.ask("many", orders=[{"do": "plug", "vif": vif(port)} for port in ports * 2])
    assert response["responses"] == [{"ok": True}] * 16
    assert all(check(port, lab.host) == () for port in ports)
    response = nova.ask("many", orders=[{"do": "unplug", "vif": vif(port)} for port in ports * 2])
    assert response["responses"] == [{"ok": True}] * 16
    assert lab.links() & {name for port in ports for name in port.names} == set()


@pytest.mark.parametrize("style", ["threads", "eventlet"])
def test_waiting_plug_does_not_block_other_threads(lab: Lab, start_nova: StartNova, port: Port, style: str) -> None:
    nova = start_nova(style, answer_to_ovs="true", deadline=5)
    assert nova.plug(make_port(2)) == {"ok": True}
    assert nova.ask("plug", clock=True, vif=vif(make_port(3)))["longest"] < 2
    lab.box.pause("ovs-vswitchd")
    try:
        response = nova.ask("plug", clock=True, vif=vif(port))
    finally:
        lab.box.resume("ovs-vswitchd")
    assert response["status"] == "configured"
    # The heartbeats of Nova are greenlets of the same thread.
    assert response["longest"] < 2


# Refusals and errors, as Nova gets them.


def test_unexpected_bridge_name_is_refused_with_reason(lab: Lab, ours: Nova, port: Port) -> None:
    before = lab.snapshot()
    for do in ("plug", "unplug"):
        response = ours.ask(do, vif=vif(port, bridge_name="brq12345678-90"))
        assert response["cause"] == "hybridvif.model.errors.InvalidInput"
        assert "its bridge_name is 'brq12345678-90', not 'qbr00000001-7b'" in response["text"]
    assert lab.snapshot() == before


@pytest.mark.parametrize("plugin", PLUGINS)
def test_error_has_our_message_and_report(lab: Lab, ours: Nova, port: Port, plugin: str) -> None:
    response = ours.plug(port, plugin, bridge="br-no")
    assert response["raised"] == "os_vif.exception.PlugException"
    assert response["cause"] == "hybridvif.model.errors.BridgeMissing"
    assert "integration bridge br-no does not exist" in response["text"]
    assert response["status"] == "precondition"
    assert not lab.link(port.names.bridge)


@pytest.mark.parametrize("plugin", PLUGINS)
def test_plug_not_accepted_is_error_configured(lab: Lab, start_nova: StartNova, port: Port, plugin: str) -> None:
    nova = start_nova(answer_to_ovs="true")
    assert nova.plug(make_port(2), plugin) == {"ok": True}
    lab.box.pause("ovs-vswitchd")
    try:
        response = nova.plug(port, plugin)
    finally:
        lab.box.resume("ovs-vswitchd")
    assert (response["raised"], response["status"]) == ("os_vif.exception.PlugException", "configured")
    assert response["message"]
    assert response["message"] in response["text"]
    assert nova.plug(port, plugin) == {"ok": True}
    assert check(port, lab.host) == ()


@pytest.mark.parametrize("plugin", PLUGINS)
def test_plug_refused_by_open_vswitch_is_rolled_back(lab: Lab, start_nova: StartNova, port: Port, plugin: str) -> None:
    nova = start_nova(answer_to_ovs="true", integration_bridges="br-int,br-sys")
    # The sandbox has no kernel datapath, so Open vSwitch does not accept this bridge.
    lab.sh("ovs-vsctl --no-wait add-br br-sys -- set Bridge br-sys datapath_type=system")
    before = lab.links()
    response = nova.plug(port, plugin, bridge="br-sys", datapath_type="system")
    assert (response["raised"], response["status"]) == ("os_vif.exception.PlugException", "rolled-back")
    assert response["message"] in response["text"]
    assert lab.links() == before
    assert lab.row(port.names.switch_end) == {}


@pytest.mark.parametrize("plugin", PLUGINS)
def test_failed_unplug_has_our_message_and_report(lab: Lab, start_nova: StartNova, port: Port, plugin: str) -> None:
    nova = start_nova(answer_to_ovs="true")
    assert nova.plug(port, plugin)["ok"]
    lab.box.pause("ovsdb-server")
    try:
        response = nova.unplug(port, plugin)
    finally:
        lab.box.resume("ovsdb-server")
    assert response["raised"] == "os_vif.exception.UnplugException"
    assert response["status"] is not None
    assert response["message"]
    assert response["message"] in response["text"]
    assert nova.unplug(port, plugin) == {"ok": True}
    assert not lab.link(port.names.bridge)


@pytest.mark.parametrize(
    ("fault", "style"),
    [("daemon killed", "eventlet"), ("server restarted", ""), ("server hung", "eventlet"), ("vswitchd hung", "")],
)
def test_temporary_fault_is_no_error(lab: Lab, start_nova: StartNova, port: Port, fault: str, style: str) -> None:
    nova = start_nova(style, answer_to_ovs="true")
    assert nova.plug(make_port(2)) == {"ok": True}
    which: Daemon = "ovs-vswitchd" if fault == "vswitchd hung" else "ovsdb-server"
    for call in (nova.plug, nova.plug, nova.unplug):
        with ExitStack() as mended:
            if fault == "daemon killed":
                for pid in daemons(lab.box):
                    os.kill(pid, signal.SIGKILL)
            elif fault == "server restarted":
                lab.box.restart(which)
            else:
                lab.box.pause(which)
                awake = threading.Timer(1, lab.box.resume, [which])
                awake.start()
                mended.callback(awake.join)
            assert call(port) == {"ok": True}
            if call == nova.plug:
                assert check(port, lab.host) == ()
    assert lab.links() & set(port.names) == set()


def test_unplug_of_running_vm_is_forced_unless_configured(
    lab: Lab, ours: Nova, start_nova: StartNova, port: Port
) -> None:
    careful = start_nova(answer_to_ovs="true", unplug_running="refuse")
    ours.plug(port)
    with lab.vm(port, 1):
        response = careful.unplug(port)
        assert response["raised"] == "os_vif.exception.UnplugException"
        assert response["cause"] == "hybridvif.model.errors.PortRunning"
        assert lab.link(port.names.bridge)
        assert ours.unplug(port) == {"ok": True}
        assert not lab.link(port.names.bridge)


def test_plugin_hybridvif_refuses_other_vifs(lab: Lab, ours: Nova, port: Port) -> None:
    response = ours.plug(port, "hybridvif", kind="ovs")
    assert "takes a VIFBridge, not a VIFOpenVSwitch; ask for 'ovs'" in response["text"]


# Options of os-vif, and delegated VIFs.


def test_mtu_of_file_applies_to_network_without_mtu(lab: Lab, start_nova: StartNova, port: Port) -> None:
    nova = start_nova(answer_to_ovs="true", os_vif={"network_device_mtu": 1420})
    assert nova.plug(port, mtu=None)["ok"]
    assert [lab.link(name)["mtu"] for name in list(port.names)[:3]] == [1420] * 3
    assert nova.plug(port, mtu=1390)["ok"]
    assert [lab.link(name)["mtu"] for name in list(port.names)[:3]] == [1390] * 3


def test_address_and_timeout_of_os_vif_section_apply(lab: Lab, start_nova: StartNova, port: Port) -> None:
    patience: dict[str, object] = {"ovsdb_connection": "tcp:127.0.0.1:6640", "ovs_vsctl_timeout": 4}
    nova = start_nova(answer_to_ovs="true", deadline=None, os_vif=patience)
    # The timeout applies to the start of the daemon, too.
    assert until(lambda: "OVSDB at tcp:127.0.0.1:6640" in nova.plug(port)["text"], 60)
    lab.sh("ovs-vsctl set-manager ptcp:6640:127.0.0.1")
    try:
        assert nova.plug(port) == {"ok": True}
        lab.box.pause("ovs-vswitchd")
        start = time.monotonic()
        response = nova.plug(make_port(2))
        assert response["status"] == "configured"
        assert 3 < time.monotonic() - start < 9
    finally:
        lab.box.resume("ovs-vswitchd")
        lab.sh("ovs-vsctl del-manager")


@pytest.mark.parametrize("more", [{"bridge": "tbr-1"}], ids=["trunk bridge"])
def test_unsupported_vif_is_delegated_to_os_vif(
    lab: Lab, start_nova: StartNova, port: Port, more: dict[str, Any]
) -> None:
    nova = start_nova(answer_to_ovs="true")
    refused = nova.plug(port, "hybridvif", **more)
    assert refused["cause"] == "hybridvif.model.errors.Refused"
    assert "ask for the plugin 'ovs'" in refused["text"]
    assert nova.plug(port, **more) == {"ok": True}
    assert "ifalias" not in lab.link(port.names.bridge)
    assert nova.unplug(port, **more) == {"ok": True}
    assert not lab.link(port.names.bridge)


def test_unplug_of_port_moved_to_other_firewall_removes_qbr(lab: Lab, ours: Nova, theirs: Nova, port: Port) -> None:
    before = lab.snapshot()
    assert theirs.plug(port)["ok"]
    assert ours.plug(port, kind="ovs") == {"ok": True}
    assert lab.link(port.names.bridge)["ifalias"] == port.id
    assert ours.unplug(port, kind="ovs") == {"ok": True}
    assert lab.snapshot() == before


VF, PF = "0000:05:00.1", "0000:05:00.0"
OTHER_VIFS: dict[str, dict[str, Any]] = {
    "open vswitch": {"kind": "ovs"},
    "open vswitch with its port": {"kind": "ovs", "create_port": True},
    "open vswitch with a tap": {"kind": "ovs", "create_port": True, "create_tap": True},
    "open vswitch of a trunk": {"kind": "ovs", "create_port": True, "create_tap": True, "bridge": "tbr-1"},
    "open vswitch with a bridge of its own": {"kind": "ovs", "create_tap": True, "per_port_bridge": True},
    "vhost-user client": {"kind": "vhostuser", "mode": "client"},
    "vhost-user server": {"kind": "vhostuser", "mode": "server"},
    "vhost-user of a trunk": {"kind": "vhostuser", "mode": "server", "bridge": "tbr-1"},
    "representor of a function": {"kind": "hostdevice", "pci": VF},
    "nothing of open vswitch's": {"kind": "direct"},
}


@pytest.fixture
def functions(lab: Lab, tmp_path: Path) -> Iterator[None]:
    """Create a virtual function of a network card in /sys."""
    for name, link, target in ((VF, "physfn", PF), (PF, "virtfn0", VF)):
        (tmp_path / name).mkdir()
        (tmp_path / name / link).symlink_to(f"../{target}")
    lab.sh(f"mount --bind {tmp_path} /sys/bus/pci/devices")
    yield
    lab.sh("umount /sys/bus/pci/devices")


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("fields", OTHER_VIFS.values(), ids=OTHER_VIFS)
def test_other_vifs_are_delegated_unchanged(lab: Lab, start_nova: StartNova, fields: dict[str, Any]) -> None:
    more = {name: value for name, value in fields.items() if name != "per_port_bridge"}
    options: dict[str, object] = {"isolate_vif": "true", "per_port_bridge": fields.get("per_port_bridge", False)}
    trunks: dict[str, object] = {"integration_bridges": "br-int,tbr-*", "create_bridges": "br-int,tbr-*"}
    port, responses, before = make_port(7), [], lab.snapshot()
    for nova in (start_nova(os_vif=options), start_nova(os_vif=options, answer_to_ovs="true", **trunks)):
        for do in ("plug", "plug", "unplug", "unplug"):
            response = nova.ask(do, vif=vif(port, **more))
            responses.append((response["ok"], response.get("cause"), written(lab)))
        assert lab.snapshot() == before
    assert responses[:4] == responses[4:]
    assert responses[0][0] is (fields["kind"] != "direct")


def written(lab: Lab) -> dict[str, Any]:
    """Return the devices and rows, without counters and random values."""
    rows = {
        table: json.loads(lab.sh(f"ovs-vsctl --format=json --columns={columns} list {table}"))["data"]
        for table, columns in {
            "Bridge": "name,datapath_type,external_ids,other_config",
            "Port": "name,tag,vlan_mode,trunks,external_ids,other_config",
            "Interface": "name,type,options,external_ids,mtu_request,other_config",
        }.items()
    }
    links = [
        {key: link.get(key) for key in ("ifname", "mtu", "flags", "master", "linkinfo", "ifalias")}
        for link in json.loads(lab.sh("ip -d -j link"))
    ]
    return {"links": sorted(links, key=str), **{table: sorted(found, key=str) for table, found in rows.items()}}


@pytest.mark.parametrize("multiqueue", [False, True])
def test_create_tap_of_port_profile_creates_tap(lab: Lab, ours: Nova, port: Port, multiqueue: bool) -> None:
    with warnings.catch_warnings():
        # Libraries of os-vif import what they themselves have deprecated.
        warnings.simplefilter("ignore")
        profile = importlib.import_module("os_vif.objects.vif").VIFPortProfileOpenVSwitch
    if "create_tap" not in profile.fields:
        pytest.skip("this os-vif has no create_tap, which came after 4.1")
    before = lab.snapshot()
    for _ in range(2):
        assert ours.plug(port, create_tap=True, multiqueue=multiqueue) == {"ok": True}
        tap = lab.link(port.names.tap)
        assert (tap["ifalias"], tap["master"]) == (port.id, port.names.bridge)
        assert tap["linkinfo"]["info_data"]["multi_queue"] is multiqueue
    assert ours.plug(port) == {"ok": True}
    assert ours.unplug(port) == {"ok": True}
    assert lab.snapshot() == before
