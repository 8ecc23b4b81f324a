"""A VM whose tap is a port of the switch itself is not plugged again; duplicate iface-ids are reported."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridvif import Bridge, Conflict, Create, OvsPort, Result, Step, Tap, Update, check, desired_state, plug, unplug
from hybridvif.cli.commands import check as checking, list as listing
from hybridvif.cli.commands.doctor import port_findings
from hybridvif.cli.ports import PortRequest
from hybridvif.cli.terminal import Answer
from hybridvif.model.errors import escaped
from hybridvif.model.parts import Role, Veth
from hybridvif.privileged.execute import installed
from tests.contract.bench import Bench
from tests.functional.conftest import make_port, require_tun
from tests.support.strategies import the

PORT = make_port()
QBR, QVB, QVO, TAP, _ = PORT.names
WIRING = desired_state(PORT)
ASKED = [PortRequest(fields={"id": PORT.id})]
LINKS = [{"link_executor": name} for name in installed(Role.LINK) if name != "recording"]
SWITCHES = [{"switch_executor": name} for name in installed(Role.SWITCH) if name not in ("recording", "ivs-ctl")]


@pytest.fixture(scope="module", params=[*LINKS, *SWITCHES], ids=lambda executor: next(iter(executor.values())))
def executor(request: pytest.FixtureRequest) -> dict[str, str]:
    return dict(request.param)


def plug_natively(bench: Bench) -> None:
    """Plug a VIFOpenVSwitch as os-vif and libvirt do: the tap is a port of br-int, on netdev without a master."""
    require_tun()
    bench.sh(
        f"ip tuntap add {TAP} mode tap; ip link set {TAP} up; ovs-vsctl add-port br-int {TAP} -- set Interface {TAP} "
        f"external_ids:iface-id={PORT.id} external_ids:attached-mac='\"{PORT.mac}\"'"
    )


def test_a_tap_with_a_row_of_its_own_is_a_conflict(bench: Bench) -> None:
    plug_natively(bench)
    before = bench.snapshot()
    for refused in (plug, check):
        with pytest.raises(Conflict, match=f"{TAP} is a port of the switch itself.* ovs-vsctl del-port {TAP}"):
            refused(PORT, bench.host)
    assert bench.snapshot() == before
    bench.sh(f"ovs-vsctl del-port {TAP}")
    assert plug(PORT, bench.host).ok
    assert bench.link(TAP)["master"] == QBR


def test_a_tap_that_gets_a_row_later_is_told_by_each_command(bench: Bench) -> None:
    assert plug(PORT, bench.host).ok
    plug_natively(bench)
    before = bench.snapshot()
    with pytest.raises(Conflict, match=TAP):
        plug(PORT, bench.host)
    checked = checking.answer_of(ASKED, bench.host)
    assert checked.exit_code == 6
    assert TAP in checked.failures[0].message
    assert [port["state"] for port in listing.list_of(bench.host).rows] == ["conflict"]
    (finding, double) = port_findings(bench.observed(None))
    assert (finding.verdict, double.verdict) == ("fail", "info")
    assert TAP in finding.text
    assert bench.snapshot() == before
    # The leftovers of a hybrid port beside a native one are deleted, and the native one stays.
    assert unplug(PORT.id, bench.host).ok
    assert bench.row(TAP) != {}
    assert bench.link(QBR) == {}


def test_the_daemon_refuses_to_plug_beside_a_row_of_the_tap(bench: Bench) -> None:
    plug_natively(bench)
    before = bench.snapshot()
    bridge, veth, row = the(Bridge, WIRING), the(Veth, WIRING), the(OvsPort, WIRING)
    tap = Tap(name=TAP, master="")
    plans: list[list[Step]] = [
        [Create(bridge), Create(veth), Create(row)],
        [Create(bridge), Update(tap, replace(tap, master=QBR)), Create(veth), Create(row)],
        [Create(bridge)],
        [Create(replace(veth, master=""))],
    ]
    for plan in plans:
        outcomes = bench.do(*plan)
        assert {outcome.result for outcome in outcomes} == {Result.REFUSED}, outcomes
        assert TAP in outcomes[0].reason
    assert bench.snapshot() == before
    bench.sh(f"ip link add {QBR} type bridge; ip link set {QBR} up alias {PORT.id}")
    before = bench.snapshot()
    (outcome,) = bench.do(Update(tap, replace(tap, master=QBR)))
    assert outcome.result is Result.REFUSED
    assert bench.snapshot() == before


@pytest.mark.parametrize("name", [QBR, QVB])
def test_a_loop_through_the_switch_is_a_conflict(bench: Bench, name: str) -> None:
    assert plug(PORT, bench.host).ok
    bench.sh(f"ip link set {QVO} down; ovs-vsctl add-port br-int {name}")
    before = bench.snapshot()
    for refused in (plug, check):
        with pytest.raises(Conflict, match=f"{name} is a port of the switch itself.* ovs-vsctl del-port {name}"):
            refused(PORT, bench.host)
    assert checking.answer_of(ASKED, bench.host).exit_code == 6
    assert [port["state"] for port in listing.list_of(bench.host).rows] == ["conflict"]
    veth = the(Veth, WIRING)
    (outcome,) = bench.do(Update(replace(veth, peer_up=False), veth))
    assert outcome.result is Result.REFUSED
    assert bench.snapshot() == before
    bench.sh(f"ovs-vsctl del-port {name}")
    assert plug(PORT, bench.host).ok
    assert check(PORT, bench.host) == ()


def test_a_switch_end_in_another_bridge_is_a_conflict(bench: Bench) -> None:
    assert plug(PORT, bench.host).ok
    bench.sh(f"ip link add br9 type bridge; ip link set {QVO} master br9")
    try:
        for refused in (plug, check):
            with pytest.raises(Conflict, match=f"{QVO} is in br9.* ip link set {QVO} nomaster"):
                refused(PORT, bench.host)
    finally:
        bench.sh("ip link delete br9")
    assert check(PORT, bench.host) == ()


def warnings_about_the_port(answer: Answer) -> list[str]:
    """Return the warnings about the port. Another one says that this process cannot read the flows."""
    return [warning for warning in answer.warnings if PORT.id in warning]


@pytest.mark.parametrize(
    ("other", "remedy"),
    [
        ("vnet0", "ovs-vsctl del-port vnet0"),
        # The row of another port may serve its own VM.
        ("qvo00000002-7b", "hybridvif check qvo00000002-7b"),
        ("a name\u2028", "ovs-vsctl del-port "),
    ],
)
def test_another_row_with_the_iface_id_is_a_warning(bench: Bench, other: str, remedy: str) -> None:
    assert plug(PORT, bench.host).ok
    assert warnings_about_the_port(checking.answer_of(ASKED, bench.host)) == []
    add = ["--no-wait", "add-port", "br-int", other, "--", "set", "Interface", other]
    bench.box.run(["ovs-vsctl", *add, f"external_ids:iface-id={PORT.id}"])
    try:
        checked = checking.answer_of(ASKED, bench.host)
        assert checked.exit_code == 0
        (warning,) = warnings_about_the_port(checked)
        assert remedy in warning
        assert warning.isprintable()
        assert escaped(other) in warning
        assert warnings_about_the_port(listing.list_of(bench.host)) == [warning]
        findings = [finding for finding in port_findings(bench.observed(None)) if PORT.id in finding.name]
        assert [finding.verdict for finding in findings] == ["info"]
        assert bench.observed(None).facts.bearers.keys() == {PORT.id}
        assert bench.observed().facts.bearers == {}
    finally:
        bench.box.run(["ovs-vsctl", "--no-wait", "del-port", other])


def test_rows_that_are_in_order_are_no_bearers(bench: Bench) -> None:
    assert plug(PORT, bench.host).ok
    bench.sh("ovs-vsctl --no-wait add-port br-int hvx -- set Interface hvx external_ids:iface-id=x external_ids:a=b")
    assert bench.observed(None).facts.bearers == {}
