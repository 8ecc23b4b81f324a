"""Missing preconditions of a host: the command, the library and doctor report the name and the remedy."""

from __future__ import annotations

import json
import os
import re
import site
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from hybridvif.testing.pytest_plugin import lacking
from hybridvif.testing.sandbox.launch import ROOT
from tests.functional.conftest import Lab, make_port
from tests.support.sizes import sample

STRANGER = 1_000_000 + os.getpid()
"""A user of this test process alone, because a limit on processes counts those of other tests too."""
PORT = make_port()
PLUG = ("plug", PORT.id, "--mac", PORT.mac, "--instance", PORT.instance_id)
BRCTL = "[hybridvif]\nlink_executor = subprocess-brctl\nswitch_executor = ovs-vsctl\n"
HIDDEN = {
    "a /proc of processes alone": ("mount -t proc -o subset=pid proc /proc", "/proc/sys/net/ipv4/conf"),
    "an empty /proc/sys": ("mount -t tmpfs none /proc/sys", "/proc/sys/net/ipv4/conf"),
    "an empty /proc/sys/net": ("mount -t tmpfs none /proc/sys/net", "/proc/sys/net/ipv4/conf"),
    "a hidden /proc/sys/net/ipv6": ("mount -t tmpfs none /proc/sys/net/ipv6", "/proc/sys/net/ipv6/conf"),
}
# The project itself may lie below /tmp, and stays there.
_COVERED = (
    f"mkdir -p /run/kept; mount --rbind {ROOT} /run/kept; "
    "for d in /tmp /var/tmp; do mount -t tmpfs none $d; done; "
    f"mkdir -p {ROOT}; mount --rbind /run/kept {ROOT}; "
)
TEMPORARY = {
    "read-only": f"{_COVERED} for d in /tmp /var/tmp; do mount -o remount,ro $d; done",
    "full": f"{_COVERED} for d in /tmp /var/tmp; do "
    "mount -o remount,nr_inodes=$(df --output=iused $d | tail -n 1 | tr -d ' ') $d; done",
}
LIBRARY = """
import sys
from hybridvif import HybridVifError, Port, PreconditionError, connect, plug
try:
    with connect(sys.argv[4:]) as host:
        print(plug(Port(id=sys.argv[1], mac=sys.argv[2], instance_id=sys.argv[3]), host).status)
except HybridVifError as error:
    print(isinstance(error, PreconditionError), error, sep="|")
"""


def within(lab: Lab, script: str, *words: str) -> CompletedProcess[str]:
    """Run a command on its own host after this script has changed it; the changes do not remain."""
    return lab.box.run(["unshare", "--mount", "sh", "-c", f'{script}\nexec "$@"', "sh", *words], check=False)


def precondition_message(done: CompletedProcess[str]) -> str:
    """Return the message of a command that failed with a precondition."""
    assert done.returncode == 5, done
    error = json.loads(done.stdout)["error"]
    assert (error["code"], error["exit_code"]) == ("precondition", 5)
    assert re.search(r"[\w)]; \w", error["message"]), error
    return str(error["message"])


def failing(done: CompletedProcess[str]) -> dict[str, str]:
    """Return the failed checks of doctor by name. Each has a remedy."""
    assert done.returncode == 5, done
    found = [finding for finding in json.loads(done.stdout)["findings"] if finding["verdict"] == "fail"]
    assert all(finding["remedy"] for finding in found), found
    return {finding["name"]: finding["text"] for finding in found}


@pytest.mark.parametrize("options", ["", BRCTL], ids=["iproute2-netlink", "subprocess-brctl"])
@pytest.mark.prove
@pytest.mark.parametrize("kind", sample(HIDDEN, 2))
def test_hidden_proc_sys_is_a_precondition_by_name(lab: Lab, tmp_path: Path, kind: str, options: str) -> None:
    """It must not count as a kernel without IPv6: plug would leave IPv6 on for a VM's advertisements."""
    script, missing = HIDDEN[kind]
    config = tmp_path / "hybridvif.conf"
    config.write_text(options)
    before = lab.snapshot()
    assert missing in precondition_message(
        within(lab, script, "hybridvif", *PLUG, "--config-file", str(config), "-f", "json")
    )
    if not options:
        assert failing(within(lab, script, "hybridvif", "doctor", "-f", "json")).keys() - {"boot id"} == {"/proc/sys"}
    words = (PORT.id, PORT.mac, PORT.instance_id, str(config))
    library = within(lab, script, sys.executable, "-P", "-c", LIBRARY, *words).stdout
    assert library.startswith("True|")
    assert missing in library
    assert lab.snapshot() == before


def test_port_is_unplugged_where_proc_sys_is_hidden(lab: Lab) -> None:
    lab.box.run(["hybridvif", *PLUG])
    script, _ = HIDDEN["an empty /proc/sys/net"]
    assert within(lab, script, "hybridvif", "unplug", PORT.id).returncode == 0
    assert PORT.names.bridge not in lab.links()


def test_gc_without_a_boot_id_is_a_precondition(lab: Lab) -> None:
    script = "mount -t tmpfs none /proc/sys/kernel"
    assert "boot_id" in precondition_message(within(lab, script, "hybridvif", "gc", "-f", "json"))
    assert "boot id" in failing(within(lab, script, "hybridvif", "doctor", "-f", "json"))


@pytest.mark.parametrize("kind", ["read-only", "full"])
def test_no_temporary_directory_is_a_precondition_by_name(lab: Lab, kind: str) -> None:
    script = f"unset TMPDIR; cd /run; {TEMPORARY[kind]}"
    for words in (PLUG, ("unplug", PORT.id), ("list",), ("gc",)):
        sentence = precondition_message(within(lab, script, "hybridvif", *words, "-f", "json"))
        assert sentence.startswith("no temporary directory can be used: /tmp (")
        assert "set TMPDIR" in sentence
    assert {"daemon", "temporary directory"} == failing(within(lab, script, "hybridvif", "doctor", "-f", "json")).keys()
    named = (PORT.id, PORT.mac, PORT.instance_id)
    library = within(lab, script, sys.executable, "-P", "-c", LIBRARY, *named).stdout
    assert library.startswith("True|no temporary directory can be used")


def test_temporary_directory_is_never_the_working_directory(lab: Lab) -> None:
    """Python's tempfile falls back to it, and other users may write there."""
    script = f"unset TMPDIR; mkdir /run/open; chmod 777 /run/open; cd /run/open; {TEMPORARY['read-only']}"
    precondition_message(within(lab, script, "hybridvif", *PLUG, "-f", "json"))
    lab.sh("rmdir /run/open")


@pytest.mark.parametrize("words", [PLUG, ("list",), ("unplug", PORT.id)], ids=lambda words: str(words[0]))
def test_relative_file_in_a_deleted_directory_is_named(lab: Lab, words: Sequence[str]) -> None:
    script = "mkdir /run/gone; cd /run/gone; rmdir /run/gone"
    done = within(lab, script, "hybridvif", *words, "--config-file", "my.conf", "-f", "json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (5, "configuration")
    assert "my.conf: its path is relative, and the working directory has been deleted; give" in error["message"]
    if words == PLUG:
        doctor = within(lab, script, "hybridvif", "doctor", "--config-file", "my.conf", "-f", "json")
        assert "working directory has been deleted" in failing(doctor)["configuration"]
    library = within(lab, script, sys.executable, "-P", "-c", LIBRARY, PORT.id, PORT.mac, PORT.instance_id, "my.conf")
    assert library.stdout.startswith("True|configuration file my.conf: its path is relative")


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 6])
def test_too_few_processes_are_a_precondition_by_name(lab: Lab, limit: int) -> None:
    """RLIMIT_NPROC limits every user except root. Each limit stops another thread or process."""
    if os.geteuid() != 0:
        lacking("only root can become another user")
    helper = "/usr/bin/python3 -P -m hybridvif.privileged.helper --config-file /run/limited/conf"
    lab.sh(
        f"""
        mkdir -p /run/limited; chown {STRANGER} /run/limited; chmod 666 /run/openvswitch/db.sock
        printf '[hybridvif]\\nlock_path=/run/limited/locks\\n' >/run/limited/conf
        printf '[hybridvif_privileged]\\nhelper_command={helper}\\n' >>/run/limited/conf
        """
    )
    path = ":".join([ROOT, *site.getsitepackages()])
    user = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
    user += ["--inh-caps=+net_admin", "--ambient-caps=+net_admin"]
    script = f"export PYTHONPATH={path} PYTHONDONTWRITEBYTECODE=1 TMPDIR=/tmp; cd /"
    limited = ["prlimit", f"--nproc={limit}", *user, "/usr/bin/python3", "-P"]
    usable = within(
        lab, script, *user, "/usr/bin/python3", "-P", "-c", "import hybridvif.client.host, hybridvif.testing.contract"
    )
    if usable.returncode != 0:
        lacking(f"another user cannot run hybridvif with /usr/bin/python3: {usable.stderr[-200:]}")
    options = ("--config-file", "/run/limited/conf", "-f", "json")
    plugged = within(lab, script, *limited, "-m", "hybridvif", *PLUG, *options)
    assert plugged.returncode in (0, 5), plugged
    doctor = json.loads(within(lab, script, *limited, "-m", "hybridvif", "doctor", *options).stdout)
    assert plugged.returncode == 0 or not doctor["ok"]
    library = within(lab, script, *limited, "-c", LIBRARY, PORT.id, PORT.mac, PORT.instance_id, "/run/limited/conf")
    assert library.stdout.startswith(("True|", "Status.DONE"))
    if limit <= 3:
        assert "RLIMIT_NPROC" in precondition_message(plugged)
        assert "RLIMIT_NPROC" in library.stdout
    lab.sh("chmod 600 /run/openvswitch/db.sock; rm -r /run/limited")
