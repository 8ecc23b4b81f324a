"""A server under Nova's services with the real os-vif, and Nova's own tests of its VIF driver with our plugin."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cloud.hosts import host_of, note
from tests.nova.compute import MODES

SERVICES = Path(__file__).with_name("nova_services.py")
VIF_TESTS = """
import json, unittest, warnings
warnings.simplefilter("ignore")
from nova.tests.unit.virt.libvirt import test_vif
from nova import conf
import os_vif
conf.CONF([], project="nova", default_config_files=[])  # from here on the environment counts
os_vif.initialize(reset=True)
conf.CONF.reset()  # the tests parse again
plugin = type(os_vif._EXT_MANAGER["ovs"].obj).__name__
result = unittest.TestResult()
unittest.defaultTestLoader.loadTestsFromModule(test_vif).run(result)
bad = [test.id() for test, _ in result.failures + result.errors]
print(json.dumps({"plugin": plugin, "ran": result.testsRun, "bad": bad}))
"""


def environment(who: str, threading: str) -> dict[str, str]:
    """Return variables that choose the plugin and the threads of Nova. oslo.config reads the first one."""
    return {"OS_HYBRIDVIF__ANSWER_TO_OVS": str(who == "ours").lower(), "OS_NOVA_DISABLE_EVENTLET_PATCHING": threading}


def events(tmp_path: Path, who: str, mode: str) -> list[dict[str, Any]]:
    """Run the services on a host of their own and return the events."""
    with host_of(tmp_path / who, is_connected=False) as lab:
        env = environment(who, MODES[mode] or "1")
        command = [sys.executable, "-P", "-W", "ignore", str(SERVICES), who]
        done = lab.box.run(command, env=env, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line.removeprefix("EVENT ")) for line in done.stdout.splitlines() if line.startswith("EVENT ")]


@pytest.mark.parametrize("mode", sorted(MODES))
def test_life_of_a_server_is_that_of_os_vif(tmp_path: Path, mode: str) -> None:
    ours, theirs = (events(tmp_path, who, mode) for who in ("ours", "theirs"))
    assert (ours.pop(0)["name"], theirs.pop(0)["name"]) == ("HybridOvsPlugin", "OvsPlugin")
    assert [event["event"] for event in ours][-1] == "deleted"
    assert len(ours[0]["ports"]) == 8
    assert ours[-1]["ports"] == []
    assert ours == theirs
    note("nova-services", mode=mode, events=len(ours))


def test_own_tests_of_the_vif_driver_pass_with_our_plugin(tmp_path: Path) -> None:
    ended = {}
    with host_of(tmp_path / "host", is_connected=False) as lab:
        for who in ("ours", "theirs"):
            command = [sys.executable, "-P", "-c", VIF_TESTS]
            done = lab.box.run(command, env=environment(who, "1"), timeout=300, check=False)
            assert done.stdout, done.stderr[-4000:]
            ended[who] = json.loads(done.stdout.splitlines()[-1])
    plugins = [ended[who].pop("plugin") for who in ("ours", "theirs")]
    assert plugins == ["HybridOvsPlugin", "OvsPlugin"]
    assert ended["theirs"]["ran"] > 50
    assert ended["ours"] == ended["theirs"]
    assert ended["ours"]["bad"] == []
    note("nova-vif-tests", ran=ended["ours"]["ran"], failed=len(ended["ours"]["bad"]))
