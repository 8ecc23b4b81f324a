"""Whose are the parts that a plan would change? Judged by what is really there, before any of it is written.

The caller has judged it too, but a captured one has not: that a name fits, and that a plan says whose it is, proves
nothing. What is only made, beside a veth pair of its own, needs no proof: whatever were there already would be in its
way. All else is observed once more, all plans of a call together; a plan without proof is refused alone.

But Open vSwitch takes a device as soon as it appears under the name of a row, on whatever bridge that row is. So the
rows of the names of all links that are made are looked at, too, and a row on a bridge that is not allowed is proven by
its own ids only: what the alias of a link says may have been written by whoever asks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from hybridvif.executors.base import Executor, ExecutorError
from hybridvif.model.errors import Refused
from hybridvif.model.facts import merge_observed
from hybridvif.model.names import KEY_LENGTH, key_of, names_of_key
from hybridvif.model.ownership import check_ownership
from hybridvif.model.parts import (
    NOTHING,
    Bridge,
    HostState,
    IvsPort,
    ManagedTap,
    Member,
    OvsPort,
    Part,
    Role,
    Tap,
    Veth,
)
from hybridvif.model.planner import plan as planned
from hybridvif.model.report import Outcome, Result
from hybridvif.model.steps import Create, Step, Update, changes_of, owners_of
from hybridvif.privileged.policy import owner_stated

LOG = logging.getLogger(__name__)
Plan = Sequence[Step]


def refusals(
    plans: Sequence[Plan], executors: Mapping[Role, Executor], allows: Callable[[str], bool], deadline: float
) -> dict[int, tuple[Outcome, ...]]:
    """The outcomes of the plans that are not to be carried out, by their place.

    allows: whether ports may be plugged into a bridge of this name. deadline: of the one look at the host that is
    taken, if any plan needs it.
    """
    doubtful = {at for at, plan in enumerate(plans) if needs_proof(plan)}
    judged = {at: plan for at, plan in enumerate(plans) if at in doubtful or devices_made(plan)}
    if not judged:
        return {}
    names = {at: names_of_key(key_of(plan[0].part.name) or "") for at, plan in judged.items()}
    found = {name for at in doubtful for name in names[at]}
    taps = {own.tap for own in names.values()}
    asked = {Role.LINK: found, Role.SWITCH: found.union(taps, *map(devices_made, judged.values()))}
    try:
        state = merge_observed(
            executor.observe(asked[role], deadline) for role, executor in executors.items() if asked[role]
        ).state
    except ExecutorError as error:
        return {at: tuple(error.outcome_of(step) for step in plan) for at, plan in judged.items()}
    refused = {}
    for at, plan in judged.items():
        try:
            permit_devices(plan, state.ports, allows)
            permit_tap(plan, names[at].tap in state.ports)
            if at in doubtful:
                permit_found(plan, state.of(names[at]), allows)
        except Refused as error:
            reason = str(error) if str(error).startswith("refused: ") else f"refused: {error}"
            LOG.warning("%s", reason)
            refused[at] = tuple(Outcome(step, Result.REFUSED, reason, code=error.code) for step in plan)
    return refused


def needs_proof(plan: Plan) -> bool:
    """Whether a plan changes, removes or uses anything that it has not made itself."""
    made: set[type[Part]] = set()
    for step in plan:
        match step:
            case Create(Veth(master=master) | ManagedTap(master=master)) if master and Bridge not in made:
                return True
            case Create(Bridge() | Veth() as part):
                made.add(type(part))
            case Create() if Veth in made:
                pass
            case _:
                return True
    return False


def devices_made(plan: Plan) -> list[str]:
    """Return the names of the devices that a plan makes."""
    links = [step.part for step in plan if isinstance(step, Create) and step.part.role is Role.LINK]
    return [name for link in links for name in (link.name, getattr(link, "peer", "")) if name]


def permit_devices(plan: Plan, rows: Mapping[str, Part], allows: Callable[[str], bool]) -> None:
    """Refuse a device that Open vSwitch would take into a bridge that is not its port's. rows: by name."""
    for name in devices_made(plan):
        row = rows.get(name)
        if row is None or isinstance(row, IvsPort):
            continue
        if name != names_of_key(key_of(name) or "").switch_end or not isinstance(row, OvsPort):
            raise Refused(
                f"refused: {name} has a row of its own in Open vSwitch, which would take the device; "
                f"if nothing needs the row, remove it: ovs-vsctl del-port {name}"
            )
        _permit_bridge_of(row, owner_stated(plan), allows)


def permit_tap(plan: Plan, in_switch: bool) -> None:
    """Refuse to plug a port whose tap is a port of the switch itself. in_switch: whether it is."""
    for step in plan:
        joins = isinstance(step, Update) and isinstance(step.part, Member) and bool(changes_of(step).get("master"))
        if in_switch and (isinstance(step, Create) or joins):
            tap = names_of_key(key_of(step.part.name) or "").tap
            raise Refused(
                f"refused: {tap} is a port of the switch itself, so its VM is plugged without a Linux bridge; "
                f"if that is a mistake, remove it: ovs-vsctl del-port {tap}"
            )


def _permit_bridge_of(row: OvsPort, owner: str, allows: Callable[[str], bool]) -> None:
    if not allows(row.bridge) and owners_of(row) != {owner}:
        raise Refused(
            f"refused: {row.name} is on {row.bridge}, which is not in [hybridvif] integration_bridges, and its row "
            f"does not bear the port's id; remove it with what made it: ovs-vsctl del-port {row.name}"
        )


def permit_found(plan: Plan, found: HostState, allows: Callable[[str], bool]) -> None:
    """Make sure that a plan changes its own port's parts only. found: what is there of the port. Raises Refused."""
    aliases = {owner for link in found.links.values() for owner in owners_of(link)}
    owner = owner_stated(plan) or _owner_by(
        aliases or {one for row in found.ports.values() for one in owners_of(row)}, plan
    )
    touched = [part for step in plan if (part := _found(found, step)) is not None]
    for part in touched:
        if isinstance(part, OvsPort):
            _permit_bridge_of(part, owner, allows)
    for step in plan:
        if isinstance(step.part, ManagedTap) and not isinstance(step, Create) and isinstance(_found(found, step), Tap):
            raise Refused(f"refused: {step.part.name} bears no mark of the port's, so it is the VM's, and left alone")
    if _all_marked(plan, touched, owner, aliases):
        # What others have put beside it meanwhile is in no plan: a rollback takes back its own.
        planned(HostState().with_parts(*touched), NOTHING)
        return
    if owner:
        check_ownership(found, owner, _interface_id(plan, owner))
    elif any(owners := [owners_of(part) for part in found]):
        theirs = min(set().union(*owners))
        raise Refused(f"refused: {plan[0].part.name} belongs to port {theirs}, of which the plan says nothing")
    # As the planner does: nothing of another shape, and nothing that a foreign bridge holds.
    planned(found, NOTHING)


def _owner_by(marks: set[str], plan: Plan) -> str:
    """Whose all is by what is found, where the plan does not say it: a rollback may be of one part without a mark.

    A part that has one is safe from it: an executor changes none that is another's than the step says.
    """
    owner = min(marks, default="")
    return owner if len(marks) == 1 and owner[:KEY_LENGTH] == key_of(plan[0].part.name) else ""


def _found(found: HostState, step: Step) -> Part | None:
    return (found.ports if step.part.role is Role.SWITCH else found.links).get(step.part.name)


def _all_marked(plan: Plan, touched: Sequence[Part], owner: str, aliases: set[str]) -> bool:
    """Whether each part that is changed bears this port's mark, and the plan uses nothing else."""
    only_changes = not any(isinstance(step, Create) for step in plan)
    speaks = not aliases or owner in aliases
    return bool(owner and touched) and only_changes and speaks and all(owners_of(part) == {owner} for part in touched)


def _interface_id(plan: Plan, owner: str) -> str:
    """The iface-id that the plan gives this port beside its own id."""
    rows = [step.part for step in plan if isinstance(step.part, OvsPort)]
    return next((row.iface_id for row in reversed(rows) if row.port_id == owner), "")
