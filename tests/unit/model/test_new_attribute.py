"""A new attribute is declared once: all but the executors and the second statements derives from the declaration."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import hybridvif

PACKAGE = Path(hybridvif.__file__).parent
BEHIND = "    host_ip: _HostIp = None\n"
DECLARATION = '    flood: Annotated[bool | None, isolating(True, "a reason", 1234567, words=("no", "yes"))] = None\n'

PROGRAM = """
from dataclasses import replace
from hybridvif.cli.output.changes import change_text
from hybridvif.model.port import desired_state
from hybridvif.model.errors import Refused
from hybridvif.model.parts import Difference, attributes_of, differences, invalid_attributes, reason_of
from hybridvif.model.planner import plan
from hybridvif.model.port import Port
from hybridvif.model.planner import rollback_target
from hybridvif.model.settings import Settings
from hybridvif.model.state import Observed
from hybridvif.model.state import Update, simulate
from hybridvif.privileged import authorize, codec

port = Port(id="5f2c0e1a-7b00-4c00-8000-000000000001", mac="fa:16:3e:aa:bb:cc",
            instance_id="0b1c2d3e-0000-4000-8000-000000000002")
desired = desired_state(port)
bridge = desired.links[port.names.bridge]
drifted = replace(bridge, flood=False)
observed = desired.with_parts(drifted)
step = Update(drifted, bridge)

assert bridge.flood is True
assert attributes_of(type(bridge))[-1] == "flood"
assert differences(drifted, bridge) == (Difference("flood", False, True),)
assert differences(replace(bridge, flood=None), bridge) == ()
assert plan(observed, desired) == (step,)
assert simulate(observed, step) == desired
assert invalid_attributes(drifted) == ("flood",)
assert rollback_target(observed, desired) == (desired, (f"{bridge.name}: flood",))
assert str(reason_of(bridge, "flood")) == "a reason (LP 1234567)"
assert change_text(Difference("flood", False, True)) == "flood no -> yes"

sent = codec.encode_plans([[step]])
assert codec.decode_plans(sent) == [(step,)]
assert codec.decode_observed(codec.encode_observed(Observed(observed))).state == observed
authorize.permit_plans([(step,)], Settings())
refused = 0
for attempt in (
    lambda: authorize.permit_plans([(Update(bridge, drifted),)], Settings()),
    lambda: codec.decode_plans([[["update", sent[0][0][1], ["Bridge", sent[0][0][2][1] | {"flood": 1}]]]]),
):
    try:
        attempt()
    except Refused as error:
        assert "flood" in str(error)
        refused += 1
assert refused == 2
"""


def test_attribute_declared_in_parts_needs_no_other_edit_of_the_model(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "hybridvif", ignore=shutil.ignore_patterns("__pycache__"))
    parts = tmp_path / "hybridvif" / "model" / "parts.py"
    before, after = parts.read_text().split(BEHIND + '    """Of IPv4 only.', 1)
    parts.write_text(f'{before}{BEHIND}{DECLARATION}    """Of IPv4 only.{after}')
    environment = {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
