"""Create-only attributes of a row, checked by packets and by OVSDB."""

from __future__ import annotations

from dataclasses import replace

from hybridvif import check, plug, plug_all, unplug, unplug_all
from hybridvif.executors.side_effects import qos_id_of
from tests.functional.conftest import Lab, make_port

COLUMNS = ("tag", "vlan_mode", "trunks")
NONE: list[object] = [["set", []]] * 3


def born(lab: Lab, name: str) -> list[object]:
    """Return the VLAN of a row."""
    return [lab.row(name, "Port")[column] for column in COLUMNS]


def test_isolated_port_passes_no_packet_before_wiring_and_only_once(lab: Lab) -> None:
    ports = [make_port(number, isolate=True) for number in (1, 2)]
    names = [port.names.switch_end for port in ports]
    plug_all(ports, lab.host)
    with lab.vm(ports[0], 1) as vm, lab.vm(ports[1], 2):
        assert [born(lab, name) for name in names] == [[4095, "trunk", 4095]] * 2
        assert [check(port, lab.host) for port in ports] == [(), ()]
        assert vm.ping("10.0.0.2", timeout=1).returncode != 0
        # As Neutron's agent does.
        lab.sh("; ".join(f"ovs-vsctl set Port {name} tag=7 -- clear Port {name} vlan_mode trunks" for name in names))
        assert vm.ping("10.0.0.2").returncode == 0
        lab.sh(f"ovs-vsctl remove Interface {names[0]} external_ids vm-uuid")
        assert all(report.ok for report in plug_all(ports, lab.host))
        assert [lab.row(name, "Port")["tag"] for name in names] == [7, 7]
        assert vm.ping("10.0.0.2").returncode == 0


def test_a_port_that_is_there_is_never_isolated(lab: Lab) -> None:
    plug(make_port(), lab.host)
    isolated = make_port(isolate=True)
    assert check(isolated, lab.host) == ()
    assert not plug(isolated, lab.host).changed
    lab.sh(f"ip link delete {isolated.names.bridge_end}")
    assert plug(isolated, lab.host).changed
    assert born(lab, isolated.names.switch_end) == NONE
    unplug(isolated.id, lab.host)
    plug(isolated, lab.host)
    assert born(lab, isolated.names.switch_end) == [4095, "trunk", 4095]


def test_a_port_is_made_with_its_qos_and_takes_it_away_again(lab: Lab) -> None:
    port = make_port(qos_type="linux-noop")
    before = lab.snapshot()
    plug(port, lab.host)
    assert lab.sh(f"ovs-vsctl get QoS $(ovs-vsctl get Port {port.names.switch_end} qos) type").strip() == "linux-noop"
    assert not plug(replace(port, qos_type="linux-htb"), lab.host).changed
    unplug(port.id, lab.host)
    assert lab.snapshot() == before
    assert lab.sh("ovs-vsctl list QoS") == ""


def test_an_unplug_in_bulk_takes_only_the_qos_of_its_ports(lab: Lab) -> None:
    ports = [make_port(number, qos_type="linux-noop") for number in range(1, 21)]
    plug_all(ports, lab.host)
    # The agent has set another QoS.
    name = ports[0].names.switch_end
    lab.sh(f"ovs-vsctl -- --id=@q create QoS type=linux-htb external_ids:id=agent -- set Port {name} qos=@q")
    assert len(lab.sh("ovs-vsctl --bare --columns=_uuid list QoS").split()) == 21
    assert all(report.ok for report in unplug_all([port.id for port in ports[:-1]], lab.host))
    remaining = lab.sh("ovs-vsctl --bare --columns=external_ids list QoS").split()
    assert sorted(remaining) == sorted(["id=agent", "_type=linux-noop", f"id={qos_id_of(ports[-1].names.switch_end)}"])
    unplug(ports[-1].id, lab.host)
    lab.sh("ovs-vsctl --all destroy QoS")
