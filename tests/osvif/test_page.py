"""docs/osvif.md, carried out as it stands."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from hybridvif import check
from hybridvif.names import names_of
from tests.functional.conftest import Lab, make_port, until
from tests.osvif.conftest import HELPER, StartNova
from tests.osvif.test_living_together import ADDITIONS, agents_words, traffic

PAGE = (Path(__file__).parents[2] / "docs" / "osvif.md").read_text(encoding="utf-8")


def block(heading: str, language: str) -> str:
    """The first block of a language under a heading."""
    (below,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return str(re.findall(rf"^```{language}\n(.*?)^```", below, re.DOTALL | re.MULTILINE)[0])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The file of the page, and beside it what a test must have of its own."""
    path = tmp_path / "nova.conf"
    text = block("Replace os-vif's hybrid path under Nova", "ini")
    text = text.replace("[hybridvif]\n", f"[hybridvif]\nlock_path = {tmp_path}/locks\n")
    path.write_text(f"{text}\n[hybridvif_privileged]\nhelper_command = {HELPER} --config-file {path}\n")
    return path


def run_lines(lab: Lab, text: str, config: Path) -> list[str]:
    """What each line of a block prints."""
    command = f"{shlex.quote(sys.executable)} -W ignore -m hybridvif"
    lines = text.replace("/etc/nova/nova.conf", str(config)).replace("hybridvif --", f"{command} --").splitlines()
    return [lab.box.run(["sh", "-c", line], check=False).stdout for line in lines]


def test_use_it_from_os_vif(lab: Lab, config: Path) -> None:
    before = lab.snapshot()
    code = block("Use it from os-vif", "python")
    plug, unplug = code.rstrip().splitlines()[-2:]
    assert (plug, unplug) == ("os_vif.plug(vif, instance)", "os_vif.unplug(vif, instance)")
    lab.box.python(code.replace(unplug, ""), "--config-file", str(config))
    assert lab.link("qbr5f2c0e1a-7b")["ifalias"] == "5f2c0e1a-7b00-4c00-8000-000000000001"
    assert lab.row("qvo5f2c0e1a-7b")["ofport"] > 0
    lab.box.python(code.replace(plug, ""), "--config-file", str(config))
    assert lab.snapshot() == before


def test_doctor_of_the_page_says_who_answers(lab: Lab, config: Path) -> None:
    (said,) = run_lines(lab, block("Replace os-vif's hybrid path under Nova", "sh"), config)
    assert "hybridvif.osvif.plugins.HybridOvsPlugin answers to 'ovs'" in said


def test_the_page_names_what_differs_from_os_vifs_plug() -> None:
    said = re.sub(r"\s+", " ", PAGE)
    assert "its id as the alias of qbr, qvb and qvo" in said
    assert "on each of the three no ARP, no IPv6 and no link-local address, and rp_filter 1" in said
    assert "on qbr a MAC address and an MTU of its own, no forward delay, no multicast snooping." in said
    assert set().union(*ADDITIONS.values()) == {
        *("ifalias", "address", "mtu", "forward_delay", "arp", "rp_filter", "disable_ipv6"),
        *("mcast_snooping", "inet6_addr_gen_mode", "external_ids:hybridvif-port-id"),
    }
    assert "its row has the port id as `external_ids:hybridvif-port-id`, too" in said


def test_move_a_running_host_over_and_back(lab: Lab, start_nova: StartNova, config: Path) -> None:
    ports = [make_port(number) for number in (1, 2, 3)]
    theirs, ours = start_nova(), start_nova(answer_to_ovs="true")
    before = lab.snapshot()
    assert all(theirs.plug(port)["ok"] for port in ports)
    lab.sh(f"ip link add {names_of('99999999-9900-4c00-8000-000000000001').bridge} type bridge")
    for name in [port.names.switch_end for port in ports]:
        lab.sh(f"ovs-vsctl set Port {name} tag=7 -- set Interface {name} other_config:a=b")
    words = agents_words(lab)
    with lab.vm(ports[0], 1) as left, lab.vm(ports[1], 2) as right:
        assert left.ping("10.0.0.2").returncode == 0
        with traffic(lab, left, right) as told:
            # A bridge that has just got a member comes up by itself, within a second.
            assert until(lambda: all(lab.link(port.names.bridge)["operstate"] == "UP" for port in ports))
            plugged = lab.snapshot()
            dry, _, _ = commands = block("Move a running host over, and back", "sh").splitlines()
            (said,) = run_lines(lab, dry, config)
            assert "Plan: 0 to create, 6 to change, 0 to delete." in said
            assert lab.snapshot() == plugged
            adopted, listed = run_lines(lab, "\n".join(commands[1:]), config)
            assert adopted.count("repaired: 2 changed\n") == 3
            assert listed.count("in-order") == 3
            assert "99999999-99" in listed
            assert all(check(port, lab.host) == () for port in ports)
            assert all(ours.plug(port) == {"ok": True} for port in ports)
            # And back.
            assert all(theirs.plug(port) == {"ok": True} for port in ports)
    assert (told["lost pings"], told["lost segments"]) == (0, 0)
    assert agents_words(lab) == words
    lab.sh(f"ip link delete {names_of('99999999-9900-4c00-8000-000000000001').bridge}")
    assert all(theirs.unplug(port) == {"ok": True} for port in ports)
    assert lab.snapshot() == before
