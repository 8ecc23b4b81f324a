"""For tests: a sandbox beside the calling process, and simulated VMs in a sandbox.

[namespace: eth0 == veth == tap of the VM] -- qbr -- qvb == qvo -- br-int
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from select import select
from subprocess import PIPE, CompletedProcess, Popen, TimeoutExpired
from typing import IO, Self

from hybridvif import children
from hybridvif.children import Child
from hybridvif.testing.sandbox import missing, switch
from hybridvif.testing.sandbox.launch import Command, Response, command_line, environment, working_directory
from hybridvif.testing.sandbox.missing import Requirement, SandboxError
from hybridvif.testing.sandbox.switch import DAEMONS, Daemon, Runner, run_here

_READY_TIMEOUT = 60.0
_STATE_TIMEOUT = 60.0
"""Seconds for a daemon to stop. The kernel takes 5 s to close the packet sockets of 1,000 ports."""
REBOOT_GROUP = 4242
"""The link group of the ports that a reboot deletes."""


class Sandbox:
    """A sandbox: own namespaces, own /run, own Open vSwitch with br-int.

    It is ready when the constructor returns. It ends, with all its processes, at close(), at the end of the `with`
    block or with the calling process. The calling process stays in its own namespaces.

        with Sandbox() as box:
            box.run(["hybridvif", "list"])

    Raises SandboxError if none can be created. `ovs=False` starts no Open vSwitch.
    """

    def __init__(self, *, ovs: bool = True) -> None:
        self._database = switch.DATABASE
        line = command_line(Command(caller=os.getpid(), switch=ovs))
        # Its own session: signals from the terminal are for the calling program.
        self._outer = Popen(line, stdin=PIPE, stdout=PIPE, bufsize=0, start_new_session=True)
        self._pipes: list[IO[bytes]] = [pipe for pipe in (self._outer.stdin, self._outer.stdout) if pipe]
        try:
            if not select([self._pipes[1]], [], [], _READY_TIMEOUT)[0]:
                raise SandboxError(f"the sandbox was not ready in {_READY_TIMEOUT:g} s; is this host overloaded?")
            response = Response.from_json(self._pipes[1].readline())
            if response.unmet:
                raise SandboxError(str(response.unmet))
        except SandboxError:
            self.close()
            raise
        self.pid: int = response.pid
        """The pid of the first process, in the pid namespace of the calling process."""
        self.missing: tuple[Requirement, ...] = response.missing
        """The unmet requirements without which the sandbox does less."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the sandbox and its processes. Repeated calls are harmless."""
        for pipe in self._pipes:
            pipe.close()
        try:
            self._outer.wait(_STATE_TIMEOUT)
        except TimeoutExpired:
            self._outer.kill()
            self._outer.wait()

    @property
    def run_dir(self) -> Path:
        """The /run of the sandbox as a path outside. Its OVSDB is run_dir / "openvswitch" / "db.sock"."""
        return Path(f"/proc/{self.pid}/root/run")

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        input: str | None = None,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> CompletedProcess[str]:
        """Run a command inside, in the caller's working directory. `env` is added to the caller's environment.

        Raises CalledProcessError with stderr as a note. Raises TimeoutExpired after it has killed the command. Raises
        SandboxError if the exit code is lost because the calling process ignores SIGCHLD.
        """
        completed = children.run(self.entering(argv), input=input, timeout=timeout, env=_environment(env))
        return switch.checked(argv, completed, check=check)

    def popen(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **streams: int | IO[str] | None
    ) -> Popen[str]:
        """Start a command inside. Popen.kill() kills the command; use send_signal() for other signals.

        streams: stdin, stdout and stderr, as for Popen.
        """
        return Child(self.entering(argv), env=_environment(env), text=True, **streams)

    def python(self, code: str, *arguments: str, check: bool = True, timeout: float = 60.0) -> CompletedProcess[str]:
        """Run Python code inside with the caller's interpreter and without the working directory in sys.path."""
        return self.run([sys.executable, "-P", "-c", code, *arguments], check=check, timeout=timeout)

    def send_signal(self, process: Popen[str], number: int) -> None:
        """Send a signal to a command of popen(). The process of the Popen itself is nsenter."""
        for pid in _children(process.pid):
            os.kill(pid, number)

    def start_switch(self, *, schema: str | None = None, database: str = switch.DATABASE) -> None:
        """Start Open vSwitch in a sandbox created with ovs=False. schema and database: another schema or disk."""
        self._database = database
        switch.start_switch(self.run, schema=schema, database=database)

    def pause(self, name: Daemon) -> None:
        """Hang a daemon with SIGSTOP. On return all its threads are stopped."""
        pid = self.daemon_pid(name)
        os.kill(pid, signal.SIGSTOP)
        deadline = time.monotonic() + _STATE_TIMEOUT
        while any(
            path.read_text().rpartition(")")[2].split()[0] != "T" for path in Path(f"/proc/{pid}/task").glob("*/stat")
        ):
            if time.monotonic() > deadline:
                raise SandboxError(f"{name} did not stop within {_STATE_TIMEOUT:g} s; is this host overloaded?")
            time.sleep(0.001)

    def resume(self, name: Daemon) -> None:
        """Resume a hung daemon."""
        os.kill(self.daemon_pid(name), signal.SIGCONT)

    def kill(self, name: Daemon, number: int = signal.SIGKILL) -> None:
        """Kill a daemon, by default with SIGKILL. On return it is dead."""
        pid = self.daemon_pid(name)
        gone = os.pidfd_open(pid)
        try:
            os.kill(pid, number)
            if not select([gone], [], [], _STATE_TIMEOUT)[0]:
                raise SandboxError(f"{name} survived signal {number}; resume it first if it is paused")
        finally:
            os.close(gone)

    def start(self, name: Daemon, *, timeout: float = 20.0) -> None:
        """Start a killed daemon on the same database. On return it serves.

        ovs-vswitchd serves only once ovsdb-server does.
        """
        switch.start_daemon(self.run, name, database=self._database, timeout=timeout)

    def restart(self, name: Daemon) -> None:
        """Kill a daemon and start it again."""
        self.kill(name)
        self.start(name)

    def reboot(self) -> None:
        """Simulate a reboot: delete all links, keep the rows of OVSDB, restart both daemons."""
        for name in reversed(DAEMONS):
            self.kill(name)
        links = [link for link in self.run(["ls", "/sys/class/net"]).stdout.split() if link != "lo"]
        # Ports go as one group, since the kernel waits for its readers for each device that is deleted alone. The
        # devices of Open vSwitch cannot be deleted with a group. --force: all others exist no more by then.
        batch = [f"link set {link} group {REBOOT_GROUP}" for link in links if link.startswith("q")]
        batch += [f"link delete group {REBOOT_GROUP}", *(f"link delete {link}" for link in links)]
        self.run(["ip", "-force", "-batch", "-"], input="\n".join(batch) + "\n", check=False)
        for name in DAEMONS:
            self.start(name)

    def daemon_pid(self, name: Daemon) -> int:
        """Return the pid of a running daemon, in the pid namespace of the calling process."""
        try:
            inside = (self.run_dir / switch.pid_file(name).removeprefix("/run/")).read_text().strip()
        except FileNotFoundError:
            inside = ""
        for pid in _children(self.pid):
            try:
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                # The process ended after it was listed.
                continue
            status = dict(line.split(":\t", 1) for line in lines)
            if status["NSpid"].split()[-1] == inside and status["Name"] == name and "Z" not in status["State"]:
                return pid
        raise SandboxError(f"{name} does not run in this sandbox; start it first")

    def entering(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs a command inside, for programs that start processes themselves."""
        has_own_users = os.readlink(f"/proc/{self.pid}/ns/user") != os.readlink("/proc/self/ns/user")
        user = ["--user", "--preserve-credentials"] if has_own_users else []
        # Absolute paths: the PATH of the program that runs this may include its working directory.
        nsenter = [_path_of("nsenter"), "--target", str(self.pid), *user, "--net", "--mount", "--pid", "--"]
        # nsenter forks to enter the pid namespace. Its child would survive if nsenter was killed.
        dying = [_path_of("setpriv"), "--pdeathsig", "KILL"]
        # Entering a mount namespace changes the working directory to its root.
        back_in_directory = [_path_of("sh"), "-c", 'cd -- "$0" 2>/dev/null; exec "$@"', working_directory() or "/"]
        return [*nsenter, *dying, *back_in_directory, *argv]


class Vm:
    """A simulated VM, running from boot() to shut_down(): a network namespace behind a veth named as its tap.

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

    def __exit__(self, *_: object) -> None:
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


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    return environment(os.environ) | dict(extra or {})


def _path_of(name: str) -> str:
    return missing.program(name) or name


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
