"""os_vif.plug() and os_vif.unplug() drive hybridvif, under its own name and under the name `ovs`."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
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
def test_a_vif_is_plugged_and_unplugged(lab: Lab, ours: Nova, port: Port, plugin: str) -> None:
    before = lab.snapshot()
    assert ours.plug(port, plugin) == {"ok": True}
    assert check(port, lab.host) == ()
    assert lab.link(port.names.bridge)["ifalias"] == port.id
    assert ours.plug(port, plugin) == {"ok": True}
    assert ours.unplug(port, plugin) == {"ok": True}
    assert lab.snapshot() == before
    assert ours.unplug(port, plugin) == {"ok": True}


def test_without_the_option_ovs_stays_os_vifs_own(lab: Lab, theirs: Nova, port: Port) -> None:
    assert theirs.ask("class", plugin="ovs")["class"] == "vif_plug_ovs.ovs.OvsPlugin"
    assert theirs.plug(port)["ok"]
    assert "ifalias" not in lab.link(port.names.bridge)


def test_with_the_option_ovs_is_ours_also_after_a_reset(ours: Nova) -> None:
    assert ours.ask("class", plugin="ovs")["class"] == DROP_IN
    ours.ask("initialize")
    assert ours.ask("class", plugin="ovs")["class"] == DROP_IN


def test_both_plugins_describe_what_they_take(ours: Nova) -> None:
    told = str(ours.ask("describe")["plugins"])
    assert "'plugin_name': 'hybridvif'" in told
    assert "'plugin_name': 'ovs'" in told
    assert "VIFVHostUser" in told


@pytest.mark.parametrize("style", ["eventlet", "asyncio"])
def test_it_works_in_a_program_that_is_not_plain(lab: Lab, start_nova: StartNova, style: str) -> None:
    nova = start_nova(style, answer_to_ovs="true")
    ports = [make_port(number) for number in range(1, 4)]
    for at, port in enumerate(ports):
        assert nova.ask("plug", beside=at % 2, vif=vif(port)) == {"ok": True}
        assert check(port, lab.host) == ()
    for at, port in enumerate(ports):
        assert nova.ask("unplug", beside=at % 2, vif=vif(port)) == {"ok": True}
    assert lab.links() & {name for port in ports for name in port.names} == set()


@pytest.mark.parametrize("style", ["threads", "eventlet", "asyncio"])
def test_ports_are_plugged_at_once(lab: Lab, start_nova: StartNova, style: str) -> None:
    nova = start_nova(style, answer_to_ovs="true")
    ports = [make_port(number) for number in range(1, 9)]
    told = nova.ask("many", orders=[{"do": "plug", "vif": vif(port)} for port in ports * 2])
    assert told["answers"] == [{"ok": True}] * 16
    assert all(check(port, lab.host) == () for port in ports)
    told = nova.ask("many", orders=[{"do": "unplug", "vif": vif(port)} for port in ports * 2])
    assert told["answers"] == [{"ok": True}] * 16
    assert lab.links() & {name for port in ports for name in port.names} == set()


@pytest.mark.parametrize("style", ["threads", "eventlet"])
def test_a_plug_that_waits_lets_the_rest_of_the_program_run(
    lab: Lab, start_nova: StartNova, port: Port, style: str
) -> None:
    nova = start_nova(style, answer_to_ovs="true", deadline=5)
    assert nova.plug(make_port(2)) == {"ok": True}
    assert nova.ask("plug", clock=True, vif=vif(make_port(3)))["longest"] < 2
    lab.box.pause("ovs-vswitchd")
    try:
        told = nova.ask("plug", clock=True, vif=vif(port))
    finally:
        lab.box.resume("ovs-vswitchd")
    assert told["status"] == "configured"
    # Nova's heartbeats are greenlets of the same thread.
    assert told["longest"] < 2


# Refusals and errors, as Nova sees them.


def test_a_name_that_is_not_of_the_port_id_is_refused_with_the_reason(lab: Lab, ours: Nova, port: Port) -> None:
    before = lab.snapshot()
    for do in ("plug", "unplug"):
        told = ours.ask(do, vif=vif(port, bridge_name="brq12345678-90"))
        assert told["cause"] == "hybridvif.model.errors.InvalidInput"
        assert "its bridge_name is 'brq12345678-90', not 'qbr00000001-7b'" in told["text"]
    assert lab.snapshot() == before


@pytest.mark.parametrize("plugin", PLUGINS)
def test_an_error_carries_our_sentence_and_the_report(lab: Lab, ours: Nova, port: Port, plugin: str) -> None:
    told = ours.plug(port, plugin, bridge="br-no")
    assert told["raised"] == "os_vif.exception.PlugException"
    assert told["cause"] == "hybridvif.model.errors.BridgeMissing"
    assert "integration bridge br-no does not exist" in told["text"]
    assert told["status"] == "precondition"
    assert not lab.link(port.names.bridge)


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_plug_that_open_vswitch_did_not_take_is_no_success(
    lab: Lab, start_nova: StartNova, port: Port, plugin: str
) -> None:
    nova = start_nova(answer_to_ovs="true")
    assert nova.plug(make_port(2), plugin) == {"ok": True}
    lab.box.pause("ovs-vswitchd")
    try:
        told = nova.plug(port, plugin)
    finally:
        lab.box.resume("ovs-vswitchd")
    assert (told["raised"], told["status"]) == ("os_vif.exception.PlugException", "configured")
    assert told["sentence"]
    assert told["sentence"] in told["text"]
    assert nova.plug(port, plugin) == {"ok": True}
    assert check(port, lab.host) == ()


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_plug_that_open_vswitch_refused_is_an_error_and_is_taken_back(
    lab: Lab, start_nova: StartNova, port: Port, plugin: str
) -> None:
    nova = start_nova(answer_to_ovs="true", integration_bridges="br-int,br-sys")
    # The sandbox has no module of the kernel's datapath, or this bridge would be taken.
    lab.sh("ovs-vsctl --no-wait add-br br-sys -- set Bridge br-sys datapath_type=system")
    before = lab.links()
    told = nova.plug(port, plugin, bridge="br-sys", datapath_type="system")
    assert (told["raised"], told["status"]) == ("os_vif.exception.PlugException", "rolled-back")
    assert told["sentence"] in told["text"]
    assert lab.links() == before
    assert lab.row(port.names.switch_end) == {}


@pytest.mark.parametrize("plugin", PLUGINS)
def test_an_unplug_that_cannot_be_carries_our_sentence_and_the_report(
    lab: Lab, start_nova: StartNova, port: Port, plugin: str
) -> None:
    nova = start_nova(answer_to_ovs="true")
    assert nova.plug(port, plugin)["ok"]
    lab.box.pause("ovsdb-server")
    try:
        told = nova.unplug(port, plugin)
    finally:
        lab.box.resume("ovsdb-server")
    assert told["raised"] == "os_vif.exception.UnplugException"
    assert told["status"] is not None
    assert told["sentence"]
    assert told["sentence"] in told["text"]
    assert nova.unplug(port, plugin) == {"ok": True}
    assert not lab.link(port.names.bridge)


@pytest.mark.parametrize(
    ("fault", "style"),
    [("daemon killed", "eventlet"), ("server restarted", ""), ("server hung", "eventlet"), ("vswitchd hung", "")],
)
def test_a_fault_that_passes_is_no_error(lab: Lab, start_nova: StartNova, port: Port, fault: str, style: str) -> None:
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


def test_an_unplug_of_a_running_vm_is_forced_unless_a_file_says_otherwise(
    lab: Lab, ours: Nova, start_nova: StartNova, port: Port
) -> None:
    careful = start_nova(answer_to_ovs="true", unplug_running="refuse")
    ours.plug(port)
    with lab.vm(port, 1):
        told = careful.unplug(port)
        assert told["raised"] == "os_vif.exception.UnplugException"
        assert told["cause"] == "hybridvif.model.errors.PortRunning"
        assert lab.link(port.names.bridge)
        assert ours.unplug(port) == {"ok": True}
        assert not lab.link(port.names.bridge)


def test_the_plugin_of_our_name_sends_other_vifs_to_ovs(lab: Lab, ours: Nova, port: Port) -> None:
    told = ours.plug(port, "hybridvif", kind="ovs")
    assert "takes a VIFBridge, not a VIFOpenVSwitch; ask for 'ovs'" in told["text"]


# os-vif's own options, and what is left to os-vif.


def test_the_mtu_of_the_file_counts_where_the_network_has_none(lab: Lab, start_nova: StartNova, port: Port) -> None:
    nova = start_nova(answer_to_ovs="true", os_vif={"network_device_mtu": 1420})
    assert nova.plug(port, mtu=None)["ok"]
    assert [lab.link(name)["mtu"] for name in list(port.names)[:3]] == [1420] * 3
    assert nova.plug(port, mtu=1390)["ok"]
    assert [lab.link(name)["mtu"] for name in list(port.names)[:3]] == [1390] * 3


def test_the_database_and_the_patience_of_the_file_count(lab: Lab, start_nova: StartNova, port: Port) -> None:
    patience: dict[str, object] = {"ovsdb_connection": "tcp:127.0.0.1:6640", "ovs_vsctl_timeout": 4}
    nova = start_nova(answer_to_ovs="true", deadline=None, os_vif=patience)
    # Its daemon is to be started within these seconds, too.
    assert until(lambda: "OVSDB at tcp:127.0.0.1:6640" in nova.plug(port)["text"], 60)
    lab.sh("ovs-vsctl set-manager ptcp:6640:127.0.0.1")
    try:
        assert nova.plug(port) == {"ok": True}
        lab.box.pause("ovs-vswitchd")
        begun = time.monotonic()
        told = nova.plug(make_port(2))
        assert told["status"] == "configured"
        assert 3 < time.monotonic() - begun < 9
    finally:
        lab.box.resume("ovs-vswitchd")
        lab.sh("ovs-vsctl del-manager")


@pytest.mark.parametrize("more", [{"bridge": "tbr-1"}], ids=["trunk bridge"])
def test_what_a_port_cannot_say_yet_is_left_to_os_vif(
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


def test_a_port_made_over_to_another_firewall_loses_its_qbr(lab: Lab, ours: Nova, theirs: Nova, port: Port) -> None:
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
    """A virtual function of a network card, as /sys would show it."""
    for name, link, target in ((VF, "physfn", PF), (PF, "virtfn0", VF)):
        (tmp_path / name).mkdir()
        (tmp_path / name / link).symlink_to(f"../{target}")
    lab.sh(f"mount --bind {tmp_path} /sys/bus/pci/devices")
    yield
    lab.sh("umount /sys/bus/pci/devices")


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("said", OTHER_VIFS.values(), ids=OTHER_VIFS)
def test_other_vifs_are_plugged_and_unplugged_as_by_os_vifs_own_plugin(
    lab: Lab, start_nova: StartNova, said: dict[str, Any]
) -> None:
    more = {name: value for name, value in said.items() if name != "per_port_bridge"}
    options: dict[str, object] = {"isolate_vif": "true", "per_port_bridge": said.get("per_port_bridge", False)}
    trunks: dict[str, object] = {"integration_bridges": "br-int,tbr-*", "create_bridges": "br-int,tbr-*"}
    port, told, before = make_port(7), [], lab.snapshot()
    for nova in (start_nova(os_vif=options), start_nova(os_vif=options, answer_to_ovs="true", **trunks)):
        for do in ("plug", "plug", "unplug", "unplug"):
            said_of_it = nova.ask(do, vif=vif(port, **more))
            told.append((said_of_it["ok"], said_of_it.get("cause"), written(lab)))
        assert lab.snapshot() == before
    assert told[:4] == told[4:]
    assert told[0][0] is (said["kind"] != "direct")


def written(lab: Lab) -> dict[str, Any]:
    """The devices and the rows, less what is counted or chosen anew each time."""
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
def test_a_tap_is_made_where_the_port_profile_asks_for_it(lab: Lab, ours: Nova, port: Port, multiqueue: bool) -> None:
    if "create_tap" not in pytest.importorskip("os_vif.objects.vif").VIFPortProfileOpenVSwitch.fields:
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
