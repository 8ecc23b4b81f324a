"""os_vif.plug() and os_vif.unplug() drive hybridvif, under its own name and under the name `ovs`."""

from __future__ import annotations

from typing import Any

import pytest

from hybridvif import Port, check
from tests.functional.conftest import Lab, make_port
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


def test_native_threads_plug_at_once(lab: Lab, ours: Nova) -> None:
    ports = [make_port(number) for number in range(1, 9)]
    told = ours.ask("many", orders=[{"do": "plug", "vif": vif(port)} for port in ports * 2])
    assert told["answers"] == [{"ok": True}] * 16
    assert all(check(port, lab.host) == () for port in ports)


# Refusals and errors, as Nova sees them.


def test_a_name_that_is_not_of_the_port_id_is_refused_with_the_reason(lab: Lab, ours: Nova, port: Port) -> None:
    before = lab.snapshot()
    for do in ("plug", "unplug"):
        told = ours.ask(do, vif=vif(port, bridge_name="brq12345678-90"))
        assert told["cause"] == "hybridvif.errors.InvalidInput"
        assert "its bridge_name is 'brq12345678-90', not 'qbr00000001-7b'" in told["text"]
    assert lab.snapshot() == before


@pytest.mark.parametrize("plugin", PLUGINS)
def test_an_error_carries_our_sentence_and_the_report(lab: Lab, ours: Nova, port: Port, plugin: str) -> None:
    told = ours.plug(port, plugin, bridge="br-no")
    assert told["raised"] == "os_vif.exception.PlugException"
    assert told["cause"] == "hybridvif.errors.BridgeMissing"
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


def test_an_unplug_of_a_running_vm_is_forced_unless_a_file_says_otherwise(
    lab: Lab, ours: Nova, start_nova: StartNova, port: Port
) -> None:
    careful = start_nova(answer_to_ovs="true", unplug_running="refuse")
    ours.plug(port)
    with lab.vm(port, 1):
        told = careful.unplug(port)
        assert told["raised"] == "os_vif.exception.UnplugException"
        assert told["cause"] == "hybridvif.errors.PortRunning"
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


@pytest.mark.parametrize("more", [{"bridge": "tbr-1"}], ids=["trunk bridge"])
def test_what_a_port_cannot_say_yet_is_left_to_os_vif(
    lab: Lab, start_nova: StartNova, port: Port, more: dict[str, Any]
) -> None:
    nova = start_nova(answer_to_ovs="true")
    refused = nova.plug(port, "hybridvif", **more)
    assert refused["cause"] == "hybridvif.errors.Refused"
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


@pytest.mark.parametrize(("kind", "name"), [("vhostuser", "vhu"), ("ovs", "tap")])
def test_other_vifs_end_as_with_os_vifs_own_plugin(lab: Lab, ours: Nova, theirs: Nova, kind: str, name: str) -> None:
    rows = []
    for nova in (theirs, ours):
        port = make_port(7)
        device = f"{name}{port.id[:11]}"
        if kind == "ovs":
            lab.sh(f"ip link add {device} type veth peer name hvpeer")
        assert nova.plug(port, kind=kind, create_port=True) == {"ok": True}
        row = lab.row(device)
        rows.append({key: row[key] for key in ("name", "type", "options", "external_ids")})
        assert nova.unplug(port, kind=kind, create_port=True) == {"ok": True}
        assert lab.row(device) == {}
    assert rows[0] == rows[1]


@pytest.mark.parametrize("multiqueue", [False, True])
def test_a_tap_is_made_where_the_port_profile_asks_for_it(lab: Lab, ours: Nova, port: Port, multiqueue: bool) -> None:
    before = lab.snapshot()
    for _ in range(2):
        assert ours.plug(port, create_tap=True, multiqueue=multiqueue) == {"ok": True}
        tap = lab.link(port.names.tap)
        assert (tap["ifalias"], tap["master"]) == (port.id, port.names.bridge)
        assert tap["linkinfo"]["info_data"]["multi_queue"] is multiqueue
    assert ours.plug(port) == {"ok": True}
    assert ours.unplug(port) == {"ok": True}
    assert lab.snapshot() == before
