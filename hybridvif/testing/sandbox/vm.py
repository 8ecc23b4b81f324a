"""A simulated VM: a network namespace behind a veth whose other end has the name of the VM's tap.

[namespace: eth0 == veth == tap] -- qbr -- qvb == qvo -- br-int
"""

from __future__ import annotations

from collections.abc import Sequence
from subprocess import CompletedProcess
from types import TracebackType
from typing import Self

from hybridvif.testing.sandbox import missing
from hybridvif.testing.sandbox.switch import Runner, run_here


class Vm:
    """A simulated VM, running from boot() to shut_down().

    runner: Sandbox.run for a test outside of the sandbox. Without ethtool on the host, pings cross but TCP does not.
    A tap without a bridge is as libvirt creates it; attach() adds it to one.

        with Vm("tap5f2c0e1a-7b", "fa:16:3e:00:00:01", "10.0.0.1/24", bridge="qbr5f2c0e1a-7b", runner=box.run) as vm:
            assert vm.ping("10.0.0.2").returncode == 0
    """

    def __init__(
        self, tap: str, mac: str, address: str, *, bridge: str = "", mtu: int = 1500, runner: Runner = run_here
    ) -> None:
        self.tap, self.mac, self.address, self.bridge, self.mtu = tap, mac, address, bridge, mtu
        self.namespace = f"vm-{tap}"
        self._run = runner

    def __enter__(self) -> Self:
        self.boot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shut_down()

    def boot(self) -> None:
        """Create the namespace and the tap. The tap has carrier from now on."""
        peer = f"peer name eth0 address {self.mac} mtu {self.mtu} netns {self.namespace}"
        master = f"master {self.bridge}" if self.bridge else ""
        self._ip(
            f"netns add {self.namespace}",
            f"link add {self.tap} mtu {self.mtu} type veth {peer}",
            f"link set {self.tap} up {master}",
        )
        self._ip("link set lo up", f"address add {self.address} dev eth0", "link set eth0 up", inside=True)
        # Both ends leave checksums to the hardware of the other. The userspace datapath of OVS reads the frame between
        # them, so TCP would not cross. A ping would.
        if missing.program("ethtool"):
            self._run(["ethtool", "-K", self.tap, "tx", "off"])
            self.run(["ethtool", "-K", "eth0", "tx", "off"])

    def attach(self, bridge: str) -> None:
        """Add the tap to a Linux bridge."""
        self.bridge = bridge
        self._ip(f"link set {self.tap} master {bridge}")

    def shut_down(self) -> None:
        """Delete the namespace and the tap. Harmless if they do not exist."""
        self._run(
            ["ip", "-force", "-batch", "-"],
            input=f"link delete {self.tap}\nnetns delete {self.namespace}\n",
            check=False,
        )

    def run(self, argv: Sequence[str], *, check: bool = True, timeout: float = 60.0) -> CompletedProcess[str]:
        """Run a command in the VM."""
        # Not `ip netns exec`: it mounts /sys, which a container may reject.
        return self._run(["nsenter", f"--net=/run/netns/{self.namespace}", *argv], check=check, timeout=timeout)

    def ping(self, address: str, *, count: int = 1, timeout: float = 5.0) -> CompletedProcess[str]:
        """Ping from the VM until `count` replies or the timeout in seconds. Return code 0: all replies received."""
        argv = ["ping", "-n", "-c", str(count), "-i", "0.2", "-w", f"{timeout:g}", address]
        return self.run(argv, check=False, timeout=timeout + 10)

    def _ip(self, *lines: str, inside: bool = False) -> None:
        namespace = ["-netns", self.namespace] if inside else []
        self._run(["ip", *namespace, "-batch", "-"], input="\n".join(lines) + "\n")
