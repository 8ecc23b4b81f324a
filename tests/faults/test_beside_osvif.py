"""os-vif under the same faults and the same checks. The results are recorded, and no test of ours fails for them.

HYBRIDVIF_OSVIF names the Python of an environment that has os-vif. Without it an environment is created.
"""

from __future__ import annotations

import os
import subprocess
import time
import venv
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select

import pytest

from hybridvif.testing.sandbox.box import Sandbox
from tests.faults.conftest import lab_of
from tests.faults.test_switch_faults import FILL
from tests.functional.conftest import Lab
from tests.functional.test_repair import DRIFTS
from tests.support.figures import THEIRS, note
from tests.support.likeness import Likeness, differences, likeness
from tests.support.sizes import FULL
from tests.support.strace import attached, counted, counting, killed, killing_at, require_strace

pytestmark = [pytest.mark.prove, pytest.mark.skipif(not FULL, reason="os-vif is measured at full size only")]

WORKER = """
import os, sys
from oslo_config import cfg
import os_vif
from os_vif import objects
with open("/run/os-vif.conf", "w") as file:
    file.write("[os_vif_ovs]\\novsdb_connection = unix:/run/openvswitch/db.sock\\novs_vsctl_timeout = 3\\n")
cfg.CONF([], default_config_files=["/run/os-vif.conf"], default_config_dirs=[])
os_vif.initialize()
from vif_plug_ovs import privsep
privsep.vif_plug.set_client_mode(False)
def vif(tail):
    key = "00000001-7b" + tail
    return objects.vif.VIFBridge(
        id=key, address="fa:16:3e:00:00:01", plugin="ovs", vif_name="tap" + key[:11], bridge_name="qbr" + key[:11],
        network=objects.network.Network(id="aaaaaaaa-0000-4000-8000-000000000001", bridge="br-int", mtu=1500),
        port_profile=objects.vif.VIFPortProfileOpenVSwitch(interface_id=key, datapath_type="netdev"))
instance = objects.instance_info.InstanceInfo(uuid="0b1c2d3e-0000-4000-8000-000000000002", name="vm")
print(os.getpid(), flush=True)
for line in sys.stdin:
    verb, tail = line.split()
    try:
        (os_vif.plug if verb == "plug" else os_vif.unplug)(vif(tail), instance)
        print("ok", flush=True)
    except BaseException as error:
        print(type(error).__name__, flush=True)
"""
PORT, TWIN = "00-4c00-8000-000000000001", "ff-4fff-8fff-ffffffffffff"


@pytest.fixture(scope="session")
def their_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has os-vif."""
    if "HYBRIDVIF_OSVIF" in os.environ:
        return os.environ["HYBRIDVIF_OSVIF"]
    place = tmp_path_factory.mktemp("os-vif")
    venv.create(place, with_pip=True)
    subprocess.run([place / "bin" / "pip", "install", "--quiet", "os-vif"], check=True, capture_output=True)
    return str(place / "bin" / "python")


class OsVif:
    """os-vif in its own program inside the sandbox, as root, with its privileged part in the same program."""

    def __init__(self, lab: Lab, python: str) -> None:
        self.lab = lab
        self.program = lab.box.popen([python, "-c", WORKER], stdin=-1, stdout=-1, stderr=subprocess.DEVNULL)
        assert self.program.stdout
        assert self.program.stdout.readline().strip(), "os-vif did not start"
        line = Path(f"/proc/{self.program.pid}/task/{self.program.pid}/children").read_text()
        self.pid = int(line.split()[0])

    def ask(self, verb: str, tail: str = PORT, *, seconds: float = 60) -> str:
        """Return its answer: ok, an exception, nothing in time, or "" if it died."""
        assert self.program.stdin
        assert self.program.stdout
        self.program.stdin.write(f"{verb} {tail}\n")
        self.program.stdin.flush()
        if not select([self.program.stdout], [], [], seconds)[0]:
            return "nothing"
        return self.program.stdout.readline().strip()


@contextmanager
def running(lab: Lab, python: str) -> Iterator[OsVif]:
    """Run os-vif until the end of the block."""
    osvif = OsVif(lab, python)
    try:
        yield osvif
    finally:
        osvif.program.kill()
        osvif.program.communicate()


@pytest.fixture
def bare(sandbox: Sandbox, tmp_path: Path) -> Iterator[Lab]:
    with lab_of(sandbox, tmp_path / "lab") as lab:
        yield lab


def seen(lab: Lab) -> Likeness:
    """Return the state of the host without the MAC of the bridge, which os-vif leaves to chance."""
    found = likeness(lab)
    for part in found.values():
        part.pop("address", None)
    return found


def whole(lab: Lab, python: str) -> Likeness:
    with running(lab, python) as osvif:
        assert osvif.ask("plug") == "ok"
        return seen(lab)


@pytest.mark.parametrize("verb", ["plug", "unplug"])
def test_os_vif_killed_before_each_change(bare: Lab, their_python: str, tmp_path: Path, verb: str) -> None:
    """The kills are counted as for hybridvif: each kind of call, from the first to the last."""
    require_strace()
    log, wanted = tmp_path / "log", whole(bare, their_python)
    bare.sweep()
    empty = seen(bare)
    counts: Counter[str] = Counter(points=0, kills=0, plugs=0, plugs_wrong=0, unplugs=0, unplugs_wrong=0, false_ok=0)

    @contextmanager
    def started() -> Iterator[OsVif]:
        """Start os-vif before its call. Imports that happen only once are done."""
        with running(bare, their_python) as osvif:
            assert [osvif.ask("plug"), osvif.ask("unplug")] == ["ok", "ok"]
            if verb == "unplug":
                assert osvif.ask("plug") == "ok"
            yield osvif

    with started() as osvif, attached(osvif.pid, counting(), log, children=True):
        assert osvif.ask(verb) == "ok"
    points = counted(log)
    bare.sweep()
    for kind in sorted(points):
        for number in range(1, points[kind] + 1):
            with started() as osvif, attached(osvif.pid, killing_at(number, kind), log, children=True):
                osvif.ask(verb)
            counts["points"] += 1
            counts["kills"] += killed(log)
            with running(bare, their_python) as osvif:
                for then, goal in (("plug", wanted), ("unplug", empty)):
                    answer = osvif.ask(then)
                    bad = bool(differences(goal, seen(bare)))
                    counts[f"{then}s"] += 1
                    counts[f"{then}s_wrong"] += bad or answer != "ok"
                    counts["false_ok"] += bad and answer == "ok"
            bare.sweep()
            note("kills", counts, side=THEIRS, case=verb)
    assert counts["kills"]


def test_a_server_that_hung_before_os_vif_asked_it(bare: Lab, their_python: str) -> None:
    """Its own time limit is 3 s here. The test allows 30 s."""
    patience = 30.0
    with running(bare, their_python) as osvif:
        assert [osvif.ask("plug"), osvif.ask("unplug")] == ["ok", "ok"]
        empty, begun = seen(bare), time.monotonic()
        bare.box.pause("ovsdb-server")
        try:
            answer = osvif.ask("plug", seconds=patience)
            took = time.monotonic() - begun
        finally:
            bare.box.resume("ovsdb-server")
        if answer == "nothing":
            osvif.program.kill()
            osvif.program.wait()
        time.sleep(10)
        ghosts = sum(not name.startswith("link ") for name in seen(bare).keys() - empty.keys())
    note("hung", side=THEIRS, case="server hung before it was asked", calls=1, longest_s=round(took, 2),
         unknown=0, untyped=answer in ("ok", "nothing"), ghosts=ghosts, half=0)  # fmt: skip


def test_what_os_vif_repairs(bare: Lab, their_python: str) -> None:
    kinds = repaired = 0
    with running(bare, their_python) as osvif:
        for drift in DRIFTS:
            bare.sweep()
            assert osvif.ask("plug") == "ok"
            wanted = seen(bare)
            bare.sh(drift.befalls, check=False)
            if not differences(wanted, seen(bare)):
                continue
            kinds += 1
            osvif.ask("plug")
            repaired += not differences(wanted, seen(bare))
            note("drift", side=THEIRS, kinds=kinds, repaired=repaired, found=0)
    assert kinds


def test_two_ports_of_the_same_names_in_os_vif(bare: Lab, their_python: str) -> None:
    with running(bare, their_python) as osvif:
        assert osvif.ask("plug") == "ok"
        before = seen(bare)
        answers = [osvif.ask("plug", TWIN), osvif.ask("unplug", TWIN)]
        note("collision", side=THEIRS, orders=1, calls=2, refused=2 - answers.count("ok"),
             changed=bool(differences(before, seen(bare))))  # fmt: skip


def test_two_programs_with_os_vif_on_one_port(bare: Lab, their_python: str) -> None:
    rounds, errors, wrong = 20, 0, 0
    wanted = whole(bare, their_python)
    bare.sweep()
    with running(bare, their_python) as first, running(bare, their_python) as two:
        for _ in range(rounds):
            for osvif in (first, two):
                assert osvif.program.stdin
                osvif.program.stdin.write(f"plug {PORT}\n")
                osvif.program.stdin.flush()
            answers = [osvif.program.stdout.readline().strip() for osvif in (first, two) if osvif.program.stdout]
            errors += 2 - answers.count("ok")
            wrong += bool(differences(wanted, seen(bare)))
            bare.sweep()
    note("races", side=THEIRS, case="2", rounds=rounds, calls=2 * rounds, errors=errors, wrong=wrong)


def test_a_full_disk_and_os_vif(their_python: str) -> None:
    with Sandbox(ovs=False) as box:
        box.run(["sh", "-ec", "mkdir /run/small; mount -t tmpfs -o size=256k small /run/small"])
        box.start_switch(database="/run/small/conf.db")
        lab = Lab(box, None)  # type: ignore[arg-type]  # nobody of ours is connected
        with running(lab, their_python) as osvif:
            assert [osvif.ask("plug"), osvif.ask("unplug")] == ["ok", "ok"]
            empty = seen(lab)
            lab.sh(FILL)
            answer = osvif.ask("plug")
        leftovers = len(differences(empty, seen(lab)))
        note("disk-full", side=THEIRS, calls=1, said_ok=answer == "ok", half=leftovers)
