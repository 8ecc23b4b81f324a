"""The contract of link executors."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from subprocess import PIPE
from typing import Any

from hybridvif.model.desired import desired_state
from hybridvif.model.parts import ANYBODY, HOST_IP_OFF, OPEN, Bridge, ManagedTap, Role, Tap, Veth
from hybridvif.model.planner import plan
from hybridvif.model.report import Result
from hybridvif.model.state import NOTHING, HostState, LinkFact
from hybridvif.model.steps import Create, Delete, Step, Update
from hybridvif.testing.contract.bench import (
    PORT,
    STRANGER,
    Bench,
    Make,
    describe,
    require_declared,
    require_equal,
    variants,
)
from hybridvif.testing.sandbox import Sandbox

NAMES = PORT.names
WIRING = HostState(desired_state(PORT).links)
BRIDGE = next(link for link in WIRING.links.values() if isinstance(link, Bridge))
VETH = next(link for link in WIRING.links.values() if isinstance(link, Veth))

OTHER_VALUES: dict[str, tuple[Any, ...]] = {
    "alias": ("",),
    "peer_alias": ("",),
    "mtu": (68, 1400, 9000),
    "peer_mtu": (68, 1400, 9000),
    "up": (False,),
    "peer_up": (False,),
    "promisc": (False,),
    "peer_promisc": (False,),
    "forward_delay": (1500,),
    "ageing": (30_000,),
    "multicast_snooping": (True,),
    "disable_ipv6": (False,),
    "addr_gen_mode": ("eui64",),
    "arp_ignore": (0,),
    "arp_announce": (0,),
    "nf_call_iptables": (False,),
    "nf_call_ip6tables": (False,),
    "master": ("",),
    "group": (7,),
}
"""Valid values that differ from the desired state, by attribute."""
LISTENING = (
    "ip link set {} arp on",
    "echo 1 > /proc/sys/net/ipv4/conf/{}/forwarding",
    "echo 1 > /proc/sys/net/ipv4/conf/{}/proxy_arp",
    "echo 0 > /proc/sys/net/ipv4/conf/{}/rp_filter",
)
"""Commands that enable parts of the host's IPv4 on a device."""
LISTENING_TO_IPV6 = (
    "echo 0 > /proc/sys/net/ipv6/conf/{}/disable_ipv6",
    "ip link set {} addrgenmode eui64",
    # The kernel forgets all IPv6 settings of a device below 1280 bytes.
    "ip link set {0} mtu 1200; ip link set {0} mtu 1500",
)
CLOSED = ("isolated on", "locked on", "flood off", "mcast_flood off", "bcast_flood off", "hairpin on", "guard on")
"""Flags of a bridge port that drop or repeat packets, as arguments of `ip link set type bridge_slave`."""
HOLDER = """
import fcntl, os, struct, sys
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", sys.argv[1].encode(), 0x1002))
print("held", flush=True)
sys.stdin.read()
"""
"""A program that holds a tap open, as a VM does."""
PRINT_FACTS = """
import json, sys
from pyroute2 import IPRoute
with IPRoute() as ipr:
    links = {link["index"]: link for link in ipr.link("dump")}
link = next(link for link in links.values() if link.get_attr("IFLA_IFNAME") == sys.argv[1])
master = links.get(link.get_attr("IFLA_MASTER"))
print(json.dumps([
    link["index"], link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "", bool(link["flags"] & 1),
    bool(link.get_attr("IFLA_CARRIER")), master.get_attr("IFLA_IFNAME") if master else "", link.get_attr("IFLA_MTU"),
]))
"""
"""A program that prints the kernel's facts about a device. `ip` omits the carrier of a device that is down."""
CARRIER_TIME = 2.0
"""Seconds after which the kernel has updated the carrier."""
SKIPPED_OR_WORSE = frozenset({Result.FAILED, Result.REFUSED, Result.SKIPPED})


def check_link_executor(make: Make, sandbox: Sandbox | None = None, **settings: Any) -> None:
    """Check that a link executor keeps the contract. Raises AssertionError with one sentence.

    make: an executor class, or an importable function that creates an executor from Settings. settings: its fields.
    """
    require_declared(make, Role.LINK)
    if sandbox is None:
        with Sandbox(ovs=False) as box:
            _check(Bench(make, box, settings))
    else:
        _check(Bench(make, sandbox, settings))


def _check(bench: Bench) -> None:
    try:
        with bench:
            for check in (
                _facts,
                _facts_of_devices_that_are_down,
                _member_of_another_mtu,
                _each_step,
                _host_ip,
                _bridge_port,
                _missing_parts,
                _existing_parts,
                _foreign,
                _order,
                _names,
                _grammar,
                *([_managed_tap, _held_tap, _owner] if ManagedTap in getattr(bench.make, "serves", ()) else []),
                _deadline,
            ):
                _sweep(bench)
                check(bench)
    finally:
        _sweep(bench)


def _sweep(bench: Bench) -> None:
    devices = [*NAMES, "hvforeign", "hvpeer"]
    bench.sh("".join(f"ip link delete {name} 2>/dev/null || true\n" for name in devices))


def _states() -> Iterator[HostState]:
    yield NOTHING
    yield HostState({BRIDGE.name: BRIDGE})
    yield HostState({VETH.name: replace(VETH, master="")})
    for part in (BRIDGE, VETH):
        for variant in variants(part, OTHER_VALUES):
            yield WIRING.with_parts(variant)
    stp = replace(BRIDGE, stp=True, forward_delay=1500)
    yield WIRING.with_parts(stp)


def _each_step(bench: Bench) -> None:
    """Check every step from every start state. Other devices must not change."""
    bench.sh(f"ip link add hvforeign type bridge; ip link set hvforeign alias {STRANGER}; ip link set lo alias hvlo")
    before = _other_links(bench)
    for state in _states():
        bench.try_path(NAMES, WIRING, state)
        bench.try_path(NAMES, state, WIRING)
    bench.try_path(NAMES, WIRING, NOTHING)
    changed = sorted(set(_other_links(bench)) ^ set(before))
    bench.sh('ip link set lo alias ""')
    assert not changed, f"something beside the port was written: {changed[:4]}"


def _missing_parts(bench: Bench) -> None:
    """A delete of a missing part succeeds. An update of a missing part fails with retry."""
    for part in (BRIDGE, VETH):
        with bench.unchanged("by a delete of what is not there"):
            (outcome,) = bench.do([Delete(part)])
        assert outcome.result is Result.DONE, f"{describe(outcome.step)} of what is gone: {outcome.result.value}"
    for step in (Update(BRIDGE, replace(BRIDGE, mtu=1400)), Update(VETH, replace(VETH, mtu=1400))):
        outcome = bench.try_refused(step, results={Result.FAILED})
        assert outcome.retry, f"{describe(step)} of what is gone must be worth a retry"


def _existing_parts(bench: Bench) -> None:
    """A create of an existing part fails with retry."""
    bench.reach(NAMES, WIRING)
    for part in (BRIDGE, VETH):
        outcome = bench.try_refused(Create(part), results={Result.FAILED})
        assert outcome.retry, f"create of {part.name}, which is there, must be worth a retry"


def _foreign(bench: Bench) -> None:
    """Wrong kinds, other ports' devices and other bridges' members are refused."""
    changed = replace(BRIDGE, mtu=1400), replace(VETH, mtu=1400)
    cases: list[tuple[str, tuple[Step, ...]]] = [
        (f"ip link add {NAMES.bridge} type veth peer name hvpeer", (Update(BRIDGE, changed[0]), Delete(BRIDGE))),
        (f"ip link add {NAMES.bridge_end} type bridge", (Update(VETH, changed[1]), Delete(VETH))),
        (
            f"ip link add {NAMES.bridge_end} type veth peer name hvpeer",
            (Update(VETH, changed[1]), Delete(VETH)),
        ),
    ]
    for script, steps in cases:
        _sweep(bench)
        bench.sh(script)
        for step in steps:
            bench.try_refused(step, results={Result.REFUSED})
    for device, steps in (
        (NAMES.bridge, (Update(BRIDGE, changed[0]), Delete(BRIDGE))),
        (NAMES.bridge_end, (Update(VETH, changed[1]), Delete(VETH))),
        (NAMES.switch_end, (Update(VETH, changed[1]), Delete(VETH))),
    ):
        _sweep(bench)
        bench.reach(NAMES, WIRING)
        bench.sh(f"ip link set {device} alias {STRANGER}")
        for step in steps:
            bench.try_refused(step, results={Result.REFUSED})
    _sweep(bench)
    bench.reach(NAMES, WIRING)
    # No planner emits this step: an executor cannot rename a peer.
    bench.try_refused(Update(replace(VETH, peer="hvpeer"), replace(VETH, mtu=1400)), results={Result.REFUSED})
    _sweep(bench)
    bench.reach(NAMES, WIRING.with_parts(replace(VETH, master="")))
    bench.sh(f"ip link add hvforeign type bridge; ip link set {NAMES.bridge_end} master hvforeign")
    bench.try_refused(Update(replace(VETH, master=""), VETH), results={Result.REFUSED})


def _order(bench: Bench) -> None:
    """After a failed step, later creates and updates of the port are skipped. Deletes are not."""
    bench.sh(f"ip link add {NAMES.bridge} type veth peer name hvpeer")
    steps = (Create(BRIDGE), Create(VETH))
    outcomes = bench.do(steps)
    assert [outcome.result in SKIPPED_OR_WORSE for outcome in outcomes] == [True, True], f"{outcomes}"
    _sweep(bench)
    bench.reach(NAMES, HostState({VETH.name: replace(VETH, master="")}))
    failing, deleting = bench.do([Update(BRIDGE, replace(BRIDGE, mtu=1400)), Delete(replace(VETH, master=""))])
    assert (failing.result, deleting.result) == (Result.FAILED, Result.DONE), "a delete after a failure must be tried"


def _names(bench: Bench) -> None:
    """Names outside of the grammar are refused, such as options and shell syntax."""
    for name in ("-x", "--help", "eth0", "lo", "qbr;reboot", "qbr$(id)", "../../etc", "q" * 40, "qbrc0117ac7-0\n"):
        for part in (replace(BRIDGE, name=name), replace(VETH, name=name), replace(VETH, peer=name)):
            for step in (Create(part), Update(part, replace(part, mtu=1400)), Delete(part)):
                with bench.unchanged(f"by a step about {name!r}"):
                    outcomes = bench.do([step])
                wrong = [outcome for outcome in outcomes if outcome.result is Result.DONE]
                assert not wrong, f"{type(step).__name__} of a {part.kind} named {name!r} was done"


def _grammar(bench: Bench) -> None:
    """observe(None) returns the same as observe(names), and only names of the grammar. A tap has its master."""
    bench.reach(NAMES, WIRING)
    bench.sh(f"ip link add {NAMES.tap} type veth peer name hvpeer; ip link set {NAMES.tap} master {NAMES.bridge}")
    expected = WIRING.with_parts(Tap(name=NAMES.tap, master=NAMES.bridge))
    require_equal(bench.see(NAMES), expected, "with a tap in the bridge")
    everything = bench.see(None)
    require_equal(everything.of(NAMES), expected, "observed without names")
    assert set(everything.links) == set(expected.links), "observe(None) saw devices that are not of the grammar"
    bench.try_path(NAMES, expected, expected.with_parts(Tap(name=NAMES.tap, master=NAMES.bridge)))
    bench.sh(f"ip link set {NAMES.tap} nomaster")
    (outcome,) = bench.do([Update(Tap(name=NAMES.tap, master=""), Tap(name=NAMES.tap, master=NAMES.bridge))])
    assert outcome.result is Result.DONE, f"{describe(outcome.step)}: {outcome.reason}"
    require_equal(bench.see(NAMES), expected, "after the tap was put back")


def _managed_tap(bench: Bench) -> None:
    """A managed tap is created, updated and deleted. A tap without our ownership tag is never changed."""
    wired = desired_state(replace(PORT, create_tap=True, multiqueue=True))
    tap = next(part for part in wired if isinstance(part, ManagedTap))
    goal = HostState(wired.links)
    bench.try_path(NAMES, WIRING, goal)
    (link,) = json.loads(bench.sh(f"ip -d -j link show dev {tap.name}"))
    attributes = link["linkinfo"]["info_data"]
    assert (attributes["type"], attributes["multi_queue"], attributes["persist"]) == ("tap", True, True), (
        f"{tap.name} is {attributes}"
    )
    with bench.unchanged("by a tap that is there already"):
        (outcome,) = bench.do([Create(tap)])
    assert outcome.result is Result.FAILED, "a tap that is there was made again"
    assert outcome.retry, "create of a tap, which is there, must be worth a retry"
    for changes in ({"mac": "02:00:00:00:00:09"}, {"mtu": 1400}, {"up": False}, {"master": ""}):
        other = goal.with_parts(replace(tap, **changes))
        bench.try_path(NAMES, goal, other)
        bench.try_path(NAMES, other, goal)
    bench.try_path(NAMES, goal, NOTHING)
    bench.reach(NAMES, HostState({tap.name: replace(tap, master="", up=False)}))
    bench.sh(f"ip link set {tap.name} alias ''")
    for step in (Delete(tap), Update(tap, replace(tap, mtu=1400))):
        bench.try_refused(step, results={Result.FAILED, Result.REFUSED})
    with bench.unchanged("by a tap that was made by another"):
        bench.do([Create(tap)])


def _facts(bench: Bench) -> None:
    """The facts about the requested devices and the members of the bridge match `ip`."""
    bench.reach(NAMES, WIRING)
    assert bench.sh(f"ip link show dev {NAMES.bridge}", check=False), f"{NAMES.bridge} was made, so it must be there"
    bench.sh(
        f"ip link add hvforeign type veth peer name hvpeer; ip link set hvforeign master {NAMES.bridge}\n"
        "ip link set hvforeign up"
    )
    held = tuple(sorted((NAMES.bridge_end, "hvforeign")))
    for names in (NAMES, None):
        facts = bench.observe(names).facts
        members = facts.members.get(NAMES.bridge)
        assert members == held, f"facts.members of {NAMES.bridge} is {members}, not {held}, which is in it"
        for name in (NAMES.bridge, NAMES.bridge_end, NAMES.switch_end, "hvforeign"):
            assert name in facts.links, f"facts.links lacks {name}"
            _require_fact(bench, names, name)


def _require_fact(bench: Bench, names: Iterable[str] | None, name: str) -> None:
    until = time.monotonic() + CARRIER_TIME
    while True:
        fact = bench.observe(names).facts.links[name]
        expected = LinkFact(*json.loads(bench.box.run([sys.executable, "-P", "-c", PRINT_FACTS, name]).stdout))
        if fact == expected:
            return
        assert time.monotonic() < until, f"facts.links of {name} is {fact}, and the kernel says {expected}"


def _facts_of_devices_that_are_down(bench: Bench) -> None:
    """The facts match the kernel in every state of a device: up or down, with or without carrier."""
    three = (NAMES.bridge, NAMES.bridge_end, NAMES.switch_end)
    bench.reach(NAMES, WIRING)
    for device in three:
        bench.sh(f"ip link set {device} down")
        for name in three:
            _require_fact(bench, NAMES, name)
            _require_fact(bench, None, name)
        bench.sh(f"ip link set {device} up")
    bench.sh(f"ip link set {NAMES.bridge_end} nomaster")
    for name in three:
        _require_fact(bench, NAMES, name)


def _held_tap(bench: Bench) -> None:
    """The carrier shows if a VM holds a tap, even if the tap is down. The owner of a held tap is not changed."""
    tap = _tap_of(multiqueue=False)
    bench.reach(NAMES, WIRING.with_parts(tap))
    for up in ("up", "down"):
        bench.sh(f"ip link set {tap.name} {up}")
        for names in (NAMES, None):
            _require_fact(bench, names, tap.name)
        with bench.box.popen([sys.executable, "-P", "-c", HOLDER, tap.name], stdin=PIPE, stdout=PIPE) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            for names in (NAMES, None):
                _require_fact(bench, names, tap.name)
                assert bench.observe(names).facts.links[tap.name].carrier, f"{tap.name} is held, so it has carrier"
            holder.communicate()


def _owner(bench: Bench) -> None:
    """A tap belongs to root. A tap that any user may open is drift and is fixed, with one or several queues."""
    for queues in ("", "multi_queue"):
        tap = _tap_of(multiqueue=bool(queues))
        seen = replace(tap, multi_queue=False)
        _sweep(bench)
        bench.reach(NAMES, WIRING.with_parts(tap))
        for owner, user in ((ANYBODY, ""), (1000, "user 1000")):
            bench.sh(
                f"ip link delete {tap.name}; ip tuntap add {tap.name} mode tap {queues} {user}\n"
                f"ip link set {tap.name} alias {tap.alias} address {tap.mac} master {tap.master} arp off up\n"
                f"echo 1 > /proc/sys/net/ipv4/conf/{tap.name}/rp_filter\n"
                f"echo 1 > /proc/sys/net/ipv6/conf/{tap.name}/disable_ipv6; ip link set {tap.name} addrgenmode none"
            )
            require_equal(bench.see(NAMES), WIRING.with_parts(replace(seen, owner=owner)), f"with owner {owner}")
            (outcome,) = bench.do([Update(replace(seen, owner=owner), seen)])
            assert outcome.result is Result.DONE, f"{describe(outcome.step)}: {outcome.reason}"
            require_equal(bench.see(NAMES), WIRING.with_parts(seen), "after its owner was set")


def _host_ip(bench: Bench) -> None:
    """The host's IP stack is off on every device. Each setting that enables it is drift and is fixed."""
    bench.reach(NAMES, WIRING)
    ends = ((NAMES.bridge, "host_ip"), (NAMES.bridge_end, "host_ip"), (NAMES.switch_end, "peer_host_ip"))
    for device, attribute in ends:
        wired = BRIDGE if device == NAMES.bridge else VETH
        for command in LISTENING if device == NAMES.bridge else (*LISTENING, *LISTENING_TO_IPV6):
            with bench.unchanged(f"by {command} and its repair"):
                bench.sh(command.format(device))
                found = bench.see(NAMES)
                part = found.links[wired.name]
                observed = getattr(part, attribute)
                assert observed != HOST_IP_OFF, (
                    f"{attribute} of {wired.name} is {observed} after {command.format(device)}"
                )
                require_equal(found, WIRING.with_parts(replace(wired, **{attribute: observed})), command)
                (outcome,) = bench.do([Update(part, wired)])
                assert outcome.result is Result.DONE, f"{describe(outcome.step)}: {outcome.reason}"
                require_equal(bench.see(NAMES), WIRING, f"after the repair of {command}")
    # An MTU below 1280 removes IPv6 from the device. A larger one adds it again, enabled.
    for mtu in (1200, 1500):
        steps = [
            Update(bench.see(NAMES).links[BRIDGE.name], replace(BRIDGE, mtu=mtu)),
            Update(bench.see(NAMES).links[VETH.name], replace(VETH, mtu=mtu, peer_mtu=mtu)),
        ]
        assert all(outcome.result is Result.DONE for outcome in bench.do(steps)), f"cannot set an MTU of {mtu}"
    files = bench.sh(f"cd /proc/sys/net/ipv6/conf; cat {' '.join(f'{name}/disable_ipv6' for name, _ in ends)}")
    assert files.split() == ["1"] * 3, f"disable_ipv6 is {files.split()} after the MTU was 1200"
    require_equal(bench.see(NAMES), WIRING, "after the MTU was 1200")


def _bridge_port(bench: Bench) -> None:
    """Each flag of a bridge port that drops packets is drift and is fixed, alone and in combination."""
    bench.reach(NAMES, WIRING)
    for name in (NAMES.bridge_end, NAMES.switch_end):
        _require_fact(bench, NAMES, name)
    merge_observed = " ".join(CLOSED)
    for befalls in (
        *(f"ip link set {NAMES.bridge_end} type bridge_slave {flags}" for flags in (*CLOSED, merge_observed)),
        f"bridge link set dev {NAMES.bridge_end} state 0",
    ):
        bench.sh(befalls)
        found = bench.see(NAMES)
        part = found.links[VETH.name]
        assert isinstance(part, Veth)
        assert part.bridge_port not in (OPEN, None), f"bridge_port is {part.bridge_port} after {befalls}"
        (outcome,) = bench.do([Update(part, VETH)])
        assert outcome.result is Result.DONE, f"{describe(outcome.step)}: {outcome.reason}"
        require_equal(bench.see(NAMES), WIRING, f"after the repair of {befalls}")


def _tap_of(*, multiqueue: bool) -> ManagedTap:
    wired = desired_state(replace(PORT, create_tap=True, multiqueue=multiqueue))
    return next(part for part in wired if isinstance(part, ManagedTap))


def _member_of_another_mtu(bench: Bench) -> None:
    """A bridge keeps its explicit MTU if a member joins. Without one it follows its smallest member.

    The kernel marks an MTU as explicit only when it changes (LP 1623876).
    """
    bridge = replace(BRIDGE, mtu=1500)
    alone = HostState({bridge.name: bridge})
    bench.reach(NAMES, alone)
    bench.sh(
        f"ip link add hvforeign mtu 1400 type veth peer name hvpeer mtu 1400\n"
        f"ip link set hvforeign master {bridge.name}"
    )
    require_equal(bench.see(NAMES), alone, "after a member of MTU 1400 joined a bridge made with 1500")


def _other_links(bench: Bench) -> list[str]:
    """Return the other links, and the settings in other directories of /proc/sys."""
    links = [link for link in bench.snapshot() if json.loads(link)["ifname"] not in NAMES]
    return (
        links
        + bench.sh(
            "cd /proc/sys/net; for device in all default lo hvforeign; do\n"
            "grep -s . ipv4/conf/$device/arp_* ipv6/conf/$device/disable_ipv6 || true; done"
        ).splitlines()
    )


def _deadline(bench: Bench) -> None:
    """No step starts after the deadline."""
    steps = plan(NOTHING, WIRING)
    with bench.unchanged("after the deadline"):
        outcomes = bench.do(steps, patience=-1.0)
    assert all(outcome.result in SKIPPED_OR_WORSE for outcome in outcomes), f"done after the deadline: {outcomes}"
