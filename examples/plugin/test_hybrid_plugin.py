"""Tests of code that plugs, with a RecordingHost: no root, no mocks."""

from types import SimpleNamespace

import pytest
from hybrid_plugin import HybridPlugin, PluginFailed

from hybridvif import Create

VIF = SimpleNamespace(
    id="5f2c0e1a-7b00-4c00-8000-000000000001",
    address="fa:16:3e:aa:bb:cc",
    network=SimpleNamespace(mtu=1450, bridge="br-int"),
)
INSTANCE = SimpleNamespace(uuid="0b1c2d3e-0000-4000-8000-000000000002")


def test_a_vif_is_plugged_with_its_networks_mtu(recording_host):
    HybridPlugin(recording_host).plug(VIF, INSTANCE)

    assert recording_host.state.links["qbr5f2c0e1a-7b"].mtu == 1450
    assert [type(step) for step in recording_host.steps] == [Create, Create, Create]


def test_plugging_again_changes_nothing(recording_host):
    plugin = HybridPlugin(recording_host)
    plugin.plug(VIF, INSTANCE)
    recording_host.steps.clear()

    assert not plugin.plug(VIF, INSTANCE).changed
    assert recording_host.steps == []


def test_a_failure_is_told_and_leaves_nothing_behind(recording_host):
    recording_host.fail(name="qvo5f2c0e1a-7b", reason="the switch is on fire")

    with pytest.raises(PluginFailed, match="on fire"):
        HybridPlugin(recording_host).plug(VIF, INSTANCE)
    assert not recording_host.state.links


def test_an_unplug_leaves_nothing(recording_host):
    plugin = HybridPlugin(recording_host)
    plugin.plug(VIF, INSTANCE)
    plugin.unplug(VIF)

    assert not recording_host.state.links
    assert not recording_host.state.ports
