"""Nova's LibvirtGenericVIFDriver through our drop-in beside os-vif's own plugin: the same calls on two hosts."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import pairwise
from subprocess import PIPE
from typing import Any

import pytest

from hybridvif import Port, check
from tests.cloud.compute import MODES, Nova
from tests.cloud.hosts import host_of, join, note
from tests.functional.conftest import Lab, make_port, until
from tests.functional.test_boundary import daemons
from tests.functional.test_repair import QBR, QVO
from tests.osvif.test_living_together import ADDITIONS, NO_DIFFERENCE, facts_of

pytestmark = pytest.mark.sample
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
            assert until(lambda lab=lab: facts_of(lab)["row"]["mtu"] == mtu)  # type: ignore[misc]
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
        plugins = [side.call("tell")["ovs"] for side in (ours, theirs)]
        assert plugins == ["hybridvif.osvif.plugins.HybridOvsPlugin", "vif_plug_ovs.ovs.OvsPlugin"]
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


def test_plug_leaves_state_and_xml_of_os_vif_with_additions(sides: Sides) -> None:
    first = sides.call("plug", PORT)
    assert sides.differences(1450) == NO_DIFFERENCE
    again = sides.call("plug", PORT)
    assert sides.differences(1450) == NO_DIFFERENCE
    xml = sides.call("get_config", PORT)["xml"]
    assert f'<source bridge="{QBR}"/>' in xml[0]
    assert f'<target dev="{PORT.names.tap}"/>' in xml[0]
    gone = sides.call("unplug", PORT)
    assert sides.ports() == [set(), set()]
    sides.call("unplug", PORT)
    for name, call in (("plug", first), ("plug again", again), ("unplug", gone)):
        note("nova-call", call=name, ours=call["ours"], theirs=call["theirs"])


def test_mtu_change_matches_os_vif(sides: Sides) -> None:
    sides.call("plug", PORT)
    for mtu in (1400, 9000):
        sides.call("plug", replace(PORT, mtu=mtu))
        assert sides.differences(mtu) == NO_DIFFERENCE
    sides.call("unplug", PORT)
    assert sides.ports() == [set(), set()]


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
    ("name", "kept"), [("ovsdb-server", set()), ("ovs-vswitchd", {"qbr", "qvb", "qvo"})], ids=["ovsdb", "vswitchd"]
)
def test_dead_switch_is_an_error_in_time(sides: Sides, name: Any, kept: set[str]) -> None:
    """Nova gets an exception by the deadline, and the next call succeeds.

    Without ovs-vswitchd the row is committed and not accepted. Such a port is `configured`: it is not rolled back.
    """
    our_lab = sides.labs[0]
    sides.call("plug", PORTS[1])
    sides.call("unplug", PORTS[1])
    our_lab.box.kill(name)
    response = sides.ours.call("plug", PORT)
    links = our_lab.links()
    note("nova-fault", fault=f"{name} down", seconds=response["seconds"], raised=response.get("raised", "success"))
    our_lab.box.start(name)
    assert (response["ok"], response["raised"]) == (False, "InternalError")
    assert response["seconds"] < 12
    assert {link[:3] for link in links if PORT.id[:11] in link} == kept
    assert sides.ours.call("plug", PORT)["ok"]
    assert check(PORT, our_lab.host) == ()
    assert sides.ours.call("unplug", PORT)["ok"]
    assert sides.ports()[0] == set()


def test_killed_daemon_is_replaced_in_the_same_call(sides: Sides) -> None:
    sides.call("plug", PORT)
    # Those of Nova, and that of this test, which connects again.
    for pid in daemons(sides.labs[0].box):
        os.kill(pid, signal.SIGKILL)
    response = sides.ours.call("plug", *PORTS[:2])
    assert response["ok"], response
    note("nova-fault", fault="daemon killed", seconds=response["seconds"], raised="success")
    sides.call("unplug", *PORTS[:2])


@pytest.fixture(scope="module", params=["ours", "theirs"])
def route(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Nova, Nova, str]]:
    """Source and destination of a live migration, whose integration bridges are connected."""
    directory = tmp_path_factory.mktemp("migration")
    hosts = [host_of(directory / f"lab{number}", number, is_connected=False) for number in (1, 2)]
    with hosts[0] as source, hosts[1] as destination, ExitStack() as stack:
        join(source, destination, "br-int")
        novas = [
            stack.enter_context(closing(Nova(lab, directory / name, "threading", ours=request.param == "ours")))
            for lab, name in ((source, "source"), (destination, "destination"))
        ]
        yield novas[0], novas[1], request.param


def test_live_migration_keeps_traffic_until_the_vm_moves(route: tuple[Nova, Nova, str]) -> None:
    """Plug at the destination, move the VM, unplug at the source. A peer at the source sends a ping every 10 ms."""
    source, destination, who = route
    port, peer_port = PORTS[:2]
    assert source.call("plug_vifs", port, peer_port)["ok"]
    vm, peer = source.lab.vm(port, 1), source.lab.vm(peer_port, 2)
    moved = destination.lab.vm(port, 1, attached=False)
    with peer:
        vm.boot()
        assert peer.ping("10.0.0.1").returncode == 0
        argv = ["nsenter", f"--net=/run/netns/{peer.namespace}", "ping", "-n", "-D", "-i", "0.01", "10.0.0.1"]
        with source.lab.box.popen(argv, stdout=PIPE) as ping:
            assert destination.call("pre_live_migration", port)["ok"]
            assert until(lambda: destination.lab.link(QBR)["operstate"] == "UP")
            source.lab.sh("sleep 0.5")
            # Until here, nothing may be lost. QEMU announces the VM at the destination; an ARP probe stands for it.
            vm.shut_down()
            moved.boot()
            moved.attach(port.names.bridge)
            moved.ping("10.0.0.2", timeout=5)
            assert source.call("unplug", port)["ok"]
            source.lab.sh("sleep 0.5")
            source.lab.box.send_signal(ping, signal.SIGINT)
            output = ping.communicate(timeout=20)[0]
        assert peer.ping("10.0.0.1").returncode == 0
    sequence = [int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", output)]
    gaps = [after - before - 1 for before, after in pairwise(sequence) if after > before + 1]
    note("migration", who=who, pings=sequence[-1], lost=sum(gaps), gaps=len(gaps))
    # One interruption, while the VM moves.
    assert len(gaps) <= 1, gaps
    moved.shut_down()
    assert destination.call("unplug", port)["ok"]
    assert source.call("unplug", peer_port)["ok"]
    for nova in (source, destination):
        assert not {name for name in nova.lab.links() if name[:3] in ("qbr", "qvb", "qvo")}
        assert QVO not in nova.lab.sh("ovs-vsctl list-ports br-int")
