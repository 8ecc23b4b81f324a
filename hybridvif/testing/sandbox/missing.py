"""The requirements of a sandbox that this host does not meet, each with the exact command that provides it."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hybridvif.model.errors import PreconditionError

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The directories of system programs. On Debian, the PATH of ordinary users lacks the sbin directories."""
SWITCH_PROGRAMS = ("ovsdb-tool", "ovsdb-server", "ovs-vsctl", "ovs-vswitchd")
TUN = "/dev/net/tun"

_SCHEMAS = ("/usr/share/openvswitch/vswitch.ovsschema", "/usr/local/share/openvswitch/vswitch.ovsschema")
_SYSCTLS = (
    ("kernel.unprivileged_userns_clone", "0", "1", True),  # Debian up to 10, hardened kernels
    ("user.max_user_namespaces", "0", "15000", True),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0", False),  # Ubuntu from 23.10 on
)
_INSTALLERS = (
    ("apt-get", "apt-get install --no-install-recommends"),
    ("dnf", "dnf install"),
    ("zypper", "zypper install"),
)
_SWITCH_PACKAGES = {"apt-get": "openvswitch-switch", "": "openvswitch"}
_VM_PACKAGES = {"apt-get": "iproute2 iputils-ping util-linux", "": "iproute iputils util-linux"}


class Requirement(NamedTuple):
    """One requirement that this host does not meet."""

    what: str
    """The missing thing and its effect, as a sentence without a full stop."""
    remedy: str
    """The exact command that provides it."""

    def __str__(self) -> str:
        return f"{self.what}; fix it with: {self.remedy}"


class SandboxError(PreconditionError):
    """A sandbox cannot be created, or failed. The message is one sentence with the remedy."""

    code = "sandbox"


def program(name: str) -> str | None:
    """Return the path of a system program; None if it is not installed."""
    return shutil.which(name, path=search_path(os.environ))


def search_path(variables: Mapping[str, str]) -> str:
    """Return PATH and the system directories, without the working directory, which others may write to."""
    return ":".join([*filter(os.path.isabs, variables.get("PATH", "").split(":")), SYSTEM_PATH])


def schema() -> str | None:
    """Return the path of the database schema of Open vSwitch; None if it is not installed."""
    return next((path for path in _SCHEMAS if os.path.exists(path)), None)


def missing_namespaces(error: OSError) -> Requirement:
    """Return the requirement for namespaces with links."""
    if error.errno == errno.ENOPKG:
        return Requirement(
            "this kernel has no Linux bridges, so there is nothing to plug into", as_root("modprobe bridge")
        )
    text = f"this user may not make namespaces of its own ({error.strerror or error})"
    # Debian's sysctl and the seccomp filter of containers reject unshare(2). Ubuntu's sysctl strips the capabilities
    # afterwards. It may be set on the host of a container, too.
    at_once = error.filename == "unshare"
    for name, closed, open_, refuses_at_once in _SYSCTLS:
        if _sysctl(name) == closed and refuses_at_once is at_once:
            return Requirement(f"{text}, since {name} is {closed}", as_root(f"sysctl -w {name}={open_}"))
    if os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv"):
        return Requirement(
            f"{text}, as is usual in a container", "docker run --privileged ... (or podman run --privileged)"
        )
    return Requirement(text, f"sudo {sys.executable} -P -m hybridvif sandbox")


def missing_for_vm() -> Requirement | None:
    """Return the requirement for a simulated VM that can ping; None if it is met."""
    return _missing_files("no VM can be simulated", _absent("ip", "ping", "nsenter"), _VM_PACKAGES)


def missing_mount(path: str, error: OSError) -> Requirement:
    """Return the requirement for a private mount. The sandbox also works without it."""
    return Requirement(
        f"{path} cannot be mounted again ({error.strerror}), so it still shows the caller's namespaces",
        "docker run --privileged ... (it is containers that cover parts of it)",
    )


def missing_start(error: SandboxError) -> Requirement:
    """Return the requirement for an installed Open vSwitch that does not start."""
    text = f"Open vSwitch does not start with its netdev datapath: {error}"
    return Requirement(text, _install_command(_SWITCH_PACKAGES).replace(" install ", " reinstall "))


def as_root(command: str) -> str:
    """Return the command as this user must type it, with sudo if needed."""
    # Inside a user namespace everybody is user 0. Only the initial one maps all user ids.
    real = os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
    return command if real else f"sudo {command}"


def missing_switch() -> Requirement | None:
    """Return the requirement for Open vSwitch; None if it is installed."""
    absent = _absent(*SWITCH_PROGRAMS) + ([] if schema() else ["vswitch.ovsschema"])
    return _missing_files("Open vSwitch is not installed", absent, _SWITCH_PACKAGES)


def missing_tun() -> Requirement | None:
    """Return the requirement for the netdev datapath; None if it is met."""
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Requirement(f"{TUN} does not exist, so Open vSwitch has no netdev datapath", as_root("modprobe tun"))
    except PermissionError as error:
        # EPERM comes from the device cgroup of a container. 0666 is the mode of udev (50-udev-default.rules).
        # Creating a device with it needs CAP_NET_ADMIN in any case.
        remedy = as_root(f"chmod 0666 {TUN}") if error.errno == errno.EACCES else f"docker run --device {TUN} ..."
        return Requirement(f"{TUN} is closed to this user, so Open vSwitch has no netdev datapath", remedy)
    except OSError as error:
        return Requirement(f"{TUN} cannot be opened ({error.strerror}): no netdev datapath", as_root("modprobe tun"))
    return None


def _absent(*programs: str) -> list[str]:
    return [name for name in programs if program(name) is None]


def _missing_files(effect: str, names: Sequence[str], packages: Mapping[str, str]) -> Requirement | None:
    text = f"{effect} ({', '.join(names)} not found)"
    return Requirement(text, _install_command(packages)) if names else None


def _install_command(packages: Mapping[str, str]) -> str:
    for installer, command in _INSTALLERS:
        if program(installer):
            return as_root(f"{command} {packages.get(installer, packages[''])}")
    return f"the package manager of this system (packages: {packages['']})"


def _sysctl(name: str) -> str:
    try:
        return Path("/proc/sys", *name.split(".")).read_text().strip()
    except OSError:
        return ""
