"""The image of deploy/container, built by buildah and started by kolla's own scripts in a throw-away host.

Not in the gate: it downloads a Debian and kolla. As root, with buildah and mmdebstrap installed:

    .venv/bin/python -P -m pytest -p no:cacheprovider tests/deploy/test_container.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridvif.client.host import Host
from hybridvif.testing.pytest_plugin import lacking
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import Lab, make_port
from tests.support.deployed import CONFIG, HELPER, build_wheels, require

ROOT = Path(__file__).parents[2]
CONTAINER = ROOT / "deploy" / "container"
PORT = make_port()
PIP = [sys.executable, "-I", "-m", "pip", "--quiet", "--disable-pip-version-check"]
PACKAGES = "--include=ca-certificates,python3-venv,python3-yaml,sudo"
USERS = {"kolla": 42400, "nova": 42436, "openvswitch": 42476}
"""Users of kolla's base image (kolla/common/users.py)."""
SCRIPTS = {
    "set_configs.py": "kolla_set_configs",
    "start.sh": "kolla_start",
    "copy_cacerts.sh": "kolla_copy_cacerts",
    "install_projects.sh": "kolla_install_projects",
}
CONFIGURATION = f"""
[hybridvif]
deadline = 20
[hybridvif_privileged]
helper_command = sudo --non-interactive {HELPER} --config-file {CONFIG}
user = hybridvif
group = openvswitch
"""
MOUNTS = """
for name in proc sys dev; do mount --rbind /$name {root}/$name; done
mount -t tmpfs none {root}/run; mount -t tmpfs -o mode=1777 none {root}/tmp
mkdir -p {root}/run/openvswitch {root}/run/lock/hybridvif
mount --bind /run/openvswitch {root}/run/openvswitch
chgrp 42476 /run/openvswitch/db.sock; chmod 0770 /run/openvswitch/db.sock; chmod o+x /run/openvswitch
"""


class Images:
    """The images of buildah in a directory of ours."""

    def __init__(self, directory: Path) -> None:
        self._storage = ["--root", str(directory / "root"), "--runroot", str(directory / "run"), "--storage-driver=vfs"]

    def do(self, verb: str, *words: str) -> str:
        """Run a command of buildah."""
        environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
        argv = ["buildah", *self._storage, verb, *words]
        return subprocess.run(
            argv, check=True, stdout=subprocess.PIPE, text=True, timeout=400, env=environment
        ).stdout.strip()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    """A base image like that of kolla: Debian with kolla's scripts and users."""
    if os.geteuid() != 0:
        lacking("an image is built and mounted; run as root")
    require("buildah", "mmdebstrap")
    directory = tmp_path_factory.mktemp("images")
    archive = str(directory / "base.tar")
    subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", PACKAGES, "bookworm", archive], check=True)
    subprocess.run([*PIP, "install", "--no-deps", "--target", str(directory / "kolla"), "kolla"], check=True)
    files = next((directory / "kolla").rglob("docker/base/set_configs.py")).parent
    images = Images(directory)
    base = images.do("from", "scratch")
    images.do("add", base, archive, "/")
    for name, installed in SCRIPTS.items():
        images.do("copy", "--chmod=0755", base, str(files / name), f"/usr/local/bin/{installed}")
    images.do("copy", "--chmod=0440", base, str(files / "sudoers"), "/etc/sudoers")
    users = "; ".join(
        f"groupadd --force --gid {number} {name}; useradd -l -M --uid {number} --gid {number} {name}"
        for name, number in USERS.items()
    )
    images.do("run", base, "--", "sh", "-ec", f"{users}; touch /usr/local/bin/kolla_extend_start")
    images.do("commit", "--rm", base, "base")
    yield images
    images.do("rm", "--all")


def test_container_plugs_the_ports_of_a_host(images: Images, tmp_path: Path) -> None:
    context = tmp_path / "context"
    (context / "packages").mkdir(parents=True)
    build_wheels(context / "packages")
    recipe = ["--file", str(CONTAINER / "Containerfile"), "--tag", "hybridvif"]
    images.do("build", "--build-arg", "BASE=localhost/base", "--build-arg", "PIP_NO_INDEX=1", *recipe, str(context))
    root = images.do("mount", images.do("from", "localhost/hybridvif"))
    files = Path(root) / "var/lib/kolla/config_files"
    files.mkdir(parents=True)
    (files / "config.json").write_bytes((CONTAINER / "config.json").read_bytes())
    (files / "hybridvif.conf").write_text(CONFIGURATION)
    (files / "ports.yaml").write_text(json.dumps([{"id": PORT.id, "mac": PORT.mac, "instance_id": PORT.instance_id}]))
    with Sandbox() as box:
        lab = Lab(box, Host.__new__(Host))
        lab.sh(MOUNTS.format(root=root))
        user = ["chroot", "--userspec=nova:nova", "--groups=hybridvif,kolla", root]
        variables = ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "KOLLA_CONFIG_STRATEGY=COPY_ALWAYS"]
        # chroot stands in for the runtime: it sets the user of the image, and its groups.
        start = [*user, "env", "-i", "HOME=/", *variables, "kolla_start"]
        for result in ("plugged", "was in order, nothing written"):
            done = box.run(start, check=False)
            assert done.returncode == 0, done.stderr
            assert f"{PORT.id}  {result}" in done.stdout
        assert PORT.names.bridge in lab.links()
        assert lab.sh(f"stat --format='%a %U %g' {root}/run/lock/hybridvif").split() == ["2770", "root", "42390"]
