"""doctor on a host with chains of Neutron's hybrid firewall, created by iptables itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from hybridvif.testing.pytest_plugin import lacking
from hybridvif.testing.sandbox.box import Sandbox
from hybridvif.testing.sandbox.missing import program

CODE = """
import json, sys
from hybridvif.cli.commands.doctor import findings
print(json.dumps([one._asdict() for one in findings(sys.argv[1:]) if one.name == "bridge-nf"]))
"""


@pytest.fixture
def box() -> Iterator[Sandbox]:
    """A host whose bridges do not call iptables."""
    if program("iptables") is None:
        lacking("iptables is not installed; try: apt-get install iptables")
    with Sandbox() as made:
        if made.run(["test", "-e", "/proc/sys/net/bridge"], check=False).returncode:
            lacking("br_netfilter is not loaded; try: modprobe br_netfilter")
        made.run(["sh", "-ec", "for f in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do echo 0 > $f; done"])
        yield made


def verdict(box: Sandbox) -> tuple[str, str]:
    (finding,) = json.loads(box.run([sys.executable, "-c", CODE]).stdout)
    return finding["verdict"], finding["text"]


@pytest.mark.parametrize("tool", ["iptables-nft", "iptables-legacy"])
def test_chains_of_the_agent_make_a_silent_bridge_a_failure(box: Sandbox, tool: str) -> None:
    assert verdict(box)[0] == "info"
    if box.run([tool, "-N", "neutron-openvswi-sg-chain"], check=False).returncode:
        lacking(f"{tool} makes no chains here")
    finding = verdict(box)
    assert finding[0] == "fail"
    assert "iptables has chains neutron-openvswi-*" in finding[1]
    box.run(["sh", "-ec", "for f in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do echo 1 > $f; done"])
    assert verdict(box)[0] == "info"
