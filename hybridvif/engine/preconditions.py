"""Preconditions that the host state alone does not express. Each check raises if the port must not be changed.

These checks prevent mistakes and give precise errors. They are not the authorization, which the daemon does itself.
"""

from __future__ import annotations

from hybridvif.model.errors import BridgeMissing, BridgeNotAllowed, Conflict, NotReady, PortRunning
from hybridvif.model.names import PortNames
from hybridvif.model.parts import VHOST_USER_TYPES, Bridge, ManagedTap, OvsPort, VhostUserPort
from hybridvif.model.settings import Settings
from hybridvif.model.state import Facts, HostState, Observed
from hybridvif.model.steps import Delete, Step, Update


def check_tap_is_not_in_switch(port_id: str, names: PortNames, facts: Facts) -> None:
    """Refuse a port whose tap is a port of the switch itself. Raises Conflict.

    On the userspace datapath such a tap has no master in the kernel. If qbr had it too, each packet would pass twice.
    """
    if names.tap in facts.ports:
        remove = "ivs-ctl" if facts.switch_version == "ivs" else "ovs-vsctl"
        raise Conflict(
            f"port {port_id}: {names.tap} is a port of the switch itself, so its VM is plugged without a Linux bridge; "
            f"if that is a mistake, remove it: {remove} del-port {names.tap}; if not, and the port has qbr or qvo as "
            f"well, remove those: hybridvif unplug {port_id}"
        )


def check_kinds_are_served(port_id: str, desired: HostState, facts: Facts) -> None:
    """Require an executor for every part before the first link is created. Raises NotReady."""
    for part in desired:
        if facts.serves and part.kind not in facts.serves:
            role = part.role.value
            raise NotReady(
                f"port {port_id}: the configured {role} executor does not serve {part.kind} {part.name}; "
                f"set [hybridvif] {role}_executor to one that does"
            )


def check_bridges(port_id: str, desired: HostState, steps: tuple[Step, ...], facts: Facts, settings: Settings) -> None:
    """Require the integration bridge to exist and to be allowed. Raises BridgeMissing, BridgeNotAllowed."""
    for port in desired.ports.values():
        if not isinstance(port, OvsPort) or not steps:
            continue
        if port.bridge not in facts.switches and not settings.creates(port.bridge):
            raise BridgeMissing(
                f"port {port_id}: integration bridge {port.bridge} does not exist "
                f"(there are {', '.join(sorted(facts.switches)) or 'none'}); create it: ovs-vsctl add-br {port.bridge}"
            )
        if not settings.allows(port.bridge):
            raise BridgeNotAllowed(
                f"port {port_id}: refused to plug into {port.bridge}, which is not in [hybridvif] "
                f"integration_bridges ({', '.join(settings.integration_bridges)}); add it there"
            )


def check_no_vm_is_cut_off(port_id: str, names: PortNames, steps: tuple[Step, ...], facts: Facts) -> None:
    """Refuse a plug that removes the Linux bridge or the tap of a running VM. Raises PortRunning.

    A plug as a vhost-user port removes both. The VM would lose its device even if the plug were rolled back.
    """
    deleted = {type(step.part) for step in steps if isinstance(step, Delete)}
    reason = _other_member(names, facts) if Bridge in deleted else ""
    tap = facts.links.get(names.tap)
    if ManagedTap in deleted and tap is not None and tap.carrier:
        reason = f"{names.tap} has carrier, so a VM runs on it"
    if reason:
        raise PortRunning(
            f"port {port_id}: refused to plug it as a vhost-user port, since {reason}; "
            "stop the VM first, or force its unplug"
        )


def check_socket_stays(port_id: str, steps: tuple[Step, ...]) -> None:
    """Refuse to move the socket of a vhost-user port that Open vSwitch has accepted. Raises Conflict.

    Open vSwitch ignores a changed path (lib/netdev-dpdk.c, netdev_dpdk_vhost_client_set_config).
    """
    connecting = VHOST_USER_TYPES["server"]
    for step in steps:
        match step:
            case Update(VhostUserPort(realized=True, socket_as_configured=False) as before, OvsPort(type=new)):
                if before.type == new == connecting:
                    raise Conflict(
                        f"port {port_id}: in Open vSwitch, the socket of {before.name} is not in [hybridvif] "
                        "vhost_socket_dir, and a change would be ignored; set the option to its directory, or unplug "
                        "the port and plug it again"
                    )


def check_port_is_idle(port_id: str, names: PortNames, observed: Observed, *, spare_vms: bool) -> None:
    """Refuse an unplug if a VM uses the port. Raises PortRunning.

    A tap has carrier only while a process holds it open. The socket of a vhost-user port shows no use, so with
    spare_vms such a port counts as in use.
    """
    if spare_vms and any(isinstance(port, VhostUserPort) for port in observed.state.ports.values()):
        raise _running(port_id, f"{names.vhost_user} does not show whether a VM runs on it")
    if reason := _other_member(names, observed.facts):
        raise _running(port_id, reason)
    tap = observed.facts.links.get(names.tap)
    is_deleted = isinstance(observed.state.links.get(names.tap), ManagedTap)
    if (spare_vms or is_deleted) and tap is not None and tap.carrier:
        raise _running(port_id, f"{names.tap} has carrier, so a VM runs on it")


def _other_member(names: PortNames, facts: Facts) -> str:
    """Return the reason to keep the Linux bridge: a running VM or a foreign member. Empty if there is none."""
    for member in facts.members.get(names.bridge, ()):
        if member == names.bridge_end:
            continue
        fact = facts.links.get(member)
        if member != names.tap:
            return f"{member} in {names.bridge} is not ours"
        if fact is not None and fact.carrier:
            return f"{member} in {names.bridge} has carrier, so a VM runs on it"
    return ""


def _running(port_id: str, reason: str) -> PortRunning:
    return PortRunning(f"port {port_id}: refused to unplug, since {reason}; stop the VM first, or force it")
