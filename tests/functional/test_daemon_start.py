"""Start of the daemon with any oslo.privsep, inheritance and configuration files."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from hybridvif import PreconditionError, check, connect, plug, unplug
from hybridvif.client.host import Host
from hybridvif.privileged.channel import CONTEXT
from hybridvif.testing.pytest_plugin import connected, lacking
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import Lab, make_port
from tests.functional.test_boundary import daemons, status_of
from tests.functional.test_posture import readable_by_all

PORT = make_port()
NET_ADMIN = f"{1 << 12:016x}"
POSTURE = {
    **dict.fromkeys(("CapEff", "CapPrm", "CapBnd"), NET_ADMIN),
    **dict.fromkeys(("CapInh", "CapAmb"), f"{0:016x}"),
    "NoNewPrivs": "1",
}
RESERVED = 3 << 31
"""Signals 32 and 33, which posix_spawn(3) of glibc ignores in the program. Python 3.13 uses it. A thread needs 33."""
HELPER = [sys.executable, "-P", "-m", "hybridvif.privileged.helper"]
CALLER = f"""
import glob, json, os, sys, time
from hybridvif import HybridVifError, Port, connect, plug, unplug
from hybridvif.model.report import Status

def own():
    kept = ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb", "NoNewPrivs", "Umask", "SigIgn")
    lines = open("/proc/thread-self/status").read().splitlines()
    found = {{n: v for n, v in (line.split(":\\t", 1) for line in lines if ":\\t" in line) if n in kept}}
    return found | {{"SigIgn": int(found["SigIgn"], 16) & ~{RESERVED}}}

def daemon():
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        pid = path.split("/")[2]
        if b"privsep_context" in open(path, "rb").read() and int(pid) != os.getpid():
            lines = open(f"/proc/{{pid}}/status").read().splitlines()
            return dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)

port = Port(id={PORT.id!r}, mac={PORT.mac!r}, instance_id={PORT.instance_id!r})
before, finders = own(), [*sys.meta_path, *sys.path]
told = {{}}
try:
    with connect([sys.argv[1]]) as host:
        BODY
        told["plug"] = plug(port, host).status.value
        told["daemon"] = daemon()
        told["unplug"] = unplug(port.id, host).status.value
except HybridVifError as error:
    told["refused"] = str(error)
told["changed"] = [name for name, value in own().items() if before[name] != value]
told["finders"] = [name for name in finders if name not in (*sys.meta_path, *sys.path)]
print(json.dumps(told))
"""
Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def called(sandbox: Sandbox, tmp_path: Path) -> Iterator[Callable[..., dict[str, object]]]:
    """Run a client as root in the sandbox, with code that runs first in it and in its daemon."""

    def called(first: str = "", body: str = "pass", **options: object) -> dict[str, object]:
        config, site = tmp_path / "hybridvif.conf", tmp_path / "site"
        lines = {"lock_path": tmp_path / "locks", "deadline": 10, **options}
        config.write_text("[hybridvif]\n" + "".join(f"{name} = {value}\n" for name, value in lines.items()))
        site.mkdir()
        (site / "sitecustomize.py").write_text(textwrap.dedent(first))
        script = tmp_path / "caller.py"
        script.write_text(CALLER.replace("BODY", body))
        env = ["env", f"PYTHONPATH={site}:{':'.join(path for path in sys.path if path)}"]
        done = sandbox.run([*env, sys.executable, str(script), str(config)], check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
        return result

    yield called
    Lab(sandbox, Host.__new__(Host)).sweep()


def has_full_posture(result: dict[str, object]) -> bool:
    daemon = result["daemon"]
    assert isinstance(daemon, dict)
    return {name: daemon[name] for name in POSTURE} == POSTURE


# Any installed oslo.privsep.

FORBID = """
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {library!r}:
            raise ImportError(f"{{name}} is forbidden here")
if {where}:
    sys.meta_path.insert(0, Forbid())
"""
IN_THE_DAEMON = "any('privsep_context' in word for word in sys.orig_argv)"


def test_daemon_imports_nothing_of_oslo_privsep(called: Callable[..., dict[str, object]]) -> None:
    result = called(FORBID.format(library="oslo_privsep", where=IN_THE_DAEMON))
    assert (result["plug"], result["unplug"]) == ("done", "done"), result
    assert has_full_posture(result)


@pytest.mark.parametrize("library", ["eventlet", "oslo_log"])
def test_daemon_starts_where_a_finder_forbids_a_library(called: Callable[..., dict[str, object]], library: str) -> None:
    """nova-compute has such a finder for eventlet."""
    result = called(FORBID.format(library=library, where=IN_THE_DAEMON))
    assert (result["plug"], result["unplug"]) == ("done", "done"), result
    assert has_full_posture(result)


RENAMED = [
    *(f"daemon.Daemon.{name}" for name in ("__init__", "run", "loop", "_drop_privs", "_process_cmd", "_close_stdio")),
    *(f"daemon.{name}" for name in ("importutils", "Daemon", "helper_main", "replace_logging", "PrivsepLogHandler")),
    *(f"daemon.{name}" for name in ("setuid", "setgid", "set_cloexec", "ProtocolError", "_ClientChannel", "LOG")),
    *(f"daemon._ClientChannel.{name}" for name in ("exchange_ping", "out_of_band", "remote_call")),
    *(
        f"comm.{name}"
        for name in ("ServerChannel", "Serializer", "Deserializer", "Message", "Future", "PrivsepTimeout")
    ),
    *(f"comm.ServerChannel.{name}" for name in ("__next__", "__iter__", "send")),
    *(f"comm.ClientChannel.{name}" for name in ("_reader_main", "send_recv", "close")),
    *(f"capabilities.{name}" for name in ("set_keepcaps", "drop_all_caps_except", "get_caps", "CAP_NET_ADMIN")),
    *(f"priv_context.{name}" for name in ("PrivContext", "Method", "init", "_ENTRYPOINT_ATTR", "OPTS", "daemon")),
    *(f"priv_context.PrivContext.{name}" for name in ("set_client_mode", "_wrap", "_entrypoint", "start", "stop")),
    *(f"priv_context.PrivContext.{name}" for name in ("helper_command", "conf", "is_entrypoint", "entrypoint")),
]
RENAME = """
import sys
from oslo_privsep import capabilities, comm, daemon, priv_context
*path, last = {name!r}.split(".")
owner = globals()[path[0]]
for step in path[1:]:
    owner = getattr(owner, step)
if last in vars(owner):
    setattr(owner, "renamed_" + last.strip("_"), vars(owner)[last])
    delattr(owner, last)
"""


@pytest.mark.parametrize("name", RENAMED)
def test_renamed_name_of_oslo_privsep_makes_no_daemon_weaker(
    called: Callable[..., dict[str, object]], name: str
) -> None:
    """It works with all restrictions, or refuses with a message."""
    result = called(RENAME.format(name=name))
    if "refused" in result:
        assert "oslo.privsep" in str(result["refused"]), result
        assert "hybridvif relies on; install" in str(result["refused"]), result
    else:
        assert (result["plug"], result["unplug"]) == ("done", "done"), result
        assert has_full_posture(result)


def test_privsep_helper_itself_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    """Its daemon would keep all capabilities in its bounding set, and import any requested module."""
    plain = Path(sys.executable).parent / "privsep-helper"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "privsep.sock"))
    listener.listen()
    listener.settimeout(0)
    with listener:
        arguments = ["--privsep_context", CONTEXT, "--privsep_sock_path", str(tmp_path / "privsep.sock")]
        done = sandbox.run([str(plain), *arguments], check=False)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("refused: privsep-helper cannot start the daemon of hybridvif")
        with pytest.raises(BlockingIOError):
            listener.accept()


# Clients without a daemon.


@pytest.mark.parametrize("executor", ["iproute2-netlink", "pyroute2", "subprocess-brctl"])
@pytest.mark.parametrize("mode", ["set_client_mode(False)", "client_mode = False"])
def test_caller_that_is_no_client_plugs_and_stays_as_it_is(
    called: Callable[..., dict[str, object]], mode: str, executor: str
) -> None:
    """With OpenStack's own test fixtures a process does the work of its daemon."""
    body = f"from hybridvif.privileged.context import daemon_context as context; context.{mode}"
    result = called(body=body, link_executor=executor)
    assert result == {"plug": "done", "unplug": "done", "daemon": None, "changed": [], "finders": []}


@pytest.mark.parametrize("method", ["FORK", "ROOTWRAP"])
def test_caller_that_starts_by_either_method_has_the_same_daemon(
    called: Callable[..., dict[str, object]], method: str
) -> None:
    body = (
        "from oslo_privsep.priv_context import Method; "
        f"from hybridvif.privileged.context import daemon_context as context; context.start(method=Method.{method})"
    )
    result = called(body=body)
    assert (result["plug"], result["unplug"], result["changed"], result["finders"]) == ("done", "done", [], [])
    assert has_full_posture(result)


# Inherited settings.

INHERIT = """
import os, resource, signal, sys
for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGALRM):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
signal.setitimer(signal.ITIMER_VIRTUAL, 0.2)
os.umask(0o777)
os.nice(15)
os.chdir({place!r})
os.rmdir({place!r})
for limit, value in ((resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CPU, 1), (resource.RLIMIT_NOFILE, 24)):
    # Of the hard limits, not every root may raise one again (CAP_SYS_RESOURCE).
    resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))
for number in (0, 1, 2)[:{closed}]:
    os.close(number)
env = dict(os.environ, LC_ALL="tr_TR.ISO-8859-9", OS_HYBRIDVIF__LINK_EXECUTOR="recording", HOME="/nowhere")
os.execve(sys.argv[1], sys.argv[1:], env)
"""


@pytest.mark.parametrize("closed", [0, 3])
@pytest.mark.parametrize("executor", ["iproute2-netlink", "pyroute2", "subprocess-brctl"])
def test_daemon_sets_anew_whatever_it_inherits(sandbox: Sandbox, tmp_path: Path, executor: str, closed: int) -> None:
    """With SIGCHLD ignored the exit code of every program reads as 0, so a failed `ip` looks successful."""
    config, place = tmp_path / "hybridvif.conf", tmp_path / "gone"
    place.mkdir()
    parent = [sys.executable, "-c", INHERIT.format(place=str(place), closed=closed), *HELPER]
    script = tmp_path / "start"
    command = shlex.join(sandbox.entering([*parent, "--config-file", str(config)]))
    script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    script.chmod(0o755)
    config.write_text(
        f"[hybridvif]\nlock_path = {tmp_path}/locks\ndeadline = 10\nlink_executor = {executor}\n"
        f"[hybridvif_privileged]\nhelper_command = {script}\n"
    )
    with connect([str(config)]) as host:
        lab = Lab(sandbox, host)
        assert plug(PORT, host).ok
        assert check(PORT, host) == ()
        (pid,) = daemons(sandbox)
        status = status_of(pid)
        ignored, blocked = int(status["SigIgn"], 16) & ~RESERVED, int(status["SigBlk"], 16)
        # Signals that Python itself ignores: SIGPIPE and SIGXFSZ.
        assert (ignored, blocked) == (1 << 12 | 1 << 24, 0)
        assert status["Umask"] == "0077"
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert os.getpriority(os.PRIO_PROCESS, pid) == 0
        limits = Path(f"/proc/{pid}/limits").read_text()
        named = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()[1:]}
        assert named["Max file size"] == named["Max cpu time"] == ["unlimited"] * 2, named
        assert named["Max open files"] == ["1024"] * 2
        standard = [os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)]
        assert standard[:2] == ["/dev/null"] * 2
        assert (standard[2] == "/dev/null") == (closed == 3)
        assert unplug(PORT.id, host).ok
        assert not {PORT.names.bridge, PORT.names.switch_end} & lab.links()
    lab.sweep()


# Configuration files.

FOREIGN = """
[DEFAULT]
debug = true
log_file = {victim}
log_dir = {missing}
use_journal = true
use_syslog = true
syslog_log_facility = nowhere
use_eventlog = true
watch_log_file = true
log_config_append = {missing}/log.conf
logging_context_format_string = %(nonsense)d
config_source = elsewhere
config_dir = {directory}
rate_limit_interval = x
[elsewhere]
driver = remote_file
uri = http://127.0.0.1:9/evil.conf
"""


def test_daemon_obeys_no_option_of_any_library(sandbox: Sandbox, tmp_path: Path) -> None:
    """log_file may be a link of a service user. use_journal and a missing log_dir stopped the start."""
    victim, link, directory = tmp_path / "victim", tmp_path / "log", tmp_path / "evil.d"
    victim.write_text("mine\n")
    link.symlink_to(victim)
    directory.mkdir()
    (directory / "evil.conf").write_text("[os_vif_ovs]\novsdb_connection = tcp:192.0.2.1:9\n")
    with connected(sandbox, tmp_path, deadline=10) as host:
        with (tmp_path / "hybridvif.conf").open("a") as config:
            config.write(FOREIGN.format(victim=link, missing=tmp_path / "missing", directory=directory))
        lab = Lab(sandbox, host)
        assert plug(PORT, host).ok
        (pid,) = daemons(sandbox)
        opened = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
        assert not {str(victim), str(tmp_path / "missing")} & opened
        assert unplug(PORT.id, host).ok
    assert victim.read_text() == "mine\n"
    assert not (tmp_path / "missing").exists()
    lab.sweep()


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("user = nobody-here\n", "[hybridvif_privileged] user: this host has no user 'nobody-here'"),
        ("group = nobody-here\n", "[hybridvif_privileged] group: this host has no group 'nobody-here'"),
        ("thread_pool_size = 0\n", "the configuration of the privileged daemon is not legal"),
        ("no option\n", "the configuration of the privileged daemon is not legal"),
    ],
    ids=["user", "group", "threads", "no option"],
)
def test_daemon_that_cannot_start_says_why(sandbox: Sandbox, tmp_path: Path, written: str, sentence: str) -> None:
    with connected(sandbox, tmp_path) as host:
        with (tmp_path / "hybridvif.conf").open("a") as config:
            config.write(written)
        with pytest.raises(PreconditionError) as caught:
            host.observe(set(PORT.names), time.monotonic() + 10)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_user_without_a_group_leaves_no_group_of_roots(sandbox: Sandbox, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        lacking("only root may become another user; run as root")
    lab = Lab(sandbox, Host.__new__(Host))
    with readable_by_all(lab), connected(sandbox, tmp_path, switch_executor="recording") as host:
        with (tmp_path / "hybridvif.conf").open("a") as config:
            config.write("user = nobody\n")
        host.observe(set(PORT.names), time.monotonic() + 10)
        (pid,) = daemons(sandbox)
        status = status_of(pid)
        assert status["Uid"].split() == status["Gid"].split() == ["65534"] * 4
        assert status["Groups"].split() == []


# The given socket.


@pytest.mark.parametrize("trick", ["a link to a socket", "a link to a directory", "another's socket"])
def test_daemon_sends_nothing_to_a_socket_that_is_not_the_callers(sandbox: Sandbox, tmp_path: Path, trick: str) -> None:
    if os.geteuid() != 0:
        lacking("a socket of root's is what this is about; run as root")
    place, roots = tmp_path / "hybridvif-abcd_123", tmp_path / "roots"
    roots.mkdir(mode=0o700)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(roots / "privsep.sock"))
    listener.listen()
    listener.settimeout(0)
    if trick == "a link to a directory":
        place.symlink_to(roots)
    else:
        place.mkdir()
        os.chown(place, 65534, 65534)
        if trick == "a link to a socket":
            (place / "privsep.sock").symlink_to(roots / "privsep.sock")
        else:
            os.link(roots / "privsep.sock", place / "privsep.sock")
    with listener:
        arguments = ["--privsep_context", CONTEXT, "--privsep_sock_path", str(place / "privsep.sock")]
        done = sandbox.run([*HELPER, *arguments], check=False)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "refused" in done.stderr or "cannot start" in done.stderr
        with pytest.raises(BlockingIOError):
            listener.accept()
