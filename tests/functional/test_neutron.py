"""`reconcile --from-neutron` with the real daemon: an unprivileged caller, and where the credentials go."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.functional.conftest import Lab
from tests.functional.test_posture import readable_by_all
from tests.support import fake_cloud
from tests.support.deployed import CONFIG, ETC, HELPER, PREFIX, deployed

PORT = fake_cloud.port(1)
VHOST_USER = fake_cloud.port(2, **{"binding:vif_type": "vhostuser"})
BROKEN = fake_cloud.port(3, mac_address="01:00:5e:00:00:01")
DELETED = fake_cloud.port(4)
KEY = PORT["id"][:11]
ARGUMENTS = ["reconcile", "--from-neutron", "--host", fake_cloud.HOST]
SUDO = f"sudo --non-interactive {HELPER} --config-file {CONFIG}"
# It shows what a daemon inherits, because sudo would clear the environment.
RECORDING = f"""sh -c 'env > /run/daemon-environment; exec "$0" --config-file {CONFIG} "$@"' {HELPER}"""


@pytest.fixture(scope="module")
def host() -> Iterator[Lab]:
    """A host with the files of etc, and a cloud in its network namespace."""
    with deployed() as lab, readable_by_all(lab):
        lab.sh(
            "chgrp openvswitch /run/openvswitch/db.sock; chmod 0770 /run/openvswitch/db.sock; ip link set lo up;"
            "mkdir -p /etc/sudoers.d /run/cloud"
        )
        yield lab


@pytest.fixture
def variables(host: Lab, tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """The variables of a user of the cloud, which has three ports for this host, one of them hybrid and usable."""
    (tmp_path / "ports.json").write_text(json.dumps([PORT, VHOST_USER, BROKEN]))
    program = [sys.executable, fake_cloud.__file__, str(tmp_path / "ports.json")]
    server = host.box.popen(program, stdout=subprocess.PIPE)
    assert server.stdout is not None
    url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
    names = ("OS_USERNAME", "OS_PROJECT_NAME", "OS_USER_DOMAIN_NAME", "OS_PROJECT_DOMAIN_NAME")
    yield dict.fromkeys(names, "x") | {"OS_AUTH_URL": f"{url}/identity/v3", "OS_PASSWORD": fake_cloud.PASSWORD}
    server.kill()
    server.wait(10)
    server.stdout.close()
    host.sweep()


def configure(lab: Lab, command: str) -> None:
    """Write the sample configuration with a helper_command."""
    text = (ETC / "hybridvif.conf.sample").read_text(encoding="utf-8")
    text = re.sub(r"^#helper_command = .*", lambda _: f"helper_command = {command}", text, flags=re.M)
    lab.box.run(["sh", "-ec", f"cat > {CONFIG}; chmod 0644 {CONFIG}"], input=text)


def command(
    lab: Lab, user: str, variables: Mapping[str, str], arguments: Sequence[str] = ARGUMENTS
) -> CompletedProcess[str]:
    """Run the command as a user."""
    clean = ["env", "-i", "PATH=/usr/bin:/bin", "HOME=/", *(f"{key}={value}" for key, value in variables.items())]
    become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--groups=hybridvif"]
    return lab.box.run([*become, *clean, f"{PREFIX}/bin/hybridvif", *arguments], check=False)


def test_user_nova_reconciles_with_the_cloud(host: Lab, variables: Mapping[str, str]) -> None:
    configure(host, SUDO)
    done = command(host, "nova", variables)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"warning: skipped in Neutron: port {BROKEN['id']}: .*\n", done.stderr)
    assert f"{PORT['id']}  plugged" in done.stdout
    assert f"qbr{KEY}" in host.links()
    assert host.link(f"qvo{KEY}")["mtu"] == 1450


@pytest.mark.parametrize("arguments", [ARGUMENTS, ["list"]], ids=" ".join)
def test_daemon_does_not_inherit_the_credentials(
    host: Lab, variables: Mapping[str, str], arguments: Sequence[str]
) -> None:
    configure(host, RECORDING)
    done = command(host, "root", {**variables, "OS_HYBRIDVIF__DEADLINE": "17"}, arguments)
    assert done.returncode == 0, done.stderr
    inherited = host.sh("cat /run/daemon-environment")
    assert [line for line in inherited.splitlines() if line.startswith("OS_")] == ["OS_HYBRIDVIF__DEADLINE=17"]
    assert fake_cloud.PASSWORD not in inherited


def test_prune_removes_only_ports_unknown_to_neutron(host: Lab, variables: Mapping[str, str]) -> None:
    configure(host, SUDO)
    ours = [VHOST_USER, BROKEN, DELETED]
    ports = [
        {"id": port["id"], "mac": fake_cloud.port(9)["mac_address"], "instance_id": port["device_id"]} for port in ours
    ]
    host.box.run([f"{PREFIX}/bin/hybridvif", "plug", "-F", "-"], input=json.dumps(ports))
    assert command(host, "nova", variables, [*ARGUMENTS, "--prune"]).returncode == 0
    present = host.links()
    assert [f"qbr{port['id'][:11]}" in present for port in [PORT, *ours]] == [True, True, True, False]
