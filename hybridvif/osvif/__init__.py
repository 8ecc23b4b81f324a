"""The plugins of os-vif, for Nova. docs/osvif.md describes their use.

This module translates a VIF of os-vif into a Port, and does not import os-vif. plugins.py has the plugin `hybridvif`,
and the drop-in for `ovs`. os-vif is imported only when it loads a plugin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybridvif.model.errors import InvalidInput
from hybridvif.model.names import NONE, TRUNK_BRIDGES, PortNames, is_trunk_bridge, names_of
from hybridvif.model.port import Port
from hybridvif.model.settings import Settings

_PROFILE = "VIFPortProfileOpenVSwitch"


def port_of(vif: Any, instance_info: Any, set_options: Mapping[str, Any]) -> Port:
    """Return the port of a VIF.

    set_options: the options of os-vif that a file sets. Raises InvalidInput for a missing or unexpected field.
    """
    checked_names(vif)
    network, profile = _field(vif, "network"), _field(vif, "port_profile")
    if not _is_instance(profile, _PROFILE):
        raise InvalidInput(
            f"port {vif.id}: its port profile is a {type(profile).__name__}, not a {_PROFILE}, "
            "so it is no port of Open vSwitch; ask another plugin for it"
        )
    interface_id = _field(profile, "interface_id")
    mtu = _get(network, "mtu") or set_options.get("network_device_mtu")
    datapath_type = str(_get(profile, "datapath_type") or "system")
    create_tap = bool(_get(profile, "create_tap"))
    return Port(
        id=vif.id,
        mac=str(_field(vif, "address")),
        instance_id=str(_field(instance_info, "uuid")),
        interface_id="" if interface_id == vif.id else interface_id,
        bridge=str(_field(network, "bridge")),
        datapath_type=datapath_type,
        create_tap=create_tap,
        multiqueue=create_tap and bool(_get(profile, "multiqueue")),
        isolate=bool(set_options.get("isolate_vif")),
        # As in os-vif: no QoS row on a userspace datapath.
        qos_type="" if datapath_type == "system" else NONE,
        **({"mtu": mtu} if mtu else {}),
    )


def checked_names(vif: Any) -> PortNames:
    """Return the device names of a VIF. Raises InvalidInput if they differ from those of the port id."""
    names = names_of(vif.id)
    expected = {"bridge_name": names.bridge, "vif_name": names.tap}
    if not _is_instance(vif, "VIFBridge"):
        # In a VIFOpenVSwitch, this field is the integration bridge.
        del expected["bridge_name"]
    for field, ours in expected.items():
        theirs = _get(vif, field, ours)
        if theirs != ours:
            raise InvalidInput(
                f"port {vif.id}: its {field} is {theirs!r}, not {ours!r}; Neutron's firewall finds a port's devices "
                "by the names that its id gives, so no other name is plugged"
            )
    return names


def objection(vif: Any, settings: Settings) -> str:
    """Return the reason for which hybridvif may not plug or unplug this VIF here; empty if there is none."""
    network = _get(vif, "network")
    bridge = "" if network is None else str(_get(network, "bridge", ""))
    if is_trunk_bridge(bridge) and not settings.allows(bridge):
        return f"{bridge} is a trunk bridge, and [hybridvif] integration_bridges has no {TRUNK_BRIDGES}"
    return ""


def _is_instance(value: Any, name: str) -> bool:
    """Return whether an object has this os-vif class, by name, because this module does not import os-vif."""
    return any(cls.__name__ == name for cls in type(value).__mro__)


def _get(versioned: Any, name: str, default: Any = None) -> Any:
    """Return a field of a versioned object of os-vif; the default if it is not set, or unknown to this release."""
    return getattr(versioned, name) if name in versioned.fields and name in versioned else default


def _field(versioned: Any, name: str) -> Any:
    """Return a field of a versioned object of os-vif. Raises InvalidInput if it is not set."""
    value = _get(versioned, name)
    if value is None:
        raise InvalidInput(f"{type(versioned).__name__} has no {name}, without which a port cannot be plugged; set it")
    return value
