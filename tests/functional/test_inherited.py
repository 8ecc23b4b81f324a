"""Inherited settings of a process do not change the results of plug, check and unplug."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.functional.conftest import Lab, make_port
from tests.support.sizes import sample

INHERITED = {
    "SIGCHLD ignored": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "every signal blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    "SIGPIPE and SIGALRM ignored": "[signal.signal(n, signal.SIG_IGN) for n in (signal.SIGPIPE, signal.SIGALRM)]",
    "umask 0777": "os.umask(0o777)",
    "umask 0": "os.umask(0)",
    "working directory deleted": "os.mkdir('/tmp/hv-gone'); os.chdir('/tmp/hv-gone'); os.rmdir('/tmp/hv-gone')",
    "working directory closed to it": "os.mkdir('/tmp/hv-shut', 0); os.chdir('/tmp/hv-shut'); os.rmdir('/tmp/hv-shut')",
    "standard input closed": "os.close(0)",
    "standard error closed": "os.close(2)",
    "locale C": "os.environ.update(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0')",
    "locale tr_TR": "os.environ.update(LC_ALL='tr_TR.UTF-8', LANG='tr_TR')",
    "nice 19": "os.nice(19)",
    "few descriptors": "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))",
}
OF_PROGRAMS = ("SIGCHLD ignored", "every signal blocked", "umask 0777", "standard error closed", "locale C")
EXECUTORS = {
    "iproute2-netlink": "",
    "subprocess-brctl": "[hybridvif]\nlink_executor = subprocess-brctl\nswitch_executor = ovs-vsctl\n",
}
LIBRARY = """
import json, signal, sys
from hybridvif import HybridVifError, connect, unplug
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
with connect([sys.argv[1]]) as host:
    try:
        report = unplug(sys.argv[2], host)
    except HybridVifError as error:
        report = error.report
print(json.dumps([report.ok, report.reason, signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN]))
"""


def config_of(executor: str, directory: Path) -> Path:
    path = directory / "hybridvif.conf"
    path.write_text(EXECUTORS[executor])
    return path


def inheriting(lab: Lab, setting: str, *words: str) -> CompletedProcess[str]:
    code = f"import os, signal, sys; {setting}; os.execvp(sys.argv[1], sys.argv[1:])"
    return lab.box.run([sys.executable, "-P", "-c", code, *words], check=False)


@pytest.mark.prove
@pytest.mark.parametrize(
    ("executor", "kind"),
    [
        *(("iproute2-netlink", kind) for kind in sample(INHERITED, 3)),
        *(("subprocess-brctl", kind) for kind in sample(OF_PROGRAMS, 3)),
    ],
)
def test_command_plugs_and_unplugs_whatever_it_inherits(lab: Lab, tmp_path: Path, executor: str, kind: str) -> None:
    config = config_of(executor, tmp_path)
    port, setting = make_port(), INHERITED[kind]
    options = ("--config-file", str(config), port.id)
    named = ("--mac", port.mac, "--instance", port.instance_id)
    before = lab.snapshot()
    plugged = inheriting(lab, setting, "hybridvif", "plug", *options, *named)
    assert (plugged.returncode, plugged.stdout) == (0, f"{port.id}  plugged\n"), plugged
    assert inheriting(lab, setting, "hybridvif", "check", *options).returncode == 0
    unplugged = inheriting(lab, setting, "hybridvif", "unplug", *options)
    assert (unplugged.returncode, unplugged.stdout) == (0, f"{port.id}  unplugged\n"), unplugged
    assert lab.snapshot() == before


def test_doctor_finds_the_same_with_sigchld_ignored(lab: Lab) -> None:
    results = [
        json.loads(inheriting(lab, setting, "hybridvif", "doctor", "-f", "json").stdout)["ok"]
        for setting in ("pass", INHERITED["SIGCHLD ignored"])
    ]
    assert results == [True, True]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_library_that_ignores_sigchld_takes_no_killed_ip_for_absence(lab: Lab, tmp_path: Path, executor: str) -> None:
    """The exit code of a killed `ip` was read as 0, so its links counted as absent and unplug as done."""
    port = make_port()
    named = ("--mac", port.mac, "--instance", port.instance_id)
    lab.box.run(["hybridvif", "plug", port.id, *named])
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "ip").write_text("#!/bin/sh\nkill -KILL $$\n")
    (programs / "ip").chmod(0o755)
    killed = tmp_path / "killed.conf"
    killed.write_text(
        (EXECUTORS[executor] or "[hybridvif]\n") + f"program_path = {programs}:/usr/sbin:/usr/bin:/sbin:/bin\n"
    )
    ok, reason, is_ignored = json.loads(lab.box.python(LIBRARY, str(killed), port.id).stdout)
    assert is_ignored
    assert ok == (port.names.bridge not in lab.links())
    assert ok or reason


@pytest.mark.parametrize("kind", ["SIGCHLD ignored", "every signal blocked", "umask 0777", "working directory deleted"])
def test_nested_host_opens_whatever_it_inherits(lab: Lab, kind: str) -> None:
    done = inheriting(lab, INHERITED[kind], "hybridvif", "sandbox", "--", "hybridvif", "doctor")
    assert done.returncode == 0, done
    assert inheriting(lab, INHERITED[kind], "hybridvif", "sandbox", "--", "sh", "-c", "exit 7").returncode == 7
