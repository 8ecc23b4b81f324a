"""hybridvif doctor: check every precondition, in the order in which a plug needs them."""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import socket
import struct
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hybridvif.cli.host_checks import (
    FAIL,
    INFO,
    PASS,
    CheckResult,
    Verdict,
    check,
    fact_and_remedy,
    helper_findings,
    host_findings,
    kernel_symbols,
    module_file,
)
from hybridvif.cli.options import ROWS, Command, config_files
from hybridvif.cli.output.topology import plugged_ports
from hybridvif.cli.terminal import Answer, Paint
from hybridvif.client.filters import ask, control_socket
from hybridvif.engine import locks
from hybridvif.engine.any_host import AnyHost
from hybridvif.model.errors import HybridVifError, PreconditionError, escaped
from hybridvif.model.parts import Bridge
from hybridvif.model.settings import OVS_SOCKET, Settings
from hybridvif.model.state import Facts, Observed
from hybridvif.testing.sandbox.missing import as_root, missing_switch

TIMEOUT = 10.0
"""Timeout in seconds for the daemon, and again for the switch."""
RECORDING = "recording"
OVS_EXECUTORS = ("ovsdb", "ovsdbapp", "ovs-vsctl")
PRIVSEP_OPTIONS = ("user", "group", "thread_pool_size", "helper_command", "logger_name", "capabilities")
"""The options of [hybridvif_privileged], besides log_daemon_traceback of newer releases of oslo.privsep."""
_COLORS = {PASS: "green", FAIL: "red", INFO: "dim"}
_CONTROL_TIMEOUT = 2.0


def run(args: argparse.Namespace) -> Answer:
    """Run all checks. Nothing is changed."""
    return answer_of(list(findings(config_files(args))))


def answer_of(results: Sequence[CheckResult]) -> Answer:
    """Return the answer, with exit code 5 if a check failed."""
    count = sum(result.verdict == FAIL for result in results)
    documents = [result._asdict() for result in results]
    return Answer(
        document={"command": "doctor", "ok": not count, "findings": documents},
        lines=lambda paint: _lines(results, count, paint),
        rows=documents,
        exit_code=5 if count else 0,
    )


def _lines(results: Sequence[CheckResult], count: int, paint: Paint) -> Iterator[str]:
    width = max(len(result.name) for result in results)
    for name, verdict, text, remedy in results:
        mark = verdict.upper() if verdict == FAIL else verdict
        yield f"  {paint(mark, _COLORS[verdict])}  {paint(f'{name:<{width}}  {text}', '')}"
        if remedy:
            yield paint(f"          try: {remedy}", "")
    yield f"{count} of {len(results)} failed." if count else "Nothing failed: ports can be plugged here."


def findings(files: Sequence[str]) -> Iterator[CheckResult]:
    """Run all checks."""
    from hybridvif.cli.commands.executors import installed
    from hybridvif.client.host import connect

    settings, seen = Settings(), Observed()
    try:
        with connect(files) as host:
            settings = host.settings
            yield check("configuration", options, files)
            executors = installed(settings)
            yield check("link executor", executor, settings.link_executor, executors["link"])
            yield check("switch executor", executor, settings.switch_executor, executors["switch"])
            yield check("lock_path", lock_path, settings.lock_path)
            seen = yield from _daemon(host, executors["link"])
            yield from _osvif(settings)
    except HybridVifError as error:
        yield CheckResult("configuration", FAIL, *fact_and_remedy(str(error)))
    bridges = [link for link in seen.state.links.values() if isinstance(link, Bridge)]
    yield from host_findings(settings.call_iptables, bridges)


def executor(chosen: str, executors: Sequence[Mapping[str, Any]]) -> Verdict:
    """Check that the chosen executor of a role is one of these, lacks nothing, and is not simulated."""
    found = {document["name"]: document for document in executors}
    if chosen == RECORDING:
        remedy = "leave this executor out of the configuration"
        return FAIL, f"{RECORDING}: SIMULATED, nothing is plugged on any real host", remedy
    if chosen not in found:
        return FAIL, f"{chosen!r} is not installed", f"configure one of {', '.join(found) or 'none'}, or install it"
    for missing in found[chosen]["missing"]:
        return FAIL, *fact_and_remedy(f"{chosen}: {missing}")
    return PASS, f"{chosen} ({found[chosen]['object']})"


def lock_path(path: str) -> Verdict:
    """Check that this user can trust the directory, and that lock files can be created."""
    existing = path
    while not os.path.lexists(existing) and existing != os.path.dirname(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        return FAIL, f"{existing} is not a directory", "set [hybridvif] lock_path to one that all callers can write"
    if not os.access(existing, os.W_OK | os.X_OK):
        remedy = as_root(f"install -d -m 2770 -g {os.getgid()} {shlex.quote(path)}")
        return FAIL, f"{existing} cannot be written by this user", remedy
    try:
        if existing == path:
            locks.check_owners(path)
        # The file has no name. Some file systems have no such files.
        with open(os.open(existing, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(bytes(4096))
    except PreconditionError as error:
        return FAIL, *fact_and_remedy(str(error))
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            remedy = f"make space there (df {shlex.quote(existing)}; df -i), or set [hybridvif] lock_path"
            return FAIL, f"{existing} cannot hold a new file: {error.strerror}", remedy
    return PASS, path if existing == path else f"{path} (will be made)"


def options(files: Sequence[str]) -> Verdict:
    """Check that the sections of hybridvif in these files have known options only. oslo.config ignores others."""
    from oslo_config import cfg

    from hybridvif.engine import config

    known_of = {
        config.GROUP: [option.dest for option in config.OPTIONS],
        config.PRIVILEGED: [*PRIVSEP_OPTIONS, "log_daemon_traceback"],
    }
    unknown = []
    for name in files:
        sections: dict[str, dict[str, list[str]]] = {}
        cfg.ConfigParser(name, sections).parse()
        for section, known in known_of.items():
            for option in sections.get(section, ()):
                if option.replace("-", "_") not in known:
                    close = get_close_matches(option, known, 1)
                    hint = f" (did you mean {close[0]}?)" if close else ""
                    unknown.append(f"[{section}] {escaped(option)} in {name}{hint}")
    if unknown:
        return FAIL, f"unknown options: {', '.join(unknown)}", "correct or remove them: they have no effect"
    return PASS, ", ".join(files) or "no file, so the defaults"


def _daemon(host: AnyHost, executors: Sequence[Mapping[str, Any]]) -> Generator[CheckResult, None, Observed]:
    """Check the daemon and the host that it observes. Return the observation. executors: the link executors."""
    from hybridvif.privileged.context import daemon_context
    from hybridvif.privileged.launch import within_limits

    settings, command = host.settings, daemon_context.conf.helper_command
    remote, uses_ovs = settings.ovsdb_connection, settings.switch_executor in OVS_EXECUTORS
    yield from helper_findings(command)

    def reach() -> Verdict:
        with within_limits():
            daemon_context.reach(time.monotonic() + min(TIMEOUT, settings.deadline))
        return PASS, "the privileged daemon starts, and keeps CAP_NET_ADMIN alone"

    yield (reached := check("daemon", reach))
    if reached.verdict == FAIL:
        if uses_ovs and remote.startswith("unix:"):
            yield check("switch", _database, remote)
            yield check("ovs-vswitchd", vswitchd, remote)
        return Observed()
    try:
        seen = host.observe(None, time.monotonic() + min(TIMEOUT, settings.deadline))
    except HybridVifError as error:
        # An error of the link executor names it, its option or its program. Anything else concerns the switch.
        programs = next((document["programs"] for document in executors if document["configured"]), ())
        signs = ("the link executor", "link_executor", *(f"{name} is not" for name in programs))
        is_link = any(sign in str(error) for sign in signs)
        # Open vSwitch may be missing altogether.
        missing = missing_switch() if uses_ovs and not is_link else None
        text_and_remedy = (str(error), missing.remedy) if missing else fact_and_remedy(str(error))
        yield CheckResult("link executor" if is_link else "switch", FAIL, *text_and_remedy)
        return Observed()
    yield from switch(settings, seen.facts)
    if uses_ovs:
        yield check("network namespace", network_namespace, remote, seen.facts.switches, command)
    yield from port_findings(seen)
    return seen


def port_findings(seen: Observed) -> Iterator[CheckResult]:
    """Yield the ports that plug would refuse, and the warnings about ports."""
    for port in plugged_ports(seen):
        about = f"port {port.port_id or port.key}"
        if port.conflict:
            yield CheckResult(about, FAIL, *fact_and_remedy(port.conflict.removeprefix(f"{about}: ")))
        for warning in port.warnings:
            yield CheckResult(about, INFO, *fact_and_remedy(warning.text.removeprefix(f"{about}: ")))


def switch(settings: Settings, facts: Facts) -> Iterator[CheckResult]:
    """Check the observed switch and its integration bridges."""
    if settings.switch_executor == RECORDING:
        return
    remote = settings.ovsdb_connection
    yield CheckResult("switch", PASS, f"{facts.switch_version or settings.switch_executor} at {remote}")
    if settings.switch_executor in OVS_EXECUTORS:
        yield check("ovs-vswitchd", vswitchd, remote)
        for name in settings.named_bridges:
            yield check(f"bridge {name}", _bridge, name, facts.switches.get(name), settings)


def _bridge(name: str, datapath: str | None, settings: Settings) -> Verdict:
    if datapath is None and settings.creates(name):
        return INFO, "does not exist, and is made with the first port of it: [hybridvif] create_bridges has it"
    if datapath is None:
        where = "" if settings.ovsdb_connection == OVS_SOCKET else f"--db={settings.ovsdb_connection} "
        return FAIL, "does not exist", as_root(f"ovs-vsctl {where}add-br {name}")
    if datapath == "system" and "ovs_dp_cmd_new" not in kernel_symbols() and not module_file("openvswitch"):
        text = "exists, but its datapath is the kernel's (system), and this kernel has no module openvswitch"
        return FAIL, text, as_root("modprobe openvswitch")
    return PASS, f"exists, datapath {datapath}{' (which is for tests)' if datapath == 'dummy' else ''}"


def network_namespace(remote: str, bridges: Mapping[str, str], helper_command: str | None) -> Verdict:
    """Check that ovs-vswitchd is in this network namespace, where the devices are created.

    bridges: the bridges of the switch, with their datapath types.
    helper_command: the configured one. It may start the daemon in another namespace.
    """
    pid = 0
    try:
        with control_socket(_directory(remote), _CONTROL_TIMEOUT) as control:
            # The pid in our pid namespace; 0 if it is not visible.
            pid = struct.unpack("3i", control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        is_here = os.stat("/proc/self/ns/net").st_ino == os.stat(f"/proc/{pid}/ns/net").st_ino
    except (OSError, ValueError, locks.Unfit):
        # Another user, or another pid namespace. Every bridge except dummy ones has a device with its name.
        real = sorted(bridge for bridge, datapath in bridges.items() if datapath != "dummy")
        if not real:
            return INFO, "it is unknown if ovs-vswitchd is in this one"
        is_here = real[0] in (device for _, device in socket.if_nameindex())
    if is_here:
        return PASS, "that of ovs-vswitchd"
    text = "ovs-vswitchd is in another one, so it cannot take the devices that are made here"
    if helper_command:
        return INFO, f"{text}, unless helper_command enters its namespace"
    enter = f"nsenter --target {pid or 'PID'} --net"
    return FAIL, text, f"run it where ovs-vswitchd is: {as_root(enter)} hybridvif ..."


def _database(remote: str) -> Verdict:
    """Check that OVSDB listens, without the daemon."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_CONTROL_TIMEOUT)
            connection.connect(remote.removeprefix("unix:"))
    except PermissionError:
        return INFO, f"OVSDB at {remote} is closed to this user; the daemon may reach it"
    except OSError as error:
        return FAIL, f"cannot reach OVSDB at {remote}: {error.strerror or error}", _start_command()
    return INFO, f"OVSDB listens at {remote}; its bridges can be seen by the daemon only"


def vswitchd(remote: str) -> Verdict:
    """Check that ovs-vswitchd responds on its control socket, next to that of the database."""
    if not remote.startswith("unix:"):
        return INFO, f"cannot be checked from here, because OVSDB is at {remote}"
    try:
        with control_socket(_directory(remote), _CONTROL_TIMEOUT) as control:
            if version := ask(control, "version", timeout=_CONTROL_TIMEOUT):
                return PASS, f"answers: {version.splitlines()[0]}"
            raise ValueError("it has no version")
    except PermissionError:
        return INFO, "its control socket is closed to this user, so whether it answers was not looked at"
    except TimeoutError:
        return FAIL, f"does not answer within {_CONTROL_TIMEOUT:g} s, so it hangs", _start_command()
    except (OSError, ValueError, locks.Unfit):
        return FAIL, f"does not run (nobody listens in {_directory(remote)})", _start_command()


def _start_command() -> str:
    """Return the command that starts or installs Open vSwitch."""
    if missing := missing_switch():
        return missing.remedy
    systemd = os.path.isdir("/run/systemd/system")
    return as_root("systemctl restart openvswitch-switch" if systemd else "service openvswitch-switch restart")


def _directory(remote: str) -> Path:
    """Return the directory of the sockets of Open vSwitch. Raises ValueError if it is not on this host."""
    if not remote.startswith("unix:"):
        raise ValueError("not on this host")
    return Path(remote.removeprefix("unix:")).parent


def _osvif(settings: Settings) -> Iterator[CheckResult]:
    """Check the plugin that os-vif loads as `ovs`. Yields nothing if os-vif is neither installed nor configured."""
    if find_spec("os_vif") is not None:
        yield check("os-vif", _plugin_of_osvif, settings.answer_to_ovs)
        points = entry_points(group="os_vif", name="ovs")
        if len(points) > 1:
            dists = [f"{point.value} ({point.dist.name if point.dist else 'unknown'})" for point in points]
            text = f"{len(points)} plugins are called 'ovs': {', '.join(sorted(dists))}"
            ambiguous = (FAIL, f"{text}; the order of directories decides which one is used", "uninstall all but one")
            replaced = (INFO, f"{text}; hybridvif takes the place of all of them")
            yield CheckResult("os-vif, doubles", *(replaced if settings.answer_to_ovs else ambiguous))
    elif settings.answer_to_ovs:
        remedy = "pip install 'hybridvif[osvif]', in the environment of nova-compute"
        yield CheckResult("os-vif", FAIL, "[hybridvif] answer_to_ovs is set, and os-vif is not installed here", remedy)


def _plugin_of_osvif(is_set: bool) -> Verdict:
    """Check the class of the plugin. is_set: the option answer_to_ovs."""
    from hybridvif.osvif.plugins import class_answering_to_ovs

    try:
        cls = class_answering_to_ovs()
    except Exception as error:  # noqa: BLE001  # whatever a third party's plugin raises; os-vif lets it through, too
        text = f"os-vif cannot load its plugins: {type(error).__name__}: {error}".rstrip(".")
        return FAIL, text, "nova-compute cannot start; fix or uninstall the plugin that raises this"
    answers = f"{cls} answers to 'ovs'"
    if cls.startswith("hybridvif."):
        return PASS, f"{answers}: hybrid ports are plugged by hybridvif"
    if is_set:
        remedy = "reinstall hybridvif[osvif] in the environment of nova-compute"
        return FAIL, f"{answers}, though [hybridvif] answer_to_ovs is set", remedy
    return INFO, f"{answers}; hybridvif answers to 'hybridvif' alone", "set [hybridvif] answer_to_ovs = true"


COMMANDS = {
    "doctor": Command(
        run,
        ROWS,
        epilog="Exits with 0 if nothing fails, else with 5. Without root, some checks are skipped.",
        columns=CheckResult._fields,
    )
}
