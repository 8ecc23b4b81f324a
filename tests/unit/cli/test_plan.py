from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from hybridvif import Create, Port, RecordingHost, Tap, Update, desired_state, plug, plug_all, unplug_all
from hybridvif.cli.commands.plan import LeftOut, answer_of, infer_missing
from hybridvif.cli.output.changes import diff_lines, tally
from hybridvif.cli.terminal import Answer, Paint
from hybridvif.engine.any_host import SimulatedHost, look, nothing_seen
from hybridvif.model.changes import changes_of_plan
from hybridvif.model.errors import InvalidInput
from hybridvif.model.parts import Bridge, OvsPort, attributes_of, create_only_values, reason_of
from hybridvif.model.planner import plan
from hybridvif.model.settings import Settings
from hybridvif.model.state import Observed
from tests.support.answers import (
    ID,
    MAC,
    OTHER,
    OTHER_ID,
    PORT,
    QBR,
    QVB,
    QVO,
    TAP,
    TWIN_ID,
    VM,
    asked,
    plugged,
    ports_of,
    row_of,
    text_of,
)


def planned(host: RecordingHost, ports: Sequence[Port], left_out: LeftOut | None = None, **options: Any) -> Answer:
    """Return the answer of a dry run of plug."""
    stage = SimulatedHost(host.settings, look(host, [port.id for port in ports]))
    return answer_of("plug", plug_all(ports, stage), stage, left_out or {}, **options)


def planned_unplug(host: RecordingHost, *, force: bool = False, **options: Any) -> Answer:
    """Return the answer of a dry run of unplug."""
    stage = SimulatedHost(host.settings, look(host, [ID]))
    return answer_of("unplug", unplug_all([ID], stage, force=force), stage, **options)


def test_plan_of_a_first_plug_creates_three_parts() -> None:
    host = RecordingHost()
    assert text_of(planned(host, [PORT])).splitlines() == [
        f"  +  bridge    {QBR}                  absent -> mtu 1450, up, ageing 0, stp off, snooping off, ipv6 off",
        f"  +  veth      {QVB} = {QVO} absent -> mtu 1450, up, promisc on, in {QBR}",
        f"  +  ovs-port  {QVO} on br-int        absent -> iface-id {ID}, attached-mac {MAC}, vm-uuid {VM}",
        "Plan: 3 to create, 0 to change, 0 to delete.",
    ]
    assert host.steps == []


def test_plan_matches_the_steps_of_plug_and_writes_nothing() -> None:
    host = plugged(OTHER)
    host.state = host.state.with_parts(replace(row_of(host, OTHER), attached_mac=MAC))
    before = host.state
    ports = ports_of(planned(host, [PORT, OTHER]))
    assert host.state == before
    done = []
    for port in (PORT, OTHER):
        plug(port, host)
        done.append([(type(step).__name__.lower(), step.part.name) for step in host.steps])
        host.steps.clear()
    assert isinstance(ports, list)
    assert [[(step["verb"], step["name"]) for step in port["steps"]] for port in ports] == done


def test_plan_of_a_port_in_order_is_empty() -> None:
    answer = planned(plugged(PORT), [PORT], detailed=True)
    assert text_of(answer) == "Plan: nothing to do."
    assert answer.exit_code == 0


def test_plan_exits_with_3_only_with_detailed_exitcode() -> None:
    host = RecordingHost()
    assert planned(host, [PORT]).exit_code == 0
    assert planned(host, [PORT], detailed=True).exit_code == 3
    assert planned_unplug(plugged(PORT), detailed=True).exit_code == 3
    assert planned_unplug(host, detailed=True).exit_code == 0


def test_plan_of_an_update_shows_old_and_new_values() -> None:
    host = plugged(PORT)
    host.state = host.state.with_parts(replace(row_of(host), attached_mac="fa:16:3e:00:00:01", vm_uuid=""))
    assert (
        f"  ~  ovs-port  {QVO} on br-int        attached-mac fa:16:3e:00:00:01 -> {MAC}, vm-uuid none -> {VM}"
        in text_of(planned(host, [PORT]))
    )


def test_recreated_veth_pair_is_two_changes_from_three_steps() -> None:
    host = plugged(PORT)
    host.state = host.state.without(host.state.links[QVB])
    host.state = host.state.with_parts(replace(row_of(host), realized=False))
    answer = planned(host, [PORT])
    assert answer.document["summary"] == {"create": 1, "update": 1, "delete": 0}
    (port,) = ports_of(answer)
    assert [step["verb"] for step in port["steps"]] == ["update", "create", "update"]
    assert "not taken by ovs-vswitchd -> taken by ovs-vswitchd" in text_of(answer)
    assert "patch" not in text_of(answer)


def test_plan_of_an_unplug_lists_deleted_parts() -> None:
    host = plugged(PORT)
    assert text_of(planned_unplug(host)).splitlines() == [
        f"  -  ovs-port  {QVO} on br-int        present -> absent",
        f"  -  veth      {QVB} = {QVO} present -> absent",
        f"  -  bridge    {QBR}                  present -> absent",
        "Plan: 0 to create, 0 to change, 3 to delete.",
    ]
    assert host.steps == []


def test_plan_of_a_refused_unplug_has_the_refusal() -> None:
    host = plugged(PORT)
    host.state = host.state.with_parts(Tap(name=TAP, master=QBR))
    host.simulation.carrier.add(TAP)
    answer = planned_unplug(host)
    assert answer.exit_code == 6
    assert [failure.code for failure in answer.failures] == ["port-running"]
    assert text_of(answer) == "Plan: 0 to create, 0 to change, 0 to delete; 1 of 1 ports cannot be unplugged."
    assert planned_unplug(host, force=True).exit_code == 0


def test_plan_for_missing_or_disallowed_bridge_has_the_code_of_plug() -> None:
    missing = Port(id=ID, mac=MAC, instance_id=VM, bridge="br-typo")
    foreign = Port(id=ID, mac=MAC, instance_id=VM, bridge="br-ex")
    host = RecordingHost(switches={"br-int": "netdev", "br-ex": "netdev"})
    for port, code, exit_code in ((missing, "bridge-missing", 5), (foreign, "bridge-not-allowed", 6)):
        answer = planned(host, [port])
        assert (answer.failures[0].code, answer.exit_code) == (code, exit_code)
        assert answer.document["error"]["code"] == code  # type: ignore[index]


def test_plan_of_a_name_collision_refuses_only_that_port() -> None:
    twin = Port(id=TWIN_ID, mac=MAC, instance_id=VM)
    answer = planned(plugged(PORT), [OTHER, twin])
    assert answer.exit_code == 6
    assert "port 91d3aa02" in text_of(answer)
    assert text_of(answer).endswith("3 to create, 0 to change, 0 to delete; 1 of 2 ports cannot be plugged.")


def test_plan_with_reasons_shows_one_per_attribute() -> None:
    text = text_of(planned(RecordingHost(), [PORT], reasons=True))
    for part in desired_state(PORT):
        for attribute in attributes_of(type(part)):
            if attribute not in create_only_values(part) and getattr(part, attribute) not in ("", None):
                assert str(reason_of(part, attribute)) in text
    assert "LP 1129055" in text


def test_plan_shows_only_requested_create_only_attributes() -> None:
    assert "isolated" not in text_of(planned(RecordingHost(), [PORT], reasons=True))
    assert "qos" not in text_of(planned(RecordingHost(), [PORT], reasons=True))
    born = [replace(PORT, isolate=True, qos_type="linux-noop")]
    assert "isolated on" in text_of(planned(RecordingHost(), born, reasons=True))
    assert "qos-type linux-noop" in text_of(planned(RecordingHost(), born, reasons=True))


def test_plan_document_has_attributes_reasons_and_bugs() -> None:
    (port,) = ports_of(planned(RecordingHost(), [PORT]))
    bridge = port["steps"][0]
    assert (bridge["verb"], bridge["role"], bridge["kind"], bridge["name"]) == ("create", "link", "bridge", QBR)
    assert [change["attribute"] for change in bridge["changes"]] == [*attributes_of(Bridge)]
    delay = next(change for change in bridge["changes"] if change["attribute"] == "forward_delay")
    assert (delay["before"], delay["after"], delay["bugs"]) == (None, 0, [1129055])
    json.dumps(port)


def test_plan_of_several_ports_has_headings() -> None:
    text = text_of(planned(plugged(OTHER), [PORT, OTHER]))
    assert f"port {ID}" in text
    assert f"port {OTHER_ID}" not in text


def test_plan_infers_omitted_fields_from_the_plugged_port() -> None:
    host = plugged(PORT)
    ports, left_out = infer_missing([asked(mac="fa:16:3e:aa:bb:ee")], look(host, [ID]))
    assert ports == [replace(PORT, mac="fa:16:3e:aa:bb:ee")]
    assert left_out == {ID: ("instance_id", "interface_id", "bridge", "mtu")}
    assert f"attached-mac {MAC} -> fa:16:3e:aa:bb:ee" in text_of(planned(host, ports, left_out))


def test_plan_requires_fields_that_cannot_be_inferred() -> None:
    host = RecordingHost()
    with pytest.raises(InvalidInput, match=f"port {ID} is not plugged here.*--mac and --instance"):
        infer_missing([asked()], look(host, [ID]))
    host = plugged(PORT)
    host.state = host.state.with_parts(replace(row_of(host), attached_mac=""))
    with pytest.raises(InvalidInput, match="its mac cannot be inferred; give --mac"):
        infer_missing([asked()], look(host, [ID]))


def test_plan_of_a_complete_request_uses_the_defaults_of_plug() -> None:
    ports, left_out = infer_missing([asked(mac=MAC, instance_id=VM)], look(plugged(PORT), [ID]))
    assert ports == [Port(id=ID, mac=MAC, instance_id=VM)]
    assert left_out == {}


def test_plan_without_observation_assumes_an_empty_host() -> None:
    stage = SimulatedHost(RecordingHost().settings, nothing_seen({"br-int"}))
    answer = answer_of("plug", plug_all([PORT], stage), stage, observed=False)
    assert answer.document["summary"] == {"create": 3, "update": 0, "delete": 0}
    assert answer.document["observed"] is False


def test_plan_table_has_one_row_per_attribute() -> None:
    host = plugged(PORT)
    host.state = host.state.with_parts(replace(row_of(host), vm_uuid="", attached_mac=""))
    rows = planned(host, [PORT]).rows
    assert [(row["attribute"], row["before"]) for row in rows] == [("attached_mac", ""), ("vm_uuid", "")]
    assert planned_unplug(host).rows[0]["after"] == "absent"


def test_plan_of_many_ports_is_that_of_each() -> None:
    ports = [Port(id=f"{n:08x}-0000-4000-8000-000000000001", mac=MAC, instance_id=VM) for n in range(250)]
    host = plugged(*ports[::2])
    reports = unplug_all(
        [port.id for port in ports], SimulatedHost(host.settings, look(host, [port.id for port in ports]))
    )
    assert [len(report.outcomes) for report in reports] == [3, 0] * 125
    assert host.steps == []


def test_plan_of_two_colliding_ports_refuses_one() -> None:
    twin = Port(id=TWIN_ID, mac=MAC, instance_id=VM)
    answer = planned(RecordingHost(), [PORT, twin, OTHER])
    assert [failure.report["port"] for failure in answer.failures if failure.report] == [TWIN_ID]
    assert answer.exit_code != 0


def test_changes_that_cancel_out_are_left_out() -> None:
    part = desired_state(PORT).links[QBR]
    other = replace(part, mtu=9000)  # type: ignore[arg-type]
    assert changes_of_plan([Update(part, other), Update(other, part)]) == ()
    assert not tally([])


def test_plan_of_a_moved_row_shows_both_bridges() -> None:
    host = plugged(PORT)
    host.state = host.state.with_parts(replace(row_of(host), bridge="br-two"))
    (change,) = changes_of_plan(plan(host.state, desired_state(PORT)))
    (line,) = diff_lines([change], Paint(on=False))
    assert line.endswith("bridge br-two -> br-int")


def test_diff_is_green_yellow_and_red() -> None:
    part = OvsPort(name=QVO, bridge="br-int", iface_id=ID, iface_status="", attached_mac="", vm_uuid="", port_id="")
    (line,) = diff_lines(changes_of_plan([Create(part)]), Paint(on=True))
    assert line.startswith("\x1b[32m  +")
    assert line.endswith("\x1b[0m")


TRUNKS = Settings(
    integration_bridges=("br-int", "tbr-*"), create_bridges=("br-int", "tbr-*"), remove_trunk_bridges=True
)
IN_TRUNK = [replace(port, bridge="tbr-1", datapath_type="netdev", qos_type="linux-noop") for port in (PORT, OTHER)]


def in_trunks(ports: Sequence[Port], seen: Observed) -> Answer:
    stage = SimulatedHost(TRUNKS, seen)
    return answer_of("plug", plug_all(ports, stage), stage)


def test_plan_lists_a_created_bridge_once_and_each_qos() -> None:
    answer = in_trunks(IN_TRUNK, nothing_seen(["br-int"]))
    lines = [line.strip() for line in text_of(answer).splitlines() if "comes with the port" in line]
    assert lines == [
        "the bridge tbr-1 (netdev) comes with the port",
        f"the QoS row of {QVO} (linux-noop) comes with the port",
        f"the QoS row of {OTHER.names.switch_end} (linux-noop) comes with the port",
    ]
    assert text_of(answer).endswith("Plan: 6 to create, 0 to change, 0 to delete.")
    assert [port["besides"][0] for port in ports_of(answer)] == [
        {"verb": "create", "kind": "ovs-bridge", "name": "tbr-1", "type": "netdev", "only_if": ""},
        {"verb": "create", "kind": "qos", "name": OTHER.names.switch_end, "type": "linux-noop", "only_if": ""},
    ]


def test_plan_of_a_moved_row_creates_the_bridge_but_no_qos() -> None:
    seen = nothing_seen(["br-int"])
    answer = in_trunks(IN_TRUNK[:1], replace(seen, state=desired_state(replace(IN_TRUNK[0], bridge="br-int"))))
    assert [beside["kind"] for beside in ports_of(answer)[0]["besides"]] == ["ovs-bridge"]


def test_plan_without_side_effects_lists_none() -> None:
    for bridges in ["tbr-1"], ["br-int", "tbr-1"]:
        port = replace(IN_TRUNK[0], qos_type="")
        assert ports_of(in_trunks([port], nothing_seen(bridges)))[0]["besides"] == []
    there = replace(nothing_seen(["tbr-1"]), state=desired_state(IN_TRUNK[0]))
    assert ports_of(in_trunks(IN_TRUNK[:1], there))[0]["besides"] == []


def test_plan_lists_conditional_side_effects_with_condition() -> None:
    seen = replace(nothing_seen(["tbr-1"]), state=desired_state(IN_TRUNK[0]))
    stage = SimulatedHost(TRUNKS, seen)
    reports = unplug_all([ID], stage)
    answer = answer_of("unplug", reports, stage)
    trunk = "the bridge tbr-1 goes with the port, if nothing is left in it but Neutron's patch ports"
    qos = f"the QoS row of {QVO} goes with the port"
    assert trunk in text_of(answer)
    assert qos not in text_of(answer)
    assert f"{qos}, if there is one and no other port has it" in text_of(
        answer_of("unplug", reports, stage, reasons=True)
    )
    assert [(beside["verb"], beside["kind"], beside["only_if"]) for beside in ports_of(answer)[0]["besides"]] == [
        ("delete", "qos", "there is one and no other port has it"),
        ("delete", "ovs-bridge", "nothing is left in it but Neutron's patch ports"),
    ]
    stage = SimulatedHost(Settings(), seen)
    assert "tbr-1 goes" not in text_of(answer_of("unplug", unplug_all([ID], stage), stage, reasons=True))
