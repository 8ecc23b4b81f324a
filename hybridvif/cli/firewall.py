"""What doctor can see of Neutron's hybrid firewall: whether it is in use, and whether a qbr has iptables called.

Its rules match on tap and qvb, so they hold only where the Linux bridge calls iptables. Neutron's agent does not see to
that: it only logs a warning (neutron/agent/linux/iptables_firewall.py, _check_netfilter_for_bridges).
"""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from hybridvif.cli.check_result import CheckResult, failed, info
from hybridvif.model.parts import Bridge
from hybridvif.model.text import shown
from hybridvif.testing.sandbox.missing import as_root, program

BRIDGE_NF = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
CHAINS = ":neutron-openvswi-"
"""What the line of a chain of the agent's begins with in the output of iptables-save(8)."""
SAVERS = ("iptables-save", "iptables-nft-save", "iptables-legacy-save")
AGENT_FILES = (
    "/etc/neutron/plugins/ml2/openvswitch_agent.ini",
    "/etc/neutron/plugins/ml2/ml2_conf.ini",
    "/etc/neutron/neutron.conf",
)
"""Where packages have the configuration of the agent."""
DRIVERS = ("iptables_hybrid", "neutron.agent.linux.iptables_firewall.OVSHybridIptablesFirewallDriver")
_PATIENCE = 5.0


class Firewall(NamedTuple):
    """Whether Neutron's hybrid firewall is in use on this host."""

    in_use: bool | None
    """None: it cannot be seen."""
    evidence: str = ""
    """Half a sentence."""


UNSEEN = Firewall(None)


def seen_firewall(files: Iterable[str] = AGENT_FILES, savers: Iterable[str] = SAVERS) -> Firewall:
    """Return what iptables, and the files of the agent, tell this user of the firewall."""
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
    switch: Path, call_iptables: bool, firewall: Firewall = UNSEEN, bridges: Collection[Bridge] = ()
) -> CheckResult:
    """Return whether iptables sees what crosses a qbr.

    switch: the sysctl; call_iptables: the option, which needs none; bridges: each qbr there is.
    """
    name = "bridge-nf"
    tell = failed if firewall.in_use else info
    # What is not known is said; a firewall that is not in use needs nothing.
    about = f" ({firewall.evidence})" if firewall.evidence else ""
    try:
        value = switch.read_text(encoding="ascii").strip()
    except OSError:
        text = "br_netfilter is not loaded, so iptables does not see what crosses a qbr (security groups need it)"
        return tell(name, f"{text}{about}", as_root("modprobe br_netfilter"))
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
        return tell(name, f"{text}{about}", "plug those ports again: hybridvif plug, or restart nova-compute")
    text = (
        f"{' and '.join(off)} {'is' if len(off) == 1 else 'are'} {value if switch.name in off else 0}, and "
        "call_iptables is not set: iptables does not see all of what crosses a qbr, "
        "so security groups silently do not apply under Neutron's hybrid firewall"
    )
    values = " ".join(f"net.bridge.{item}=1" for item in off)
    return tell(name, f"{text}{about}", as_root(f"sysctl -w {values}"))


def _has_chains(savers: Iterable[str]) -> bool | None:
    """Return whether iptables has a chain of the agent's; None if this user cannot see all of it."""
    paths = [path for name in savers if (path := program(name))]
    unknown = not paths
    for path in paths:
        try:
            done = subprocess.run([path], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE, check=False)
        except (OSError, subprocess.TimeoutExpired):
            unknown = True
            continue
        if any(line.startswith(CHAINS.encode()) for line in done.stdout.split(b"\n")):
            return True
        unknown |= done.returncode != 0
    return None if unknown else False


def _drivers(files: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the files of the agent that set a driver, each with the driver."""
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
