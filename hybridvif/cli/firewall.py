"""The checks of doctor for Neutron's hybrid firewall: if it is in use, each qbr must call iptables.

The firewall rules match on tap and qvb, so they need a Linux bridge that calls iptables. Neutron's agent only logs
a warning if it does not (neutron/agent/linux/iptables_firewall.py, _check_netfilter_for_bridges).
"""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from hybridvif.cli.check_result import CheckResult, failed, info
from hybridvif.model.errors import shown
from hybridvif.model.parts import Bridge
from hybridvif.testing.sandbox.missing import as_root, program

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
_TIMEOUT = 5.0


class Firewall(NamedTuple):
    """The use of Neutron's hybrid firewall on this host."""

    in_use: bool | None
    """None: unknown."""
    evidence: str = ""
    """The reason, as a clause."""


UNKNOWN_FIREWALL = Firewall(None)


def find_firewall(files: Iterable[str] = AGENT_FILES, savers: Iterable[str] = SAVERS) -> Firewall:
    """Look for the firewall in iptables and in the configuration files of the agent."""
    chains = _has_chains(savers)
    if chains:
        return Firewall(True, f"iptables has chains {CHAINS[1:]}*")
    drivers = list(_drivers(files))
    for path, driver in drivers:
        if driver in DRIVERS:
            return Firewall(True, f"{path} has firewall_driver = {driver}")
    if chains is not None:
        return Firewall(False, f"iptables has no chains {CHAINS[1:]}*")
    for path, driver in drivers:
        return Firewall(False, f"{path} has firewall_driver = {shown(driver)}")
    return Firewall(None, "this user cannot read iptables, nor a file of Neutron's agent; run doctor as root")


def bridge_nf(
    switch: Path, call_iptables: bool, firewall: Firewall = UNKNOWN_FIREWALL, bridges: Collection[Bridge] = ()
) -> CheckResult:
    """Check that each qbr calls iptables.

    switch: the sysctl. call_iptables: the option, which replaces the sysctl. bridges: each qbr.
    """
    name = "bridge-nf"
    result = failed if firewall.in_use else info
    # Only a firewall that is in use needs the calls. The evidence is reported in any case.
    about = f" ({firewall.evidence})" if firewall.evidence else ""
    try:
        value = switch.read_text(encoding="ascii").strip()
    except OSError:
        text = "br_netfilter is not loaded, so iptables does not see what crosses a qbr (security groups need it)"
        return result(name, f"{text}{about}", as_root("modprobe br_netfilter"))
    version6 = switch.with_name("bridge-nf-call-ip6tables")
    off = [
        item.name for item in (switch, version6) if item.is_file() and item.read_text(encoding="ascii").strip() != "1"
    ]
    if not off:
        return info(name, "bridge-nf-call-iptables is 1: iptables sees what crosses a qbr, as security groups need")
    silent = sorted(item.name for item in bridges if not (item.nf_call_iptables and item.nf_call_ip6tables))
    if (call_iptables or bridges) and not silent:
        how = "call_iptables" if call_iptables else "nf_call_iptables"
        return info(name, f"bridge-nf-call-iptables is {value}, and each qbr calls iptables by itself ({how})")
    if call_iptables:
        text = (
            f"call_iptables is set, and {len(silent)} of {len(bridges)} qbr do not call iptables yet, such as "
            f"{silent[0]}: security groups silently do not apply there under Neutron's hybrid firewall"
        )
        return result(name, f"{text}{about}", "plug those ports again: hybridvif plug, or restart nova-compute")
    text = (
        f"{' and '.join(off)} {'is' if len(off) == 1 else 'are'} {value if switch.name in off else 0}, and "
        "call_iptables is not set: iptables does not see all of what crosses a qbr, "
        "so security groups silently do not apply under Neutron's hybrid firewall"
    )
    values = " ".join(f"net.bridge.{item}=1" for item in off)
    return result(name, f"{text}{about}", as_root(f"sysctl -w {values}"))


def _has_chains(savers: Iterable[str]) -> bool | None:
    """Return True if iptables has a chain of the agent; None if this user cannot read all tables."""
    paths = [path for name in savers if (path := program(name))]
    unknown = not paths
    for path in paths:
        try:
            done = subprocess.run([path], stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT, check=False)
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
        section, driver = "", ""
        try:
            lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            continue
        for line in lines:
            text = line.strip()
            if text.startswith("[") and text.endswith("]"):
                section = text[1:-1].strip().lower()
            key, equals, value = text.partition("=")
            if equals and section == "securitygroup" and key.strip() == "firewall_driver":
                driver = value.strip().strip("\"'")
        if driver:
            yield path, driver
