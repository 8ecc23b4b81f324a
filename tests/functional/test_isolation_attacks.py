"""A captured client of a host with [hybridvif] require_isolate, which needs a configuration of its own."""

from __future__ import annotations

import time
from pathlib import Path

from hybridvif.privileged.context import daemon_context
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import Lab
from tests.functional.test_attacks import APPLY, NAMES, SOON, part


def test_trunk_bridge_is_no_way_around_the_dead_vlan(sandbox: Sandbox, tmp_path: Path) -> None:
    options = {"require_isolate": "true", "integration_bridges": "br-int,tbr-*", "create_bridges": "tbr-*"}
    with connected(sandbox, tmp_path, deadline=10, **options) as host:
        lab = Lab(sandbox, host)
        channel = daemon_context.reach(time.monotonic() + SOON)
        on_trunk = part("OvsPort", bridge="tbr-0000")
        made = [["create", part("Bridge")], ["create", part("Veth")], ["create", on_trunk]]
        moved = ["update", on_trunk, part("OvsPort")]
        claimed = ["update", part("OvsPort", bridge="br-two"), part("OvsPort")]
        for plan, results in (
            ([*made, moved], {"refused"}),
            (made, {"done"}),
            ([moved], {"refused"}),
            ([claimed], {"refused"}),
        ):
            answer = channel.call(APPLY, ([plan], time.monotonic() + SOON), SOON)
            assert answer[0] == "ok", answer
            assert {outcome[0] for outcome in answer[1][0][0]} == results, answer
        assert lab.sh(f"ovs-vsctl port-to-br {NAMES.switch_end}").strip() == "tbr-0000"
        lab.sweep()
