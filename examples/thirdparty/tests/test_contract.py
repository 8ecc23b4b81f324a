"""The executors keep the contract, and plug a port when the configuration names them."""

from hybridvif_example.links import BatchLinks
from hybridvif_example.switch import BridgeSwitch

from hybridvif import Port, check, plug, unplug
from hybridvif.testing.contract import check_link_executor, check_switch_executor
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox.box import Sandbox

PORT = Port(
    id="5f2c0e1a-7b00-4c00-8000-000000000001",
    mac="fa:16:3e:aa:bb:cc",
    instance_id="0b1c2d3e-0000-4000-8000-000000000002",
)
BRIDGES = "for b in br-int br-two; do ip link add $b type bridge 2>/dev/null || true; ip link set $b up; done"


def test_the_link_executor_keeps_the_contract():
    check_link_executor(BatchLinks)


def test_the_switch_executor_keeps_the_contract():
    with Sandbox(ovs=False) as box:
        check_switch_executor(BridgeSwitch, box, prepare=BRIDGES, clean="rm -rf /run/hybridvif-example")


def test_a_port_is_plugged_by_both(tmp_path):
    with Sandbox(ovs=False) as box:
        box.run(["sh", "-c", BRIDGES])
        with connected(box, tmp_path, link_executor="example-batch", switch_executor="example-bridge") as host:
            assert plug(PORT, host).ok
            assert check(PORT, host) == ()
            assert "master br-int" in box.run(["ip", "link", "show", PORT.names.switch_end]).stdout
            assert unplug(PORT.id, host).ok
