"""The role of deploy/ansible, run by ansible-core against two throw-away hosts with their own /etc, /opt and /run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hybridvif.client.host import Host
from hybridvif.testing.pytest_plugin import lacking
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import Lab, make_port
from tests.functional.test_posture import readable_by_all
from tests.support.deployed import PREFIX, build_wheels, require

ROOT = Path(__file__).parents[2]
PLAYBOOK = ROOT / "deploy" / "ansible" / "hypervisors.yml"
BIN = Path(sys.prefix) / "bin"
PORT = make_port()
HOSTS = ("compute1", "compute2")
# The user nova is there before the role, as on a hypervisor.
HOST = """
mkdir -p /run/etc/upper /run/etc/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work /etc
mount -t tmpfs -o mode=0755 none /opt
mkdir -p /etc/sysusers.d; echo 'u nova - nova' > /etc/sysusers.d/nova.conf; systemd-sysusers nova.conf
chmod 0750 /run/openvswitch
"""
SSH = """#!/bin/sh
# Stand-in for ssh: the last argument is the command, the one before it the host. Ansible's own connection calls it.
for word; do host=$command command=$word; done
exec {directory}/enter-$host sh -c "$command"
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Lab]]:
    """Two hosts with Open vSwitch and a user nova. The second one has the package already."""
    if os.geteuid() != 0:
        lacking("only root can install files as root's in a sandbox; run as root")
    require("sudo", "visudo", "systemd-sysusers", "systemd-tmpfiles")
    with ExitStack() as stack:
        labs = [Lab(stack.enter_context(Sandbox()), Host.__new__(Host)) for _ in HOSTS]
        for lab in labs:
            lab.sh(HOST)
            stack.enter_context(readable_by_all(lab))
        labs[1].sh(f"mkdir {PREFIX}; mount --bind {sys.prefix} {PREFIX}")
        yield labs


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheels of hybridvif and its requirements: the hosts have no network."""
    directory = tmp_path_factory.mktemp("wheels")
    build_wheels(directory)
    return directory


class Ansible:
    """Runs of the playbook against the hosts."""

    def __init__(self, directory: Path, hosts: list[Lab], wheels: Path) -> None:
        self.directory = directory
        ssh = self._write("ssh", SSH.format(directory=directory))
        for name, lab in zip(HOSTS, hosts, strict=True):
            self._write(f"enter-{name}", f'#!/bin/sh\nexec {shlex.join(lab.box.entering([]))} "$@"\n')
        variables = {
            "ansible_ssh_executable": str(ssh),
            "ansible_pipelining": True,
            "ansible_ssh_transfer_method": "piped",
            "ansible_remote_tmp": "/run/ansible",
            "ansible_become": False,
            "ansible_python_interpreter": sys.executable,
            "hybridvif_python": sys.executable,
            "hybridvif_pip_environment": {"PIP_NO_INDEX": "1", "PIP_NO_COMPILE": "1", "PIP_FIND_LINKS": str(wheels)},
            "hybridvif_manage_services": False,
            "hybridvif_options": {"deadline": 10},
            "hybridvif_ports": [{"id": PORT.id, "mac": PORT.mac, "instance_id": PORT.instance_id}],
        }
        inventory = {"all": {"hosts": {name: {} for name in HOSTS}, "vars": variables}}
        self.inventory = self._write("inventory.json", json.dumps(inventory))

    def _write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def play(self, *words: str) -> dict[str, dict[str, int]]:
        """Run the playbook and return the counts of each host. Fail if a task fails."""
        argv = [str(BIN / "ansible-playbook"), "-i", str(self.inventory), *words, str(PLAYBOOK)]
        own = {"ANSIBLE_HOME": str(self.directory / "home"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "0"}
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, **own, "LC_ALL": "C.UTF-8"},
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        recap = {}
        for line in done.stdout.partition("PLAY RECAP")[2].splitlines()[1:]:
            if counts := re.findall(r"(\w+)=(\d+)", line):
                recap[line.split()[0]] = {name: int(count) for name, count in counts}
        assert recap, done.stdout
        return recap


@pytest.fixture(scope="module")
def ansible(hosts: list[Lab], wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Ansible:
    return Ansible(tmp_path_factory.mktemp("ansible"), hosts, wheels)


@pytest.fixture(scope="module")
def recaps(ansible: Ansible, hosts: list[Lab]) -> list[Any]:
    """The counts of three runs: in check mode on the first host, then twice on both."""
    before = snapshot(hosts[0])
    preview = ansible.play("--check", "--limit", HOSTS[0])
    assert snapshot(hosts[0]) == before
    return [preview, ansible.play(), ansible.play()]


def snapshot(lab: Lab) -> str:
    """Return what a host has of its own in /etc, /opt and /run."""
    return lab.sh("find /run/etc/upper /opt /run/lock -xdev -printf '%p %m %u %g %s %T@\\n' | sort")


def test_check_mode_announces_changes_and_makes_none(recaps: list[Any]) -> None:
    assert recaps[0][HOSTS[0]]["changed"] > 5


def test_second_run_changes_nothing(recaps: list[Any]) -> None:
    _, first, second = recaps
    assert all(counts["changed"] > 5 for counts in first.values())
    assert {name: counts["changed"] for name, counts in second.items()} == dict.fromkeys(HOSTS, 0)


def as_nova(lab: Lab, *argv: str) -> subprocess.CompletedProcess[str]:
    clean = ["env", "-i", "PATH=/usr/bin:/bin", "HOME=/"]
    return lab.box.run(["setpriv", "--reuid=nova", "--regid=nova", "--groups=hybridvif", *clean, *argv], check=False)


def test_caller_plugs_and_unplugs_on_each_host(recaps: list[Any], hosts: list[Lab]) -> None:
    for lab in hosts:
        options = ["--mac", PORT.mac, "--instance", PORT.instance_id]
        for words in (["plug", PORT.id, *options], ["unplug", PORT.id]):
            done = as_nova(lab, f"{PREFIX}/bin/hybridvif", *words)
            assert done.returncode == 0, done.stderr
            assert (PORT.names.bridge in lab.links()) is (words[0] == "plug")


def test_files_are_installed_as_on_the_page_for_deployers(recaps: list[Any], hosts: list[Lab]) -> None:
    for lab in hosts:
        assert lab.sh("visudo --check --file=/etc/sudoers.d/hybridvif").endswith("parsed OK\n")
        assert lab.sh("stat -c '%a %U' /etc/sudoers.d/hybridvif").split() == ["440", "root"]
        assert lab.sh("stat -c '%a %U %G' /run/lock/hybridvif").split() == ["2770", "root", "hybridvif"]
        assert lab.sh("stat -c '%a %G' /run/openvswitch/db.sock").split() == ["770", "openvswitch"]
        assert lab.sh("cat /etc/sudoers.d/hybridvif") == (ROOT / "etc/sudoers.d/hybridvif").read_text()
        done = lab.box.run(["systemd-analyze", "verify", "/etc/systemd/system/hybridvif-reconcile.service"])
        assert done.stdout + done.stderr == ""
        # The command of the unit, with the file that the role wrote.
        unit = lab.sh("grep ^ExecStart= /etc/systemd/system/hybridvif-reconcile.service").strip().partition("=")[2]
        lab.sh(f"OS_HYBRIDVIF_PRIVILEGED__HELPER_COMMAND= PATH=/opt/hybridvif/bin:$PATH {unit}")
        assert PORT.names.bridge in lab.links()
        lab.sweep()
