"""The contract of link executors, as a table of checks."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from shlex import quote
from typing import Any

from hybridvif.model.parts import ANYBODY, Bridge, ManagedTap, Part, Tap, Veth
from hybridvif.model.planner import plan
from hybridvif.model.port import desired_state
from hybridvif.model.report import Result
from hybridvif.model.state import NOTHING, Create, Delete, HostState, LinkFact, Observed, Update
from hybridvif.testing.contract.bench import (
    BAD_NAMES,
    FAILED,
    NAMES,
    NOT_DONE,
    PORT,
    REFUSED,
    STRANGER,
    Bench,
    Check,
    Worker,
    bad_names,
    variants,
)

WIRING = HostState(desired_state(PORT).links)
BRIDGE = next(link for link in WIRING.links.values() if isinstance(link, Bridge))
VETH = next(link for link in WIRING.links.values() if isinstance(link, Veth))
FREE_VETH = replace(VETH, master="")
SMALL_BRIDGE, SMALL_VETH = replace(BRIDGE, mtu=1400), replace(VETH, mtu=1400)
QBR, QVB, QVO, TAP, VHU = NAMES

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
IPV4_ON = (
    "ip link set {} arp on",
    "echo 1 > /proc/sys/net/ipv4/conf/{}/forwarding",
    "echo 1 > /proc/sys/net/ipv4/conf/{}/proxy_arp",
    "echo 0 > /proc/sys/net/ipv4/conf/{}/rp_filter",
)
"""Commands that enable parts of the host's IPv4 on a device."""
IPV6_ON = (
    "echo 0 > /proc/sys/net/ipv6/conf/{}/disable_ipv6",
    "ip link set {} addrgenmode eui64",
    # The kernel forgets all IPv6 settings of a device below 1280 bytes.
    "ip link set {0} mtu 1200; ip link set {0} mtu 1500",
)
FLAGS = ("isolated on", "locked on", "flood off", "mcast_flood off", "bcast_flood off", "hairpin on", "guard on")
"""Flags of a bridge port that drop or repeat packets, as arguments of `ip link set type bridge_slave`."""
HOLDER = """
import fcntl, os, struct, sys, time
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", sys.argv[1].encode(), 0x1002))
open("/run/hvheld.new", "w").write(str(os.getpid()))
os.rename("/run/hvheld.new", "/run/hvheld")
time.sleep(600)
"""
"""A program that holds a tap open, as a VM does."""
PRINT_FACTS = """
import json
from pyroute2 import IPRoute
with IPRoute() as ipr:
    links = {link["index"]: link for link in ipr.link("dump")}
for link in links.values():
    master = links.get(link.get_attr("IFLA_MASTER"))
    print(json.dumps([link.get_attr("IFLA_IFNAME"), link["index"],
        link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "", bool(link["flags"] & 1),
        bool(link.get_attr("IFLA_CARRIER")), master.get_attr("IFLA_IFNAME") if master else "",
        link.get_attr("IFLA_MTU")]))
"""
"""A program that prints the kernel's facts about each device. `ip` omits the carrier of a device that is down."""
SWEEP = f"""
if [ -e /run/hvheld ]; then kill $(cat /run/hvheld); rm /run/hvheld; fi
for name in {" ".join(NAMES)} hvforeign hvmember; do ip link delete $name 2>/dev/null || true; done
ip link set lo alias ''; ip link add hvforeign type bridge; ip link set hvforeign alias {STRANGER}
"""


def check(host: Worker, serves: Collection[type[Part]]) -> None:
    """Run all checks. Raises AssertionError with one sentence."""
    with_taps = ManagedTap in serves
    Bench(host, sweep=SWEEP, facts=wrong_facts).run([*facts(), *(held_taps() if with_taps else ())])
    taps = managed_taps() if with_taps else ()
    Bench(host, sweep=SWEEP).run([*drifts(), *paths(), *presence(), *foreign(), *refused(), *taps])
    host.box.run(["ip", "link", "delete", "hvforeign"])


def path(name: str, start: HostState, goal: HostState) -> Check:
    """Return the check of each step between two states."""
    return Check(name=name, start=start, steps=plan(start, goal))


def paths() -> Iterator[Check]:
    """Yield each step from every start state."""
    states = {
        "nothing": NOTHING,
        "the bridge alone": HostState({QBR: BRIDGE}),
        "a free veth": HostState({QVB: FREE_VETH}),
    }
    for part in (BRIDGE, VETH):
        for variant in variants(part, OTHER_VALUES):
            states[f"another {variant.kind}: {variant}"] = WIRING.with_parts(variant)
    # A port of a bridge with STP forwards only after a delay.
    states["a bridge with STP"] = HostState({QBR: replace(BRIDGE, stp=True, forward_delay=1500)})
    for name, state in states.items():
        yield path(f"to {name}", WIRING, state)
        yield path(f"from {name}", state, WIRING)
    make_tap = f"ip link add {TAP} type veth peer name hvmember"
    put = Update(Tap(name=TAP, master=""), Tap(name=TAP, master=QBR))
    yield Check(name="a tap", start=WIRING, script=make_tap, steps=(put, Update(put.after, put.before)))
    # An MTU below 1280 removes IPv6 from the device. A larger one adds it again, enabled.
    small, large = (HostState(desired_state(replace(PORT, mtu=mtu)).links) for mtu in (1200, 1500))
    steps = [Update(found, wanted) for found, wanted in zip(small, large, strict=True)]
    query = f"cd /proc/sys/net/ipv6/conf; cat {QBR}/disable_ipv6 {QVB}/disable_ipv6 {QVO}/disable_ipv6"
    yield Check(name="an MTU that rises", start=small, steps=tuple(steps), query=query, output="1 1 1")


def drifts() -> Iterator[Check]:
    """Yield what another tool may change on a device, to be observed and repaired."""
    # A bridge keeps its explicit MTU if a member joins. Without one it follows its smallest member. The kernel marks an
    # MTU as explicit only when it changes (LP 1623876), so this is the first check: the bridge is new.
    script = f"ip link add hvmember mtu 1400 type veth peer name hvpeer mtu 1400; ip link set hvmember master {QBR}"
    start = HostState({QBR: replace(BRIDGE, mtu=1500)})
    yield Check(name="a member of MTU 1400 joined", start=start, script=script, drift="")
    for device, attribute in ((QBR, "host_ip"), (QVB, "host_ip"), (QVO, "peer_host_ip")):
        for script in IPV4_ON if device == QBR else (*IPV4_ON, *IPV6_ON):
            yield Check(name=script.format(device), start=WIRING, script=script.format(device), drift=attribute)
    scripts = [f"ip link set {QVB} type bridge_slave {flags}" for flags in (*FLAGS, " ".join(FLAGS))]
    for script in (*scripts, f"bridge link set dev {QVB} state 0"):
        yield Check(name=script, start=WIRING, script=script, drift="bridge_port")
    for device, attribute in ((QBR, "alias"), (QVO, "peer_alias")):
        script = f"ip link set {device} alias 'someone wrote here'"
        yield Check(name=script, start=WIRING, script=script, drift=attribute)


def presence() -> Iterator[Check]:
    """Yield steps on parts that are there already, or not any more; and the order of steps after a failure."""
    for part in (BRIDGE, VETH):
        yield Check(name="nothing to delete", steps=(Delete(part),))
        yield Check(name="it is there", start=WIRING, steps=(Create(part),), results=FAILED, retry=True)
    yield Check(name="a link of a vhost-user name", start=WIRING, script=f"ip link add {VHU} type bridge", drift="")
    tap = Tap(name=TAP, master=QBR)
    gone = (Update(SMALL_BRIDGE, BRIDGE), Update(SMALL_VETH, VETH), Update(replace(tap, master=""), tap), Create(VETH))
    yield Check(name="it is gone", steps=gone, results=FAILED, retry=True)
    after: dict[str, Any] = {"is_one_plan": True, "results": NOT_DONE, "foreign": True}
    kind = f"ip link add {QBR} type veth peer name hvmember"
    yield Check(name="create after a failure", script=kind, steps=(Create(BRIDGE), Create(VETH)), **after)
    steps = (Update(BRIDGE, SMALL_BRIDGE), Delete(FREE_VETH))
    results, start = frozenset({Result.FAILED, Result.DONE}), HostState({QVB: FREE_VETH})
    query = f"ip link show {QVB} 2>&1 || true"
    output = f'Device "{QVB}" does not exist.'
    yield Check(
        name="delete after a failure",
        start=start,
        steps=steps,
        is_one_plan=True,
        results=results,
        query=query,
        output=output,
    )


def foreign() -> Iterator[Check]:
    """Yield wrong kinds, other ports' devices and other bridges' members. Each is refused."""
    bridge, veth = (Update(BRIDGE, SMALL_BRIDGE), Delete(BRIDGE)), (Update(VETH, SMALL_VETH), Delete(VETH))
    for script, steps in (
        (f"ip link add {QBR} type veth peer name hvmember", bridge),
        (f"ip link add {QVB} type bridge", veth),
        (f"ip link add {QVB} type veth peer name hvmember", veth),
    ):
        yield Check(name=script, script=script, foreign=True, steps=steps, results=REFUSED)
    for device, steps in ((QBR, bridge), (QVB, veth), (QVO, veth)):
        script = f"ip link set {device} alias {STRANGER}"
        yield Check(name=script, start=WIRING, script=script, steps=steps, results=REFUSED, reason=STRANGER)
    # No planner emits this step: an executor cannot rename a peer.
    renamed = Update(replace(VETH, peer="hvmember"), SMALL_VETH)
    yield Check(name="another peer", start=WIRING, steps=(renamed,), results=REFUSED)
    script = f"ip link set {QVB} master hvforeign"
    put = (Update(FREE_VETH, VETH),)
    yield Check(name=script, start=WIRING, script=script, steps=put, results=REFUSED, reason="hvforeign")
    script = f"ip link add {TAP} type veth peer name hvmember; ip link set {TAP} master hvforeign"
    put = (Update(Tap(name=TAP, master=""), Tap(name=TAP, master=QBR)),)
    yield Check(name=script, start=WIRING, script=script, steps=put, results=REFUSED, reason="hvforeign")


def refused() -> Iterator[Check]:
    """Yield names outside of the grammar, and a deadline that has passed."""
    for part in (BRIDGE, VETH):
        yield from bad_names(part)
    for name in BAD_NAMES:
        bad = replace(VETH, peer=name)
        steps = (Create(bad), Update(bad, replace(bad, mtu=1400)), Delete(bad))
        yield Check(name=f"the peer {name!r}", steps=steps, results=NOT_DONE)
    yield Check(name="the deadline", steps=plan(NOTHING, WIRING), is_one_plan=True, results=NOT_DONE, patience=-1.0)


def facts() -> Iterator[Check]:
    """Yield states of devices whose facts are compared with the kernel's."""
    member = (
        f"ip link add hvmember type veth peer name hvpeer; ip link set hvmember master {QBR}; ip link set hvmember up"
    )
    for script in (
        "true",
        member,
        *(f"ip link set {name} down" for name in (QBR, QVB, QVO)),
        f"ip link set {QVB} nomaster",
    ):
        yield Check(name=script, start=WIRING, script=script)


def managed_taps() -> Iterator[Check]:
    """Yield the steps of a managed tap. A tap without our ownership tag is never changed."""
    tap = _tap(multiqueue=True)
    goal = WIRING.with_parts(tap)
    query = f'ip -d -j link show dev {TAP} | grep -o \'"type":"tap"\\|"multi_queue":true\\|"persist":true\''
    output = '"type":"tap" "multi_queue":true "persist":true'
    yield Check(name="a new tap", start=WIRING, steps=plan(WIRING, goal), query=query, output=output)
    yield Check(name="the tap is there", start=goal, steps=(Create(tap),), results=FAILED, retry=True)
    yield path("from a tap", goal, NOTHING)
    for changes in ({"mac": "02:00:00:00:00:09"}, {"mtu": 1400}, {"up": False}, {"master": ""}):
        other = goal.with_parts(replace(tap, **changes))
        yield path(f"to a tap with {changes}", goal, other)
        yield path(f"from a tap with {changes}", other, goal)
    steps = (Delete(tap), Update(tap, replace(tap, mtu=1400)), Create(tap))
    yield Check(name="no tag", start=goal, script=f"ip link set {TAP} alias ''", steps=steps, results=NOT_DONE)
    # A tun device is no tap: its packets have no Ethernet header, so no bridge takes it.
    script = f"ip tuntap add {TAP} mode tun; ip link set {TAP} alias {tap.alias}"
    yield Check(name=script, script=script, foreign=True, steps=(Delete(tap), Update(tap, tap)), results=NOT_DONE)
    script = f"ip tuntap add {TAP} mode tun"
    put = (Update(Tap(name=TAP, master=""), Tap(name=TAP, master=QBR)),)
    yield Check(name=script, start=WIRING, script=script, foreign=True, steps=put, results=NOT_DONE)
    # A tap belongs to root. A tap that any user may open is drift.
    for owner in ("", "user 1000"):
        for queues in (False, True):
            start = WIRING.with_parts(_tap(multiqueue=queues))
            script = (
                f"ip link delete {TAP}; ip tuntap add {TAP} mode tap {'multi_queue' if queues else ''} {owner}\n"
                f"ip link set {TAP} alias {tap.alias} address {tap.mac} master {tap.master} arp off up\n"
                f"echo 1 > /proc/sys/net/ipv4/conf/{TAP}/rp_filter\n"
                f"echo 1 > /proc/sys/net/ipv6/conf/{TAP}/disable_ipv6; ip link set {TAP} addrgenmode none"
            )
            yield Check(name=f"a tap of {owner or ANYBODY}", start=start, script=script, drift="owner")


def held_taps() -> Iterator[Check]:
    """Yield taps that a VM holds, up and down. The carrier is a fact, also of a tap that is down."""
    start = WIRING.with_parts(_tap(multiqueue=False))
    hold = (
        f"{quote(sys.executable)} -P -c {quote(HOLDER)} {TAP} >/dev/null 2>&1 &\n"
        "while [ ! -e /run/hvheld ]; do sleep .02; done"
    )
    for up in ("up", "down"):
        yield Check(name=f"a tap that is {up}", start=start, script=f"ip link set {TAP} {up}")
        yield Check(name=f"a held tap that is {up}", start=start, script=f"{hold}; ip link set {TAP} {up}")


def _tap(*, multiqueue: bool) -> ManagedTap:
    wired = desired_state(replace(PORT, create_tap=True, multiqueue=multiqueue))
    return next(part for part in wired if isinstance(part, ManagedTap))


def wrong_facts(bench: Bench, observed: Observed) -> Iterable[str]:
    """Compare the facts about the devices of the port and the members of its bridge with the kernel's."""
    rows = [json.loads(line) for line in bench.box.python(PRINT_FACTS).stdout.splitlines()]
    kernel = {row[0]: LinkFact(*row[1:]) for row in rows}
    members = tuple(sorted(name for name, fact in kernel.items() if fact.master == QBR))
    seen = observed.facts
    if seen.members.get(QBR, ()) != members:
        yield f"facts.members of {QBR} is {seen.members.get(QBR)}, not {members}"
    for name in sorted({*members, *NAMES} & {*kernel}):
        if seen.links.get(name) != kernel[name]:
            yield f"facts.links of {name} is {seen.links.get(name)}, and the kernel says {kernel[name]}"
