"""Hosts for the tests with the real cloud: sandboxes with packets, services in them, and a link between two of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from subprocess import Popen

from hybridvif import Port
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox.box import Sandbox, Vm
from tests.functional.conftest import Lab, until as poll

LINK = "192.0.2.{}"
"""Address of a host on the link between the hosts."""
BIN = Path(sys.prefix) / "bin"
PATH = f"{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KEPT = Path(os.environ.get("HYBRIDVIF_CLOUD") or Path(__file__).parents[2] / ".cloud")
"""Files that a later run uses again."""
IS_SAMPLE = "HYBRIDVIF_CLOUD_SAMPLE" in os.environ
"""True for smaller numbers of ports and of repetitions."""

until = partial(poll, pause=0.1)
"""Wait for a condition that starts programs or reads logs, so that its polls leave the processors to others."""


class Machine(Lab):
    """A host that is reached by the command too. A process can connect to one host only."""

    def __init__(self, box: Sandbox, directory: Path, options: Mapping[str, object]) -> None:
        super().__init__(box, None)  # type: ignore[arg-type]
        self.services: list[Service] = []
        """The programs to end with this host."""
        self._directory, self._options = directory, options
        self.config = directory / "command.conf"
        lines = {"lock_path": directory / "locks", "deadline": 20, **options}
        self.config.write_text("[hybridvif]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items()))

    @contextmanager
    def connection(self) -> Iterator[None]:
        """Connect this process to the host."""
        with connected(self.box, self._directory, deadline=20, **self._options) as self.host:
            yield

    def stop_services(self) -> None:
        """Kill the programs of this host."""
        for service in self.services:
            service.stop()

    def hybridvif(self, *words: str) -> str:
        """Run the command, which must succeed. Return its output."""
        return self.box.run(["hybridvif", "--config-file", str(self.config), *words]).stdout

    def plug(self, port: Port) -> None:
        """Plug a port by the command."""
        ids = ["--mac", port.mac, "--instance", port.instance_id, "--mtu", str(port.mtu)]
        self.hybridvif("plug", port.id, *ids)

    def unplug(self, port: Port) -> None:
        """Unplug a port by the command."""
        self.hybridvif("unplug", port.id)


class Service:
    """A program in a sandbox, with its output in a file."""

    def __init__(self, lab: Machine, argv: list[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        with log.open("a") as out:
            self.process: Popen[str] = lab.box.popen(argv, stdout=out, stderr=out, env={"PATH": PATH, **(env or {})})
        lab.services.append(self)

    def stop(self) -> None:
        """Kill it. It may have ended before."""
        self.process.kill()
        self.process.wait(20)

    def await_(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for a condition. Fail with the end of the log if it does not hold in time, or if the program ends."""
        fulfilled = until(lambda: condition() or self.process.poll() is not None, seconds)
        if not fulfilled or self.process.poll() is not None:
            raise AssertionError(f"{self.log}: not ready in {seconds:g} s\n{self.log.read_text()[-4000:]}")


@contextmanager
def host_of(
    directory: Path, number: int = 1, *, is_connected: bool = True, options: Mapping[str, object] | None = None
) -> Iterator[Machine]:
    """Yield a host with packets. It has an address on br-link, for tunnels."""
    directory.mkdir(exist_ok=True)
    options = options or {}
    with ExitStack() as stack:
        box = stack.enter_context(Sandbox())
        lab = Machine(box, directory, options)
        if is_connected:
            stack.enter_context(lab.connection())
        lab.sh("ip link set lo up; ovs-vsctl add-br br-link -- set Bridge br-link datapath_type=netdev")
        stack.callback(lab.stop_services)
        configure_link(lab, number)
        yield lab


def configure_link(lab: Lab, number: int) -> None:
    """Give br-link its address, which it loses at a reboot."""
    lab.sh(f"ip address add {LINK.format(number)}/24 dev br-link; ip link set br-link up")


def join(first: Lab, second: Lab, bridge: str = "br-link") -> None:
    """Connect two hosts by a veth pair between their bridges. Nothing of it is in the caller's namespace."""
    hosts = (first, second)
    ends = [["link0", "netns", str(host.box.pid)] for host in hosts]
    subprocess.run(["ip", "link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1]], check=True, timeout=20)
    for host in hosts:
        host.sh(f"ip link set link0 up; ethtool -K link0 tx off; ovs-vsctl add-port {bridge} link0")


def passes(vm: Vm, address: str, seconds: float = 1) -> dict[str, bool]:
    """Return the protocols that pass from a VM to an address where no program listens.

    A TCP connection is refused by the VM if its packets pass. It times out if they are dropped.
    """
    probe = ["timeout", f"{seconds:g}", "bash", "-c", f"</dev/tcp/{address}/80"]
    return {
        "icmp": vm.ping(address, timeout=seconds).returncode == 0,
        "tcp": vm.run(probe, check=False).returncode == 1,
    }


def note(name: str, **figures: float | str) -> None:
    """Append figures to a file, for docs/cloud.md."""
    KEPT.mkdir(exist_ok=True)
    line = json.dumps({"name": name, **figures})
    with (KEPT / "figures.jsonl").open("a") as out:
        out.write(line + "\n")


class Watch:
    """Seconds since its creation."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Return the seconds, rounded."""
        return round(time.monotonic() - self._start, 2)
