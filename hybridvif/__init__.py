"""Plug a VM's network port the OpenStack hybrid way.

    tap - qbr (Linux bridge) - qvb = qvo (veth pair) - br-int (Open vSwitch)

docs/architecture.md describes the folders and the reading order of the source.

Names are imported at their first use, so `import hybridvif` is cheap.
"""

import importlib

__version__ = "1.0.0"

# Do not import __future__ or typing: until __main__ runs, `python -m` finds them in the working directory.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hybridvif.client.host import Host as Host, connect as connect
    from hybridvif.client.trace import trace as trace
    from hybridvif.engine.any_host import HostProtocol as HostProtocol
    from hybridvif.engine.converge import (
        check as check,
        plug as plug,
        plug_all as plug_all,
        unplug as unplug,
        unplug_all as unplug_all,
    )
    from hybridvif.engine.convert import convert as convert, convert_all as convert_all
    from hybridvif.engine.host_wide import (
        CollectedOrphan as CollectedOrphan,
        Reconciled as Reconciled,
        gc as gc,
        reconcile as reconcile,
    )
    from hybridvif.engine.watch import Event as Event, Watch as Watch
    from hybridvif.executors.recording import RecordingHost as RecordingHost
    from hybridvif.model.errors import (
        BridgeMissing as BridgeMissing,
        BridgeNotAllowed as BridgeNotAllowed,
        ConfigurationError as ConfigurationError,
        Conflict as Conflict,
        HybridVifError as HybridVifError,
        InvalidInput as InvalidInput,
        NameCollision as NameCollision,
        NotReady as NotReady,
        PlugFailed as PlugFailed,
        PortRunning as PortRunning,
        PreconditionError as PreconditionError,
        Refused as Refused,
        Unfiltered as Unfiltered,
        UnplugFailed as UnplugFailed,
    )
    from hybridvif.model.names import PortNames as PortNames, names_of as names_of
    from hybridvif.model.parts import (
        Bridge as Bridge,
        ForeignObject as ForeignObject,
        IvsPort as IvsPort,
        ManagedTap as ManagedTap,
        NativePort as NativePort,
        OvsPort as OvsPort,
        Tap as Tap,
        Veth as Veth,
        VhostUserPort as VhostUserPort,
    )
    from hybridvif.model.planner import plan as plan
    from hybridvif.model.port import Port as Port, VifType as VifType, desired_state as desired_state
    from hybridvif.model.report import Outcome as Outcome, Report as Report, Result as Result, Status as Status
    from hybridvif.model.state import (
        Create as Create,
        Delete as Delete,
        HostState as HostState,
        Replace as Replace,
        Step as Step,
        Update as Update,
        simulate as simulate,
    )
    from hybridvif.model.trace import Diagnosis as Diagnosis

    Gathered, MadeTap, Stray, wiring_of = CollectedOrphan, ManagedTap, ForeignObject, desired_state

_FORMER = {
    "Gathered": "CollectedOrphan",
    "MadeTap": "ManagedTap",
    "Stray": "ForeignObject",
    "wiring_of": "desired_state",
}
"""Current names by former public name. Programs may still import the former names."""
_HOMES = {
    "hybridvif.client.host": "Host connect",
    "hybridvif.engine.any_host": "HostProtocol",
    "hybridvif.client.trace": "trace",
    "hybridvif.engine.converge": "check plug plug_all unplug unplug_all",
    "hybridvif.engine.convert": "convert convert_all",
    "hybridvif.engine.host_wide": "CollectedOrphan Reconciled gc reconcile",
    "hybridvif.engine.watch": "Event Watch",
    "hybridvif.executors.recording": "RecordingHost",
    "hybridvif.model.errors": "BridgeMissing BridgeNotAllowed ConfigurationError Conflict HybridVifError InvalidInput "
    "NameCollision NotReady PlugFailed PortRunning PreconditionError Refused Unfiltered UnplugFailed",
    "hybridvif.model.names": "PortNames names_of",
    "hybridvif.model.parts": "Bridge ForeignObject IvsPort ManagedTap NativePort OvsPort Tap Veth VhostUserPort",
    "hybridvif.model.planner": "plan",
    "hybridvif.model.port": "Port VifType desired_state",
    "hybridvif.model.report": "Outcome Report Result Status",
    "hybridvif.model.state": "Create Delete HostState Replace Step Update simulate",
    "hybridvif.model.trace": "Diagnosis",
}
"""The names of each module that are public here."""
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = sorted([*_HOME_OF, *_FORMER])  # noqa: PLE0605


def __getattr__(name: str) -> "Any":
    current = _FORMER.get(name, name)
    if current not in _HOME_OF:
        raise AttributeError(f"module 'hybridvif' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[current]), current)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
