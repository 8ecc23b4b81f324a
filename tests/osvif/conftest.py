"""The real os-vif in a sandbox, driven from outside. Run by themselves: `tox -e osvif`, or `.ci/run osvif`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from hybridvif import Port
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox import Sandbox
from tests.functional.conftest import Lab, make_port

FULL = bool(os.environ.get("HYBRIDVIF_FULL"))
ACTOR = Path(__file__).with_name("actor.py")
HELPER = f"{sys.executable} -P -m hybridvif.privileged.helper"
THEIR_HELPER = f'{sys.executable} -P -c "from oslo_privsep.daemon import helper_main; helper_main()"'


def vif(port: Port, plugin: str = "ovs", **more: Any) -> dict[str, Any]:
    """A VIF that means this port."""
    said: dict[str, Any] = {"id": port.id, "mac": port.mac, "instance_id": port.instance_id, "plugin": plugin}
    return {**said, "mtu": port.mtu, "bridge": port.bridge, **more}


class Nova:
    """A running actor."""

    def __init__(self, box: Sandbox, config: Path, style: str = "", env: dict[str, str] | None = None) -> None:
        self.config, self._log = config, config.with_suffix(".log")
        with self._log.open("w") as log:
            self.process = box.popen(
                [sys.executable, str(ACTOR), str(config), style], stdin=PIPE, stdout=PIPE, stderr=log, env=env
            )

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """One call."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self._log.read_text()[-3000:]
        return dict(json.loads(line))

    def plug(self, port: Port, plugin: str = "ovs", **more: Any) -> dict[str, Any]:
        """Plug, whatever comes of it."""
        return self.ask("plug", vif=vif(port, plugin, **more))

    def unplug(self, port: Port, plugin: str = "ovs", **more: Any) -> dict[str, Any]:
        """Unplug, whatever comes of it."""
        return self.ask("unplug", vif=vif(port, plugin, **more))

    def close(self) -> None:
        """End it as its end of file does; the daemons end with it."""
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
    """A file as Nova has it, with both sections; None: an option that it leaves out."""
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
    """Starts an actor with options of ours; `os_vif` has those of os-vif, `daemon` those of our daemon."""
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
    """The same, for one test."""
    yield from start_module_nova.__wrapped__(sandbox, tmp_path_factory)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def ours(start_module_nova: StartNova) -> Nova:
    """A Nova whose `ovs` is hybridvif's."""
    return start_module_nova(answer_to_ovs="true")


@pytest.fixture(scope="module")
def theirs(start_module_nova: StartNova) -> Nova:
    """A Nova whose `ovs` is os-vif's own."""
    return start_module_nova()


@pytest.fixture(scope="module")
def connection(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The sandbox, as the functional tests see it."""
    with connected(sandbox, tmp_path_factory.mktemp("lab"), deadline=10) as host:
        yield Lab(sandbox, host)


@pytest.fixture
def lab(connection: Lab) -> Iterator[Lab]:
    """An empty host."""
    yield connection
    connection.sweep()


@pytest.fixture
def port() -> Port:
    """A legal port that is plugged nowhere."""
    return make_port()
