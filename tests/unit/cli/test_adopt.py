"""hybridvif adopt: adopted ports, skipped ports, dry runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridvif import Bridge, OvsPort, RecordingHost, Veth, desired_state
from hybridvif.cli.commands.repair import adopt, candidates
from tests.support.answers import ID, OTHER, PORT, QBR, QVB, QVO, arguments, plugged, text_of


def unmarked(*left_marked: str) -> RecordingHost:
    """Create a host with a port of ours and a port of os-vif that has our tags on these links."""
    host = plugged(PORT, OTHER)
    bridge, veth = host.state.links[QBR], host.state.links[QVB]
    assert isinstance(bridge, Bridge)
    assert isinstance(veth, Veth)
    if QBR not in left_marked:
        bridge = replace(bridge, alias="")
    if QVB not in left_marked:
        veth = replace(veth, alias="", peer_alias="")
    host.state = host.state.with_parts(bridge, veth)
    return host


@pytest.mark.parametrize("left_marked", [(), (QBR,), (QVB,)], ids=["none", "qbr", "qvb"])
def test_adopt_takes_only_ports_without_all_tags(left_marked: tuple[str, ...]) -> None:
    host = unmarked(*left_marked)
    answer = adopt(host, arguments("adopt"))
    assert [port["port"] for port in answer.document["ports"]] == [ID]  # type: ignore[attr-defined]
    assert answer.document["skipped"] == answer.warnings == []
    assert answer.exit_code == 0
    assert host.state == desired_state(PORT).with_parts(*desired_state(OTHER))
    assert adopt(host, arguments("adopt")).document["ports"] == []


def test_adopt_dry_run_plans_the_same_and_writes_nothing() -> None:
    host = unmarked()
    before = host.state
    answer = adopt(host, arguments("adopt", "--dry-run"))
    assert answer.document["command"] == "adopt"
    assert answer.document["summary"] == {"create": 0, "update": 2, "delete": 0}
    assert "Plan: 0 to create, 2 to change, 0 to delete." in text_of(answer)
    assert (host.state, host.steps) == (before, [])


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        ({"attached_mac": ""}, "its mac cannot be inferred; plug it with all its options"),
        ({"vm_uuid": ""}, "its instance_id cannot be inferred; plug it with all its options"),
        ({"iface_id": ""}, "its id cannot be inferred; plug it with all its options"),
    ],
)
def test_adopt_reports_ports_with_unknown_fields(spoilt: dict[str, str], reason: str) -> None:
    host = unmarked()
    row = host.state.ports[QVO]
    assert isinstance(row, OvsPort)
    host.state = host.state.with_parts(replace(row, **spoilt))  # type: ignore[arg-type]
    ports, skipped = candidates(host.observe(None, 0.0))
    assert ports == []
    assert skipped == [{"key": ID[:11], "reason": reason}]


@pytest.mark.parametrize("lost", [QVB, QVO])
def test_adopt_reports_incomplete_ports(lost: str) -> None:
    host = unmarked()
    host.state = host.state.without(host.state.links.get(lost) or host.state.ports[lost])
    ports, skipped = candidates(host.observe(None, 0.0))
    assert ports == []
    assert "incomplete" in skipped[0]["reason"]


def test_adopt_skips_vhost_user_ports() -> None:
    host = plugged(replace(PORT, vhostuser_mode="client"))
    _, (skipped,) = candidates(host.observe(None, 0.0))
    assert skipped["reason"] == ("it is a vhost-user port, without links for ownership tags; plug it instead")
