"""Diagnosis of a port: the hop where its packets stop, from two observations of its devices, and from the switch.

    VM -- tap -- [qbr] -- qvb == qvo -- br-int

Evidence in the order of its weight: a state that passes no packet at all, packets that enter a hop and do not leave it,
and a state that stops some packets. A filter drops packets on purpose and a guest may be idle. So a few missing packets
are no evidence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from hybridvif.model.errors import shown
from hybridvif.model.names import KEY_LENGTH, PortNames, is_mac
from hybridvif.model.parts import DEAD_VLAN, OPEN, ForeignObject, NativePort, OvsPort, SwitchPort, VhostUserPort
from hybridvif.model.state import Observed, PortFact
from hybridvif.model.warnings import remedy_for_duplicate

ISOLATED = "isolated on"
"""The obstacle of a bridge port that exchanges packets with all ports but other isolated ones."""
FEWEST = 3
"""Packets that must be missing at a hop before it counts: counters of several devices are not read at one instant."""
FAILURES = {
    "switch-hung": "ovs-vswitchd runs and does not respond",
    "switch-dead": "ovs-vswitchd does not run; start Open vSwitch",
    "no-bridge": "ovs-vswitchd could not create it; see its log, and hybridvif doctor",
}
"""The failures of the switch to answer, by code."""
PASSING = frozenset({"in-order", "no-traffic", "silent", "no-answer", "not-counted"})
"""Codes of a chain in order. With any other code a hop stops packets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """A device of the chain at one instant. The counters are those of the kernel since its creation."""

    up: bool = True
    carrier: bool = True
    mtu: int = 0
    master: str = ""
    bridge_port: str | None = None
    """OPEN, or the obstacles in words. None: no port of the Linux bridge of its port."""
    rx: int = 0
    tx: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The kernel's side of a port at one instant."""

    hops: Mapping[str, Hop] = field(default_factory=dict)
    """By name. A missing device is absent."""
    drops: Mapping[str, int] | None = None
    """Packets dropped by iptables so far, by rule. None: unknown."""
    entries: tuple[tuple[str, str, bool], ...] = ()
    """Forwarding entries of the Linux bridge: MAC address, device, and True if the bridge consumes its frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchView:
    """The answers of ovs-vswitchd about a port. None: unknown."""

    failure: str = ""
    """The code of its failure to answer: a key of FAILURES."""
    drops_from_vm: str | None = None
    """The reason that a frame from the VM is dropped; "" if it is forwarded."""
    drops_to_vm: str | None = None
    learned: tuple[tuple[int, int, str], ...] = ()
    """The OpenFlow port, the VLAN and the MAC address of each sender."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A reason that packets stop at a hop."""

    code: str
    hop: str
    sentence: str


@dataclass(frozen=True, slots=True)
class HopReport:
    """A device of the chain, with the packets of the observed time. None: unknown, or not counted there."""

    name: str
    state: str
    mtu: int | None
    master: str
    from_vm: int | None
    dropped_from_vm: int | None
    to_vm: int | None
    dropped_to_vm: int | None


@dataclass(frozen=True, slots=True)
class RuleReport:
    """A rule of iptables for the port, with the packets that it dropped in the observed time."""

    rule: str
    packets: int


@dataclass(frozen=True, slots=True)
class EntryReport:
    """A forwarding entry of the Linux bridge: the device to which it sends the frames for a MAC address."""

    mac: str
    device: str
    consumed: bool
    """True if the address is that of the device itself, so the host consumes the frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The result of a trace."""

    port_id: str
    seconds: float
    stops: bool
    """True if a hop stops packets."""
    code: str
    hop: str
    """The hop where packets stop; "" if they pass."""
    sentence: str
    hops: tuple[HopReport, ...]
    """From the VM to the switch. Empty for a vhost-user port."""
    entries: tuple[EntryReport, ...] = ()
    bridge: str
    """The bridge of the switch; "" without a row."""
    ofport: int | None
    tag: int | None
    error: str
    """The error of ovs-vswitchd, if it did not accept the port."""
    drops_from_vm: str | None
    """The reason that the switch drops a frame from the VM; "" if it forwards it. None: unknown."""
    drops_to_vm: str | None
    drops: tuple[RuleReport, ...]
    findings: tuple[Finding, ...]
    not_looked_at: tuple[str, ...]
    """Sentences about evidence that this user cannot read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The observations that a diagnosis is made of."""

    port_id: str
    names: PortNames
    seconds: float
    observed: Observed
    before: Look
    after: Look
    switch: SwitchView = SwitchView()
    marked: Mapping[str, int] | None = None
    """If marked frames were sent: the number that each device let pass."""
    not_looked_at: tuple[str, ...] = ()

    @property
    def row(self) -> SwitchPort | None:
        """The row of the port."""
        return next(iter(self.observed.state.of(self.names).ports.values()), None)

    @property
    def fact(self) -> PortFact:
        """The facts about the row."""
        return self.observed.facts.port(self.row)

    @property
    def mac(self) -> str:
        """The MAC address of the VM; "" if it is unknown."""
        mac = self.row.attached_mac.lower() if isinstance(self.row, OvsPort) else ""
        return mac if is_mac(mac) else ""

    @property
    def chain(self) -> tuple[str, ...]:
        """The names of the devices from the VM to the switch."""
        if isinstance(self.row, VhostUserPort):
            return ()
        names = self.names
        only_tap = isinstance(self.row, NativePort)
        return (names.tap,) if only_tap else (names.tap, names.bridge, names.bridge_end, names.switch_end)

    def count(self, name: str, counter: str) -> int:
        """Return the growth of a counter. A device that was created meanwhile counts from 0."""
        before, after = self.before.hops.get(name, Hop()), self.after.hops.get(name, Hop())
        growth: int = getattr(after, counter) - getattr(before, counter)
        return max(growth, 0)

    def from_vm(self, name: str, kind: str = "") -> int:
        """Return the packets from the VM that a device let pass. kind: "_dropped" for those that it dropped."""
        if self.marked is not None and not kind:
            return self.marked.get(name, 0)
        return self.count(name, ("tx" if name == self.names.bridge_end else "rx") + kind)

    def to_vm(self, name: str, kind: str = "") -> int:
        """Return the packets to the VM that a device let pass, or that it dropped."""
        return self.count(name, ("rx" if name == self.names.bridge_end else "tx") + kind)

    def drops(self, *, own: bool) -> dict[str, int]:
        """Return the packets that each rule of iptables dropped meanwhile. own: only the rules for this port."""
        before, after = self.before.drops or {}, self.after.drops or {}
        drops = {rule: number - before.get(rule, 0) for rule, number in after.items() if number > before.get(rule, 0)}
        # A chain of Neutron's agent ends with 10 characters of the port id (neutron/agent/linux/iptables_manager.py).
        words = (f"{self.port_id[: KEY_LENGTH - 1]} ", *self.names)
        return {rule: number for rule, number in drops.items() if not own or any(word in rule for word in words)}


def diagnose(evidence: Evidence) -> Diagnosis:
    """Return the hop where packets stop and the reason, or the reason to believe that they pass."""
    # A blocker explains the missing packets.
    findings = ((*_blockers(evidence),) or (*_addresses(evidence), *_losses(evidence))) + (*_hazards(evidence),)
    verdict = findings[0] if findings else _passing(evidence)
    row, fact, switch = evidence.row, evidence.fact, evidence.switch
    return Diagnosis(
        port_id=evidence.port_id,
        seconds=evidence.seconds,
        stops=verdict.code not in PASSING,
        code=verdict.code,
        hop=verdict.hop,
        sentence=verdict.sentence,
        hops=tuple(_hop_report(evidence, name) for name in evidence.chain),
        entries=tuple(EntryReport(*entry) for entry in evidence.after.entries),
        bridge=row.bridge if isinstance(row, OvsPort) else "",
        ofport=fact.ofport,
        tag=fact.tag,
        error=fact.error,
        drops_from_vm=switch.drops_from_vm,
        drops_to_vm=switch.drops_to_vm,
        drops=tuple(RuleReport(*drop) for drop in evidence.drops(own=True).items()),
        findings=findings,
        not_looked_at=evidence.not_looked_at,
    )


def _hop_report(evidence: Evidence, name: str) -> HopReport:
    hop = evidence.after.hops.get(name)
    if hop is None:
        return HopReport(name, "missing", None, "", None, None, None, None)
    state = "down" if not hop.up else "up" if hop.carrier else "no carrier"
    if hop.bridge_port not in (None, OPEN):
        state = f"{state}, {hop.bridge_port}"
    if name == evidence.names.bridge:
        # A bridge does not count the packets that it forwards.
        return HopReport(name, state, hop.mtu, hop.master, None, None, None, None)
    sent, received = evidence.from_vm(name), evidence.to_vm(name)
    drops = evidence.from_vm(name, "_dropped"), evidence.to_vm(name, "_dropped")
    return HopReport(name, state, hop.mtu, hop.master, sent, drops[0], received, drops[1])


def _stop(code: str, hop: str, reason: str) -> Finding:
    return Finding(code, hop, f"packets stop at {hop}: {reason}")


# -- states that pass no packet ----------------------------------------------------------------------------------------


def _blockers(evidence: Evidence) -> Iterator[Finding]:
    for name in evidence.chain:
        yield from _blockers_at(evidence, name, evidence.after.hops.get(name))
    row, fact, failure = evidence.row, evidence.fact, evidence.switch.failure
    if row is None:
        yield _stop("not-in-switch", evidence.names.switch_end, "it is no port of the switch; plug the port again")
    if isinstance(row, ForeignObject):
        yield _stop("foreign", row.name, f"its row is {row.what}")
    if not isinstance(row, OvsPort):
        return
    if failure:
        yield _stop(failure, row.bridge, FAILURES[failure])
    elif not row.realized or fact.ofport is None or fact.ofport < 0:
        yield _stop("not-accepted", row.name, f"ovs-vswitchd {_failed_acceptance(row, fact)}")
    elif fact.tag == DEAD_VLAN:
        yield _stop("dead-vlan", row.name, f"dead VLAN {DEAD_VLAN}: Neutron's agent has not wired the port")
    elif evidence.switch.drops_from_vm:
        yield _stop("flow-drop", row.bridge, f"it drops a frame from the VM ({evidence.switch.drops_from_vm})")


def _failed_acceptance(row: OvsPort, fact: PortFact) -> str:
    if not fact.error and (fact.ofport or 0) > 0:
        return "keeps an earlier device with its name; plug the port again"
    return f"has not accepted it as a port of {row.bridge}" + (f": {fact.error}" if fact.error else "")


def _blockers_at(evidence: Evidence, name: str, hop: Hop | None) -> Iterator[Finding]:
    names = evidence.names
    foreign = evidence.observed.state.links.get(name)
    if hop is None:
        reason = "no VM has the port open" if name == names.tap else "plug the port again"
        yield _stop("missing", name, f"it does not exist; {reason}")
    elif isinstance(foreign, ForeignObject):
        yield _stop("foreign", name, f"it is {foreign.what}")
    elif not hop.up:
        yield _stop("down", name, "it is down")
    elif name == names.tap and not hop.carrier:
        yield _stop("no-carrier", name, "it has no carrier, so no running VM holds it")
    elif name in (names.tap, names.bridge_end) and names.bridge in evidence.after.hops and hop.master != names.bridge:
        yield _stop("apart", name, f"it is in {hop.master or 'no bridge'}, not in {names.bridge}")
    elif hop.bridge_port not in (None, OPEN) and not _is_isolated_alone(evidence):
        yield _stop("blocked", name, f"{names.bridge} has its port with {hop.bridge_port}")
    elif name == names.bridge:
        for mac, device, is_local in evidence.after.entries:
            if mac == evidence.mac and (is_local or device != names.tap):
                owner = f"the address of {device} itself" if is_local else f"at {device}, not at {names.tap}"
                yield _stop("mac-taken", name, f"its entry for the MAC address of the VM, {mac}, is {owner}")


def _is_isolated_alone(evidence: Evidence) -> bool:
    """Return True if one end is isolated and the other end open: the bridge isolates two such ports from each other."""
    ends = [evidence.after.hops.get(name, Hop()) for name in (evidence.names.tap, evidence.names.bridge_end)]
    return sorted(str(hop.bridge_port) for hop in ends) == [ISOLATED, OPEN]


# -- packets that are missing ------------------------------------------------------------------------------------------


def _addresses(evidence: Evidence) -> Iterator[Finding]:
    row, fact = evidence.row, evidence.fact
    learned = [(port, mac) for port, vlan, mac in evidence.switch.learned if vlan == (fact.tag or 0)]
    own = [mac for port, mac in learned if port == fact.ofport]
    elsewhere = [port for port, mac in learned if mac == evidence.mac and port != fact.ofport]
    # An address that was learned before the VM came here moves when the VM sends.
    if not isinstance(row, OvsPort) or not evidence.mac or not evidence.chain or not evidence.count(row.name, "rx"):
        return
    if own and evidence.mac not in own:
        yield _stop("mac", row.name, f"the VM sends from {own[0]}, and the port is for {evidence.mac}")
    elif elsewhere:
        reason = f"it also receives from {evidence.mac} at OpenFlow port {elsewhere[0]}, not only at {fact.ofport}"
        yield _stop("mac-elsewhere", row.bridge, f"{reason}: another device sends from the MAC address of the VM")


def _losses(evidence: Evidence) -> Iterator[Finding]:
    names, row, switch = evidence.names, evidence.row, evidence.switch
    if names.bridge in evidence.chain:
        own = evidence.drops(own=True)
        entered, passed = evidence.from_vm(names.tap), evidence.from_vm(names.bridge_end)
        if entered - passed >= FEWEST and entered > 2 * passed:
            yield _loss(evidence, "from", (names.tap, names.bridge_end), (entered, passed))
        # A filter may drop a part of what others send to the VM, and only its rule proves that it did.
        entered, passed = evidence.to_vm(names.bridge_end), evidence.to_vm(names.tap)
        if entered - passed >= FEWEST and (not passed or sum(own.values()) > passed):
            yield _loss(evidence, "to", (names.bridge_end, names.tap), (entered, passed))
    if isinstance(row, OvsPort) and switch.drops_to_vm and evidence.chain:
        sent, received = evidence.from_vm(evidence.chain[-1]), evidence.to_vm(evidence.chain[-1])
        # Flows may treat a frame of the bridge itself unlike others, so the packets must agree.
        if not received or sent >= 4 * received:
            story = f"{received or 'no'} packets for the VM leave it, and {sent} from the VM enter it"
            yield _stop("flow-drop", row.bridge, f"{story}; it drops a frame to {row.name} ({switch.drops_to_vm})")


def _loss(evidence: Evidence, direction: str, ends: tuple[str, str], numbers: tuple[int, int]) -> Finding:
    tap, bridge, (entered, passed) = evidence.names.tap, evidence.names.bridge, numbers
    kind = "marked frames" if evidence.marked is not None and direction == "from" else "packets"
    few = f"only {passed} of them leave" if passed else "none of them leaves"
    story = f"{entered} {kind} {direction} the VM enter {ends[0]}, {few} {ends[1]}"
    if direction == "to" and evidence.count(tap, "tx_dropped") > passed:
        return Finding("guest-stuck", tap, f"{story}: the VM does not take them from the queue of its device")
    # iptables-nft does not count the packets of a policy.
    policies = {rule: 0 for rule in evidence.after.drops or () if rule.startswith(_POLICY_OF)}
    rules = evidence.drops(own=True) or evidence.drops(own=False) or policies
    if rules:
        rule = max(rules, key=lambda rule: rules[rule])
        return Finding("filtered", bridge, f"{story}: iptables drops them on {bridge} ({shown(rule)})")
    guess = "a filter that iptables does not count, such as ebtables, nft or tc"
    if evidence.after.drops is None:
        guess = "probably a filter of iptables, which could not be read"
    return Finding("lost", bridge, f"{story}: {bridge} drops them; {guess}")


# -- states that stop some packets -------------------------------------------------------------------------------------


def _hazards(evidence: Evidence) -> Iterator[Finding]:
    row, hops = evidence.row, evidence.after.hops
    # A bridge forwards by the MTU of its ports, not by its own (net/bridge/br_forward.c).
    ends = [(hops[name].mtu, name) for name in evidence.chain if name in hops and name != evidence.names.bridge]
    mtus = [mtu for mtu, _ in ends]
    if len(set(mtus)) > 1:
        index = next(index for index, mtu in enumerate(mtus) if mtu != max(mtus, key=mtus.count))
        (mtu, name), (other, near) = ends[index], ends[index - 1 if index else 1]
        reason = f"its MTU is {mtu}, behind {other} of {near}"
        yield Finding("mtu", name, f"packets of more than {min(mtus)} bytes stop at {name}: {reason}")
    others = evidence.observed.facts.bearers.get(row.iface_id, ()) if isinstance(row, OvsPort) else ()
    others = tuple(name for name in others if row and name != row.name)
    if row and others:
        reason = f"{', '.join(others)} of Open vSwitch has the same iface-id, so Neutron's agent may wire that one"
        yield _stop("duplicate", row.name, f"{reason}; {remedy_for_duplicate(evidence.port_id, others[0])}")


# -- a chain in order --------------------------------------------------------------------------------------------------


def _passing(evidence: Evidence) -> Finding:
    row, chain, span = evidence.row, evidence.chain, f"{evidence.seconds:g} s"
    bridge = row.bridge if isinstance(row, OvsPort) else "the switch"
    if not chain:
        return Finding("not-counted", "", f"the port has no device that counts packets, and {bridge} is in order")
    sent, received = evidence.from_vm(chain[0]), evidence.to_vm(chain[0])
    if evidence.marked is not None:
        code, text = "in-order", f"{sent} marked frames passed from {chain[0]} to {bridge}"
    elif sent and received:
        code, text = "in-order", f"packets pass: {sent} from the VM and {received} to it in {span}"
    elif sent:
        code, text = "no-answer", f"{sent} packets from the VM reached {bridge}, and none came back in {span}"
    elif received:
        code, text = "silent", f"no packet leaves the VM: {received} reached {chain[0]} in {span}, the guest is silent"
    else:
        code, text = "no-traffic", f"no traffic seen in {span}"
    return Finding(code, chain[0] if code == "silent" else "", f"{text}; the chain is in order")


# -- the words of other programs ---------------------------------------------------------------------------------------

_STEP = re.compile(r" *(\d+)\. (.*)")
_COMMENT = re.compile(r' -m comment --comment (?:"(?:[^"\\]|\\.)*"|\S+)')
_RULE = re.compile(r"\[(\d+):\d+\] -A (\S+) (?:(.*) )?-j (\S+)")
_POLICY = re.compile(r":(\S+) DROP \[(\d+):\d+\]")
_POLICY_OF = "policy of "
_OTHER_CHAINS = ("INPUT", "OUTPUT", "PREROUTING", "POSTROUTING")
"""Chains for packets of the host itself, and chains without a filter."""


def dropped_by(trace: str, port: str = "") -> str:
    """Return the reason that ofproto/trace drops a frame; "" if it is forwarded.

    port: the number in the datapath that must receive it; "" for any.
    """
    actions = re.findall(r"^Datapath actions: (.*)$", trace, re.MULTILINE)
    steps: list[str] = []
    for line in trace.partition("Final flow:")[0].splitlines():
        if match := _STEP.match(line):
            steps.append(f"table {match[1]}: {match[2]}")
        elif steps and line.startswith(" "):
            steps[-1] += f" {line.strip()}"
    step = steps[-1] if steps else "no flow"
    outputs = {word for line in actions for word in re.split(r"[,()]", line)}
    # A frame that is flooded to nobody is not dropped by a flow.
    passes = port in outputs if port else actions[-1:] != ["drop"] or step.endswith("flooding")
    return "" if passes or not actions else shown(step)


def drops_of(saved: str) -> Counter[str]:
    """Return the number of packets dropped so far, by rule, from the output of iptables-save -c.

    A jump to a chain that drops all counts as a rule that drops.
    """
    lines = _COMMENT.sub("", saved).splitlines()
    rules = [match.groups("") for match in map(_RULE.match, lines) if match and match[2] not in _OTHER_CHAINS]
    first = {chain: (test, target) for _, chain, test, target in reversed(rules)}
    ends = {"DROP", "REJECT", *(chain for chain, rule in first.items() if rule == ("", "DROP"))}
    # Several tables may have the same rule.
    drops = Counter[str]()
    for number, chain, test, target in rules:
        if target in ends:
            drops[" ".join(filter(None, (chain, test, "-j", target)))] += int(number)
    for match in map(_POLICY.match, lines):
        if match and match[1] not in _OTHER_CHAINS:
            drops[_POLICY_OF + match[1]] += int(match[2])
    return drops
