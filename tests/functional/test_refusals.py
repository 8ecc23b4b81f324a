"""Objects that plug and unplug must not touch: refused by name with the remedy, the host unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hybridvif import (
    BridgeMissing,
    BridgeNotAllowed,
    Conflict,
    HybridVifError,
    NameCollision,
    PlugFailed,
    Port,
    PortRunning,
    Report,
    Status,
    UnplugFailed,
    check,
    plug,
    plug_all,
    unplug,
)
from tests.functional.conftest import Lab, make_port, until

TWIN = "00000001-7bff-4fff-8fff-ffffffffffff"
"""Another port with the first 11 characters of make_port(1)'s id."""


@pytest.fixture
def twin() -> Port:
    """A port with the device names of `port`."""
    return make_port(1, id=TWIN)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "only its row"])
def test_another_port_of_the_same_names_is_left_alone(lab: Lab, port: Port, twin: Port, whole: bool) -> None:
    plug(port, lab.host)
    if not whole:
        lab.sh(f"ip link delete {port.names.bridge_end}; ip link delete {port.names.bridge}")
    before = lab.snapshot()

    for refused in (lambda: plug(twin, lab.host), lambda: unplug(twin.id, lab.host), lambda: check(twin, lab.host)):
        with pytest.raises(NameCollision) as caught:
            refused()
        assert port.id in str(caught.value)
        assert twin.id in str(caught.value)
    with pytest.raises(NameCollision):
        unplug(twin.id, lab.host, force=True)
    assert lab.snapshot() == before
    unplug(port.id, lab.host)
    assert plug(twin, lab.host).ok


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("ip link add {qbr} type veth peer name hvpeer", "a veth"),
        ("ip link add {qvb} type bridge", "a bridge link"),
        ("ip link add {qvo} type bridge", "a bridge link"),
        ("ip link add {qvb} type veth peer name hvpeer", "a veth whose peer is hvpeer"),
        ("ip link add {qvo} type veth peer name hvpeer", "a veth whose peer is hvpeer"),
        ("ip netns add hvns; ip link add {qvb} type veth peer name {qvo} netns hvns", "another namespace"),
        ("ovs-vsctl --no-wait add-bond br-int hvbond {qvo} hvother", "a bond"),
    ],
)
def test_what_has_our_name_and_another_shape_is_refused_by_name(lab: Lab, port: Port, made: str, message: str) -> None:
    names = port.names
    lab.sh(made.format(qbr=names.bridge, qvb=names.bridge_end, qvo=names.switch_end))
    before = lab.snapshot()

    calls: list[Callable[[], Report]] = [lambda: plug(port, lab.host), lambda: unplug(port.id, lab.host)]
    for refused in calls:
        with pytest.raises(Conflict) as caught:
            refused()
        assert message in str(caught.value)
        assert caught.value.report is not None
        assert caught.value.report.status is Status.REFUSED
        assert not caught.value.report.changed
    assert lab.snapshot() == before


def test_a_bridge_end_in_a_foreign_bridge_is_not_stolen(lab: Lab, port: Port) -> None:
    plug(port, lab.host)
    lab.sh(f"ip link add hvbridge type bridge; ip link set {port.names.bridge_end} master hvbridge")
    # The kernel reports the loss of its last member to a bridge a moment later.
    assert until(lambda: "NO-CARRIER" in lab.link(port.names.bridge)["flags"])
    before = lab.snapshot()

    calls: list[Callable[[], Report]] = [lambda: plug(port, lab.host), lambda: unplug(port.id, lab.host)]
    for refused in calls:
        with pytest.raises(Conflict, match=r"hvbridge.*ip link set qvb00000001-7b nomaster"):
            refused()
    assert lab.snapshot() == before


def test_the_master_of_the_switch_end_is_the_switchs_own_business(lab: Lab, port: Port) -> None:
    # OVS's kernel datapath enslaves its ports to a device of this name.
    plug(port, lab.host)
    lab.sh(f"ip link add ovs-system type bridge; ip link set {port.names.switch_end} master ovs-system")
    before = lab.snapshot()

    assert check(port, lab.host) == ()
    assert not plug(port, lab.host).changed
    assert lab.snapshot() == before
    assert unplug(port.id, lab.host).ok


def test_a_missing_integration_bridge_is_named_before_any_link_is_made(lab: Lab) -> None:
    before = lab.snapshot()

    with pytest.raises(BridgeMissing, match=r"br-two does not exist .*br-int.*ovs-vsctl add-br br-two") as caught:
        plug(make_port(bridge="br-two"), lab.host)

    assert isinstance(caught.value, PlugFailed)
    assert caught.value.report is not None
    assert caught.value.report.status.exit_code == 5
    assert lab.snapshot() == before


def test_a_bridge_that_is_not_configured_is_refused(lab: Lab) -> None:
    lab.sh("ovs-vsctl --no-wait add-br br-ex")
    before = lab.snapshot()

    with pytest.raises(BridgeNotAllowed, match="integration_bridges") as caught:
        plug(make_port(bridge="br-ex"), lab.host)

    assert caught.value.report is not None
    assert caught.value.report.status.exit_code == 6
    assert lab.snapshot() == before


def test_a_running_vm_is_not_cut_off_unless_forced(lab: Lab, port: Port) -> None:
    plug(port, lab.host)
    with lab.vm(port, 1) as vm:
        before = lab.snapshot()
        with pytest.raises(PortRunning, match="has carrier"):
            unplug(port.id, lab.host)
        assert lab.snapshot() == before
        vm.run(["ip", "link", "set", "eth0", "down"])
        # A tap that no process holds open is up without carrier: no VM runs.
        assert unplug(port.id, lab.host).ok
        assert lab.link(port.names.tap)
    with lab.vm(port, 1, attached=False) as vm:
        plug(port, lab.host)
        vm.attach(port.names.bridge)
        assert unplug(port.id, lab.host, force=True).ok
        assert lab.link(port.names.tap)


def test_a_foreign_member_of_the_bridge_counts_as_running(lab: Lab, port: Port) -> None:
    plug(port, lab.host)
    lab.sh(f"ip link add hvforeign type veth peer name hvpeer; ip link set hvforeign master {port.names.bridge}")
    with pytest.raises(PortRunning, match="hvforeign"):
        unplug(port.id, lab.host)
    assert unplug(port.id, lab.host, force=True).ok
    assert lab.link("hvforeign")


def test_adopted_parts_get_an_identity_and_lose_nothing(lab: Lab, port: Port) -> None:
    """A port that was plugged by hand or by os-vif is recognized and keeps running."""
    names = port.names
    lab.sh(
        f"""
        ip link add {names.bridge} type bridge forward_delay 0 stp_state 0 mcast_snooping 0 ageing_time 0
        ip link add {names.bridge_end} type veth peer name {names.switch_end}
        for d in {names.bridge_end} {names.switch_end}; do ip link set $d promisc on up; done
        ip link set {names.bridge_end} master {names.bridge}; ip link set {names.bridge} up
        ovs-vsctl add-port br-int {names.switch_end} tag=9 -- set Interface {names.switch_end} \\
          external_ids:iface-id={port.id} external_ids:iface-status=active \\
          external_ids:attached-mac={port.mac} external_ids:vm-uuid={port.instance_id}
        """
    )
    row = lab.row(names.switch_end)

    report = plug(port, lab.host)

    assert report.changed
    assert {type(outcome.step).__name__ for outcome in report.outcomes} == {"Update"}
    assert {outcome.step.part.kind for outcome in report.outcomes} == {"bridge", "veth"}
    assert lab.row(names.switch_end) | {"statistics": 0} == row | {"statistics": 0}
    assert lab.row(names.switch_end, "Port")["tag"] == 9
    assert lab.link(names.bridge_end)["ifalias"] == port.id


def test_second_new_port_with_same_names_in_one_call_alone_is_refused(lab: Lab, port: Port, twin: Port) -> None:
    other = make_port(2)

    reports = plug_all([port, twin, other], lab.host)

    assert [report.status for report in reports] == [Status.DONE, Status.REFUSED, Status.DONE]
    assert reports[1].code == "name-collision"
    assert check(port, lab.host) == check(other, lab.host) == ()


def failing(lab: Lab, call: Any) -> str:
    with pytest.raises((PlugFailed, UnplugFailed)) as caught:
        call()
    return str(caught.value)


def test_every_refusal_is_one_finished_sentence(lab: Lab, port: Port, twin: Port) -> None:
    plug(port, lab.host)
    messages = [
        failing(lab, lambda: plug(twin, lab.host)),
        failing(lab, lambda: plug(make_port(3, bridge="br-two"), lab.host)),
    ]
    reports = plug_all([twin, make_port(3, bridge="br-two")], lab.host)
    assert [report.reason for report in reports] == messages
    for sentence in messages:
        assert sentence.startswith("port ")
        assert "\n" not in sentence
        assert not sentence.endswith(".")


RENAMING = """
while :; do ip link set {name} name hvrenamed 2>/dev/null && break; done; echo renamed
"""
"""Script that renames a device as soon as it appears, like a careless udev rule."""


@pytest.mark.parametrize("kind", ["bridge", "bridge_end"])
def test_device_renamed_during_creation_is_success_only_if_recreated(lab: Lab, port: Port, kind: str) -> None:
    name = getattr(port.names, kind)
    with lab.box.popen(["sh", "-c", RENAMING.format(name=name)], stdout=-1) as renaming:
        try:
            report = plug(port, lab.host)
        except HybridVifError as failure:
            assert failure.report is not None
            report = failure.report
        assert renaming.stdout is not None
        assert renaming.stdout.readline() == "renamed\n"
    remaining = {device for device in port.names if device in lab.links()}
    if report.status is Status.DONE:
        # The call ended before the rename, or the device was created again.
        assert remaining >= {port.names.bridge, port.names.switch_end} - {name}
    else:
        assert report.reason.startswith("someone else was at work meanwhile: ")
        assert remaining == set(report.leftovers) | (remaining & {port.names.switch_end})
    lab.sh("ip link delete hvrenamed")
    assert plug(port, lab.host).ok
    assert check(port, lab.host) == ()
