"""Through os-vif's API as through ours: whatever was killed and whatever has drifted, the next call puts it right."""

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
from tests.support.figures import FULL, note
from tests.support.likeness import differences, likeness
from tests.support.strace import require_strace

pytestmark = pytest.mark.prove
PLUGINS = ["hybridvif", "ovs"]


class TrialOfOsVif(Trial):
    """The same trial, each call made by os-vif in a program of its own."""

    def __init__(self, lab: Lab, nova: Nova, plugin: str) -> None:
        self.nova, self.plugin = nova, plugin
        self._last = self.unplug
        super().__init__(lab)

    def plug(self) -> Report:
        self._last = self.plug
        return self._said(self.nova.plug(self.port, self.plugin))

    def unplug(self) -> Report:
        self._last = self.unplug
        return self._said(self.nova.unplug(self.port, self.plugin))

    def _said(self, told: dict[str, object]) -> Report:
        """What os-vif's caller can know; an exception that brings no report of ours is not an answer."""
        if told["ok"]:
            return Report(port_id=self.port.id, status=Status.DONE)
        assert told["status"], told
        return Report(port_id=self.port.id, status=Status(told["status"]))

    def warm(self) -> int:
        """os-vif has no check; a call that has nothing to do looks and changes nothing, too."""
        for _ in range(2):
            assert self._last().ok
        (pid,) = (pid for pid in daemons(self.lab.box) if str(self.nova.config) in told_to(pid))
        return pid


def told_to(pid: int) -> str:
    """The command line of a program."""
    return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", ["plug", "unplug"])
@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_daemon_killed_under_os_vif_leaves_what_os_vifs_next_call_puts_right(
    lab: Lab, start_nova: StartNova, tmp_path: Path, plugin: str, verb: str
) -> None:
    require_strace()
    nova = start_nova(answer_to_ovs="true", daemon={"thread_pool_size": 1})
    trial = TrialOfOsVif(lab, nova, plugin)
    through(trial, verb, tmp_path / "log")
    trial.end(f"{plugin} {verb}", "kills-osvif-api")


@pytest.mark.parametrize("plugin", PLUGINS)
def test_every_drift_is_put_right_by_a_plug_of_os_vifs(lab: Lab, ours: Nova, plugin: str) -> None:
    port, kinds = make_port(), DRIFTS if FULL else DRIFTS[PLUGINS.index(plugin) * 5 :: 10]
    missed, wrong = [], []
    for drift in kinds:
        lab.sweep()
        assert ours.plug(port, plugin) == {"ok": True}
        wanted = likeness(lab)
        lab.sh(drift.befalls)
        # What ovs-vswitchd makes of it comes in its own time.
        missed += [] if until(lambda: check(port, lab.host) != (), 1) else [drift.sentence]
        said = ours.plug(port, plugin)
        seen = differences(wanted, {name: part for name, part in likeness(lab).items() if "br-two" not in name})
        if seen or said != {"ok": True} or check(port, lab.host) != ():
            wrong.append(f"{drift.sentence}: {said} {seen}")
    note("drift-osvif-api", case=plugin, kinds=len(kinds), found=len(kinds) - len(missed),
         repaired=len(kinds) - len(wrong))  # fmt: skip
    assert missed == []
    assert wrong == []
