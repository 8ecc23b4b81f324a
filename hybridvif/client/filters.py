"""The filters of this host, read by the caller without the daemon: OpenFlow flows, and iptables on Linux bridges.

Neutron's OpenFlow firewall has a flow for each port that it filters, or passes on purpose, in its first table. Other
firewalls have none there for a port. ovs-vswitchd serves the flows of a bridge on a socket beside that of its database.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hybridvif.engine import locks
from hybridvif.model.errors import NotReady, shown
from hybridvif.model.settings import SOCKET_DIR, Settings, endpoint_of

TIMEOUT = 10.0
"""Seconds in which ovs-vswitchd and iptables must answer. A busy host keeps ovs-vswitchd waiting for some seconds."""
MAX_RESPONSE = 64 * 1024 * 1024
"""Largest size of a response of ovs-vswitchd in bytes. That of 100,000 flows has 30 MB."""
FIREWALL_TABLE = 60
"""TRANSIENT_TABLE of Neutron's agent, in which its OpenFlow firewall receives the packets of a port."""
_VERSIONS = "OpenFlow10,OpenFlow13,OpenFlow14,OpenFlow15"
"""The agent switches its bridges to these versions."""
_NOT_RUNNING = ("(Connection refused)", "(No such file or directory)")
_BRIDGE_NF = [Path(f"/proc/sys/net/bridge/bridge-nf-call-{tables}") for tables in ("iptables", "ip6tables")]
_IN_PORT = re.compile(r"[ ,]in_port=(\d+)[ ,]")


class SwitchSilent(NotReady):
    """ovs-vswitchd does not serve its flows, because it hangs, does not run or could not create the bridge."""


def socket_directory(settings: Settings) -> str:
    """Return the directory of the management sockets of ovs-vswitchd."""
    path = endpoint_of(settings.ovsdb_connection).path
    return os.path.dirname(path) if path else SOCKET_DIR


def filtered_ofports(settings: Settings, bridge: str, deadline: float) -> frozenset[int]:
    """Return the OpenFlow port numbers that the OpenFlow firewall knows on a bridge. Raises NotReady."""
    return frozenset(map(int, _IN_PORT.findall(flows_of(settings, bridge, FIREWALL_TABLE, deadline))))


def flows_of(settings: Settings, bridge: str, table: int, deadline: float) -> str:
    """Return the flows of one table of a bridge as text. Raises NotReady, and SwitchSilent of this host."""
    # Without --names, a port is a number.
    options = ["--no-names", "--no-stats", "-O", _VERSIONS]
    # One word each: whoever writes the database chooses the name, and root may run this.
    target = [f"unix:{socket_directory(settings)}/{bridge}.mgmt", f"table={table}"]
    unread = f"the flows of {bridge} cannot be read"
    try:
        return output_of(settings, ["ovs-ofctl", *options, "dump-flows", *target], deadline)
    except SwitchSilent as error:
        raise SwitchSilent(f"{unread}: {error}, so ovs-vswitchd may hang; see hybridvif doctor") from error
    except NotReady as error:
        if endpoint_of(settings.ovsdb_connection).path and str(error).endswith(_NOT_RUNNING):
            raise SwitchSilent(
                f"{unread}: ovs-vswitchd does not run, or lacks this bridge; see hybridvif doctor"
            ) from error
        raise NotReady(f"{unread}: {error}; run this as root, or use --unfiltered") from error


def output_of(settings: Settings, words: Sequence[str], deadline: float) -> str:
    """Run a program as this user and return its output. Raises NotReady with its error, SwitchSilent if it is late."""
    program = shutil.which(words[0], path=settings.program_path)
    if program is None:
        raise NotReady(f"{words[0]} is not installed")
    timeout = max(deadline - time.monotonic(), 0.1)
    try:
        done = subprocess.run(
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
            env={"LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise SwitchSilent(f"{words[0]} had no answer within {timeout:.1f} s") from error
    except OSError as error:
        raise NotReady(str(error)) from error
    if done.returncode:
        reason = " ".join(done.stderr.decode(errors="replace").split())
        raise NotReady(shown(reason.removeprefix(f"{words[0]}: ")) or f"{words[0]} failed")
    return done.stdout.decode(errors="replace")


def calls_iptables() -> bool:
    """Return whether every Linux bridge calls iptables and ip6tables."""
    try:
        return all(switch.read_text(encoding="ascii").strip() == "1" for switch in _BRIDGE_NF)
    except OSError:
        # br_netfilter is not loaded.
        return False


@contextmanager
def control_socket(directory: Path, timeout: float = TIMEOUT) -> Iterator[socket.socket]:
    """Connect to the management socket of ovs-vswitchd in its directory. Raises OSError, ValueError, Unfit."""
    # Open vSwitch may run as its own user, who can write any file there.
    pid = int(locks.read(str(directory / "ovs-vswitchd.pid"), 64))
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(timeout)
        channel.connect(str(directory / f"ovs-vswitchd.{pid}.ctl"))
        yield channel


def ask(channel: socket.socket, method: str, *parameters: str, timeout: float = TIMEOUT) -> str:
    """Return the response to a command of ovs-appctl(8). Raises OSError, ValueError with the error of ovs-vswitchd."""
    due = time.monotonic() + timeout
    channel.sendall(json.dumps({"id": 0, "method": method, "params": parameters}).encode())
    received = bytearray()
    while True:
        channel.settimeout(max(due - time.monotonic(), 0.001))
        data = channel.recv(1 << 16)
        if not data:
            raise ConnectionResetError
        received += data
        if len(received) > MAX_RESPONSE:
            raise ValueError(f"its response has more than {MAX_RESPONSE} bytes")
        # A response has no delimiter. It ends with a brace.
        if received[-64:].rstrip().endswith(b"}"):
            with suppress(json.JSONDecodeError):
                response = _decoded(received)
                if response.get("error") is not None:
                    raise ValueError(str(response["error"]).strip())
                return str(response.get("result", ""))


def _decoded(received: bytearray) -> dict[str, Any]:
    try:
        response: dict[str, Any] = json.loads(received)
    except RecursionError as error:
        raise ValueError("its response is nested too deeply") from error
    return response
