"""The commands and examples of docs/osvif.md, executed."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from hybridvif import check
from hybridvif.model.names import names_of
from tests.functional.conftest import Lab, make_port, until
from tests.osvif.conftest import HELPER, StartNova
from tests.osvif.test_living_together import ADDITIONS, agent_columns, traffic

PAGE = (Path(__file__).parents[2] / "docs" / "osvif.md").read_text(encoding="utf-8")


def block(heading: str, language: str, number: int = 0) -> str:
    """Return a block of a language under a heading, by default the first."""
    (below,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return str(re.findall(rf"^```{language}\n(.*?)^```", below, re.DOTALL | re.MULTILINE)[number])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Write the configuration of the page, with the locks and the helper of the test."""
    path = tmp_path / "nova.conf"
    text = block("Replace os-vif's hybrid path under Nova", "ini")
    text = text.replace("[hybridvif]\n", f"[hybridvif]\nlock_path = {tmp_path}/locks\n")
    path.write_text(f"{text}\n[hybridvif_privileged]\nhelper_command = {HELPER} --config-file {path}\n")
    return path


def run_lines(lab: Lab, text: str, config: Path) -> list[str]:
    """Run each line of a block. Return their outputs."""
    command = f"{shlex.quote(sys.executable)} -W ignore -m hybridvif"
    lines = text.replace("/etc/nova/nova.conf", str(config)).replace("hybridvif --", f"{command} --").splitlines()
    return [lab.box.run(["sh", "-c", line], check=False).stdout for line in lines]


def test_example_of_use_from_os_vif_works(lab: Lab, config: Path) -> None:
    before = lab.snapshot()
    code = block("Use it from os-vif", "python")
    plug, unplug = code.rstrip().splitlines()[-2:]
    assert (plug, unplug) == ("os_vif.plug(vif, instance)", "os_vif.unplug(vif, instance)")
    lab.box.python(code.replace(unplug, ""), "--config-file", str(config))
    assert lab.link("qbr5f2c0e1a-7b")["ifalias"] == "5f2c0e1a-7b00-4c00-8000-000000000001"
    assert lab.row("qvo5f2c0e1a-7b")["ofport"] > 0
    lab.box.python(code.replace(plug, ""), "--config-file", str(config))
    assert lab.snapshot() == before


def test_doctor_of_page_reports_drop_in(lab: Lab, config: Path) -> None:
    (output,) = run_lines(lab, block("Replace os-vif's hybrid path under Nova", "sh"), config)
    assert "hybridvif.osvif.plugins.HybridOvsPlugin answers to 'ovs'" in output


def test_page_names_differences_from_plug_of_os_vif() -> None:
    text = re.sub(r"\s+", " ", PAGE)
    assert "qbr, qvb and qvo have the port id as their alias" in text
    assert "no ARP, no IPv6, no link-local address, and rp_filter 1" in text
    assert "qbr also has its own MAC address and MTU" in text
    assert "qbr has no forward delay, no multicast snooping and no ageing" in text
    assert set().union(*ADDITIONS.values()) == {
        *("ifalias", "address", "mtu", "forward_delay", "arp", "rp_filter", "disable_ipv6"),
        *("mcast_snooping", "inet6_addr_gen_mode", "external_ids:hybridvif-port-id"),
    }
    assert "the row also has the port id as `external_ids:hybridvif-port-id`" in text


def test_running_host_is_moved_over_and_back(lab: Lab, start_nova: StartNova, config: Path) -> None:
    ports = [make_port(number) for number in (1, 2, 3)]
    theirs, ours = start_nova(), start_nova(answer_to_ovs="true")
    before = lab.snapshot()
    assert all(theirs.plug(port)["ok"] for port in ports)
    lab.sh(f"ip link add {names_of('99999999-9900-4c00-8000-000000000001').bridge} type bridge")
    for name in [port.names.switch_end for port in ports]:
        lab.sh(f"ovs-vsctl set Port {name} tag=7 -- set Interface {name} other_config:a=b")
    columns = agent_columns(lab)
    with lab.vm(ports[0], 1) as vm, lab.vm(ports[1], 2) as peer:
        assert vm.ping("10.0.0.2").returncode == 0
        with traffic(lab, vm, peer) as counts:
            # A bridge with a new member comes up within a second.
            assert until(lambda: all(lab.link(port.names.bridge)["operstate"] == "UP" for port in ports))
            plugged = lab.snapshot()
            doctor, conflicts, _ = run_lines(lab, block("Move a running host over, and back", "sh"), config)
            assert "Nothing failed: ports can be plugged here." in doctor
            assert conflicts.count("\n") <= 1, conflicts
            dry, _, _ = commands = block("Move a running host over, and back", "sh", 1).splitlines()
            (output,) = run_lines(lab, dry, config)
            assert "Plan: 0 to create, 6 to change, 0 to delete." in output
            assert lab.snapshot() == plugged
            adopted, listed = run_lines(lab, "\n".join(commands[1:]), config)
            assert adopted.count("repaired: 2 changed\n") == 3
            assert listed.count("in-order") == 3
            assert "99999999-99" in listed
            assert all(check(port, lab.host) == () for port in ports)
            assert all(ours.plug(port) == {"ok": True} for port in ports)
            # And back.
            assert all(theirs.plug(port) == {"ok": True} for port in ports)
    assert (counts["lost pings"], counts["lost segments"]) == (0, 0)
    assert agent_columns(lab) == columns
    lab.sh(f"ip link delete {names_of('99999999-9900-4c00-8000-000000000001').bridge}")
    assert all(theirs.unplug(port) == {"ok": True} for port in ports)
    assert lab.snapshot() == before
