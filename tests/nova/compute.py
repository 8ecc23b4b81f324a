"""nova-compute without its services: Nova's own VIF driver on one host, with our drop-in or with os-vif's plugin."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from subprocess import PIPE
from typing import Any

from hybridvif import Port
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
ovs_vsctl_timeout = {deadline}
[vif_plug_ovs_privileged]
helper_command = {python} -P -c "from oslo_privsep.daemon import helper_main; helper_main()" --config-file nova.conf
[hybridvif]
answer_to_ovs = {answer}
lock_path = {directory}/locks
deadline = {deadline}
"""


class Nova:
    """A running actor on one host."""

    def __init__(self, lab: Lab, directory: Path, mode: str = "threading", *, ours: bool = True) -> None:
        self.lab = lab
        directory.mkdir(parents=True, exist_ok=True)
        answer = str(ours).lower()
        (directory / "nova.conf").write_text(
            CONFIGURATION.format(directory=directory, python=sys.executable, answer=answer, deadline=10)
        )
        self._log = directory / "nova.log"
        # A relative name, which the daemon could not find from its working directory.
        enter = ["sh", "-c", 'cd "$0" && exec "$@"', str(directory)]
        command = [sys.executable, "-P", str(ACTOR), "--config-file", "nova.conf"]
        env = {**os.environ, "OS_NOVA_DISABLE_EVENTLET_PATCHING": MODES[mode]}
        with self._log.open("w") as log:
            self.process = lab.box.popen([*enter, *command], stdin=PIPE, stdout=PIPE, stderr=log, env=env)

    def call(self, do: str, *ports: Port, native: bool = False) -> dict[str, Any]:
        """Send one command and return the response. native: as for ports without a hybrid plug."""
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
