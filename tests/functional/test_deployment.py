"""The files of etc/, installed and tried on a throw-away host. docs/deploy.md lists the limits."""

from __future__ import annotations

import configparser
import fnmatch
import json
import re
from collections.abc import Iterator
from subprocess import CompletedProcess

import pytest

from tests.functional.conftest import Lab, make_port, until
from tests.functional.test_posture import readable_by_all
from tests.support.deployed import CONFIG, ETC, HELPER, PREFIX, deployed, require

PORT = make_port()
NAMES = PORT.names
DEVICES = tuple(name for name in NAMES if name != NAMES.vhost_user)
"""Names of our devices. A vhost-user port has no device in the kernel."""
COMMAND = f"{PREFIX}/bin/hybridvif"
CONTEXT = "hybridvif.privileged.context.daemon_context"
SOCKET = "/tmp/hybridvif-abcd_123/privsep.sock"
PINNED = ["--config-file", CONFIG, "--privsep_context", CONTEXT, "--privsep_sock_path", SOCKET]
SUDO = f"sudo --non-interactive {HELPER} --config-file {CONFIG}"
ROOTWRAP = f"sudo --non-interactive {PREFIX}/bin/oslo-rootwrap /etc/nova/rootwrap.conf hybridvif-privsep-helper"
WHO_IS_THE_DAEMON = f"""
import glob, time, hybridvif
with hybridvif.connect([{CONFIG!r}]) as host:
    host.observe(None, time.monotonic() + 10)
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        if b"privsep-helper" in open(path, "rb").read():
            status = dict(line.split(":", 1) for line in open(path.replace("cmdline", "status")))
            if status["CapEff"].strip() == f"{{1 << 12:016x}}":
                print(*(status[name].strip() for name in ("Uid", "Gid", "Groups")), sep="\\n")
"""
UNIT, WATCH_UNIT = "hybridvif-reconcile.service", "hybridvif-watch.service"
MOST_EXPOSED = 2.5
"""Limit for systemd-analyze security, where "OK" ends at 5."""
FILES = {
    "/etc/sudoers.d/rootwrap": f"nova ALL = (root) NOPASSWD: {PREFIX}/bin/oslo-rootwrap\n",
    "/etc/nova/rootwrap.conf": f"[DEFAULT]\nfilters_path = /etc/nova/rootwrap.d\nexec_dirs = {PREFIX}/bin\n",
    "/etc/hybridvif/ports.yaml": json.dumps([{"id": PORT.id, "mac": PORT.mac, "instance_id": PORT.instance_id}]),
    "/etc/systemd/system/nova-compute.service": "[Service]\nExecStart=/bin/true\n",
}


@pytest.fixture(scope="module")
def host() -> Iterator[Lab]:
    """A host with all files installed."""
    with deployed() as lab, readable_by_all(lab):
        for path, text in FILES.items():
            write(lab, path, text)
        configure(lab, SUDO)
        lab.sh("chmod 0750 /run/openvswitch")
        # As systemd would when ovsdb-server starts.
        lab.sh(settings_of("ovsdb-server.service.d/hybridvif.conf")["ExecStartPost"].removeprefix("-"))
        yield lab


def write(lab: Lab, path: str, text: str) -> None:
    lab.box.run(["sh", "-ec", f"cat > {path}; chmod {'0440' if 'sudoers' in path else '0644'} {path}"], input=text)


def configure(lab: Lab, command: str) -> None:
    sample = (ETC / "hybridvif.conf.sample").read_text(encoding="utf-8")
    text = re.sub(r"^#deadline = .*", "deadline = 10", sample, flags=re.M)
    write(lab, CONFIG, re.sub(r"^#helper_command = .*", lambda _: f"helper_command = {command}", text, flags=re.M))


def as_nova(lab: Lab, *argv: str, **env: str) -> CompletedProcess[str]:
    """Run a command as nova's service does."""
    variables = {"PATH": "/usr/bin:/bin", "HOME": "/", **env}
    clean = ["env", "-i", *(f"{name}={value}" for name, value in variables.items())]
    return lab.box.run(["setpriv", "--reuid=nova", "--regid=nova", "--groups=hybridvif", *clean, *argv], check=False)


def plug_and_unplug_as_nova(lab: Lab) -> None:
    options = ["--mac", PORT.mac, "--instance", PORT.instance_id]
    done = as_nova(lab, COMMAND, "plug", PORT.id, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert lab.link(NAMES.bridge)["ifalias"] == PORT.id
    done = as_nova(lab, COMMAND, "unplug", PORT.id)
    assert done.returncode == 0, done.stdout + done.stderr
    assert lab.link(NAMES.bridge) == {}


# sudo.


def test_visudo_has_no_objection(host: Lab) -> None:
    assert "/etc/sudoers.d/hybridvif: parsed OK" in host.sh("visudo --check")


def test_nova_plugs_and_unplugs_by_sudo(host: Lab) -> None:
    plug_and_unplug_as_nova(host)


def test_daemon_of_the_sample_is_an_ordinary_user(host: Lab) -> None:
    done = as_nova(host, f"{PREFIX}/bin/python", "-P", "-c", WHO_IS_THE_DAEMON)
    assert done.returncode == 0, done.stderr
    uid, gid, groups = done.stdout.splitlines()
    assert uid.split() == [host.sh("id -u hybridvif").strip()] * 4
    assert gid.split() == [host.sh("getent group openvswitch").split(":")[2]] * 4
    assert groups.split() == []


def test_caller_does_not_reach_the_switch_itself(host: Lab) -> None:
    assert "Permission denied" in as_nova(host, "ovs-vsctl", "--timeout=5", "show").stderr


def test_the_rule_is_for_the_command_that_we_make(host: Lab) -> None:
    """A control for the variants, each of which differs from this command in one argument."""
    assert as_nova(host, "sudo", "--non-interactive", "--list", HELPER, *PINNED).returncode == 0


EVIL = "/run/evil.conf"
VARIANTS: dict[str, list[str]] = {
    "no arguments": [],
    "another file": ["--config-file", EVIL, *PINNED[2:]],
    "a file more, first": ["--config-file", EVIL, *PINNED],
    "a file more, last": [*PINNED, "--config-file", EVIL],
    "a directory more": [*PINNED, "--config-dir", "/run/evil.d"],
    "no file": PINNED[2:],
    "an equals sign": [f"--config-file={CONFIG}", *PINNED[2:]],
    "a file by way of ..": ["--config-file", f"{CONFIG}/../../..{EVIL}", *PINNED[2:]],
    "a letter for a dot": ["--config-file", "/etc/hybridvif/hybridvifxconf", *PINNED[2:]],
    "another context": [*PINNED[:3], "vif_plug_ovs.privsep.vif_plug", *PINNED[4:]],
    "two contexts": [*PINNED, "--privsep_context", "os.system"],
    "a socket elsewhere": [*PINNED[:5], "/run/evil/privsep.sock"],
    "a socket by way of ..": [*PINNED[:5], "/tmp/hybridvif-../../run/evil/privsep.sock"],
    "a socket and more": [*PINNED[:5], f"{SOCKET} --config-file {EVIL}"],
    "a socket, a newline and more": [*PINNED[:5], f"{SOCKET}\n--config-file {EVIL}"],
    "a log configuration": [*PINNED, "--log-config-append", EVIL],
    "a log file": [*PINNED, "--log-file", "/etc/cron.d/evil"],
    "another order": [*PINNED[2:], *PINNED[:2]],
    "an empty argument more": [*PINNED, ""],
}


@pytest.mark.parametrize("arguments", VARIANTS.values(), ids=VARIANTS)
def test_sudo_lets_no_other_arguments_through(host: Lab, arguments: list[str]) -> None:
    done = as_nova(host, "sudo", "--non-interactive", HELPER, *arguments)
    assert done.returncode == 1
    assert "sudo: a password is required" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["/usr/bin/id"],
        [f"{PREFIX}/bin/python", "-c", "pass"],
        [f"{PREFIX}/bin/privsep-helper", *PINNED],
        ["--preserve-env", HELPER, *PINNED],
        ["PYTHONPATH=/run/evil", HELPER, *PINNED],
        ["--user=#0", "--group=shadow", HELPER, *PINNED],
    ],
    ids=" ".join,
)
def test_sudo_lets_no_other_program_and_no_variable_through(host: Lab, command: list[str]) -> None:
    done = as_nova(host, "sudo", "--non-interactive", *command)
    assert done.returncode == 1
    assert done.stderr.startswith("sudo: ")


def test_another_user_may_not(host: Lab) -> None:
    command = ["sudo", "--non-interactive", HELPER, *PINNED]
    done = host.box.run(["setpriv", "--reuid=daemon", "--regid=daemon", "--clear-groups", *command], check=False)
    assert done.returncode == 1
    assert "sudo: a password is required" in done.stderr


def test_no_variable_of_caller_reaches_python_whatever_rules_keep(host: Lab) -> None:
    write(host, "/etc/sudoers.d/careless", 'Defaults env_keep += "PYTHONPATH"\nnova ALL = NOPASSWD: /usr/bin/env\n')
    try:
        with_it = as_nova(host, "sudo", "--non-interactive", "/usr/bin/env", PYTHONPATH="/run/evil")
        assert "PYTHONPATH=/run/evil" in with_it.stdout.splitlines()
        host.sh("mkdir -p /run/evil; echo 'print(\"planted\")' > /run/evil/sitecustomize.py")
        done = as_nova(host, "sudo", "--non-interactive", HELPER, *PINNED, PYTHONPATH="/run/evil")
        assert "refused: --privsep_sock_path" in done.stderr, "it did not run"
        assert "planted" not in done.stdout
    finally:
        host.sh("rm -r /etc/sudoers.d/careless /run/evil")


# oslo.rootwrap.


def test_nova_plugs_and_unplugs_by_rootwrap(host: Lab) -> None:
    configure(host, f"{ROOTWRAP} --config-file {CONFIG}")
    try:
        plug_and_unplug_as_nova(host)
    finally:
        configure(host, SUDO)


@pytest.mark.parametrize("arguments", VARIANTS.values(), ids=VARIANTS)
def test_rootwrap_lets_no_other_arguments_through(host: Lab, arguments: list[str]) -> None:
    done = as_nova(host, *ROOTWRAP.split(), *arguments)
    assert done.returncode == 99
    assert "Unauthorized command" in done.stderr


# systemd. It is not booted: the effect of a unit's options is not tested.


def test_the_locks_belong_to_those_who_plug(host: Lab) -> None:
    assert host.sh("stat --format='%a %U %G' /run/lock/hybridvif").split() == ["2770", "root", "hybridvif"]


@pytest.mark.parametrize("unit", [UNIT, WATCH_UNIT, "nova-compute.service"])
def test_systemd_has_no_objection_to_the_unit_and_to_the_drop_in(host: Lab, unit: str) -> None:
    require("systemd-analyze")
    done = host.box.run(["systemd-analyze", "verify", f"/etc/systemd/system/{unit}"])
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("unit", [UNIT, WATCH_UNIT])
def test_the_unit_exposes_little(host: Lab, unit: str) -> None:
    require("systemd-analyze")
    output = host.sh(f"systemd-analyze security --offline=true --no-pager /etc/systemd/system/{unit}")
    exposure = re.search(r"exposure level for .*: ([\d.]+)", output)
    assert exposure is not None
    assert float(exposure[1]) <= MOST_EXPOSED


def settings_of(unit: str) -> dict[str, str]:
    lines = (ETC / "systemd/system" / unit).read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def allowed_calls(lab: Lab) -> set[str]:
    """Return the system calls of the unit's filter, with its groups expanded."""
    words = set(settings_of(UNIT)["SystemCallFilter"].split())
    groups = {word for word in words if word.startswith("@")}
    found = words - groups
    while groups:
        for line in lab.sh(f"systemd-analyze syscall-filter {groups.pop()}").splitlines():
            word = line.strip()
            (groups if word.startswith("@") and line.startswith(" ") else found).add(word)
    return found


def test_host_is_reconciled_with_capabilities_and_system_calls_of_unit(host: Lab) -> None:
    require("systemd-analyze", "strace")
    settings = settings_of(UNIT)
    bounded = "".join(f",+{name[4:].lower()}" for name in settings["CapabilityBoundingSet"].split())
    groups = ["--groups=" + settings["SupplementaryGroups"]]
    limits = ["setpriv", f"--bounding-set=-all{bounded}", "--no-new-privs", *groups]
    trace = ["strace", "--follow-forks", "--output=/run/calls"]
    words = [*settings["Environment"].split(), *settings["ExecStart"].split()]
    done = host.box.run([*trace, *limits, "env", *words], check=False)
    try:
        assert host.link(NAMES.bridge)["ifalias"] == PORT.id, done.stderr
        assert host.row(NAMES.switch_end)["ofport"] > 0
        calls = set(re.findall(r"^\d+ +([a-z_0-9]+)\(", host.sh("cat /run/calls"), re.MULTILINE))
        assert {"socket", "execve", "capset", "prctl"} <= calls
        # setpriv's own system calls happen before systemd's filter would be active.
        assert calls - allowed_calls(host) == set()
    finally:
        host.sweep()


# Network managers.

OTHER = "br-other"
MAKE = f"""
    ip link add {NAMES.bridge} address 02:00:00:00:00:01 type bridge
    ip link add {NAMES.bridge_end} type veth peer name {NAMES.switch_end}
    ip link add {NAMES.tap} type bridge
    ip link add {OTHER} type bridge
"""


@pytest.fixture
def devices(host: Lab) -> Iterator[None]:
    """Devices of each of our names, and a foreign one."""
    host.sh(MAKE)
    yield
    host.sweep()


def test_networkd_leaves_our_devices_alone_when_it_is_told_to_take_all(host: Lab, devices: None) -> None:
    networkd = "/lib/systemd/systemd-networkd"
    require(networkd)
    write(host, "/etc/systemd/network/99-all.network", "[Match]\nName=*\n[Network]\nAddress=192.0.2.1/24\n")
    host.sh("mkdir -p /run/systemd/netif/links /run/systemd/netif/leases; chown -R systemd-network: /run/systemd/netif")
    # If /sys is read-only, it assumes that there is no udev, as in a container.
    daemon = host.box.popen(["unshare", "--mount", "sh", "-c", f"mount -o remount,bind,ro /sys; exec {networkd}"])
    try:
        assert until(lambda: "192.0.2.1" in host.sh(f"ip address show dev {OTHER}"), 15)
        for name in DEVICES:
            assert "192.0.2.1" not in host.sh(f"ip address show dev {name}")
            assert "UP" not in host.link(name)["flags"]
    finally:
        daemon.kill()
        daemon.wait()
        host.sh("rm /etc/systemd/network/99-all.network")


def test_udev_marks_our_devices_and_no_others(host: Lab, devices: None) -> None:
    """Tested by a simulated event: no udevd runs."""
    require("udevadm")
    marks = {"NM_UNMANAGED=1", "ID_NET_MANAGED_BY=hybridvif", "ID_NET_LINK_FILE=/etc/systemd/network/10-hybridvif.link"}
    for name in (*DEVICES, OTHER):
        done = host.box.run(["udevadm", "test", "--action=add", f"/sys/class/net/{name}"])
        assert {line for line in done.stdout.splitlines() if line in marks} == (set() if name == OTHER else marks)


def test_every_file_knows_our_devices_and_no_others() -> None:
    """NetworkManager does not run here. Its file is parsed by the rules of its manual."""
    keyfile = configparser.ConfigParser(delimiters="=")
    keyfile.read(ETC / "NetworkManager/conf.d/hybridvif.conf", encoding="utf-8")
    patterns = [entry.removeprefix("interface-name:") for entry in keyfile["keyfile"]["unmanaged-devices+"].split(";")]
    for name in DEVICES:
        assert any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    for name in ("eth0", "br-int", "tap0", "virbr0", "vnet3", "qbr", "tapestry"):
        assert not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    for file in ("systemd/network/10-hybridvif.network", "systemd/network/10-hybridvif.link"):
        assert " ".join(patterns) in (ETC / file).read_text(encoding="utf-8")
    assert "|".join(patterns) in (ETC / "udev/rules.d/61-hybridvif.rules").read_text(encoding="utf-8")
