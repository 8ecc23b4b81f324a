"""What comes and goes in Open vSwitch with the rows of ports, and is no part of them: bridges and QoS rows. Pure.

It is what `hybridvif plan` tells of them beside the plan, which says nothing of either. What the executors look at only
as they go is told as what it depends on: whether a QoS row goes with a port, and whether a trunk bridge is left empty.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hybridvif.executors.bridgerows import bridges_to_make, trunks_left
from hybridvif.executors.qosrows import ports_with_qos
from hybridvif.model.parts import OvsPort
from hybridvif.model.settings import Settings
from hybridvif.model.steps import Create, Delete, Step

OVS_BRIDGE, QOS = "ovs-bridge", "qos"
IF_THERE, IF_EMPTY = "there is one and no other port has it", "nothing is left in it but Neutron's patch ports"


@dataclass(frozen=True, slots=True)
class Beside:
    """A bridge or a QoS row that comes or goes with the row of a port."""

    verb: str
    """create or delete."""
    kind: str
    name: str
    """Of a QoS row, that of the port whose it is."""
    type: str = ""
    """Of what is made: the datapath type, "" for the default; the type of the QoS."""
    only_if: str = ""
    """What it depends on and a plan does not look at; "" if on nothing."""


def besides_of_plans(
    plans: Mapping[str, Sequence[Step]], bridges: Collection[str], settings: Settings
) -> dict[str, tuple[Beside, ...]]:
    """By port id, of its plan. bridges: those that Open vSwitch has."""
    there = set(bridges)
    found: dict[str, tuple[Beside, ...]] = {}
    for port_id, steps in plans.items():
        found[port_id] = tuple(_besides(steps, there, settings))
        # One that several ports need comes with the first of them.
        there |= bridges_to_make(steps, there, settings.creates).keys()
    return found


def _besides(steps: Sequence[Step], there: Collection[str], settings: Settings) -> Iterator[Beside]:
    made = {step.part.name: step.part for step in steps if isinstance(step, Create) and isinstance(step.part, OvsPort)}
    gone = [step for step in steps if isinstance(step, Delete) and step.part.name not in made]
    for name, datapath_type in sorted(bridges_to_make(steps, there, settings.creates).items()):
        yield Beside("create", OVS_BRIDGE, name, datapath_type)
    for name, port in made.items():
        if port.qos_type:
            yield Beside("create", QOS, name, port.qos_type)
    for name in ports_with_qos(gone):
        yield Beside("delete", QOS, name, only_if=IF_THERE)
    for name in trunks_left(steps, {step.part.name: getattr(step.part, "bridge", None) for step in gone}, settings):
        yield Beside("delete", OVS_BRIDGE, name, only_if=IF_EMPTY)
