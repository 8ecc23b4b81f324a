"""The checks of doctor that need no privileges: Python, programs, capabilities, the kernel, /proc/sys."""

from __future__ import annotations

import fcntl
import os
import platform
import sys
import threading
from collections.abc import Collection, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hybridvif.cli.check_result import CheckResult, failed, failed_with, info, passed
from hybridvif.cli.firewall import BRIDGE_NF, bridge_nf, find_firewall
from hybridvif.engine import first_seen
from hybridvif.executors.netlink import sysctl
from hybridvif.model.errors import PreconditionError
from hybridvif.model.parts import Bridge
from hybridvif.privileged import launch
from hybridvif.testing.sandbox.missing import as_root, program

CAP_NET_ADMIN = 12
_HELPER = "hybridvif-privsep-helper"
_NS_GET_USERNS = 0xB701
_LIBRARIES = ("oslo.privsep", "oslo.config", "oslo.concurrency", "pyroute2", "ovsdbapp", "stevedore")
_PYTHON = (3, 11)
_THREADS = 7
_KINDS = {"bridge": "br_dev_setup", "veth": "veth_setup"}
"""Link kinds, each with a kernel function that implements it."""


def system_findings(call_iptables: bool = False, bridges: Collection[Bridge] = ()) -> Iterator[CheckResult]:
    """Run all checks of this module. call_iptables: the option. bridges: each qbr."""
    yield python()
    yield libraries()
    yield capability()
    yield from kernel_kinds()
    yield proc_sys()
    yield temporary_directory()
    yield threads()
    yield ipv6()
    if not sysctl.lacking():
        yield bridge_nf(BRIDGE_NF, call_iptables, find_firewall(), bridges)
    yield from boot_id()
    yield _sandbox()


def helper_findings(helper_command: str | None) -> Iterator[CheckResult]:
    """Check the programs that start the daemon. helper_command: the configured one, or None."""
    if helper_command:
        yield _program(helper_command.split()[0], "[hybridvif_privileged] helper_command names it")
        return
    beside = os.path.join(os.path.dirname(sys.executable), _HELPER)
    if os.path.exists(beside):
        yield passed(_HELPER, beside)
    elif os.geteuid() != 0:
        yield _program(_HELPER, f"{sys.executable} -P -m pip install hybridvif")
    if os.geteuid() != 0:
        yield _program("sudo", "run as root, or install sudo, or set [hybridvif_privileged] helper_command")


def kernel_symbols() -> set[str]:
    """Return the functions of link kinds and Open vSwitch in the running kernel; empty if they are hidden."""
    wanted = {*_KINDS.values(), "ovs_dp_cmd_new", "kernel_clone"}
    try:
        with open("/proc/kallsyms", encoding="ascii", errors="replace") as symbols:
            return {name for line in symbols if (name := line.split(maxsplit=3)[2].strip()) in wanted}
    except OSError:
        return set()


def module_file(name: str) -> bool:
    """Return True if the module is built in or can be loaded."""
    listed = Path("/lib/modules", platform.release())
    return any(
        f"/{name}.ko" in file.read_text(encoding="utf-8", errors="replace")
        for file in (listed / "modules.dep", listed / "modules.builtin")
        if file.is_file()
    )


def kernel_kinds() -> Iterator[CheckResult]:
    """Check that the kernel has Linux bridges and veth pairs."""
    symbols = kernel_symbols()
    for kind, symbol in _KINDS.items():
        name = f"kernel: {kind}"
        if symbol in symbols:
            yield passed(name, "there")
        elif module_file(kind):
            yield passed(name, "a module, loaded on first use")
        elif symbols:
            remedy = as_root(f"modprobe {kind}")
            yield failed(name, f"the kernel {platform.release()} lacks it, and its module is not installed", remedy)
        else:
            yield info(name, "unknown until one is created, as by `hybridvif demo`")


def python() -> CheckResult:
    """Check the version of Python."""
    text = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info[:2] >= _PYTHON:
        return passed("python", text)
    return failed("python", f"{text} is older than {'.'.join(map(str, _PYTHON))}", "install a newer Python")


def libraries() -> CheckResult:
    """Check that the required libraries are installed."""
    installed, missing = [], []
    for name in _LIBRARIES:
        try:
            installed.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        command = f"{sys.executable} -P -m pip install {' '.join(missing)}"
        return failed("libraries", f"not installed: {', '.join(missing)}", command)
    return passed("libraries", ", ".join(installed))


def capability() -> CheckResult:
    """Check that this process has CAP_NET_ADMIN in its network namespace."""
    name, bit = "CAP_NET_ADMIN", 1 << CAP_NET_ADMIN
    status = dict(
        line.split(":\t", 1)
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    )
    container = "docker run --cap-add NET_ADMIN ... (or podman), or run it outside of the container"
    if not int(status["CapBnd"], 16) & bit:
        return failed(name, "no process here can ever have it (it is not in the bounding set)", container)
    if not int(status["CapEff"], 16) & bit:
        if os.geteuid() == 0:
            return failed(name, "root does not have it", container)
        return info(name, "this user does not have it; the privileged daemon gets it from sudo or the helper command")
    if not _owns_network():
        remedy = "unshare --user --map-root-user --net, or run as the real root"
        return failed(name, "held, but not over this network namespace, which another user namespace owns", remedy)
    return passed(name, "held, over this network namespace")


def _owns_network() -> bool:
    """Return True if our user namespace, or one below it, owns the network namespace."""
    with open("/proc/self/ns/net", "rb") as network:
        try:
            os.close(fcntl.ioctl(network, _NS_GET_USERNS))
        except PermissionError:
            return False
        except OSError:
            return True
    return True


def proc_sys() -> CheckResult:
    """Check that /proc/sys is complete and mounted read-write."""
    lacking = sysctl.lacking()
    if lacking:
        return failed_with("/proc/sys", lacking)
    if os.statvfs("/proc/sys").f_flag & os.ST_RDONLY:
        remedy = as_root("mount -o remount,rw /proc/sys") + " (in a container: run it with --privileged)"
        return failed("/proc/sys", "mounted read-only, so IPv6 cannot be switched off on a new bridge", remedy)
    return passed("/proc/sys", "mounted read-write")


def boot_id() -> Iterator[CheckResult]:
    """Yield a failure if the boot id, which gc needs, cannot be read."""
    try:
        first_seen.boot_id()
    except PreconditionError as error:
        yield failed_with("boot id", str(error))


def threads() -> CheckResult:
    """Check that this user may start as many threads as a plug needs."""
    name, enough = "threads", threading.Event()
    started = [threading.Thread(target=enough.wait, daemon=True) for _ in range(_THREADS)]
    try:
        with launch.within_limits():
            for thread in started:
                thread.start()
    except PreconditionError as error:
        return failed_with(name, str(error))
    finally:
        enough.set()
    return passed(name, f"at least {_THREADS} more can be started")


def temporary_directory() -> CheckResult:
    """Check that the socket directory of the daemon can be created."""
    name = "temporary directory"
    try:
        path = launch.private_directory()
    except PreconditionError as error:
        return failed_with(name, str(error))
    os.rmdir(path)
    return passed(name, os.path.dirname(path))


def ipv6() -> CheckResult:
    """Report if the kernel has IPv6."""
    there = os.path.exists("/proc/self/net/if_inet6")
    return info(
        "IPv6", "in the kernel" if there else "not in the kernel, so it need not be switched off on the bridges"
    )


def _sandbox() -> CheckResult:
    from hybridvif.testing.sandbox import PROMISE, SandboxError, probe

    try:
        unmet = probe()
    except (SandboxError, OSError) as error:
        return info("sandbox", f"cannot be probed: {error}")
    if unmet:
        return info("sandbox", unmet.what, unmet.remedy)
    return passed("sandbox", f"can be had, with {PROMISE}")


def _program(name: str, remedy: str) -> CheckResult:
    found = program(name)
    return passed(name, found) if found else failed(name, "not installed", remedy)
