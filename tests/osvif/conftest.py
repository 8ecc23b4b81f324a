"""Fixtures for the real os-vif in a sandbox. Run these tests with `tox -e osvif` or `.ci/run osvif`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from hybridvif import Port
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import Lab, make_port

ACTOR = Path(__file__).with_name("actor.py")
HELPER = f"{sys.executable} -P -m hybridvif.privileged.helper"
THEIR_HELPER = f'{sys.executable} -P -c "from oslo_privsep.daemon import helper_main; helper_main()"'


def vif(port: Port, plugin: str = "ovs", **more: Any) -> dict[str, Any]:
    """Return the fields of a VIF for a port."""
    ids = {"id": port.id, "mac": port.mac, "instance_id": port.instance_id, "plugin": plugin}
    return {**ids, "mtu": port.mtu, "bridge": port.bridge, **more}


class Nova:
    """A running actor."""

    def __init__(self, box: Sandbox, config: Path, style: str = "", env: dict[str, str] | None = None) -> None:
        self.config, self._log = config, config.with_suffix(".log")
        with self._log.open("w") as log:
            self.process = box.popen(
                [sys.executable, str(ACTOR), str(config), style], stdin=PIPE, stdout=PIPE, stderr=log, env=env
            )

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """Send a call and return its response."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self._log.read_text()[-3000:]
        return dict(json.loads(line))

    def plug(self, port: Port, plugin: str = "ovs", **more: Any) -> dict[str, Any]:
        """Plug a port and return the response."""
        return self.ask("plug", vif=vif(port, plugin, **more))

    def unplug(self, port: Port, plugin: str = "ovs", **more: Any) -> dict[str, Any]:
        """Unplug a port and return the response."""
        return self.ask("unplug", vif=vif(port, plugin, **more))

    def close(self) -> None:
        """Stop the actor by an end of file. Its daemons exit with it."""
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait(20)
        self.process.stdout.close()  # type: ignore[union-attr]


def configuration(
    directory: Path,
    ours: dict[str, object],
    os_vif: dict[str, object],
    name: str = "nova",
    daemon: dict[str, object] | None = None,
) -> Path:
    """Write a configuration file of Nova with all sections. None: an option is left out."""
    path = directory / f"{name}.conf"
    sections: dict[str, dict[str, object]] = {
        "hybridvif": {"lock_path": directory / "locks", "deadline": 10, **ours},
        "os_vif_ovs": {"ovsdb_connection": "unix:/run/openvswitch/db.sock", **os_vif},
        "hybridvif_privileged": {"helper_command": f"{HELPER} --config-file {path}", **(daemon or {})},
        "vif_plug_ovs_privileged": {"helper_command": f"{THEIR_HELPER} --config-file {path}"},
    }
    path.write_text(
        "".join(
            f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in some.items() if value is not None)
            for name, some in sections.items()
        )
    )
    return path


StartNova = Callable[..., Nova]


@pytest.fixture(scope="module")
def start_module_nova(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartNova]:
    """Return a function that starts an actor with our options. `os_vif`, `daemon`: options of these."""
    with ExitStack() as running:

        def start(
            style: str = "",
            os_vif: dict[str, object] | None = None,
            env: dict[str, str] | None = None,
            daemon: dict[str, object] | None = None,
            **ours: object,
        ) -> Nova:
            config = configuration(tmp_path_factory.mktemp("nova"), ours, os_vif or {}, daemon=daemon)
            nova = Nova(sandbox, config, style, env)
            running.callback(nova.close)
            return nova

        yield start


@pytest.fixture
def start_nova(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartNova]:
    """Return the same function for one test."""
    yield from start_module_nova.__wrapped__(sandbox, tmp_path_factory)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def ours(start_module_nova: StartNova) -> Nova:
    """Return a Nova with the drop-in as `ovs`."""
    return start_module_nova(answer_to_ovs="true")


@pytest.fixture(scope="module")
def theirs(start_module_nova: StartNova) -> Nova:
    """Return a Nova with the plugin `ovs` of os-vif."""
    return start_module_nova()


@pytest.fixture(scope="module")
def connection(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Return the sandbox with a connected host, as in the functional tests."""
    with connected(sandbox, tmp_path_factory.mktemp("lab"), deadline=10) as host:
        yield Lab(sandbox, host)


@pytest.fixture
def lab(connection: Lab) -> Iterator[Lab]:
    """Return an empty host."""
    yield connection
    connection.sweep()


@pytest.fixture
def port() -> Port:
    """Return a valid port that is not plugged."""
    return make_port()
