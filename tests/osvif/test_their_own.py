"""The functional tests of os-vif for its plugin, run with the drop-in."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.functional.conftest import Lab

RUN = """
import json, sys, unittest, warnings
warnings.simplefilter("ignore")
from types import SimpleNamespace
from os_vif import objects
objects.register_all()
from vif_plug_ovs.tests.functional import test_plugin
# The tests create a dummy device, which some kernels lack. A veth pair serves as well.
add_device = test_plugin.add_device
test_plugin.add_device = lambda device, kind: add_device(device, "veth", peer="hvpeer")
if sys.argv[1] == "ours":
    from hybridvif.osvif.plugins import HybridOvsPlugin
    test_plugin.ovs = SimpleNamespace(OvsPlugin=HybridOvsPlugin)
result = unittest.TestResult()
unittest.defaultTestLoader.loadTestsFromModule(test_plugin).run(result)
bad = [[test.id(), text] for test, text in result.failures + result.errors]
print(json.dumps({"ran": result.testsRun, "skipped": len(result.skipped), "bad": bad}))
"""


def test_functional_tests_of_os_vif_pass_with_drop_in(lab: Lab, tmp_path: Path) -> None:
    # The tests start their daemon with sudo. In the sandbox, the user is root.
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    sudo.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OS_LOG_PATH": str(tmp_path)}
    ended = {}
    for whose in ("theirs", "ours"):
        done = lab.box.run([sys.executable, "-c", RUN, whose], env=env, timeout=300, check=False)
        assert done.stdout, done.stderr
        ended[whose] = json.loads(done.stdout.splitlines()[-1])
        lab.sh("ovs-vsctl del-manager")
        lab.sweep()
    assert ended["theirs"]["ran"] > 10
    assert ended["theirs"]["bad"] == []
    assert ended["ours"] == ended["theirs"]
