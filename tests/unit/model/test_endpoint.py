"""Tests of ovsdb_connection: valid values, and the error for each invalid value."""

from __future__ import annotations

import pytest

from hybridvif.model.settings import ADDRESSES, MAX_PATH, Endpoint, endpoint_of


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
    "text",
    [
        "",
        "/run/openvswitch/db.sock",
        "punix:/run/x",
        "ptcp:6640",
        "TCP:127.0.0.1:6640",
        "unix:",
        "unix:/",
        "unix:/run/",
        "unix:db.sock",
        "unix:/run/a\0b",
        "unix:/run/a\nb",
        "unix:/" + "x" * MAX_PATH,
        "unix:/" + "é" * 60,
        "tcp:",
        "tcp::6640",
        "tcp:127.0.0.1",
        "tcp:127.0.0.1:",
        "tcp:[::1]",
        "tcp:[::1]6640",
        "tcp:127.0.0.1:0",
        "tcp:127.0.0.1:99999",
        "tcp:127.0.0.1:65536",
        "tcp:127.0.0.1:-1",
        "tcp:127.0.0.1:+80",
        "tcp:127.0.0.1:66 40",
        "tcp:127.0.0.1:\u0666",
        "tcp:127.0.0.1:http",
        "tcp:::1:6640",
        "tcp:a:1,tcp:b:2",
        "tcp:[::1:6640",
        "tcp:[127.0.0.1]:6640",
        "tcp:[]:6640",
        "tcp:[fe80::1%]:6640",
        "tcp:a b:6640",
        "tcp:-x:6640",
        "ssl:host",
    ],
)
def test_endpoint_invalid_raises_with_the_allowed_forms(text: str) -> None:
    with pytest.raises(ValueError, match="^") as caught:
        endpoint_of(text)
    assert str(caught.value) == f"{text!r} is not {ADDRESSES}"
