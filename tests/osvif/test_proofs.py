"""Repair through the API of os-vif: after a kill or a drift, the next call reaches the desired state."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridvif import Report, check
from hybridvif.model.report import Status
from tests.faults.test_kills import Trial, through
from tests.functional.conftest import Lab, make_port, until
from tests.functional.test_boundary import daemons
from tests.functional.test_repair import DRIFTS
from tests.osvif.conftest import Nova, StartNova
from tests.support.figures import note
from tests.support.likeness import differences, likeness
from tests.support.sizes import FULL
from tests.support.strace import require_strace

pytestmark = pytest.mark.prove
PLUGINS = ["hybridvif", "ovs"]


class TrialOfOsVif(Trial):
    """The trial of test_kills, with each call made by os-vif in another program."""

    def __init__(self, lab: Lab, nova: Nova, plugin: str) -> None:
        self.nova, self.plugin = nova, plugin
        self._last = self.unplug
        super().__init__(lab)

    def plug(self) -> Report:
        self._last = self.plug
        return self._report(self.nova.plug(self.port, self.plugin))

    def unplug(self) -> Report:
        self._last = self.unplug
        return self._report(self.nova.unplug(self.port, self.plugin))

    def _report(self, response: dict[str, object]) -> Report:
        """Return the report in a response of os-vif. Fail if an exception has no report of ours."""
        if response["ok"]:
            return Report(port_id=self.port.id, status=Status.DONE)
        assert response["status"], response
        return Report(port_id=self.port.id, status=Status(response["status"]))

    def warm(self) -> int:
        """Start the daemon by a call that changes nothing, because os-vif has no check. Return its pid."""
        for _ in range(2):
            assert self._last().ok
        (pid,) = (pid for pid in daemons(self.lab.box) if str(self.nova.config) in command_line(pid))
        return pid


def command_line(pid: int) -> str:
    """Return the command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", ["plug", "unplug"])
@pytest.mark.parametrize("plugin", PLUGINS)
def test_next_call_repairs_after_daemon_was_killed(
    lab: Lab, start_nova: StartNova, tmp_path: Path, plugin: str, verb: str
) -> None:
    require_strace()
    nova = start_nova(answer_to_ovs="true", daemon={"thread_pool_size": 1})
    trial = TrialOfOsVif(lab, nova, plugin)
    through(trial, verb, tmp_path / "log")
    trial.end(f"{plugin} {verb}", "kills-osvif-api")


@pytest.mark.parametrize("plugin", PLUGINS)
def test_plug_through_os_vif_repairs_every_drift(lab: Lab, ours: Nova, plugin: str) -> None:
    port, kinds = make_port(), DRIFTS if FULL else DRIFTS[PLUGINS.index(plugin) * 5 :: 10]
    missed, wrong = [], []
    for drift in kinds:
        lab.sweep()
        assert ours.plug(port, plugin) == {"ok": True}
        wanted = likeness(lab)
        lab.sh(drift.befalls)
        # ovs-vswitchd may need a moment for the drift.
        missed += [] if until(lambda: check(port, lab.host) != (), 1) else [drift.sentence]
        response = ours.plug(port, plugin)
        different = differences(wanted, {name: part for name, part in likeness(lab).items() if "br-two" not in name})
        if different or response != {"ok": True} or check(port, lab.host) != ():
            wrong.append(f"{drift.sentence}: {response} {different}")
    note("drift-osvif-api", case=plugin, kinds=len(kinds), found=len(kinds) - len(missed),
         repaired=len(kinds) - len(wrong))  # fmt: skip
    assert missed == []
    assert wrong == []
