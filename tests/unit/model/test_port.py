from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
from hypothesis import given, strategies as st

from hybridvif.model.errors import HybridVifError, InvalidInput
from hybridvif.model.names import is_bridge_name, is_mac, names_of
from hybridvif.model.port import Port, VifType
from hybridvif.model.settings import Settings
from tests.support.strategies import macs, ports

ID = "5f2c0e1a-7b00-4c00-8000-000000000001"
VM = "0b1c2d3e-0000-4000-8000-000000000002"
OTHER = "0b1c2d3e-0000-4000-8000-000000000003"
LEGAL: dict[str, Any] = {"id": ID, "mac": "fa:16:3e:aa:bb:cc", "instance_id": VM}


def test_port_has_defaults() -> None:
    port = Port(**LEGAL)
    assert (port.interface_id, port.mtu, port.bridge, port.vif_type) == ("", 1500, "br-int", VifType.OVS)


@pytest.mark.parametrize("field", LEGAL)
def test_port_without_required_field_raises(field: str) -> None:
    with pytest.raises(TypeError, match=field):
        Port(**{name: value for name, value in LEGAL.items() if name != field})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mac", "00:00:00:00:00:01"),
        ("mac", "fe:ff:ff:ff:ff:ff"),
        ("interface_id", ""),
        ("interface_id", OTHER),
        ("mtu", 68),
        ("mtu", 65535),
        ("bridge", "b"),
        ("bridge", "tbr-5f2c0e1a-7b"),
        ("bridge", "Br_0.9-x"),
        ("vif_type", VifType.IVS),
        ("isolate", True),
        ("create_tap", True),
        ("call_iptables", True),
        ("qos_type", "none"),
        ("datapath_type", "netdev"),
        ("qos_type", "linux-fq_codel"),
        ("vhostuser_mode", "client"),
        ("vhostuser_mode", "server"),
    ],
)
def test_port_keeps_a_legal_value(field: str, value: object) -> None:
    assert getattr(Port(**LEGAL | {field: value}), field) == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("id", ID.upper()),
        ("id", None),
        ("mac", ""),
        ("mac", "fa:16:3e:aa:bb"),
        ("mac", "fa:16:3e:aa:bb:cc:dd"),
        ("mac", "fa-16-3e-aa-bb-cc"),
        ("mac", "fa163eaabbcc"),
        ("mac", "ga:16:3e:aa:bb:cc"),
        ("mac", "fa:16:3e:aa:bb:cc\n"),
        ("mac", "01:00:5e:00:00:01"),
        ("mac", "ff:ff:ff:ff:ff:ff"),
        ("mac", "00:00:00:00:00:00"),
        ("mac", 0xFA163EAABBCC),
        ("mac", None),
        ("instance_id", ""),
        ("instance_id", "vm-7"),
        ("instance_id", VM.upper()),
        ("instance_id", None),
        ("interface_id", "eth0"),
        ("interface_id", OTHER.upper()),
        ("interface_id", None),
        ("mtu", 67),
        ("mtu", 65536),
        ("mtu", 0),
        ("mtu", -1500),
        ("mtu", "1500"),
        ("mtu", 1500.0),
        ("mtu", True),
        ("mtu", None),
        ("bridge", ""),
        ("bridge", "br int"),
        ("bridge", "br/int"),
        ("bridge", "../br-int"),
        ("bridge", "-br"),
        ("bridge", ".."),
        ("bridge", "br-int\n"),
        ("bridge", "br-int\0"),
        ("bridge", "b" * 16),
        ("bridge", "brücke"),
        ("bridge", None),
        ("vif_type", "ovs"),
        ("vif_type", None),
        ("isolate", 1),
        ("isolate", "yes"),
        ("isolate", None),
        ("create_tap", 1),
        ("multiqueue", "yes"),
        ("call_iptables", 1),
        ("call_iptables", None),
        ("datapath_type", "dummy"),
        ("datapath_type", None),
        ("qos_type", "linux"),
        ("qos_type", None),
        ("qos_type", ["linux-noop"]),
    ],
)
def test_port_with_illegal_value_names_field_value_and_rule(field: str, value: object) -> None:
    with pytest.raises(InvalidInput) as refusal:
        Port(**LEGAL | {field: value})
    message = str(refusal.value)
    assert message.startswith(f"port {ID}: {field} " if field != "id" else "port id ")
    assert repr(value) in message
    assert "; " in message


def test_invalid_input_is_ours_and_a_value_error() -> None:
    with pytest.raises(ValueError, match="mtu 67"):
        Port(**LEGAL, mtu=67)
    with pytest.raises(HybridVifError, match="mtu 67"):
        Port(**LEGAL, mtu=67)


@pytest.mark.parametrize("given", [{"isolate": True}, {"qos_type": "linux-noop"}, {"datapath_type": "netdev"}])
def test_ivs_port_with_ovs_field_raises(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=f"{next(iter(given))} is for Open vSwitch"):
        Port(**LEGAL, vif_type=VifType.IVS, **given)


def test_port_on_host_takes_the_defaults_of_the_host() -> None:
    port, host = Port(**LEGAL), Settings(default_qos_type="linux-noop")
    assert port.on(host).qos_type == "linux-noop"
    assert port.on(Settings()) == port
    calling = Port(**LEGAL, call_iptables=True)
    assert port.on(Settings(call_iptables=True)) == calling == calling.on(Settings())
    assert calling.on(host) == Port(**LEGAL, call_iptables=True, qos_type="linux-noop")
    assert Port(**LEGAL, vif_type=VifType.IVS).on(Settings(call_iptables=True)).call_iptables
    for fields in ({"qos_type": "none"}, {"qos_type": "linux-htb"}, {"vif_type": VifType.IVS}):
        assert Port(**LEGAL | fields).on(host) == Port(**LEGAL | fields)


def test_port_on_host_with_require_isolate_is_isolated() -> None:
    host = Settings(require_isolate=True)
    assert Port(**LEGAL).on(host) == Port(**LEGAL, isolate=True) == Port(**LEGAL, isolate=True).on(host)
    assert Port(**LEGAL, vhostuser_mode="client").on(host).isolate
    assert not Port(**LEGAL, vif_type=VifType.IVS).on(host).isolate
    assert not Port(**LEGAL).on(Settings()).isolate


def test_port_with_unknown_vif_type_lists_the_known() -> None:
    with pytest.raises(InvalidInput, match=r"use one of ovs, ivs$"):
        Port(**LEGAL | {"vif_type": "bridge"})


def test_port_with_unknown_field_raises() -> None:
    with pytest.raises(TypeError, match="mtuu"):
        Port(**LEGAL | {"mtuu": 9000})


def test_mac_is_converted_to_lower_case() -> None:
    assert Port(**LEGAL | {"mac": "FA:16:3E:AA:BB:CC"}).mac == "fa:16:3e:aa:bb:cc"


def test_ports_with_mac_in_another_case_are_equal() -> None:
    assert Port(**LEGAL) == Port(**LEGAL | {"mac": LEGAL["mac"].upper()})


def test_iface_id_is_interface_id_or_port_id() -> None:
    assert Port(**LEGAL).iface_id == ID
    assert Port(**LEGAL, interface_id=OTHER).iface_id == OTHER


def test_port_has_its_names() -> None:
    assert Port(**LEGAL).names == names_of(ID)


def test_port_is_immutable_and_replace_validates() -> None:
    port = Port(**LEGAL)
    with pytest.raises(dataclasses.FrozenInstanceError):
        port.mtu = 1  # type: ignore[misc]
    with pytest.raises(InvalidInput):
        dataclasses.replace(port, mtu=1)
    assert not hasattr(port, "__dict__")


def test_port_fields_are_keyword_only() -> None:
    assert {given.kind for given in inspect.signature(Port).parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}


@given(ports())
def test_port_from_its_own_fields_is_equal(port: Port) -> None:
    fields = {spec.name: getattr(port, spec.name) for spec in dataclasses.fields(Port)}
    assert Port(**fields) == port


@given(st.text() | macs)
def test_is_mac_requires_six_octets_unicast_not_zero(text: str) -> None:
    octets = text.split(":")
    if is_mac(text):
        assert len(text) == 17
        assert [f"{int(octet, 16):02x}" for octet in octets] == octets
        assert int(octets[0], 16) & 1 == 0
        assert any(int(octet, 16) for octet in octets)


@given(st.text())
def test_is_bridge_name_accepts_only_device_names(text: str) -> None:
    if is_bridge_name(text):
        assert 1 <= len(text.encode()) <= 15
        assert not set(text) & set("/ \n\0")
        assert text not in (".", "..")


def test_create_tap_allows_multiqueue_and_limits_the_mtu() -> None:
    with_tap = LEGAL | {"create_tap": True}
    assert Port(**with_tap | {"multiqueue": True, "mtu": 65_521}).multiqueue
    with pytest.raises(InvalidInput, match="give create_tap, too"):
        Port(**LEGAL | {"multiqueue": True})
    with pytest.raises(InvalidInput, match="more than the 65521"):
        Port(**with_tap | {"mtu": 65_522})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vhostuser_mode": "both"}, "is not known; use one of client, server, or leave it out for a hybrid port"),
        ({"vhostuser_mode": None}, "vhostuser_mode None is not known"),
        ({"vhostuser_mode": "client", "vif_type": VifType.IVS}, "an Indigo Virtual Switch has no such ports"),
        ({"vhostuser_mode": "client", "call_iptables": True}, "has no Linux bridge that could call iptables"),
        ({"vhostuser_mode": "client", "create_tap": True}, "a vhost-user port has a socket and no tap"),
        ({"vhostuser_mode": "server", "create_tap": True, "multiqueue": True}, "leave create_tap and multiqueue out"),
        ({"vhostuser_mode": "server", "qos_type": "linux-noop"}, "qos_type linux-noop is of the kernel's devices"),
    ],
)
def test_vhost_user_port_with_hybrid_field_raises(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        Port(**LEGAL | fields)
    assert message in str(refusal.value)


def test_vhost_user_port_takes_no_defaults_of_the_host() -> None:
    port = Port(**LEGAL, vhostuser_mode="server")
    assert port.on(Settings(call_iptables=True, default_qos_type="linux-noop")) is port
