"""Calls of Nova for a converted port, with the old type and with the new one, in each order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hybridvif import check, convert, gc, plug, unplug
from hybridvif.testing.sandbox.box import Vm
from tests.functional.conftest import Lab, make_port, until
from tests.osvif.conftest import Nova

PORT, PEER = make_port(1), make_port(2)
NAMES = PORT.names
HYBRID, NATIVE = {"kind": "bridge"}, {"kind": "ovs"}


@pytest.fixture
def vm(lab: Lab, ours: Nova) -> Iterator[Vm]:
    """A VM on PORT, which Nova has plugged, beside another one."""
    assert ours.plug(PORT)["ok"]
    plug(PEER, lab.host)
    with lab.vm(PORT, 1) as vm, lab.vm(PEER, 2):
        yield vm


def rows(lab: Lab) -> list[str]:
    """Return the names of the rows of the port."""
    return [name for name in (NAMES.switch_end, NAMES.tap) if lab.row(name)]


@pytest.mark.parametrize("kind", [HYBRID, NATIVE], ids=["hybrid", "native"])
def test_plug_of_any_type_spares_a_converted_vm(lab: Lab, ours: Nova, vm: Vm, kind: dict[str, str]) -> None:
    for _ in range(2):
        convert(PORT.id, lab.host, unfiltered=True)
        snapshot = lab.snapshot()
        assert ours.plug(PORT, **kind)["ok"]
        assert lab.snapshot() == snapshot
        assert until(lambda: vm.ping("10.0.0.2").returncode == 0)
        # And the same after the way back.
        convert(PORT.id, lab.host, "hybrid", unfiltered=True)
        snapshot = lab.snapshot()
        assert ours.plug(PORT, **kind)["ok"]
        assert lab.snapshot() == snapshot
        assert until(lambda: vm.ping("10.0.0.2").returncode == 0)


def test_unplug_as_hybrid_spares_a_converted_vm_and_leaves_no_row(lab: Lab, ours: Nova, vm: Vm) -> None:
    """By default an unplug of Nova is forced, because Nova also unplugs after a failed detach."""
    convert(PORT.id, lab.host, unfiltered=True)
    answer = ours.unplug(PORT)
    assert (answer["ok"], answer["status"]) == (False, "refused")
    assert "so a VM runs on it" in answer["message"]
    assert until(lambda: vm.ping("10.0.0.2").returncode == 0)
    vm.shut_down()
    assert ours.unplug(PORT)["ok"]
    assert rows(lab) == []


def test_unplug_as_native_leaves_no_row(lab: Lab, ours: Nova, vm: Vm) -> None:
    convert(PORT.id, lab.host, unfiltered=True)
    vm.shut_down()
    assert ours.unplug(PORT, **NATIVE)["ok"]
    assert rows(lab) == []


@pytest.mark.parametrize("kind", [HYBRID, NATIVE], ids=["hybrid", "native"])
def test_unplug_of_any_type_after_the_way_back_leaves_nothing(
    lab: Lab, ours: Nova, vm: Vm, kind: dict[str, str]
) -> None:
    convert(PORT.id, lab.host, unfiltered=True)
    convert(PORT.id, lab.host, "hybrid", unfiltered=True)
    vm.shut_down()
    assert ours.unplug(PORT, **kind)["ok"]
    assert (rows(lab), lab.link(NAMES.bridge)) == ([], {})


@pytest.mark.parametrize("old", [HYBRID, NATIVE], ids=["unplug hybrid", "unplug native"])
@pytest.mark.parametrize("new", [HYBRID, NATIVE], ids=["plug hybrid", "plug native"])
def test_hard_reboot_of_a_converted_vm_leaves_one_path(
    lab: Lab, ours: Nova, vm: Vm, old: dict[str, str], new: dict[str, str]
) -> None:
    convert(PORT.id, lab.host, unfiltered=True)
    vm.shut_down()
    assert ours.unplug(PORT, **old)["ok"]
    assert ours.plug(PORT, **new)["ok"]
    with lab.vm(PORT, 1, attached=new is HYBRID) as again:
        if new is NATIVE:
            lab.plug_as_libvirt(PORT)
        assert until(lambda: again.ping("10.0.0.2").returncode == 0)
        assert rows(lab) == ([NAMES.switch_end] if new is HYBRID else [NAMES.tap])
        assert new is NATIVE or check(PORT, lab.host) == ()


def test_row_that_nobody_unplugs_is_collected(lab: Lab, vm: Vm) -> None:
    convert(PORT.id, lab.host, unfiltered=True)
    assert gc(lab.host, older_than=0) == []
    vm.shut_down()
    (collected,) = gc(lab.host, older_than=0)
    assert collected.report is not None
    assert collected.report.ok
    assert rows(lab) == []
    unplug(PEER.id, lab.host, force=True)
