"""Tests of a diagnosis: states that stop packets, missing packets, chains in order, and the texts of other programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from hybridvif.model.parts import ForeignObject, ForeignPort, IvsPort, Part
from hybridvif.model.state import Facts, HostState, Observed, PortFact
from hybridvif.model.trace import (
    Diagnosis,
    Evidence,
    Finding,
    Hop,
    HopReport,
    Look,
    RuleReport,
    SwitchView,
    diagnose,
    dropped_by,
    drops_of,
)
from tests.support.strategies import NAMES, NATIVE, PORT, ROW, VHOST_USER, WIRING

TAP, QBR, QVB, QVO = NAMES.tap, NAMES.bridge, NAMES.bridge_end, NAMES.switch_end
MAC, OTHER_MAC = ROW.attached_mac, "fa:16:3e:99:99:99"
FORWARDS = SwitchView(drops_from_vm="", drops_to_vm="")
OWN_RULE, ANY_RULE = f"FORWARD -m physdev --physdev-in {TAP} -j DROP", "FORWARD -p icmp -j DROP"


def hops_of(sent: int = 20, received: int = 10, **changes: Mapping[str, Any]) -> dict[str, Hop]:
    """Return the devices after so many packets. changes: by the first three letters of the name."""
    hops = {
        TAP: Hop(mtu=1500, rx=sent, tx=received, master=QBR, bridge_port="open"),
        QBR: Hop(mtu=1500),
        QVB: Hop(mtu=1500, rx=received, tx=sent, master=QBR, bridge_port="open"),
        QVO: Hop(mtu=1500, rx=sent, tx=received, master="ovs-system"),
    }
    return {name: replace(hop, **changes.get(name[:3], {})) for name, hop in hops.items()}


def evidence(
    hops: Mapping[str, Hop] | None = None,
    *,
    state: HostState = WIRING,
    fact: PortFact = PortFact(ofport=3, tag=5),  # noqa: B008
    drops: Mapping[str, int] | None = None,
    entries: tuple[tuple[str, str, bool], ...] = (),
    bearers: Mapping[str, tuple[str, ...]] | None = None,
    **more: Any,
) -> Evidence:
    """Return the evidence about a port in order, with these exceptions."""
    after = Look(hops=hops_of() if hops is None else hops, drops={} if drops is None else drops, entries=entries)
    facts = Facts(ports=dict.fromkeys((QVO, TAP), fact), bearers=bearers or {})
    switch = more.pop("switch", FORWARDS)
    values = {"before": Look(hops=hops_of(0, 0), drops={}), "after": after, "switch": switch, **more}
    return Evidence(port_id=PORT.id, names=NAMES, seconds=2, observed=Observed(state, facts), **values)


def without(name: str) -> dict[str, Hop]:
    """Return all devices but one."""
    return {key: hop for key, hop in hops_of().items() if key != name}


def verdict(about: Evidence) -> tuple[str, str, bool]:
    diagnosis = diagnose(about)
    assert diagnosis.hop in diagnosis.sentence
    return diagnosis.code, diagnosis.hop, diagnosis.stops


def with_parts(*parts: Part) -> HostState:
    return WIRING.with_parts(*parts)


BLOCKERS: list[tuple[Evidence, str, str]] = [
    *((evidence(hops_of(20, 10, **{name[:3]: {"up": False}})), "down", name) for name in (TAP, QBR, QVB, QVO)),
    *((evidence(without(name)), "missing", name) for name in (TAP, QBR, QVB, QVO)),
    (evidence(hops_of(tap={"carrier": False})), "no-carrier", TAP),
    (evidence(hops_of(tap={"master": "", "bridge_port": None})), "apart", TAP),
    (evidence(hops_of(qvb={"master": "brx", "bridge_port": None})), "apart", QVB),
    (evidence(hops_of(qvb={"bridge_port": "locked on"})), "blocked", QVB),
    (evidence(hops_of(tap={"bridge_port": "isolated on"}, qvb={"bridge_port": "isolated on"})), "blocked", TAP),
    (evidence(hops_of(tap={"bridge_port": "isolated on"}, qvb={"bridge_port": "locked on"})), "blocked", TAP),
    (evidence(state=with_parts(ForeignObject(name=QVB, what="a dummy link"))), "foreign", QVB),
    (evidence(entries=((MAC, TAP, True),)), "mac-taken", QBR),
    (evidence(entries=((MAC, QVB, False),)), "mac-taken", QBR),
    (evidence(state=WIRING.without(ROW)), "not-in-switch", QVO),
    (evidence(state=with_parts(ForeignPort(name=QVO, what="a tunnel"))), "foreign", QVO),
    (evidence(switch=SwitchView(failure="switch-hung")), "switch-hung", "br-int"),
    (evidence(switch=SwitchView(failure="switch-dead")), "switch-dead", "br-int"),
    (evidence(switch=SwitchView(failure="no-bridge")), "no-bridge", "br-int"),
    (evidence(state=with_parts(replace(ROW, realized=False))), "not-accepted", QVO),
    (evidence(fact=PortFact()), "not-accepted", QVO),
    (evidence(fact=PortFact(ofport=-1, error="No such device")), "not-accepted", QVO),
    (evidence(fact=PortFact(ofport=3, tag=4095)), "dead-vlan", QVO),
    (evidence(switch=replace(FORWARDS, drops_from_vm="table 0: No match.")), "flow-drop", "br-int"),
]


@pytest.mark.parametrize(("about", "code", "hop"), BLOCKERS, ids=lambda value: value if isinstance(value, str) else "")
def test_state_that_passes_no_packet_is_a_finding(about: Evidence, code: str, hop: str) -> None:
    assert verdict(about) == (code, hop, True)
    assert diagnose(about).sentence.startswith(f"packets stop at {hop}: ")


def test_blocker_hides_the_packets_that_are_missing_behind_it() -> None:
    about = evidence(hops_of(tap={"up": False}, qvb={"up": False, "tx": 0}))
    assert [finding.code for finding in diagnose(about).findings] == ["down", "down"]


def test_members_of_a_missing_bridge_are_not_called_apart() -> None:
    apart: dict[str, Any] = {"master": "", "bridge_port": None}
    hops = {name: hop for name, hop in hops_of(tap=apart, qvb=apart).items() if name != QBR}
    assert [finding.code for finding in diagnose(evidence(hops)).findings] == ["missing"]


def test_error_of_the_switch_is_in_the_sentence() -> None:
    assert "No such device" in diagnose(evidence(fact=PortFact(ofport=-1, error="No such device"))).sentence


def test_entries_for_other_addresses_and_for_the_vm_at_its_tap_are_fine() -> None:
    entries = ((OTHER_MAC, QVB, True), (MAC, TAP, False))
    assert verdict(evidence(entries=entries)) == ("in-order", "", False)


# -- packets that are missing ------------------------------------------------------------------------------------------

FROM_VM, TO_VM = hops_of(qvb={"tx": 1}, qvo={"rx": 1}), hops_of(tap={"tx": 0})


@pytest.mark.parametrize(
    ("about", "code", "words"),
    [
        (evidence(FROM_VM, drops={OWN_RULE: 19}), "filtered", f"only 1 of them leave {QVB}: iptables drops them"),
        (evidence(FROM_VM, drops={OWN_RULE: 1, ANY_RULE: 30}), "filtered", OWN_RULE),
        (evidence(FROM_VM, drops={ANY_RULE: 19}), "filtered", ANY_RULE),
        (evidence(FROM_VM, drops={"policy of FORWARD": 0}), "filtered", "policy of FORWARD"),
        (evidence(FROM_VM), "lost", "such as ebtables"),
        (evidence(FROM_VM, after=Look(hops=FROM_VM)), "lost", "could not be read"),
        (evidence(TO_VM, drops={OWN_RULE: 10}), "filtered", "10 packets to the VM enter"),
        (evidence(TO_VM), "lost", f"none of them leaves {TAP}"),
        (evidence(hops_of(tap={"tx": 1}), drops={OWN_RULE: 9}), "filtered", "to the VM"),
    ],
)
def test_missing_packets_are_a_finding_at_the_bridge(about: Evidence, code: str, words: str) -> None:
    assert verdict(about) == (code, QBR, True)
    assert words in diagnose(about).sentence


def test_full_queue_of_the_tap_is_a_guest_that_takes_no_packets() -> None:
    assert verdict(evidence(hops_of(tap={"tx": 0, "tx_dropped": 10}))) == ("guest-stuck", TAP, True)


@pytest.mark.parametrize(
    "about",
    [
        evidence(hops_of(qvb={"tx": 18})),
        evidence(hops_of(sent=2, tap={"rx": 4})),
        evidence(hops_of(tap={"tx": 1})),
        evidence(hops_of(tap={"tx": 1}), drops={ANY_RULE: 9}),
        evidence(hops_of(tap={"tx": 8}), drops={OWN_RULE: 2}),
    ],
    ids=["some", "few", "part to the VM", "part by another rule", "part by a rule"],
)
def test_few_missing_packets_are_no_finding(about: Evidence) -> None:
    assert verdict(about) == ("in-order", "", False)


def test_missing_marked_frames_are_a_finding() -> None:
    about = evidence(marked={TAP: 3, QVB: 0, QVO: 0})
    assert verdict(about) == ("lost", QBR, True)
    assert diagnose(about).sentence.startswith(f"3 marked frames from the VM enter {TAP}, none of them leaves {QVB}")


def test_switch_that_delivers_nothing_is_a_finding_if_nothing_arrives() -> None:
    switch = replace(FORWARDS, drops_to_vm="table 0: drop")
    assert verdict(evidence(hops_of(received=0), switch=switch)) == ("flow-drop", "br-int", True)
    assert verdict(evidence(switch=switch)) == ("in-order", "", False)


# -- states that stop some packets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mtus", "hop", "words"),
    [
        ((1500, 1450, 1450), TAP, f"packets of more than 1450 bytes stop at {TAP}: its MTU is 1500, behind 1450"),
        ((1500, 1400, 1500), QVB, f"more than 1400 bytes stop at {QVB}: its MTU is 1400, behind 1500 of {TAP}"),
        ((1500, 1500, 1300), QVO, f"its MTU is 1300, behind 1500 of {QVB}"),
    ],
)
def test_different_mtus_are_a_finding_at_the_odd_device(mtus: tuple[int, int, int], hop: str, words: str) -> None:
    changes = {name[:3]: {"mtu": mtu} for name, mtu in zip((TAP, QVB, QVO), mtus, strict=True)}
    about = evidence(hops_of(20, 10, **changes))
    assert verdict(about) == ("mtu", hop, True)
    assert words in diagnose(about).sentence


@pytest.mark.parametrize("end", ["tap", "qvb"])
def test_one_isolated_end_stops_no_packet(end: str) -> None:
    assert verdict(evidence(hops_of(20, 10, **{end: {"bridge_port": "isolated on"}}))) == ("in-order", "", False)


def test_mtu_of_the_bridge_itself_stops_no_packet() -> None:
    assert verdict(evidence(hops_of(qbr={"mtu": 1400}))) == ("in-order", "", False)


def test_row_over_an_earlier_device_is_to_be_plugged_again() -> None:
    """ovs-vswitchd hung while the port was unplugged and plugged: its OpenFlow port is valid, and no packet passes."""
    about = evidence(state=with_parts(replace(ROW, realized=False)))
    assert diagnose(about).sentence.endswith("keeps an earlier device with its name; plug the port again")
    failed = evidence(state=with_parts(replace(ROW, realized=False)), fact=PortFact(ofport=3, error="no peer"))
    assert diagnose(failed).sentence.endswith("has not accepted it as a port of br-int: no peer")


def test_second_row_with_the_interface_id_is_a_finding() -> None:
    about = evidence(bearers={ROW.iface_id: ("other", QVO)})
    assert verdict(about) == ("duplicate", QVO, True)
    assert "ovs-vsctl del-port other" in diagnose(about).sentence
    assert "ovs-vsctl" not in diagnose(evidence(bearers={ROW.iface_id: ("qvo91d3aa02-41", QVO)})).sentence


@pytest.mark.parametrize(
    ("learned", "expected"),
    [
        (((3, 5, MAC), (3, 5, OTHER_MAC)), ("in-order", "", False)),
        (((3, 5, OTHER_MAC),), ("mac", QVO, True)),
        (((7, 5, MAC),), ("mac-elsewhere", "br-int", True)),
        (((3, 5, MAC), (7, 5, MAC)), ("mac-elsewhere", "br-int", True)),
        (((3, 5, OTHER_MAC), (7, 5, MAC)), ("mac", QVO, True)),
        (((7, 6, MAC), (7, 5, OTHER_MAC)), ("in-order", "", False)),
    ],
)
def test_learned_addresses_are_compared_with_the_row(
    learned: tuple[tuple[int, int, str], ...], expected: tuple[str, str, bool]
) -> None:
    assert verdict(evidence(switch=replace(FORWARDS, learned=learned))) == expected


def test_address_learned_elsewhere_is_no_finding_while_the_vm_is_silent() -> None:
    about = evidence(hops_of(sent=0), switch=replace(FORWARDS, learned=((7, 5, MAC),)))
    assert verdict(about) == ("silent", TAP, False)


@pytest.mark.parametrize("mac", ["", "unknown"])
def test_row_without_an_address_has_no_address_to_compare(mac: str) -> None:
    about = evidence(state=with_parts(replace(ROW, attached_mac=mac)), entries=((OTHER_MAC, QVB, False),))
    assert verdict(replace(about, switch=replace(FORWARDS, learned=((3, 5, OTHER_MAC),)))) == ("in-order", "", False)


def test_address_of_the_row_is_compared_in_lower_case() -> None:
    about = evidence(state=with_parts(replace(ROW, attached_mac=MAC.upper())))
    assert verdict(replace(about, switch=replace(FORWARDS, learned=((3, 5, MAC),)))) == ("in-order", "", False)


# -- a chain in order --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("about", "code", "sentence"),
    [
        (evidence(), "in-order", "packets pass: 20 from the VM and 10 to it in 2 s"),
        (evidence(hops_of(0, 0)), "no-traffic", "no traffic seen in 2 s"),
        (
            evidence(hops_of(received=0)),
            "no-answer",
            "20 packets from the VM reached br-int, and none came back in 2 s",
        ),
        (
            evidence(marked=dict.fromkeys((TAP, QVB, QVO), 3)),
            "in-order",
            f"3 marked frames passed from {TAP} to br-int",
        ),
    ],
)
def test_chain_in_order_is_reported_with_its_packets(about: Evidence, code: str, sentence: str) -> None:
    assert verdict(about) == (code, "", False)
    assert diagnose(about).sentence == f"{sentence}; the chain is in order"


def test_silent_guest_is_named_beside_a_chain_in_order() -> None:
    about = evidence(hops_of(sent=0))
    assert verdict(about) == ("silent", TAP, False)
    assert diagnose(about).sentence.startswith(f"no packet leaves the VM: 10 reached {TAP} in 2 s")


def test_native_port_has_one_device() -> None:
    native = {TAP: Hop(mtu=1500, rx=3, tx=4, master="ovs-system")}
    diagnosis = diagnose(evidence(native, state=HostState().with_parts(NATIVE), before=Look()))
    assert (diagnosis.code, [hop.name for hop in diagnosis.hops]) == ("in-order", [TAP])


def test_vhost_user_port_has_no_device() -> None:
    state = HostState().with_parts(VHOST_USER)
    fact = {VHOST_USER.name: PortFact(ofport=1)}
    about = evidence({}, state=state)
    about = replace(about, observed=Observed(state, Facts(ports=fact)))
    assert verdict(about) == ("not-counted", "", False)


def test_port_of_another_switch_is_judged_by_its_devices() -> None:
    state = WIRING.without(ROW).with_parts(IvsPort(name=QVO))
    diagnosis = diagnose(evidence(state=state, switch=SwitchView()))
    assert (diagnosis.code, diagnosis.bridge) == ("in-order", "")


def test_diagnosis_has_the_chain_and_the_switch() -> None:
    hops = hops_of(tap={"carrier": False, "bridge_port": "state disabled", "rx_dropped": 2, "tx_dropped": 1})
    del hops[QVB]
    about = evidence(hops, drops={OWN_RULE: 4, ANY_RULE: 5}, not_looked_at=("a note",))
    diagnosis = diagnose(about)
    assert diagnosis == Diagnosis(
        port_id=PORT.id,
        seconds=2,
        stops=True,
        code="no-carrier",
        hop=TAP,
        sentence=f"packets stop at {TAP}: it has no carrier, so no running VM holds it",
        hops=(
            HopReport(TAP, "no carrier, state disabled", 1500, QBR, 20, 2, 10, 1),
            HopReport(QBR, "up", 1500, "", None, None, None, None),
            HopReport(QVB, "missing", None, "", None, None, None, None),
            HopReport(QVO, "up", 1500, "ovs-system", 20, 0, 10, 0),
        ),
        bridge="br-int",
        ofport=3,
        tag=5,
        error="",
        drops_from_vm="",
        drops_to_vm="",
        drops=(RuleReport(OWN_RULE, 4),),
        findings=(
            Finding("no-carrier", TAP, diagnosis.sentence),
            Finding("missing", QVB, f"packets stop at {QVB}: it does not exist; plug the port again"),
        ),
        not_looked_at=("a note",),
    )


def test_state_of_a_device_that_is_down_is_shown() -> None:
    assert diagnose(evidence(hops_of(qbr={"up": False}))).hops[1].state == "down"


# -- the words of other programs ---------------------------------------------------------------------------------------

TRACE = """Flow: udp,in_port=1

bridge("br-int")
----------------
{}

Final flow: unchanged
Megaflow: recirc_id=0,eth,ip,in_port=1,nw_frag=no
Datapath actions: {}
"""
FLOODED = " 0. priority 0\n    NORMAL\n     -> no learned MAC for destination, flooding"


@pytest.mark.parametrize(
    ("steps", "actions", "port", "expected"),
    [
        (FLOODED, "push_vlan(vid=5,pcp=0),1", "", ""),
        (FLOODED, "drop", "", ""),
        (" 0. No match.\n    drop", "drop", "", "table 0: No match. drop"),
        (" 0. priority 0\n    resubmit(,60)\n60. priority 4\n    drop", "drop", "", "table 60: priority 4 drop"),
        ("", "drop", "", "no flow"),
        (FLOODED, "pop_vlan,2", "2", ""),
        (FLOODED, "clone(push_vlan(vid=5,pcp=0),3)", "3", ""),
        (
            " 0. priority 0\n    NORMAL\n     -> forwarding to learned port",
            "12",
            "2",
            "table 0: priority 0 NORMAL -> forwarding to learned port",
        ),
    ],
)
def test_reason_of_a_drop_is_the_last_step_of_the_trace(steps: str, actions: str, port: str, expected: str) -> None:
    assert dropped_by(TRACE.format(steps, actions), port) == expected


def test_trace_without_actions_is_no_drop() -> None:
    assert dropped_by("", "2") == ""


SAVED = f"""# Generated by iptables-save v1.8.9
*filter
:INPUT DROP [9:900]
:FORWARD DROP [7:700]
:neutron-openvswi-o{PORT.id[:10]} - [0:0]
:neutron-openvswi-sg-fallback - [0:0]
[8:800] -A INPUT -j DROP
[5:500] -A FORWARD -m physdev --physdev-in {TAP} -j DROP
[6:600] -A FORWARD -j ACCEPT
[1:100] -A neutron-openvswi-o{PORT.id[:10]} -m state --state INVALID -m comment --comment "Drop \\" it" -j DROP
[2:200] -A neutron-openvswi-o{PORT.id[:10]} -m comment --comment unmatched -j neutron-openvswi-sg-fallback
[3:300] -A neutron-openvswi-s{PORT.id[:10]} -s 10.0.0.3/32 -j RETURN
[4:400] -A neutron-openvswi-s{PORT.id[:10]} -j DROP
[2:200] -A neutron-openvswi-sg-fallback -m comment --comment "Default drop rule." -j DROP
[1:100] -A FORWARD -p tcp -j REJECT --reject-with icmp-port-unreachable
COMMIT
"""


def test_drops_are_read_from_the_rules_of_iptables() -> None:
    chain = f"neutron-openvswi-o{PORT.id[:10]}"
    assert drops_of(SAVED) == {
        OWN_RULE: 5,
        f"{chain} -m state --state INVALID -j DROP": 1,
        f"{chain} -j neutron-openvswi-sg-fallback": 2,
        f"neutron-openvswi-s{PORT.id[:10]} -j DROP": 4,
        "neutron-openvswi-sg-fallback -j DROP": 2,
        "FORWARD -p tcp -j REJECT": 1,
        "policy of FORWARD": 7,
    }


def test_equal_rules_of_several_tables_are_added() -> None:
    assert drops_of(SAVED + SAVED)[OWN_RULE] == 10


def test_rules_in_the_chains_of_the_port_are_its_own() -> None:
    about = evidence(drops=drops_of(SAVED), before=Look(hops=hops_of(0, 0), drops={OWN_RULE: 5}))
    assert [report.packets for report in diagnose(about).drops] == [1, 2, 4]
