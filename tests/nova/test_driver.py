"""Nova's LibvirtGenericVIFDriver through our drop-in beside os-vif's own plugin: the same calls on two hosts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import pytest

from hybridvif import Port, check
from tests.cloud.hosts import IS_SAMPLE, host_of, note
from tests.functional.conftest import Lab, make_port, until
from tests.functional.test_boundary import daemons
from tests.functional.test_repair import QBR, QVO
from tests.nova.compute import MODES, Nova
from tests.osvif.test_living_together import ADDITIONS, NO_DIFFERENCE, facts_of

PORTS = [make_port(number, mtu=1450) for number in range(1, 6)]
PORT = PORTS[0]
Response = dict[str, Any]


class Sides:
    """A call on both hosts, and the comparison of the results."""

    def __init__(self, ours: Nova, theirs: Nova) -> None:
        self.ours, self.theirs = ours, theirs
        self.labs = (ours.lab, theirs.lab)

    def call(self, do: str, *ports: Port) -> Response:
        """Make a call on both hosts. Both must succeed with the same result. Return ours with both times."""
        ours, theirs = (side.call(do, *ports) for side in (self.ours, self.theirs))
        seconds = {"ours": ours.pop("seconds"), "theirs": theirs.pop("seconds")}
        assert ours == theirs, (do, ours, theirs)
        assert ours["ok"], ours
        return {**ours, **seconds}

    def differences(self, mtu: int) -> dict[str, set[str]]:
        """Return the differing attributes of the first port, without our declared additions."""
        for lab in self.labs:
            assert until(lambda lab=lab: lab.row(QVO)["mtu"] == mtu)  # type: ignore[misc]
            assert until(lambda lab=lab: lab.link(QBR)["operstate"] == "UP")  # type: ignore[misc]
        ours, theirs = map(facts_of, self.labs)
        return {
            name: {key for key in {*ours[name], *theirs[name]} if ours[name].get(key) != theirs[name].get(key)}
            - ADDITIONS[name]
            for name in ours
        }

    def ports(self) -> list[set[str]]:
        """Return the devices and rows of ports on our host and on theirs."""
        found = []
        for lab in self.labs:
            links = {name for name in lab.links() if name[:3] in ("qbr", "qvb", "qvo", "tap")}
            found.append(links | {f"row {name}" for name in lab.sh("ovs-vsctl list-ports br-int").split()})
        return found


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Lab]]:
    """Our host and theirs."""
    directory = tmp_path_factory.mktemp("hosts")
    with host_of(directory / "ours") as ours, host_of(directory / "theirs", 2, is_connected=False) as theirs:
        yield ours, theirs


@pytest.fixture(scope="module", params=sorted(MODES))
def both(request: pytest.FixtureRequest, hosts: tuple[Lab, Lab], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A Nova on each host, in this threading mode."""
    directory = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        ours, theirs = (
            stack.enter_context(closing(Nova(lab, directory / name, request.param, ours=name == "ours")))
            for lab, name in zip(hosts, ("ours", "theirs"), strict=True)
        )
        running = [side.call("tell") for side in (ours, theirs)]
        plugins = [response["ovs"] for response in running]
        assert plugins == ["hybridvif.osvif.plugins.HybridOvsPlugin", "vif_plug_ovs.ovs.OvsPlugin"]
        is_eventlet = request.param == "eventlet"
        for response in running:
            assert (response["patched"], response["eventlet"]) == (is_eventlet, is_eventlet)
            assert ("PoisonEventletImport" in response["finders"]) is not is_eventlet
        yield Sides(ours, theirs)


@pytest.fixture
def sides(both: Sides) -> Iterator[Sides]:
    """Two empty hosts."""
    yield both
    for lab in both.labs:
        lab.sh(
            """
            for p in $(ovs-vsctl list-ports br-int); do ovs-vsctl --timeout=10 --if-exists del-port $p; done
            for l in $(ls /sys/class/net | grep -E '^(qbr|qvb|tap)'); do ip link delete $l 2>/dev/null || true; done
            """
        )


@pytest.mark.sample
def test_plug_leaves_state_and_xml_of_os_vif_with_additions(sides: Sides) -> None:
    ours = sides.labs[0]
    empty = ours.snapshot()
    first = sides.call("plug", PORT)
    assert sides.differences(1450) == NO_DIFFERENCE
    assert check(PORT, ours.host) == ()
    plugged = ours.snapshot()
    again = sides.call("plug", PORT)
    assert ours.snapshot() == plugged
    assert sides.differences(1450) == NO_DIFFERENCE
    xml = sides.call("get_config", PORT)["xml"]
    assert f'<source bridge="{QBR}"/>' in xml[0]
    assert f'<target dev="{PORT.names.tap}"/>' in xml[0]
    gone = sides.call("unplug", PORT)
    assert sides.ports() == [set(), set()]
    assert ours.snapshot() == empty
    sides.call("unplug", PORT)
    for name, call in (("plug", first), ("plug again", again), ("unplug", gone)):
        note("nova-call", call=name, ours=call["ours"], theirs=call["theirs"])


@pytest.mark.sample
def test_mtu_change_matches_os_vif(sides: Sides) -> None:
    sides.call("plug", PORT)
    for mtu in (1400, 9000):
        sides.call("plug", replace(PORT, mtu=mtu))
        assert sides.differences(mtu) == NO_DIFFERENCE
    sides.call("unplug", PORT)
    assert sides.ports() == [set(), set()]


@pytest.mark.sample
@pytest.mark.parametrize(
    ("plug", "unplug"), [("plug_vifs", "unplug_vifs"), ("plug", "unplug")], ids=["loop", "threads"]
)
def test_five_ports_carry_packets_and_go(sides: Sides, plug: str, unplug: str) -> None:
    ours, lab = sides.ours, sides.labs[0]
    empty = lab.snapshot()
    assert [ours.call(plug, *PORTS)["ok"], ours.call(plug, *PORTS)["ok"]] == [True, True]
    assert [check(port, lab.host) for port in PORTS] == [()] * 5
    with lab.vm(PORTS[0], 1) as first, lab.vm(PORTS[4], 2):
        assert first.ping("10.0.0.2").returncode == 0
        # As at a restart of nova-compute: every port of every running VM.
        assert ours.call("plug_vifs", *PORTS)["ok"]
        assert first.ping("10.0.0.2").returncode == 0
    assert ours.call(unplug, *PORTS)["ok"]
    assert lab.snapshot() == empty


@pytest.mark.sample
@pytest.mark.parametrize("state", ["plugged", "bridge deleted", "absent"])
def test_hard_reboot_matches_os_vif(sides: Sides, state: str) -> None:
    if state != "absent":
        sides.call("plug_vifs", *PORTS)
    if state == "bridge deleted":
        for lab in sides.labs:
            lab.sh(f"ip link delete {QBR}")
    sides.call("hard_reboot", *PORTS)
    assert sides.differences(1450) == NO_DIFFERENCE
    ours, theirs = sides.ports()
    assert ours == theirs
    assert len(ours) == 4 * len(PORTS)
    sides.call("unplug_vifs", *PORTS)
    assert sides.ports() == [set(), set()]


@pytest.mark.sample
def test_bad_port_among_others_fails_alone_and_is_named(sides: Sides) -> None:
    """Nova stops at the first port that fails. The bad port leaves nothing, and the ports before it are plugged."""
    before, bad, after = PORTS[:3]
    for lab in sides.labs:
        lab.sh(f"ip tuntap add {bad.names.bridge} mode tap")
    ours, theirs = (side.call("plug_vifs", before, bad, after) for side in (sides.ours, sides.theirs))
    assert (ours["ok"], ours["raised"]) == (False, "InternalError")
    assert bad.names.bridge in ours["text"]
    assert check(before, sides.labs[0].host) == ()
    (our_ports, their_ports) = sides.ports()
    assert {name for name in our_ports if bad.id[:11] in name} == {bad.names.bridge}
    note("nova-bad-port", ours=ours["raised"], theirs=theirs.get("raised", "success"), seconds=ours["seconds"])
    # os-vif fails as well, or it leaves more of the bad port.
    assert not theirs["ok"] or len({name for name in their_ports if bad.id[:11] in name}) > 1
    for lab in sides.labs:
        lab.sh(f"ip link delete {bad.names.bridge}")
    sides.call("plug_vifs", before, bad, after)
    assert sides.differences(1450) == NO_DIFFERENCE
    sides.call("unplug_vifs", before, bad, after)
    assert sides.ports() == [set(), set()]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        pytest.param("ovsdb-server", set(), marks=pytest.mark.sample, id="ovsdb"),
        pytest.param("ovs-vswitchd", {"qbr", "qvb", "qvo"}, id="vswitchd"),  # it waits for its deadline
    ],
)
def test_dead_switch_is_an_error_in_time(sides: Sides, name: Any, kept: set[str]) -> None:
    """Nova gets an exception by the deadline, and the next call succeeds.

    Without ovs-vswitchd the row is committed and not accepted. Such a port is `configured`: it is not rolled back.
    """
    sides.call("plug", PORTS[1])
    sides.call("unplug", PORTS[1])
    for who, nova in (("ours", sides.ours), ("theirs", sides.theirs))[: 1 if IS_SAMPLE else 2]:
        nova.lab.box.kill(name)
        response = nova.call("plug", PORT)
        remaining = {link[:3] for link in nova.lab.links() if PORT.id[:11] in link}
        raised = response.get("raised", "success")
        note(
            "nova-fault", who=who, fault=f"{name} down", seconds=response["seconds"], raised=raised, left=str(remaining)
        )
        nova.lab.box.start(name)
        if who == "ours":
            assert raised == "InternalError"
            assert response["seconds"] < 12
            assert remaining == kept
    assert sides.ours.call("plug", PORT)["ok"]
    assert check(PORT, sides.labs[0].host) == ()
    assert sides.ours.call("unplug", PORT)["ok"]
    assert sides.ports()[0] == set()


@pytest.mark.sample
def test_killed_daemon_is_replaced_in_the_same_call(sides: Sides) -> None:
    sides.call("plug", PORT)
    # Those of Nova, and that of this test, which connects again.
    for pid in daemons(sides.labs[0].box):
        os.kill(pid, signal.SIGKILL)
    response = sides.ours.call("plug", *PORTS[:2])
    assert response["ok"], response
    note("nova-fault", fault="daemon killed", seconds=response["seconds"], raised="success")
    sides.call("unplug", *PORTS[:2])
