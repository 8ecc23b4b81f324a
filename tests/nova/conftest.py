"""Nova's own VIF driver in a sandbox, run in an environment that has Nova: `tools/cloud` or `.ci/run nova`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from hybridvif import Port
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import Lab

ACTOR = Path(__file__).with_name("actor.py")
MODES = {"threading": "", "eventlet": "0"}
"""Values of OS_NOVA_DISABLE_EVENTLET_PATCHING. Without it nova-compute runs native threads."""
CONFIGURATION = """
[DEFAULT]
state_path = {directory}/state
log_file = {directory}/nova-compute.log
[libvirt]
virt_type = qemu
[os_vif_ovs]
ovsdb_connection = unix:/run/openvswitch/db.sock
[vif_plug_ovs_privileged]
helper_command = {python} -P -c "from oslo_privsep.daemon import helper_main; helper_main()" --config-file nova.conf
[hybridvif]
answer_to_ovs = true
lock_path = {directory}/locks
deadline = 10
"""


class Nova:
    """A running actor: nova-compute without its services."""

    def __init__(self, box: Sandbox, directory: Path, mode: str) -> None:
        (directory / "nova.conf").write_text(CONFIGURATION.format(directory=directory, python=sys.executable))
        self._log = directory / "nova.log"
        # A relative name, which the daemon could not find from its working directory.
        enter = ["sh", "-c", 'cd "$0" && exec "$@"', str(directory)]
        command = [sys.executable, str(ACTOR), "--config-file", "nova.conf"]
        env = {**os.environ, "OS_NOVA_DISABLE_EVENTLET_PATCHING": MODES[mode]}
        with self._log.open("w") as log:
            self.process = box.popen([*enter, *command], stdin=PIPE, stdout=PIPE, stderr=log, env=env)

    def ask(self, do: str, *ports: Port, native: bool = False) -> dict[str, Any]:
        """Send one command and return the answer. native: as of ports without a hybrid plug."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        items = [
            {"id": port.id, "mac": port.mac, "mtu": port.mtu, "instance_id": port.instance_id, "native": native}
            for port in ports
        ]
        self.process.stdin.write(json.dumps({"do": do, "ports": items}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self._log.read_text()[-3000:]
        return dict(json.loads(line))

    def close(self) -> None:
        """Close its input. It exits, and its daemon with it."""
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait(20)
        self.process.stdout.close()  # type: ignore[union-attr]


@pytest.fixture(scope="module", params=sorted(MODES))
def mode(request: pytest.FixtureRequest) -> str:
    """Threading mode of this nova-compute."""
    return str(request.param)


@pytest.fixture(scope="module")
def nova(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory, mode: str) -> Iterator[Nova]:
    """A Nova whose plugin `ovs` is that of hybridvif."""
    running = Nova(sandbox, tmp_path_factory.mktemp(mode), mode)
    yield running
    running.close()


@pytest.fixture(scope="module")
def connection(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The sandbox, as in the functional tests."""
    with connected(sandbox, tmp_path_factory.mktemp("lab"), deadline=10) as host:
        yield Lab(sandbox, host)


@pytest.fixture
def lab(connection: Lab) -> Iterator[Lab]:
    """An empty host."""
    yield connection
    connection.sweep()
