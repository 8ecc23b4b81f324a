"""Settings: the configuration as one frozen value. Each option is declared once, here. engine/config.py reads it."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hybridvif.model.names import NONE, QOS_TYPES, TRUNK_BRIDGES, is_bridge_name, is_trunk_bridge

OVS_SOCKET = "unix:/var/run/openvswitch/db.sock"
"""Default socket of Open vSwitch in the packages of Debian, Ubuntu and Fedora."""
SOCKET_DIR = "/var/run/openvswitch"
"""Default directory of vhost-user sockets in Neutron's agent (vhostuser_socket_dir)."""
MIN_DEADLINE, MAX_DEADLINE = 0.5, 3600.0
MAX_NAMES = 16_384
"""Maximum number of names in one request to the daemon."""
MAX_PATH = 107
"""Bytes. sun_path holds 108 bytes with the terminating zero (unix(7))."""
MAX_SOCKET_DIR = 92
"""Maximum number of characters. The path of a socket is the directory, a slash and the name of the port."""
ADDRESSES = (
    "unix:FILE with an absolute path, tcp:HOST:PORT or ssl:HOST:PORT, "
    "with a port from 1 to 65535 and an IPv6 address in brackets"
)

_SOCKET_DIR = re.compile(rf"(?=/.{{1,{MAX_SOCKET_DIR - 1}}}\Z)(/(?!\.\./|\.\.\Z)[A-Za-z0-9_.-]+)+", re.ASCII)
_ADDRESS = re.compile(
    r"(tcp|ssl):(?:\[(?P<ipv6>[^]%]*)(?P<zone>%[A-Za-z0-9_.-]{1,15})?]|"
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\.?)):(?P<port>[0-9]{1,5})",
    re.ASCII,
)


class Endpoint(NamedTuple):
    """Address of an OVSDB server, a path or a host with a port. See ovsdb(7), "OVSDB connection methods".

    >>> endpoint_of("tcp:[::1]:6640")
    Endpoint(scheme='tcp', path='', host='::1', port=6640)
    """

    scheme: str
    """unix, tcp or ssl."""
    path: str = ""
    host: str = ""
    """A name or an address. An IPv6 address has no brackets."""
    port: int = 0

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.path}"
        return f"{self.scheme}:{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def endpoint_of(text: str) -> Endpoint:
    """Return the endpoint of a connection string. Raises ValueError with the allowed forms."""
    path, match = text.removeprefix("unix:"), _ADDRESS.fullmatch(text)
    if path != text and _is_path(path) and path[-1] != "/" and len(path.encode()) <= MAX_PATH:
        return Endpoint("unix", path=path)
    if match and 1 <= int(match["port"]) <= 65535:
        with suppress(ValueError):
            host = match["name"] or f"{ipaddress.IPv6Address(match['ipv6'])}{match['zone'] or ''}"
            return Endpoint(match[1], host=host, port=int(match["port"]))
    raise ValueError(f"{text!r} is not {ADDRESSES}")


def _is_endpoint(text: str) -> bool:
    try:
        return bool(endpoint_of(text))
    except ValueError:
        return False


def _is_path(text: str) -> bool:
    return os.path.isabs(text) and text.isprintable()


def _are_bridges(names: Collection[str]) -> bool:
    return all(name == TRUNK_BRIDGES or is_bridge_name(name) for name in names)


def option(
    default: Any, text: str, is_legal: Callable[[Any], object] = bool, legal_values: str = "", **limits: Any
) -> Any:
    """Declare an option. legal_values: a noun phrase for the error; "" for any value. limits: for oslo.config."""
    return field(default=default, metadata={"help": text, "rule": (is_legal, legal_values), "limits": limits})


_PEM = (lambda path: not path or _is_path(path), "an absolute path")
_BRIDGES = (_are_bridges, f"a list of names of 1 to 15 letters, digits, '_', '.' or '-', or {TRUNK_BRIDGES}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The [hybridvif] section."""

    link_executor: str = option(
        "iproute2-netlink",
        "The executor for bridges and veth pairs: the name of an entry point of hybridvif.link_executors.",
    )
    switch_executor: str = option(
        "ovsdb", "The executor for ports of the switch: the name of an entry point of hybridvif.switch_executors."
    )
    ovsdb_connection: str = option(
        OVS_SOCKET,
        "The address of ovsdb-server: unix:FILE (absolute), tcp:HOST:PORT or ssl:HOST:PORT. Prefer the socket: "
        "everyone with access to a TCP port can put any device of this host into any bridge. ssl: needs the "
        "options ssl_key_file, ssl_cert_file and ssl_ca_cert_file.",
        _is_endpoint,
        ADDRESSES,
    )
    ssl_key_file: str = option(
        "",
        "The private key for an ovsdb_connection of ssl:, without a password: an absolute path. Only the daemon "
        "reads it.",
        *_PEM,
    )
    ssl_cert_file: str = option("", "The certificate that belongs to ssl_key_file: an absolute path.", *_PEM)
    ssl_ca_cert_file: str = option(
        "", "The certificate of the CA that signed the certificate of ovsdb-server: an absolute path.", *_PEM
    )
    integration_bridges: tuple[str, ...] = option(
        ("br-int",),
        "The Open vSwitch bridges for ports. A plug into any other bridge is refused. ``tbr-*`` means all trunk "
        "bridges of Neutron.",
        *_BRIDGES,
    )
    create_bridges: tuple[str, ...] = option(
        (),
        "The integration bridges that are created if they are missing. ``tbr-*`` means all trunk bridges. The "
        "default is none, because a missing bridge may be a typing error.",
        *_BRIDGES,
    )
    remove_trunk_bridges: bool = option(
        False,
        "Remove a trunk bridge (``tbr-*``) with the last of its ports, together with Neutron's patch ports. "
        "Other bridges are never removed.",
    )
    deadline: float = option(
        30.0,
        "Maximum number of seconds for one port, or for one batch of a bulk call.",
        # oslo.config accepts "nan", because its comparison with the limits is false.
        lambda seconds: MIN_DEADLINE <= seconds <= MAX_DEADLINE,
        f"from {MIN_DEADLINE} to {MAX_DEADLINE} seconds",
        min=MIN_DEADLINE,
        max=MAX_DEADLINE,
    )
    unplug_running: str = option(
        "refuse",
        "Whether to refuse or to force an unplug of a port with a running VM (a member of its bridge has carrier).",
        choices=["refuse", "force"],
    )
    lock_path: str = option(
        "/run/lock/hybridvif",
        "The directory of the locks. All callers of this host share it, both root and the user of the service.",
        os.path.isabs,
        "an absolute path, which the processes that read it need",
    )
    program_path: str = option(
        "/usr/sbin:/usr/bin:/sbin:/bin",
        "The directories with brctl, ip, ovs-vsctl and ivs-ctl, for the executors that run programs. Only root "
        "may be able to write to them.",
        lambda path: all(map(os.path.isabs, path.split(":"))),
        "a list of absolute paths, which the processes that read it need",
    )
    call_iptables: bool = option(
        False,
        "Whether the Linux bridge of each port calls iptables and ip6tables, for Neutron's hybrid firewall. It "
        "replaces net.bridge.bridge-nf-call-iptables = 1, which applies to all Linux bridges of the host. Needs "
        "br_netfilter.",
    )
    require_isolate: bool = option(
        False,
        "Create every new port of Open vSwitch in the dead VLAN until Neutron's agent wires it, as with "
        "isolate. The daemon refuses any other, so a captured client cannot put a VM into the untagged network. "
        "Trunk bridges are exempt. Set it on both sides. Without Neutron's agent no port works.",
    )
    default_qos_type: str = option(
        NONE,
        "The type of the QoS row of a new port of Open vSwitch, unless the port has its own. The row is deleted "
        "with the port.",
        choices=[NONE, *QOS_TYPES],
    )
    vhost_socket_dir: str = option(
        SOCKET_DIR,
        "The directory in which QEMU creates the sockets of vhost-user ports of the mode 'server': "
        "vhostuser_socket_dir of Neutron. A socket has the name of its port, vhu... Open vSwitch connects to "
        "it.",
        _SOCKET_DIR.fullmatch,
        f"an absolute path of at most {MAX_SOCKET_DIR} letters, digits, '_', '.', '-' and '/' without '..' and "
        "without a '/' at its end",
    )
    answer_to_ovs: bool = option(
        False,
        "Whether hybridvif replaces the plugin 'ovs' of os-vif, which Nova uses. hybridvif then plugs hybrid "
        "ports, and the code of os-vif plugs all other VIFs.",
    )

    @property
    def named_bridges(self) -> tuple[str, ...]:
        """The integration bridges that are configured by name."""
        return tuple(name for name in self.integration_bridges if name != TRUNK_BRIDGES)

    def allows(self, bridge: str) -> bool:
        """Return True if ports may be plugged into this bridge."""
        return _is_among(bridge, self.integration_bridges)

    def creates(self, bridge: str) -> bool:
        """Return True if this bridge is created when it is missing."""
        return self.allows(bridge) and _is_among(bridge, self.create_bridges)


def _is_among(bridge: str, configured: Collection[str]) -> bool:
    return bridge in configured or (TRUNK_BRIDGES in configured and is_trunk_bridge(bridge))
