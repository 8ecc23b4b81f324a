"""Tests of ovsdb_connection: valid values, and the error for each invalid value."""

from __future__ import annotations

import pytest

from hybridvif.model.endpoint import MAX_PATH, Endpoint, endpoint_of


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("unix:/run/openvswitch/db.sock", Endpoint("unix", path="/run/openvswitch/db.sock")),
        ("unix:/" + "x" * (MAX_PATH - 1), Endpoint("unix", path="/" + "x" * (MAX_PATH - 1))),
        ("unix:/a:b", Endpoint("unix", path="/a:b")),
        ("tcp:127.0.0.1:6640", Endpoint("tcp", host="127.0.0.1", port=6640)),
        ("tcp:ovs-1.example.org.:1", Endpoint("tcp", host="ovs-1.example.org.", port=1)),
        ("ssl:[::1]:65535", Endpoint("ssl", host="::1", port=65535)),
        ("tcp:[fe80::1%eth0]:6640", Endpoint("tcp", host="fe80::1%eth0", port=6640)),
    ],
)
def test_endpoint_valid_round_trips(text: str, endpoint: Endpoint) -> None:
    assert endpoint_of(text) == endpoint
    assert str(endpoint) == text


@pytest.mark.parametrize(
    ("text", "defect"),
    [
        ("", "is neither unix:, tcp: nor ssl:"),
        ("/run/openvswitch/db.sock", "is neither unix:, tcp: nor ssl:"),
        ("punix:/run/x", "is neither unix:, tcp: nor ssl:"),
        ("ptcp:6640", "is neither unix:, tcp: nor ssl:"),
        ("TCP:127.0.0.1:6640", "is neither unix:, tcp: nor ssl:"),
        ("unix:", "has no path of a socket"),
        ("unix:/", "has no path of a socket"),
        ("unix:/run/", "has no path of a socket"),
        ("unix:db.sock", "has a path that is not absolute"),
        ("unix:/run/a\0b", "has a path with characters that are not printable"),
        ("unix:/run/a\nb", "has a path with characters that are not printable"),
        ("unix:/" + "x" * MAX_PATH, "has a path of more than 107 bytes"),
        ("unix:/" + "é" * 60, "has a path of more than 107 bytes"),
        ("tcp:", "has no host"),
        ("tcp::6640", "has no host"),
        ("tcp:127.0.0.1", "has no port"),
        ("tcp:127.0.0.1:", "has no port"),
        ("tcp:[::1]", "has no port"),
        ("tcp:[::1]6640", "has no port"),
        ("tcp:127.0.0.1:0", "has the port '0'"),
        ("tcp:127.0.0.1:99999", "has the port '99999'"),
        ("tcp:127.0.0.1:65536", "has the port '65536'"),
        ("tcp:127.0.0.1:-1", "has the port '-1'"),
        ("tcp:127.0.0.1:+80", "has the port '+80'"),
        ("tcp:127.0.0.1:66 40", "has the port '66 40'"),
        ("tcp:127.0.0.1:\u0666", "has the port '\u0666'"),
        ("tcp:127.0.0.1:http", "has the port 'http'"),
        ("tcp:::1:6640", "has an IPv6 address without brackets, or too many colons"),
        ("tcp:a:1,tcp:b:2", "has an IPv6 address without brackets, or too many colons"),
        ("tcp:[::1:6640", "has no bracket behind its IPv6 address"),
        ("tcp:[127.0.0.1]:6640", "has the IPv6 address '127.0.0.1'"),
        ("tcp:[]:6640", "has the IPv6 address ''"),
        ("tcp:[fe80::1%]:6640", "has the IPv6 address 'fe80::1%'"),
        ("tcp:a b:6640", "has the host 'a b'"),
        ("tcp:-x:6640", "has the host '-x'"),
        ("ssl:host", "has no port"),
    ],
)
def test_endpoint_invalid_raises_with_the_defect(text: str, defect: str) -> None:
    with pytest.raises(ValueError, match="^has |^is ") as caught:
        endpoint_of(text)
    assert str(caught.value) == defect
