"""A VIF of os-vif -> Port. What this host does not let us do is named, so that the plugin can delegate or refuse it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybridvif.model.errors import InvalidInput
from hybridvif.model.names import TRUNK_BRIDGES, PortNames, is_trunk_bridge, names_of
from hybridvif.model.port import NONE, Port
from hybridvif.model.settings import Settings

_PROFILE = "VIFPortProfileOpenVSwitch"


def port_of(vif: Any, instance_info: Any, set_options: Mapping[str, Any]) -> Port:
    """The port that a VIF means.

    set_options: os-vif's options that a file sets. Raises InvalidInput, naming what the VIF lacks or spells otherwise.
    """
    names_as_asked(vif)
    network, profile = _field(vif, "network"), _field(vif, "port_profile")
    if not _is(profile, _PROFILE):
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
        create_tap=_asks(profile, "create_tap"),
        multiqueue=_asks(profile, "create_tap") and _asks(profile, "multiqueue"),
        isolate=bool(set_options.get("isolate_vif")),
        # As os-vif does, which leaves the queueing of a userspace datapath alone.
        qos_type="" if _datapath_of(profile) == "system" else NONE,
        **({"mtu": mtu} if mtu else {}),
    )


def names_as_asked(vif: Any) -> PortNames:
    """The names of its devices. Raises InvalidInput where the VIF has others than its port id gives."""
    names = names_of(vif.id)
    asked = {"bridge_name": names.bridge, "vif_name": names.tap}
    if not _is(vif, "VIFBridge"):
        # Of a VIFOpenVSwitch it is the integration bridge.
        del asked["bridge_name"]
    for field, ours in asked.items():
        theirs = getattr(vif, field) if field in vif.fields and field in vif else ours
        if theirs != ours:
            raise InvalidInput(
                f"port {vif.id}: its {field} is {theirs!r}, not {ours!r}; Neutron's firewall finds a port's devices "
                "by the names that its id gives, so no other name is plugged"
            )
    return names


def not_for_us(vif: Any, settings: Settings) -> str:
    """What a plug or an unplug of this VIF needs that this host does not let us do; empty if nothing."""
    network = vif.network if "network" in vif else None
    bridge = str(network.bridge) if network is not None and "bridge" in network else ""
    if is_trunk_bridge(bridge) and not settings.allows(bridge):
        return f"{bridge} is a trunk bridge, and [hybridvif] integration_bridges has no {TRUNK_BRIDGES}"
    return ""


def _asks(profile: Any, name: str) -> bool:
    """Whether a port profile has a flag, which one of an older os-vif does not know, and it is set."""
    return name in profile.fields and name in profile and bool(getattr(profile, name))


def _datapath_of(profile: Any) -> str:
    told = "datapath_type" in profile.fields and "datapath_type" in profile and profile.datapath_type
    return str(told or "system")


def _is(thing: Any, name: str) -> bool:
    """Whether it is of this class of os-vif's, which this module does not import."""
    return any(cls.__name__ == name for cls in type(thing).__mro__)


def _field(thing: Any, name: str) -> Any:
    if name not in thing or getattr(thing, name) is None:
        raise InvalidInput(f"{type(thing).__name__} has no {name}, without which a port cannot be plugged; set it")
    return getattr(thing, name)
