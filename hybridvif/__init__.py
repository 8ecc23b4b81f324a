"""Plug a VM's network port the OpenStack hybrid way.

    tap - qbr (Linux bridge) - qvb = qvo (veth pair) - br-int (Open vSwitch)

Reading order of the source, which is the order of the flow: names, port, parts, wiring, steps, planner, identity,
limits, report, errors, remains (the core: pure); config, locks, wire, host, goals, rounds, rollback, attempts, api,
rehearsal, sharedfiles, notes, wholehost (the shell); privileged (behind the boundary); executors; contract, cli,
sandbox, pytest_plugin.

Names are loaded when they are first used, so that `import hybridvif` costs next to nothing.
"""

import importlib

# Neither __future__ nor typing is imported: `python -m` finds those in the working directory, until __main__ runs.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hybridvif.client.host import Host, connect
    from hybridvif.engine.api import check, plug, plug_all, unplug, unplug_all
    from hybridvif.engine.host_wide import Gathered, Reconciled, gc, reconcile
    from hybridvif.executors.recording import RecordingHost
    from hybridvif.model.desired import wiring_of
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
    from hybridvif.model.parts import Bridge, HostState, IvsPort, MadeTap, OvsPort, Stray, Tap, Veth, VhostUserPort
    from hybridvif.model.planner import plan
    from hybridvif.model.port import Port, VifType
    from hybridvif.model.report import Outcome, Report, Result, Status
    from hybridvif.model.steps import Create, Delete, Step, Update, simulate

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
        "MadeTap",
        "OvsPort",
        "Stray",
        "Tap",
        "Veth",
        "VhostUserPort",
    ),
    "hybridvif.model.planner": ("plan",),
    "hybridvif.model.port": ("Port", "VifType"),
    "hybridvif.model.report": ("Outcome", "Report", "Result", "Status"),
    "hybridvif.model.steps": ("Create", "Delete", "Step", "Update", "simulate"),
    "hybridvif.engine.host_wide": ("Gathered", "Reconciled", "gc", "reconcile"),
    "hybridvif.model.desired": ("wiring_of",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Bridge",
    "BridgeMissing",
    "BridgeNotAllowed",
    "ConfigurationError",
    "Conflict",
    "Create",
    "Delete",
    "Gathered",
    "Host",
    "HostState",
    "HybridVifError",
    "InvalidInput",
    "IvsPort",
    "MadeTap",
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
    if name not in _HOME_OF:
        raise AttributeError(f"module 'hybridvif' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
