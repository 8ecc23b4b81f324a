"""Translation of a VIF of os-vif into a Port."""

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
    mtu = network.mtu if "mtu" in network and network.mtu else set_options.get("network_device_mtu")
    return Port(
        id=vif.id,
        mac=str(_field(vif, "address")),
        instance_id=str(_field(instance_info, "uuid")),
        interface_id="" if interface_id == vif.id else interface_id,
        bridge=str(_field(network, "bridge")),
        datapath_type=_datapath_of(profile),
        create_tap=_has_flag(profile, "create_tap"),
        multiqueue=_has_flag(profile, "create_tap") and _has_flag(profile, "multiqueue"),
        isolate=bool(set_options.get("isolate_vif")),
        # As in os-vif: no QoS row on a userspace datapath.
        qos_type="" if _datapath_of(profile) == "system" else NONE,
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
        theirs = getattr(vif, field) if field in vif.fields and field in vif else ours
        if theirs != ours:
            raise InvalidInput(
                f"port {vif.id}: its {field} is {theirs!r}, not {ours!r}; Neutron's firewall finds a port's devices "
                "by the names that its id gives, so no other name is plugged"
            )
    return names


def objection(vif: Any, settings: Settings) -> str:
    """Return the reason for which hybridvif may not plug or unplug this VIF here; empty if there is none."""
    network = vif.network if "network" in vif else None
    bridge = str(network.bridge) if network is not None and "bridge" in network else ""
    if is_trunk_bridge(bridge) and not settings.allows(bridge):
        return f"{bridge} is a trunk bridge, and [hybridvif] integration_bridges has no {TRUNK_BRIDGES}"
    return ""


def _has_flag(profile: Any, name: str) -> bool:
    """Return whether a flag of a port profile is set. Profiles of older os-vif releases lack the field."""
    return name in profile.fields and name in profile and bool(getattr(profile, name))


def _datapath_of(profile: Any) -> str:
    is_set = "datapath_type" in profile.fields and "datapath_type" in profile
    return str((is_set and profile.datapath_type) or "system")


def _is_instance(value: Any, name: str) -> bool:
    """Return whether an object has this os-vif class, by name, because this module does not import os-vif."""
    return any(cls.__name__ == name for cls in type(value).__mro__)


def _field(versioned: Any, name: str) -> Any:
    """Return a field of a versioned object of os-vif. Raises InvalidInput if it is not set."""
    if name not in versioned or getattr(versioned, name) is None:
        raise InvalidInput(f"{type(versioned).__name__} has no {name}, without which a port cannot be plugged; set it")
    return getattr(versioned, name)
