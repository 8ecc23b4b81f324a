"""Calls of Nova's VIF driver for a converted port, with the old type and with the new one, in each order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from xml.etree import ElementTree

import pytest

from hybridvif import check, convert, plug
from hybridvif.testing.sandbox.box import Vm
from tests.cloud.hosts import host_of
from tests.functional.conftest import Lab, make_port, until
from tests.nova.compute import Nova

pytestmark = pytest.mark.sample
PORT, PEER = make_port(1), make_port(2)
NAMES = PORT.names
TYPES = pytest.mark.parametrize("native", [False, True], ids=["hybrid", "native"])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nova]:
    """A Nova with native threads. Its plugin `ovs` is that of hybridvif."""
    directory = tmp_path_factory.mktemp("nova")
    with host_of(directory) as lab, closing(Nova(lab, directory)) as nova:
        yield nova


@pytest.fixture
def nova(running: Nova) -> Iterator[Nova]:
    """A Nova on an empty host."""
    yield running
    running.lab.sweep()


@pytest.fixture
def lab(nova: Nova) -> Lab:
    """The host of Nova."""
    return nova.lab


@pytest.fixture
def vm(nova: Nova, lab: Lab) -> Iterator[Vm]:
    """A VM on PORT, which Nova has plugged as hybrid, beside another one."""
    assert nova.call("plug", PORT)["ok"]
    plug(PEER, lab.host)
    with lab.vm(PORT, 1) as vm, lab.vm(PEER, 2):
        assert until(lambda: vm.ping("10.0.0.2").returncode == 0)
        yield vm


def convert_to(lab: Lab, *targets: str) -> None:
    for target in targets:
        assert convert(PORT.id, lab.host, target, unfiltered=True).ok


def rows(lab: Lab) -> list[str]:
    """Return the names of the rows of the port."""
    return [name for name in (NAMES.switch_end, NAMES.tap) if lab.row(name)]


@TYPES
@pytest.mark.parametrize("targets", [("native",), ("native", "hybrid")], ids=["converted", "back"])
def test_restart_of_nova_compute_changes_nothing(
    nova: Nova, lab: Lab, vm: Vm, targets: tuple[str, ...], native: bool
) -> None:
    """It plugs every port of every running VM again, with the old type or, after a refresh, with the new one."""
    convert_to(lab, *targets)
    snapshot = lab.snapshot()
    assert nova.call("plug_vifs", PORT, native=native)["ok"]
    assert lab.snapshot() == snapshot
    assert until(lambda: vm.ping("10.0.0.2").returncode == 0)


def test_unplug_as_hybrid_spares_a_converted_vm(nova: Nova, lab: Lab, vm: Vm) -> None:
    convert_to(lab, "native")
    snapshot = lab.snapshot()
    answer = nova.call("unplug", PORT)
    assert (answer["ok"], answer["raised"]) == (False, "InternalError")
    assert "so a VM runs on it" in answer["text"]
    assert lab.snapshot() == snapshot
    assert until(lambda: vm.ping("10.0.0.2").returncode == 0)


@TYPES
@pytest.mark.parametrize("targets", [("native",), ("native", "hybrid")], ids=["converted", "back"])
def test_unplug_of_either_type_leaves_nothing(
    nova: Nova, lab: Lab, vm: Vm, targets: tuple[str, ...], native: bool
) -> None:
    convert_to(lab, *targets)
    vm.shut_down()
    assert nova.call("unplug_vifs", PORT, native=native)["ok"]
    assert (rows(lab), lab.link(NAMES.bridge), lab.link(NAMES.bridge_end)) == ([], {}, {})


@pytest.mark.parametrize("old", [False, True], ids=["unplug hybrid", "unplug native"])
@pytest.mark.parametrize("new", [False, True], ids=["plug hybrid", "plug native"])
@pytest.mark.parametrize("targets", [("native",), ("native", "hybrid")], ids=["converted", "back"])
def test_hard_reboot_leaves_one_path(
    nova: Nova, lab: Lab, vm: Vm, targets: tuple[str, ...], new: bool, old: bool
) -> None:
    """Nova destroys the VM, unplugs with the cached type, plugs with the refreshed type, and defines the VM anew."""
    convert_to(lab, *targets)
    vm.shut_down()
    assert nova.call("unplug_vifs", PORT, native=old)["ok"]
    assert nova.call("plug_vifs", PORT, native=new)["ok"]
    interface = ElementTree.fromstring(nova.call("get_config", PORT, native=new)["xml"][0])
    bridge = interface.find("source").get("bridge")  # type: ignore[union-attr]
    is_virtualport = interface.find("virtualport[@type='openvswitch']") is not None
    assert (bridge, is_virtualport) == (("br-int", True) if new else (NAMES.bridge, False))
    with lab.vm(PORT, 1, attached=not is_virtualport) as again:
        if is_virtualport:
            lab.plug_as_libvirt(PORT)
        assert until(lambda: again.ping("10.0.0.2").returncode == 0)
        assert rows(lab) == [NAMES.tap if new else NAMES.switch_end]
        assert new or check(PORT, lab.host) == ()
