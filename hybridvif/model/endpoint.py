"""The endpoint of ovsdb-server: ovsdb_connection, validated. See ovsdb(7), "OVSDB connection methods"."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

ALLOWED = (
    "write unix:FILE with an absolute path, tcp:HOST:PORT or ssl:HOST:PORT, "
    "with a port from 1 to 65535 and an IPv6 address in brackets"
)
MAX_PATH = 107
"""Bytes. sun_path holds 108 bytes with the terminating zero (unix(7))."""
MAX_PORT = 65535
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?", re.ASCII)
_ZONE = re.compile(r"[A-Za-z0-9_.-]{1,15}", re.ASCII)


class Endpoint(NamedTuple):
    """Address of an OVSDB server: the path of a socket, or a host and a port.

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
    """Return the endpoint of a connection string. Raises ValueError with the predicate of a sentence."""
    scheme, colon, address = text.partition(":")
    if not colon or scheme not in ("unix", "tcp", "ssl"):
        raise ValueError("is neither unix:, tcp: nor ssl:")
    if scheme == "unix":
        return Endpoint(scheme, path=_path_of(address))
    if address.startswith("["):
        host, bracket, rest = address[1:].partition("]")
        if not bracket:
            raise ValueError("has no bracket behind its IPv6 address")
        _require_ipv6(host)
    else:
        host, colon, rest = address.rpartition(":")
        if ":" in host:
            raise ValueError("has an IPv6 address without brackets, or too many colons")
        host, rest = (host, f":{rest}") if colon else (address, "")
        if not _HOST.fullmatch(host):
            raise ValueError(f"has the host {host!r}" if host else "has no host")
    if not rest.startswith(":") or rest == ":":
        raise ValueError("has no port")
    if not _PORT.fullmatch(rest[1:]) or not 1 <= int(rest[1:]) <= MAX_PORT:
        raise ValueError(f"has the port {rest[1:]!r}")
    return Endpoint(scheme, host=host, port=int(rest[1:]))


def _path_of(path: str) -> str:
    if not path or path.endswith("/"):
        raise ValueError("has no path of a socket")
    if not path.startswith("/"):
        raise ValueError("has a path that is not absolute")
    if not path.isprintable():
        raise ValueError("has a path with characters that are not printable")
    if len(path.encode()) > MAX_PATH:
        raise ValueError(f"has a path of more than {MAX_PATH} bytes")
    return path


def _require_ipv6(host: str) -> None:
    address, percent, zone = host.partition("%")
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        raise ValueError(f"has the IPv6 address {host!r}") from None
    if percent and not _ZONE.fullmatch(zone):
        raise ValueError(f"has the IPv6 address {host!r}")
