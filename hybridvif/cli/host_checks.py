"""The checks of doctor that need no daemon: Python, programs, capabilities, the kernel, /proc/sys and the firewall.

The rules of Neutron's hybrid firewall match on tap and qvb, so each qbr must call iptables if it is in use. Neutron's
agent only logs a warning if it does not (neutron/agent/linux/iptables_firewall.py, _check_netfilter_for_bridges).
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from configparser import ConfigParser, Error as ConfigError
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

from hybridvif.executors.netlink import sysctl
from hybridvif.model.errors import HybridVifError, shown
from hybridvif.model.parts import Bridge
from hybridvif.privileged import launch
from hybridvif.testing.sandbox.launch import PROMISE, probe
from hybridvif.testing.sandbox.missing import SandboxError, as_root, program

PASS, FAIL, INFO = "pass", "fail", "info"
"""The verdicts. INFO has no effect on plug."""
Verdict = tuple[str, ...]
"""The verdict, the text, and optionally the command that fixes it."""
BRIDGE_NF = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
CHAINS = ":neutron-openvswi-"
"""The prefix of the agent's chains in the output of iptables-save(8)."""
SAVERS = ("iptables-save", "iptables-nft-save", "iptables-legacy-save")
AGENT_FILES = (
    "/etc/neutron/plugins/ml2/openvswitch_agent.ini",
    "/etc/neutron/plugins/ml2/ml2_conf.ini",
    "/etc/neutron/neutron.conf",
)
"""The configuration files of the agent in distribution packages."""
DRIVERS = ("iptables_hybrid", "neutron.agent.linux.iptables_firewall.OVSHybridIptablesFirewallDriver")
_SAVE_TIMEOUT = 5.0
_CAP_NET_ADMIN = 1 << 12
_NS_GET_USERNS = 0xB701
_HELPER = "hybridvif-privsep-helper"
_THREADS = 7
_KINDS = {"bridge": "br_dev_setup", "veth": "veth_setup"}
"""Link kinds, each with a kernel function that implements it."""


class CheckResult(NamedTuple):
    """The result of one check."""

    name: str
    verdict: str
    text: str
    remedy: str = ""


def check(name: str, probe: Callable[..., Verdict], *arguments: object) -> CheckResult:
    """Run a probe. An error fails the check."""
    try:
        return CheckResult(name, *probe(*arguments))
    except HybridVifError as error:
        return CheckResult(name, FAIL, *fact_and_remedy(str(error)))


def fact_and_remedy(sentence: str) -> tuple[str, str]:
    """Split an error message "fact; remedy"."""
    fact, _, remedy = sentence.partition("; ")
    return fact, remedy


def host_findings(call_iptables: bool, bridges: Collection[Bridge]) -> Iterator[CheckResult]:
    """Run all checks of this module. call_iptables: the option. bridges: each qbr."""
    from hybridvif.engine import locks

    yield check("libraries", libraries)
    yield check("CAP_NET_ADMIN", capability)
    for kind in _KINDS:
        yield check(f"kernel: {kind}", kernel_kind, kind)
    yield check("/proc/sys", proc_sys)
    yield check("temporary directory", temporary_directory)
    yield check("threads", threads)
    if not sysctl.lacking():
        yield check("bridge-nf", bridge_nf, BRIDGE_NF, call_iptables, find_firewall(), bridges)
    boot_id = check("boot id", lambda: (PASS, locks.boot_id()))
    if boot_id.verdict == FAIL:
        yield boot_id
    yield check("sandbox", _sandbox)


def helper_findings(helper_command: str | None) -> Iterator[CheckResult]:
    """Check the programs that start the daemon. helper_command: the configured one, or None."""
    if helper_command:
        yield check(name := helper_command.split()[0], _program, name, "[hybridvif_privileged] helper_command names it")
        return
    beside = os.path.join(os.path.dirname(sys.executable), _HELPER)
    if os.path.exists(beside):
        yield CheckResult(_HELPER, PASS, beside)
    elif os.geteuid() != 0:
        yield check(_HELPER, _program, _HELPER, f"{sys.executable} -P -m pip install hybridvif")
    if os.geteuid() != 0:
        remedy = "run as root, or install sudo, or set [hybridvif_privileged] helper_command"
        yield check("sudo", _program, "sudo", remedy)


def _program(name: str, remedy: str) -> Verdict:
    return (PASS, path) if (path := program(name)) else (FAIL, "not installed", remedy)


def libraries() -> Verdict:
    """Report the version of Python, and check that the libraries that hybridvif requires are installed."""
    try:
        requirements = requires("hybridvif") or ()
    except PackageNotFoundError:
        return INFO, "unknown, because hybridvif runs from a checkout and is not installed"
    installed, missing = [f"Python {platform.python_version()} ({sys.executable})"], []
    for text in requirements:
        library = re.split("[^A-Za-z0-9._-]", text)[0]
        try:
            installed += [] if "extra ==" in text else [f"{library} {version(library)}"]
        except PackageNotFoundError:
            missing.append(library)
    if missing:
        command = f"{sys.executable} -P -m pip install {' '.join(missing)}"
        return FAIL, f"not installed: {', '.join(missing)}", command
    return PASS, ", ".join(installed)


def capability() -> Verdict:
    """Check that this process has CAP_NET_ADMIN in its network namespace."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    container = "docker run --cap-add NET_ADMIN ... (or podman), or run it outside of the container"
    if not int(status["CapBnd"], 16) & _CAP_NET_ADMIN:
        return FAIL, "no process here can ever have it (it is not in the bounding set)", container
    if not int(status["CapEff"], 16) & _CAP_NET_ADMIN:
        if os.geteuid() == 0:
            return FAIL, "root does not have it", container
        return INFO, "this user does not have it; the privileged daemon gets it from sudo or the helper command"
    if not _owns_network():
        remedy = "unshare --user --map-root-user --net, or run as the real root"
        return FAIL, "held, but not over this network namespace, which another user namespace owns", remedy
    return PASS, "held, over this network namespace"


def _owns_network() -> bool:
    """Return True if our user namespace, or one below it, owns the network namespace."""
    with open("/proc/self/ns/net", "rb") as network:
        try:
            os.close(fcntl.ioctl(network, _NS_GET_USERNS))
        except OSError as error:
            return not isinstance(error, PermissionError)
    return True


def kernel_kind(kind: str) -> Verdict:
    """Check that the kernel has a kind of link."""
    if _KINDS[kind] in kernel_symbols():
        return PASS, "there"
    if module_file(kind):
        return PASS, "a module, loaded on first use"
    if kernel_symbols():
        text = f"the kernel {platform.release()} lacks it, and its module is not installed"
        return FAIL, text, as_root(f"modprobe {kind}")
    return INFO, "unknown until one is created, as by `hybridvif demo`"


@cache
def kernel_symbols() -> set[str]:
    """Return the functions of link kinds and Open vSwitch in the running kernel; empty if they are hidden."""
    wanted = {*_KINDS.values(), "ovs_dp_cmd_new", "kernel_clone"}
    try:
        with open("/proc/kallsyms", encoding="ascii", errors="replace") as symbols:
            return wanted.intersection(line.split(maxsplit=3)[2].strip() for line in symbols)
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


def proc_sys() -> Verdict:
    """Check that /proc/sys is complete and mounted read-write."""
    if lacking := sysctl.lacking():
        return FAIL, *fact_and_remedy(lacking)
    if os.statvfs("/proc/sys").f_flag & os.ST_RDONLY:
        remedy = as_root("mount -o remount,rw /proc/sys") + " (in a container: run it with --privileged)"
        return FAIL, "mounted read-only, so IPv6 cannot be switched off on a new bridge", remedy
    return PASS, "mounted read-write"


def threads() -> Verdict:
    """Check that this user may start as many threads as a plug needs. Raises PreconditionError."""
    enough = threading.Event()
    try:
        with launch.within_limits():
            for _ in range(_THREADS):
                threading.Thread(target=enough.wait, daemon=True).start()
    finally:
        enough.set()
    return PASS, f"at least {_THREADS} more can be started"


def temporary_directory() -> Verdict:
    """Check that the socket directory of the daemon can be created. Raises PreconditionError."""
    path = launch.private_directory()
    os.rmdir(path)
    return PASS, os.path.dirname(path)


def _sandbox() -> Verdict:
    try:
        unmet = probe()
    except (SandboxError, OSError) as error:
        return INFO, f"cannot be probed: {error}"
    return (INFO, unmet.what, unmet.remedy) if unmet else (PASS, f"can be had, with {PROMISE}")


class Firewall(NamedTuple):
    """The use of Neutron's hybrid firewall on this host."""

    in_use: bool | None
    """None: unknown."""
    evidence: str
    """The reason, as a clause."""


def find_firewall(files: Iterable[str] = AGENT_FILES, savers: Iterable[str] = SAVERS) -> Firewall:
    """Look for the firewall in iptables and in the configuration files of the agent."""
    chains = _has_chains(savers)
    if chains:
        return Firewall(True, f"iptables has chains {CHAINS[1:]}*")
    # A file with the hybrid driver counts, before the first one with another driver.
    drivers = sorted(_drivers(files), key=lambda driver: driver[1] not in DRIVERS)
    for path, driver in drivers:
        if driver in DRIVERS or chains is None:
            return Firewall(driver in DRIVERS, f"{path} has firewall_driver = {shown(driver)}")
    if chains is not None:
        return Firewall(False, f"iptables has no chains {CHAINS[1:]}*")
    return Firewall(None, "this user cannot read iptables, nor a file of Neutron's agent; run doctor as root")


def _has_chains(savers: Iterable[str]) -> bool | None:
    """Return True if iptables has a chain of the agent; None if this user cannot read all tables."""
    paths = [path for name in savers if (path := program(name))]
    unknown = not paths
    for path in paths:
        try:
            done = subprocess.run(
                [path], stdin=subprocess.DEVNULL, capture_output=True, timeout=_SAVE_TIMEOUT, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            unknown = True
            continue
        if any(line.startswith(CHAINS.encode()) for line in done.stdout.split(b"\n")):
            return True
        unknown |= done.returncode != 0
    return None if unknown else False


def _drivers(files: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield (path, driver) for each configuration file that sets firewall_driver."""
    for path in files:
        # No section lends its options to others, as in oslo.config.
        parser = ConfigParser(strict=False, interpolation=None, allow_no_value=True, default_section="")
        try:
            parser.read_string(Path(path).read_text(encoding="utf-8", errors="replace"))
        except (OSError, ConfigError):
            continue
        driver = parser.get("securitygroup", "firewall_driver", fallback=None)
        if driver:
            yield path, driver.strip("\"'")


def bridge_nf(switch: Path, call_iptables: bool, firewall: Firewall, bridges: Collection[Bridge]) -> Verdict:
    """Check that each qbr calls iptables.

    switch: the sysctl. call_iptables: the option, which replaces the sysctl. bridges: each qbr.
    """
    # Only a firewall that is in use needs the calls. The evidence is reported in any case.
    verdict = FAIL if firewall.in_use else INFO
    about = f" ({firewall.evidence})"
    if not switch.is_file():
        text = "br_netfilter is not loaded, so iptables does not see what crosses a qbr (security groups need it)"
        return verdict, f"{text}{about}", as_root("modprobe br_netfilter")
    both = (switch, switch.with_name("bridge-nf-call-ip6tables"))
    values = {item.name: item.read_text(encoding="ascii").strip() for item in both if item.is_file()}
    off = {item: value for item, value in values.items() if value != "1"}
    if not off:
        return INFO, "bridge-nf-call-iptables is 1: iptables sees what crosses a qbr, as security groups need"
    silent = sorted(item.name for item in bridges if not (item.nf_call_iptables and item.nf_call_ip6tables))
    if (call_iptables or bridges) and not silent:
        how = "call_iptables" if call_iptables else "nf_call_iptables"
        return INFO, f"bridge-nf-call-iptables is {values[switch.name]}, and each qbr calls iptables by itself ({how})"
    if call_iptables:
        text = (
            f"call_iptables is set, and {len(silent)} of {len(bridges)} qbr do not call iptables yet, such as "
            f"{silent[0]}: security groups silently do not apply there under Neutron's hybrid firewall"
        )
        return verdict, f"{text}{about}", "plug those ports again: hybridvif plug, or restart nova-compute"
    text = (
        f"{' and '.join(off)} {'is' if len(off) == 1 else 'are'} {next(iter(off.values()))}, and call_iptables is not "
        "set: iptables does not see all of what crosses a qbr, "
        "so security groups silently do not apply under Neutron's hybrid firewall"
    )
    sysctls = " ".join(f"net.bridge.{item}=1" for item in off)
    return verdict, f"{text}{about}", as_root(f"sysctl -w {sysctls}")
