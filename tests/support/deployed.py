"""A sandbox with the files of etc/ installed by docs/deploy.md, and with its own /etc, /opt and /run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hybridvif.client.host import Host
from hybridvif.testing.pytest_plugin import lacking
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import Lab

ETC = Path(__file__).parents[2] / "etc"
PREFIX = "/opt/hybridvif"
CONFIG = "/etc/hybridvif/hybridvif.conf"
HELPER = f"{PREFIX}/bin/hybridvif-privsep-helper"
# A private mount namespace alone would show the caller's own /etc.
INSTALL = f"""
mkdir -p /run/etc/upper /run/etc/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work /etc
mount -t tmpfs -o mode=0755 none /opt
mkdir {PREFIX} /etc/hybridvif /etc/nova /etc/nova/rootwrap.d
mount --bind {sys.prefix} {PREFIX}
cd {ETC}
cp -r sysusers.d tmpfiles.d udev systemd /etc/
install -m 0440 -D sudoers.d/hybridvif /etc/sudoers.d/hybridvif
install -m 0644 rootwrap.d/hybridvif.filters /etc/nova/rootwrap.d/
echo 'u nova - nova' > /etc/sysusers.d/nova.conf
systemd-sysusers hybridvif.conf nova.conf
systemd-tmpfiles --create hybridvif.conf
"""


def build_wheels(directory: Path) -> None:
    """Write the wheels of hybridvif and its requirements into a directory."""
    with tempfile.TemporaryDirectory() as copy:
        # A build in the tree would leave build/ there.
        for name in ("hybridvif", "etc"):
            shutil.copytree(ETC.parent / name, Path(copy) / name)
        for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ETC.parent / name, copy)
        pip = [sys.executable, "-I", "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "wheel", "--wheel-dir", str(directory), copy], check=True, timeout=240)


def require(*programs: str) -> None:
    """Skip if one of these programs is not installed."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    missing = [program for program in programs if shutil.which(program, path=path) is None]
    if missing:
        lacking(f"{', '.join(missing)} not installed; try: apt-get install sudo udev systemd")


@contextmanager
def deployed() -> Iterator[Lab]:
    """Yield a throw-away host with all files of etc/ installed, and a user nova."""
    if os.geteuid() != 0:
        lacking("only root can install files as root's in a sandbox; run as root")
    require("sudo", "visudo", "systemd-sysusers", "systemd-tmpfiles")
    with Sandbox() as box:
        lab = Lab(box, Host.__new__(Host))
        lab.sh(INSTALL)
        yield lab
