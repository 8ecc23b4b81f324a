"""Plug a VM's network port the OpenStack hybrid way.

    tap - qbr (Linux bridge) - qvb = qvo (veth pair) - br-int (Open vSwitch)

docs/architecture.md describes the folders and the reading order of the source.

Names are imported at their first use, so `import hybridvif` is cheap.
"""

import importlib

# Do not import __future__ or typing: until __main__ runs, `python -m` finds them in the working directory.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hybridvif.client.host import Host, connect
    from hybridvif.engine.api import check, plug, plug_all, unplug, unplug_all
    from hybridvif.engine.host_wide import CollectedOrphan, Reconciled, gc, reconcile
    from hybridvif.executors.recording import RecordingHost
    from hybridvif.model.desired import desired_state
    from hybridvif.model.errors import (
        BridgeMissing,
        BridgeNotAllowed,
        ConfigurationError,
        Conflict,
        HybridVifError,
        InvalidInput,
        NameCollision,
        NotReady,
        PlugFailed,
        PortRunning,
        PreconditionError,
        Refused,
        UnplugFailed,
    )
    from hybridvif.model.names import PortNames, names_of
    from hybridvif.model.parts import (
        Bridge,
        ForeignObject,
        HostState,
        IvsPort,
        ManagedTap,
        OvsPort,
        Tap,
        Veth,
        VhostUserPort,
    )
    from hybridvif.model.planner import plan
    from hybridvif.model.port import Port, VifType
    from hybridvif.model.report import Outcome, Report, Result, Status
    from hybridvif.model.steps import Create, Delete, Step, Update, simulate

    Gathered, MadeTap, Stray, wiring_of = CollectedOrphan, ManagedTap, ForeignObject, desired_state

_HOMES = {
    "hybridvif.engine.api": ("check", "plug", "plug_all", "unplug", "unplug_all"),
    "hybridvif.model.errors": (
        "BridgeMissing",
        "BridgeNotAllowed",
        "ConfigurationError",
        "Conflict",
        "HybridVifError",
        "InvalidInput",
        "NameCollision",
        "NotReady",
        "PlugFailed",
        "PortRunning",
        "PreconditionError",
        "Refused",
        "UnplugFailed",
    ),
    "hybridvif.executors.recording": ("RecordingHost",),
    "hybridvif.client.host": ("Host", "connect"),
    "hybridvif.model.names": ("PortNames", "names_of"),
    "hybridvif.model.parts": (
        "Bridge",
        "HostState",
        "IvsPort",
        "ManagedTap",
        "OvsPort",
        "ForeignObject",
        "Tap",
        "Veth",
        "VhostUserPort",
    ),
    "hybridvif.model.planner": ("plan",),
    "hybridvif.model.port": ("Port", "VifType"),
    "hybridvif.model.report": ("Outcome", "Report", "Result", "Status"),
    "hybridvif.model.steps": ("Create", "Delete", "Step", "Update", "simulate"),
    "hybridvif.engine.host_wide": ("CollectedOrphan", "Reconciled", "gc", "reconcile"),
    "hybridvif.model.desired": ("desired_state",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_FORMER = {
    "Gathered": "CollectedOrphan",
    "MadeTap": "ManagedTap",
    "Stray": "ForeignObject",
    "wiring_of": "desired_state",
}
"""Current names by former public name. Programs may still import the former names."""

__all__ = [
    "Bridge",
    "BridgeMissing",
    "BridgeNotAllowed",
    "CollectedOrphan",
    "ConfigurationError",
    "Conflict",
    "Create",
    "Delete",
    "ForeignObject",
    "Gathered",
    "Host",
    "HostState",
    "HybridVifError",
    "InvalidInput",
    "IvsPort",
    "MadeTap",
    "ManagedTap",
    "NameCollision",
    "NotReady",
    "Outcome",
    "OvsPort",
    "PlugFailed",
    "Port",
    "PortNames",
    "PortRunning",
    "PreconditionError",
    "Reconciled",
    "RecordingHost",
    "Refused",
    "Report",
    "Result",
    "Status",
    "Step",
    "Stray",
    "Tap",
    "UnplugFailed",
    "Update",
    "Veth",
    "VhostUserPort",
    "VifType",
    "check",
    "connect",
    "desired_state",
    "gc",
    "names_of",
    "plan",
    "plug",
    "plug_all",
    "reconcile",
    "simulate",
    "unplug",
    "unplug_all",
    "wiring_of",
]


def __getattr__(name: str) -> "Any":
    current = _FORMER.get(name, name)
    if current not in _HOME_OF:
        raise AttributeError(f"module 'hybridvif' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[current]), current)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF, *_FORMER])
