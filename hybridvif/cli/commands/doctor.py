"""hybridvif doctor: check every precondition, in the order in which a plug needs them."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import entry_points

from hybridvif.cli.connection import config_files
from hybridvif.cli.host_checks import (
    CheckResult,
    failed,
    failed_with,
    helper_findings,
    host_findings,
    info,
    kernel_symbols,
    module_file,
    passed,
)
from hybridvif.cli.output.topology import plugged_ports
from hybridvif.cli.terminal import Answer, Paint
from hybridvif.engine import first_seen
from hybridvif.engine.converge import AnyHost
from hybridvif.model.errors import HybridVifError
from hybridvif.model.parts import Bridge
from hybridvif.model.settings import OVS_SOCKET, Settings
from hybridvif.model.state import Facts, Observed
from hybridvif.optional import found
from hybridvif.testing.sandbox.missing import as_root, missing_switch

FORMATS = ("text", "json", "yaml", "table", "value")
COLUMNS = ("name", "verdict", "text", "remedy")
TIMEOUT = 10.0
"""Timeout in seconds for the daemon, and again for the switch."""
RECORDING = "recording"
OVS_EXECUTORS = ("ovsdb", "ovsdbapp", "ovs-vsctl")
_COLOURS = {"pass": "green", "fail": "red", "info": "dim"}
_CONTROL_TIMEOUT = 2.0
_CONTROL_LIMIT = 64 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif doctor`."""
    parser.epilog = "Exits with 0 if nothing fails, else with 5. Without root, some checks are skipped."


def run(args: argparse.Namespace) -> Answer:
    """Run all checks. Nothing is changed."""
    return answer_of(list(findings(config_files(args.config_file))))


def answer_of(results: Sequence[CheckResult]) -> Answer:
    """Return the answer, with exit code 5 if a check failed."""
    count = sum(result.verdict == "fail" for result in results)
    documents = [asdict(result) for result in results]
    return Answer(
        document={"command": "doctor", "ok": not count, "findings": documents},
        lines=lambda paint: _lines(results, count, paint),
        columns=COLUMNS,
        rows=documents,
        exit_code=5 if count else 0,
    )


def _lines(results: Sequence[CheckResult], count: int, paint: Paint) -> Iterator[str]:
    width = max(len(result.name) for result in results)
    for result in results:
        mark = result.verdict.upper() if result.verdict == "fail" else result.verdict
        yield f"  {paint(mark, _COLOURS[result.verdict])}  {paint(f'{result.name:<{width}}  {result.text}', '')}"
        if result.remedy:
            yield paint(f"          try: {result.remedy}", "")
    yield f"{count} of {len(results)} failed." if count else "Nothing failed: ports can be plugged here."


def findings(files: Sequence[str]) -> Iterator[CheckResult]:
    """Run all checks."""
    from hybridvif.client.host import connect

    call_iptables = False
    bridges: list[Bridge] = []
    try:
        with connect(files) as host:
            call_iptables = host.settings.call_iptables
            yield passed("configuration", ", ".join(files) or "no file, so the defaults")
            yield from executors(host.settings)
            yield lock_path(host.settings.lock_path)
            yield from _daemon(host, bridges)
            yield from _osvif(host.settings)
    except HybridVifError as error:
        yield failed_with("configuration", str(error))
    yield from host_findings(call_iptables, bridges)


def executors(settings: Settings) -> Iterator[CheckResult]:
    """Check that the configured executors are installed and not simulated."""
    for role, chosen in (("link", settings.link_executor), ("switch", settings.switch_executor)):
        name = f"{role} executor"
        points = {point.name: point.value for point in entry_points(group=f"hybridvif.{role}_executors")}
        if chosen == RECORDING:
            remedy = f"leave [hybridvif] {role}_executor out of the configuration"
            yield failed(name, f"{RECORDING}: SIMULATED, nothing is plugged on any real host", remedy)
        elif chosen not in points:
            remedy = f"set [hybridvif] {role}_executor to one of {', '.join(sorted(points)) or 'none'}, or install it"
            yield failed(name, f"{chosen!r} is not installed", remedy)
        else:
            yield passed(name, f"{chosen} ({points[chosen]})")


def lock_path(path: str) -> CheckResult:
    """Check that lock files can be created."""
    existing = path
    while not os.path.lexists(existing) and existing != os.path.dirname(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        remedy = "set [hybridvif] lock_path to one that all callers can write"
        return failed("lock_path", f"{existing} is not a directory", remedy)
    if os.access(existing, os.W_OK | os.X_OK):
        return passed("lock_path", path if existing == path else f"{path} (will be made)")
    remedy = as_root(f"install -d -m 2770 -g {os.getgid()} {shlex.quote(path)}")
    return failed("lock_path", f"{existing} cannot be written by this user", remedy)


def _daemon(host: AnyHost, bridges: list[Bridge]) -> Iterator[CheckResult]:
    """Check the daemon and the host that it observes. bridges: a list that collects each qbr."""
    from hybridvif.privileged.context import daemon_context
    from hybridvif.privileged.launch import within_limits

    settings, command = host.settings, daemon_context.conf.helper_command
    uses_ovs = settings.switch_executor in OVS_EXECUTORS
    yield from helper_findings(command)
    try:
        with within_limits():
            daemon_context.reach(time.monotonic() + min(TIMEOUT, settings.deadline))
    except HybridVifError as error:
        yield failed_with("daemon", str(error))
        if uses_ovs and settings.ovsdb_connection.startswith("unix:"):
            yield _database(settings.ovsdb_connection)
            yield vswitchd(settings.ovsdb_connection)
        return
    yield passed("daemon", "the privileged daemon starts, and keeps CAP_NET_ADMIN alone")
    try:
        seen = host.observe(None, time.monotonic() + min(TIMEOUT, settings.deadline))
    except HybridVifError as error:
        # Open vSwitch may be missing altogether.
        missing = missing_switch() if uses_ovs else None
        yield failed("switch", str(error), missing.remedy) if missing else failed_with("switch", str(error))
        return
    bridges += [link for link in seen.state.links.values() if isinstance(link, Bridge)]
    yield from switch(settings, seen.facts)
    if uses_ovs:
        yield network_namespace(settings.ovsdb_connection, seen.facts.switches, command)
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
    if settings.switch_executor in OVS_EXECUTORS:
        yield vswitchd(settings.ovsdb_connection)
        for name in settings.named_bridges:
            yield _bridge(name, facts.switches.get(name), settings)


def _bridge(name: str, datapath: str | None, settings: Settings) -> CheckResult:
    about = f"bridge {name}"
    if datapath is None and settings.creates(name):
        return info(about, "does not exist, and is made with the first port of it: [hybridvif] create_bridges has it")
    if datapath is None:
        where = "" if settings.ovsdb_connection == OVS_SOCKET else f"--db={settings.ovsdb_connection} "
        return failed(about, "does not exist", as_root(f"ovs-vsctl {where}add-br {name}"))
    if datapath == "system" and "ovs_dp_cmd_new" not in kernel_symbols() and not module_file("openvswitch"):
        text = "exists, but its datapath is the kernel's (system), and this kernel has no module openvswitch"
        return failed(about, text, as_root("modprobe openvswitch"))
    return passed(about, f"exists, datapath {datapath}{' (which is for tests)' if datapath == 'dummy' else ''}")


def network_namespace(remote: str, bridges: Mapping[str, str], helper_command: str | None) -> CheckResult:
    """Check that ovs-vswitchd is in this network namespace, where the devices are created.

    bridges: the bridges of the switch, with their datapath types.
    helper_command: the configured one. It may start the daemon in another namespace.
    """
    name, pid = "network namespace", 0
    try:
        with _control_socket(remote) as control:
            # The pid in our pid namespace; 0 if it is not visible.
            pid = struct.unpack("3i", control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        is_here = os.stat("/proc/self/ns/net").st_ino == os.stat(f"/proc/{pid}/ns/net").st_ino
    except (OSError, ValueError, first_seen.Unfit):
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
    enter = f"nsenter --target {pid or 'PID'} --net"
    return failed(name, text, f"run it where ovs-vswitchd is: {as_root(enter)} hybridvif ...")


def _database(remote: str) -> CheckResult:
    """Check that OVSDB listens, without the daemon."""
    try:
        _connected_socket(remote.removeprefix("unix:")).close()
    except PermissionError:
        return info("switch", f"OVSDB at {remote} is closed to this user; the daemon may reach it")
    except OSError as error:
        return failed("switch", f"cannot reach OVSDB at {remote}: {error.strerror or error}", _start_command())
    return info("switch", f"OVSDB listens at {remote}; its bridges can be seen by the daemon only")


def vswitchd(remote: str) -> CheckResult:
    """Check that ovs-vswitchd responds on its control socket, next to that of the database."""
    name = "ovs-vswitchd"
    if not remote.startswith("unix:"):
        return info(name, f"cannot be checked from here, because OVSDB is at {remote}")
    try:
        with _control_socket(remote) as control:
            version = _version_from(control)
    except PermissionError:
        return info(name, "its control socket is closed to this user, so whether it answers was not looked at")
    except TimeoutError:
        return failed(name, f"does not answer within {_CONTROL_TIMEOUT:g} s, so it hangs", _start_command())
    except (OSError, ValueError, first_seen.Unfit):
        directory = os.path.dirname(remote.removeprefix("unix:"))
        return failed(name, f"does not run (nobody listens in {directory})", _start_command())
    return passed(name, f"answers: {version}")


def _start_command() -> str:
    """Return the command that starts or installs Open vSwitch."""
    if missing := missing_switch():
        return missing.remedy
    systemd = os.path.isdir("/run/systemd/system")
    return as_root("systemctl restart openvswitch-switch" if systemd else "service openvswitch-switch restart")


def _control_socket(remote: str) -> socket.socket:
    """Connect to the control socket of the ovs-vswitchd of this database."""
    if not remote.startswith("unix:"):
        raise ValueError("not on this host")
    directory = os.path.dirname(remote.removeprefix("unix:"))
    # Open vSwitch may run as its own user, who can write any file there.
    number = int(first_seen.read(os.path.join(directory, "ovs-vswitchd.pid"), 64))
    return _connected_socket(os.path.join(directory, f"ovs-vswitchd.{number}.ctl"))


def _connected_socket(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(_CONTROL_TIMEOUT)
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def _version_from(control: socket.socket) -> str:
    """Return the version of an Open vSwitch daemon: a JSON-RPC request on its control socket, ovs-appctl(8)."""
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


def _osvif(settings: Settings) -> Iterator[CheckResult]:
    """Check the plugin that os-vif loads as `ovs`. Yields nothing if os-vif is neither installed nor configured."""
    name, is_set = "os-vif", settings.answer_to_ovs
    if found("os_vif") is None:
        if is_set:
            remedy = "pip install 'hybridvif[osvif]', in the environment of nova-compute"
            yield failed(name, "[hybridvif] answer_to_ovs is set, and os-vif is not installed here", remedy)
        return
    from hybridvif.osvif.plugins import class_answering_to_ovs

    try:
        cls = class_answering_to_ovs()
    except Exception as error:  # noqa: BLE001  # whatever a third party's plugin raises; os-vif lets it through, too
        text = f"os-vif cannot load its plugins: {type(error).__name__}: {error}".rstrip(".")
        yield failed(name, text, "nova-compute cannot start; fix or uninstall the plugin that raises this")
    else:
        answers = f"{cls} answers to 'ovs'"
        if cls.startswith("hybridvif."):
            yield passed(name, f"{answers}: hybrid ports are plugged by hybridvif")
        elif is_set:
            remedy = "reinstall hybridvif[osvif] in the environment of nova-compute"
            yield failed(name, f"{answers}, though [hybridvif] answer_to_ovs is set", remedy)
        else:
            remedy = "set [hybridvif] answer_to_ovs = true"
            yield info(name, f"{answers}; hybridvif answers to 'hybridvif' alone", remedy)
    points = entry_points(group="os_vif", name="ovs")
    if len(points) > 1:
        origins = ", ".join(
            sorted(f"{point.value} ({point.dist.name if point.dist else 'unknown'})" for point in points)
        )
        text = f"{len(points)} plugins are called 'ovs': {origins}"
        if is_set:
            yield info("os-vif, doubles", f"{text}; hybridvif takes the place of all of them")
        else:
            text += "; the order of directories decides which one is used"
            yield failed("os-vif, doubles", text, "uninstall all but one")
