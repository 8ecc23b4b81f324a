"""Connections to ovsdb-server by a deadline: over a Unix socket, TCP or TLS.

TLS as in Open vSwitch: both sides have a certificate of one CA. No host name is compared, since the certificates of
ovs-pki(8) contain none (python/ovs/stream.py, SSLStream).
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from hybridvif.executors.base import ExecutorError
from hybridvif.model.settings import Endpoint, Settings, endpoint_of

if TYPE_CHECKING:
    import ssl

START = "start Open vSwitch (systemctl start openvswitch-switch), or set [hybridvif] ovsdb_connection"


def connected(settings: Settings, deadline: float) -> socket.socket:
    """Return a socket connected to the configured server. Raises ExecutorError."""
    remote = settings.ovsdb_connection
    context = tls_context(settings) if tls_files(settings) else None
    try:
        channel = _connected(endpoint_of(remote), deadline)
        return channel if context is None else _secured(channel, context, deadline)
    except (TimeoutError, BlockingIOError) as error:
        # BlockingIOError: the backlog of a Unix socket is full.
        reason = f"OVSDB at {remote} does not accept connections; is ovsdb-server hung?"
        raise ExecutorError(reason, precondition=True) from error
    except (OSError, ValueError, OverflowError) as error:
        # ValueError: only for Settings built in code, since those of a file have been validated.
        remedy = START
        if context is not None and not isinstance(error, ConnectionError | socket.gaierror):
            remedy = "let the server and [hybridvif] ssl_cert_file have certificates of the CA in ssl_ca_cert_file"
        elif isinstance(error, PermissionError):
            remedy = "run as root, or let the daemon's group read and write the socket"
        reason = f"cannot reach OVSDB at {remote}: {_reason_of(error)}; {remedy}"
        raise ExecutorError(reason, precondition=True) from error


def closed(remote: str) -> str:
    """Return the error message about a server that closed a connection."""
    # In TLS 1.3 a server rejects a client's certificate after the handshake.
    if remote.startswith("ssl:"):
        return f"OVSDB at {remote} closed the connection; is [hybridvif] ssl_cert_file of the CA that the server has?"
    return f"OVSDB at {remote} closed the connection; is ovsdb-server restarting?"


def numeric(settings: Settings, deadline: float) -> str:
    """Return the configured connection with an IP address in place of the host name.

    The `ovs` library cannot resolve a name to an IPv4 address, and ovs-vsctl not to an IPv6 address or not at all.
    Neither reports what is wrong with a certificate. So a connection is tried first.
    """
    if settings.ovsdb_connection.startswith("unix:"):
        return settings.ovsdb_connection
    with connected(settings, deadline) as channel:
        try:
            address = channel.getpeername()[0]
        except OSError as error:
            # ENOTCONN: the server has closed the connection already.
            raise ExecutorError(closed(settings.ovsdb_connection)) from error
    return str(endpoint_of(settings.ovsdb_connection)._replace(host=str(address)))


def tls_files(settings: Settings) -> tuple[str, ...]:
    """Return the files of a TLS connection: key, certificate, CA; none for any other connection."""
    if not settings.ovsdb_connection.startswith("ssl:"):
        return ()
    return settings.ssl_key_file, settings.ssl_cert_file, settings.ssl_ca_cert_file


def tls_context(settings: Settings) -> ssl.SSLContext:
    """Return the context of a TLS connection. Raises ExecutorError, naming the option and the file."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    key, certificate, ca = tls_files(settings)
    for option, path in (("ssl_key_file", key), ("ssl_cert_file", certificate), ("ssl_ca_cert_file", ca)):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise _unusable(f"{option} {path} cannot be read: {error.strerror}") from error
    try:
        context.load_verify_locations(ca)
    except OSError as error:
        raise _unusable(f"ssl_ca_cert_file {ca} holds no certificate in PEM form") from error
    try:
        # Without this, OpenSSL would prompt for the password of an encrypted key on a terminal.
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except OSError as error:
        pair = f"ssl_cert_file {certificate} and ssl_key_file {key}"
        raise _unusable(f"{pair} are no certificate and its key without a password, in PEM form") from error
    return context


def _unusable(problem: str) -> ExecutorError:
    return ExecutorError(f"[hybridvif] {problem}; give the daemon's user a file that it can use", precondition=True)


def _connected(endpoint: Endpoint, deadline: float) -> socket.socket:
    remaining = max(deadline - time.monotonic(), 0.001)
    if endpoint.scheme != "unix":
        channel = socket.create_connection((endpoint.host, endpoint.port), timeout=remaining)
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return channel
    channel = socket.socket(socket.AF_UNIX)
    try:
        channel.settimeout(remaining)
        channel.connect(endpoint.path)
    except BaseException:
        channel.close()
        raise
    return channel


def _secured(channel: socket.socket, context: ssl.SSLContext, deadline: float) -> socket.socket:
    try:
        channel.settimeout(max(deadline - time.monotonic(), 0.001))
        return context.wrap_socket(channel)
    except BaseException:
        channel.close()
        raise


def _reason_of(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno and type(error).__module__ != "ssl":
        return str(error.strerror) if isinstance(error, socket.gaierror) else os.strerror(error.errno)
    # A TLS error, for example "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: ... (_ssl.c:992)".
    message = str(getattr(error, "verify_message", "") or getattr(error, "reason", "") or error)
    return message.replace("_", " ").lower()
