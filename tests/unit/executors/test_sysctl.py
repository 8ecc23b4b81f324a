"""Settings of a device that vanishes while they are written."""

from __future__ import annotations

import errno
import os

import pytest

from hybridvif.executors.netlink import sysctl
from hybridvif.executors.netlink.executor import failure


@pytest.fixture
def vanishing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the device vanish after its file was opened: the kernel then reports ENOENT for the write."""

    def fail(*_: object) -> int:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(os, "open", lambda *_: os.dup(2))
    monkeypatch.setattr(os, "write", fail)


@pytest.mark.usefixtures("vanishing")
def test_write_to_a_device_that_vanished_can_be_retried() -> None:
    with pytest.raises(OSError, match="No such device") as caught:
        sysctl.write("qvb5f2c0e1a-7b", "rp_filter", 1)
    assert caught.value.errno == errno.ENODEV
    assert failure("cannot create", caught.value).retry


@pytest.mark.usefixtures("vanishing")
def test_ipv6_of_a_device_that_vanished_needs_nothing() -> None:
    before = len(os.listdir("/proc/self/fd"))
    sysctl.write("qvb5f2c0e1a-7b", "disable_ipv6", 1)
    assert len(os.listdir("/proc/self/fd")) == before
