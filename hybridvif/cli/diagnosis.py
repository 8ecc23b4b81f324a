"""All checks of doctor, and those of the configuration, the privileged daemon and the switch."""

from __future__ import annotations

import json
import os
import shlex
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points

from hybridvif.cli import system
from hybridvif.cli.check_result import CheckResult, failed, failed_with, info, passed
from hybridvif.cli.osvif import osvif_findings
from hybridvif.cli.output.topology import plugged_ports
from hybridvif.client.host import Host, connect
from hybridvif.engine import shared_files
from hybridvif.model.errors import HybridVifError
from hybridvif.model.parts import Bridge
from hybridvif.model.settings import OVS_SOCKET, Settings
from hybridvif.model.state import Facts, Observed
from hybridvif.testing.sandbox import Level
from hybridvif.testing.sandbox.missing import as_root, missing_for

TIMEOUT = 10.0
"""Timeout in seconds for the daemon, and again for the switch."""
RECORDING = "recording"
OVS_EXECUTORS = ("ovsdb", "ovsdbapp", "ovs-vsctl")
_CONTROL_TIMEOUT = 2.0
_CONTROL_LIMIT = 64 * 1024


def findings(files: Sequence[str]) -> Iterator[CheckResult]:
    """Run all checks, in the order in which a plug needs them."""
    call_iptables = False
    bridges: list[Bridge] = []
    try:
        with connect(files) as host:
            call_iptables = host.settings.call_iptables
            source = ", ".join(files) or "no file, so the defaults"
            yield passed("configuration", source)
            yield from executors(host.settings)
            yield lock_path(host.settings.lock_path)
            yield from _daemon(host, bridges)
            yield from osvif_findings(host.settings)
    except HybridVifError as error:
        yield failed_with("configuration", str(error))
    yield from system.system_findings(call_iptables, bridges)


def executors(settings: Settings) -> Iterator[CheckResult]:
    """Check that the configured executors are installed and not simulated."""
    for role in ("link", "switch"):
        name = f"{role} executor"
        chosen = getattr(settings, f"{role}_executor")
        there = {point.name: point for point in entry_points(group=f"hybridvif.{role}_executors")}
        if chosen == RECORDING:
            remedy = f"leave [hybridvif] {role}_executor out of the configuration"
            yield failed(name, f"{RECORDING}: SIMULATED, nothing is plugged on any real host", remedy)
        elif chosen not in there:
            remedy = f"set [hybridvif] {role}_executor to one of {', '.join(sorted(there)) or 'none'}, or install it"
            yield failed(name, f"{chosen!r} is not installed", remedy)
        else:
            yield passed(name, f"{chosen} ({there[chosen].value})")


def lock_path(path: str) -> CheckResult:
    """Check that lock files can be created."""
    existing = path
    while not os.path.lexists(existing) and existing != os.path.dirname(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        return failed(
            "lock_path", f"{existing} is not a directory", "set [hybridvif] lock_path to one that all callers can write"
        )
    if os.access(existing, os.W_OK | os.X_OK):
        return passed("lock_path", path if existing == path else f"{path} (will be made)")
    remedy = as_root(f"install -d -m 2770 -g {os.getgid()} {shlex.quote(path)}")
    return failed("lock_path", f"{existing} cannot be written by this user", remedy)


def _daemon(host: Host, bridges: list[Bridge]) -> Iterator[CheckResult]:
    """Check the daemon and the host that it observes. bridges: a list that collects each qbr."""
    from hybridvif.privileged.ahead import within_limits
    from hybridvif.privileged.context import daemon_context

    yield from system.helper_findings(daemon_context.conf.helper_command)
    try:
        with within_limits():
            daemon_context.reach(time.monotonic() + min(TIMEOUT, host.settings.deadline))
    except HybridVifError as error:
        yield failed_with("daemon", str(error))
        yield from _switch_from_outside(host.settings)
        return
    yield passed("daemon", "the privileged daemon starts, and keeps CAP_NET_ADMIN alone")
    try:
        seen = host.observe(None, time.monotonic() + min(TIMEOUT, host.settings.deadline))
    except HybridVifError as error:
        # Open vSwitch may be missing altogether.
        missing = missing_for(Level.DUMMY) if host.settings.switch_executor in OVS_EXECUTORS else ()
        yield failed("switch", str(error), missing[0].remedy) if missing else failed_with("switch", str(error))
        return
    bridges += [link for link in seen.state.links.values() if isinstance(link, Bridge)]
    yield from switch(host.settings, seen.facts)
    if host.settings.switch_executor in OVS_EXECUTORS:
        command = daemon_context.conf.helper_command
        yield network_namespace(host.settings.ovsdb_connection, seen.facts.switches, command)
    yield from port_findings(seen)


def port_findings(seen: Observed) -> Iterator[CheckResult]:
    """Yield the ports that plug would refuse, and those that share their iface-id with another row."""
    for port in plugged_ports(seen):
        about = f"port {port.port_id or port.key}"
        if port.conflict:
            yield failed_with(about, port.conflict.removeprefix(f"{about}: "))
        for warning in port.warnings:
            fact, _, remedy = warning.removeprefix(f"{about}: ").partition("; ")
            yield info(about, fact, remedy)


def switch(settings: Settings, facts: Facts) -> Iterator[CheckResult]:
    """Check the observed switch and its integration bridges."""
    if settings.switch_executor == RECORDING:
        return
    yield passed("switch", f"{facts.switch_version or settings.switch_executor} at {settings.ovsdb_connection}")
    if settings.switch_executor not in OVS_EXECUTORS:
        return
    yield vswitchd(settings.ovsdb_connection)
    for name in settings.named_bridges:
        yield _bridge(name, facts.switches.get(name), settings)


def network_namespace(remote: str, bridges: Mapping[str, str], helper_command: str | None) -> CheckResult:
    """Check that ovs-vswitchd is in this network namespace, where the devices are created.

    bridges: the bridges of the switch, with their datapath types.
    helper_command: the configured one. It may start the daemon in another namespace.
    """
    name = "network namespace"
    pid = _listener_of(remote)
    try:
        is_here = os.stat("/proc/self/ns/net").st_ino == os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        # Another user, or another pid namespace. Every bridge except dummy ones has a device with its name.
        real = sorted(bridge for bridge, datapath in bridges.items() if datapath != "dummy")
        if not real:
            return info(name, "it is unknown if ovs-vswitchd is in this one")
        is_here = real[0] in (device for _, device in socket.if_nameindex())
    if is_here:
        return passed(name, "that of ovs-vswitchd")
    text = "ovs-vswitchd is in another one, so it cannot take the devices that are made here"
    if helper_command:
        return info(name, f"{text}, unless helper_command enters its namespace")
    enter = f"nsenter --target {pid} --net" if pid else "nsenter --target PID --net"
    return failed(name, text, f"run it where ovs-vswitchd is: {as_root(enter)} hybridvif ...")


def _listener_of(remote: str) -> int:
    """Return the pid of the ovs-vswitchd of this database in our pid namespace; 0 if it is not visible."""
    directory = os.path.dirname(remote.removeprefix("unix:"))
    try:
        number = int(shared_files.read(os.path.join(directory, "ovs-vswitchd.pid"), 64))
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(_CONTROL_TIMEOUT)
            control.connect(os.path.join(directory, f"ovs-vswitchd.{number}.ctl"))
            pid: int = struct.unpack("3i", control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            return pid
    except (OSError, ValueError, shared_files.Unfit):
        return 0


def _switch_from_outside(settings: Settings) -> Iterator[CheckResult]:
    """Check the switch without the daemon, as an ordinary user."""
    remote, name = settings.ovsdb_connection, "switch"
    if settings.switch_executor not in OVS_EXECUTORS or not remote.startswith("unix:"):
        return
    try:
        with socket.socket(socket.AF_UNIX) as database:
            database.settimeout(_CONTROL_TIMEOUT)
            database.connect(remote.removeprefix("unix:"))
        yield info(name, f"OVSDB listens at {remote}; its bridges can be seen by the daemon only")
    except PermissionError:
        yield info(name, f"OVSDB at {remote} is closed to this user; the daemon may reach it")
    except OSError as error:
        yield failed(name, f"cannot reach OVSDB at {remote}: {error.strerror or error}", _start_command())
    yield vswitchd(remote)


def _bridge(name: str, datapath: str | None, settings: Settings) -> CheckResult:
    about = f"bridge {name}"
    if datapath is None and settings.creates(name):
        return info(about, "does not exist, and is made with the first port of it: [hybridvif] create_bridges has it")
    if datapath is None:
        where = "" if settings.ovsdb_connection == OVS_SOCKET else f"--db={settings.ovsdb_connection} "
        return failed(about, "does not exist", as_root(f"ovs-vsctl {where}add-br {name}"))
    if datapath == "dummy":
        return passed(about, "exists, datapath dummy (which is for tests)")
    if (
        datapath == "system"
        and "ovs_dp_cmd_new" not in system.kernel_symbols()
        and not system.module_file("openvswitch")
    ):
        text = "exists, but its datapath is the kernel's (system), and this kernel has no module openvswitch"
        return failed(about, text, as_root("modprobe openvswitch"))
    return passed(about, f"exists, datapath {datapath}")


def vswitchd(remote: str) -> CheckResult:
    """Check that ovs-vswitchd responds on its control socket, next to that of the database."""
    name = "ovs-vswitchd"
    if not remote.startswith("unix:"):
        return info(name, f"cannot be checked from here, because OVSDB is at {remote}")
    directory = os.path.dirname(remote.removeprefix("unix:"))
    try:
        # Open vSwitch may run as its own user, who can write any file there.
        number = int(shared_files.read(os.path.join(directory, "ovs-vswitchd.pid"), 64))
        answer = _version_of(os.path.join(directory, f"ovs-vswitchd.{number}.ctl"))
    except PermissionError:
        return info(name, "its control socket is closed to this user, so whether it answers was not looked at")
    except TimeoutError:
        return failed(name, f"does not answer within {_CONTROL_TIMEOUT:g} s, so it hangs", _start_command())
    except (OSError, ValueError, shared_files.Unfit):
        return failed(name, f"does not run (nobody listens in {directory})", _start_command())
    return passed(name, f"answers: {answer}")


def _start_command() -> str:
    """Return the command that starts or installs Open vSwitch."""
    for requirement in missing_for(Level.DUMMY):
        return requirement.remedy
    systemd = os.path.isdir("/run/systemd/system")
    return as_root("systemctl restart openvswitch-switch" if systemd else "service openvswitch-switch restart")


def _version_of(path: str) -> str:
    """Return the version of an Open vSwitch daemon: a JSON-RPC request on its control socket, ovs-appctl(8)."""
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(_CONTROL_TIMEOUT)
        control.connect(path)
        control.sendall(b'{"id": 0, "method": "version", "params": []}')
        answer, deadline = b"", time.monotonic() + _CONTROL_TIMEOUT
        while len(answer) <= _CONTROL_LIMIT and time.monotonic() < deadline:
            received = control.recv(4096)
            answer += received
            try:
                return str(json.loads(answer)["result"]).splitlines()[0]
            except json.JSONDecodeError:
                if not received:
                    raise
            except (LookupError, RecursionError, TypeError) as error:
                raise ValueError("no answer of ovs-vswitchd's") from error
        raise TimeoutError
