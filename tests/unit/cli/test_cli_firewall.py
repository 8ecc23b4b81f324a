"""The checks of doctor for Neutron's hybrid firewall."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hybridvif import Bridge
from hybridvif.cli.host_checks import DRIVERS, Firewall, bridge_nf, check, find_firewall
from tests.support.strategies import BRIDGE

IN_USE, NOT_IN_USE = Firewall(True, "iptables has chains neutron-openvswi-*"), Firewall(False, "none")
UNKNOWN = Firewall(None, "this user cannot read iptables")
CALLING = replace(BRIDGE, nf_call_iptables=True, nf_call_ip6tables=True)
SILENT = replace(BRIDGE, name="qbr91d3aa02-41", nf_call_iptables=False, nf_call_ip6tables=True)


def saver(directory: Path, script: str) -> str:
    """Return the path of a program that replaces iptables-save."""
    program = directory / "saver"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


def agent_file(directory: Path, text: str) -> str:
    path = directory / "agent.ini"
    path.write_text(text)
    return str(path)


HYBRID = "[DEFAULT]\nfirewall_driver = x\n[securitygroup]\n# firewall_driver = y\nfirewall_driver = iptables_hybrid\n"
NATIVE = "[securitygroup]\nfirewall_driver=openvswitch\n"


@pytest.mark.parametrize(
    ("script", "text", "in_use"),
    [
        ("echo ':neutron-openvswi-sg-chain - [0:0]'", "", True),
        ("echo ':neutron-openvswi-FORWARD - [0:0]'; exit 1", NATIVE, True),
        ("echo ':neutron-l3-agent-FORWARD - [0:0]'", "", False),
        ("echo '-A X -m comment --comment :neutron-openvswi-x'", "", False),
        ("exit 0", HYBRID, True),
        ("exit 0", NATIVE, False),
        ("exit 4", "", None),
        ("exit 4", HYBRID, True),
        ("exit 4", NATIVE, False),
        ("exit 4", "[DEFAULT]\nfirewall_driver = iptables_hybrid\n", None),
        (
            "exit 4",
            HYBRID.replace("iptables_hybrid", DRIVERS[1]),
            True,
        ),
        ("printf '\\377\\n:neutron-openvswi-x'", "", True),
    ],
)
def test_firewall_is_found_by_chains_and_files(tmp_path: Path, script: str, text: str, in_use: bool | None) -> None:
    seen = find_firewall([agent_file(tmp_path, text), "/nowhere/agent.ini"], [saver(tmp_path, script), "no-such-saver"])
    assert seen.in_use is in_use
    assert seen.evidence


def test_firewall_without_iptables_is_unknown() -> None:
    assert find_firewall(["/nowhere"], ["no-such-saver"]).in_use is None


@pytest.mark.parametrize(
    ("values", "option", "firewall", "bridges", "verdict"),
    [
        (("0", "0"), False, IN_USE, [], "fail"),
        (("0", "0"), False, NOT_IN_USE, [], "info"),
        (("0", "0"), False, UNKNOWN, [], "info"),
        (("1", "0"), False, IN_USE, [], "fail"),
        (("0", "1"), False, IN_USE, [], "fail"),
        (("1", "1"), False, IN_USE, [SILENT], "info"),
        (("0", "0"), True, IN_USE, [], "info"),
        (("0", "0"), True, IN_USE, [CALLING], "info"),
        (("0", "0"), True, IN_USE, [CALLING, SILENT], "fail"),
        (("0", "0"), True, NOT_IN_USE, [CALLING, SILENT], "info"),
        (("0", "0"), False, IN_USE, [CALLING], "info"),
        (("0", "0"), False, IN_USE, [CALLING, SILENT], "fail"),
        ((), False, IN_USE, [], "fail"),
        ((), True, IN_USE, [], "fail"),
        ((), False, UNKNOWN, [], "info"),
    ],
)
def test_bridge_nf_off_fails_only_if_the_firewall_is_in_use(
    tmp_path: Path, values: tuple[str, ...], option: bool, firewall: Firewall, bridges: list[Bridge], verdict: str
) -> None:
    switch = tmp_path / "bridge-nf-call-iptables"
    for name, value in zip(("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"), values, strict=False):
        (tmp_path / name).write_text(f"{value}\n")
    finding = check("bridge-nf", bridge_nf, switch, option, firewall, bridges)
    assert finding.verdict == verdict, finding
    assert verdict == "info" or finding.remedy
    if verdict == "fail":
        assert IN_USE.evidence in finding.text
    if firewall is UNKNOWN:
        assert UNKNOWN.evidence in finding.text
    if verdict == "fail" and bridges and option:
        assert "1 of 2 qbr" in finding.text
        assert SILENT.name in finding.text
