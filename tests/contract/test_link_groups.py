"""Links that are deleted together form a verified group; otherwise they are deleted one by one."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from subprocess import PIPE

import pytest

from hybridvif.testing.sandbox.box import Sandbox

DELETE = """
import json, sys, time
from hybridvif.executors.netlink import connection
from hybridvif.executors.netlink.connection import request_of
from hybridvif.executors.netlink.operations import Get, Remove

names, group = json.loads(sys.argv[1])
if group:
    connection.FIRST, connection.LAST = group, group + 1
with connection.Connection(time.monotonic() + 10) as link:
    found = link.exchange([Get(name) for name in names], {})
    gone = link._delete_together([request_of(Remove(device.name), {device.name: device.index}) for device in found])
    there = [hasattr(device, "index") for device in link.exchange([Get(name) for name in names], {})]
print(json.dumps([len(gone), there]))
"""
BINDS = """
import socket, time
bound = [socket.socket(socket.AF_UNIX, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)]
for one in bound:
    one.bind("\\0hybridvif-link-group")
print("bound", flush=True)
time.sleep(600)
"""
MADE = """
ip link add hvgbridge type bridge
ip link add hvgone type veth peer name hvgtwo
ip link set hvgone master hvgbridge
ip link add hvgother type dummy 2>/dev/null || ip link add hvgother type bridge
"""
GONE = "for l in hvgone hvgbridge hvgother; do ip link delete $l 2>/dev/null; done; true"


def deleted(box: Sandbox, *names: str, group: int = 0, before: str = "") -> tuple[int, list[bool]]:
    """Return the number of links deleted as a group, and the links that remain."""
    box.run(["sh", "-ec", MADE + before])
    try:
        number, there = json.loads(box.python(DELETE, json.dumps([names, group])).stdout)
        assert box.run(["ip", "link", "show", "hvgother"]).returncode == 0
    finally:
        box.run(["sh", "-c", GONE])
    return number, there


def test_a_bridge_and_a_veth_pair_go_together(sandbox: Sandbox) -> None:
    assert deleted(sandbox, "hvgone", "hvgbridge") == (2, [False, False])


def test_one_device_needs_no_group(sandbox: Sandbox) -> None:
    assert deleted(sandbox, "hvgone") == (0, [True])


def test_a_group_that_somebody_else_is_in_is_not_deleted(sandbox: Sandbox) -> None:
    before = "ip link set hvgother group 70000"
    assert deleted(sandbox, "hvgone", "hvgbridge", group=70000, before=before) == (0, [True, True])


def test_abstract_sockets_that_a_user_binds_hold_up_no_delete(sandbox: Sandbox) -> None:
    """Any user of the network namespace can bind an abstract socket, so no lock may be one."""
    with sandbox.popen([sys.executable, "-P", "-c", BINDS], stdout=PIPE) as binding:
        assert binding.stdout is not None
        assert binding.stdout.readline() == "bound\n"
        assert deleted(sandbox, "hvgone", "hvgbridge") == (2, [False, False])
        binding.kill()


def test_daemons_that_delete_at_once_all_delete_their_groups(sandbox: Sandbox) -> None:
    pairs = [[f"hvg{daemon}x{number}" for number in range(10)] for daemon in range(4)]
    added = "\n".join(f"ip link add {name} type veth peer name {name}p" for names in pairs for name in names)
    sandbox.run(["sh", "-ec", added])
    with ThreadPoolExecutor(len(pairs)) as pool:
        ran = list(pool.map(lambda names: sandbox.python(DELETE, json.dumps([names, 0])).stdout, pairs))
    assert [json.loads(text) for text in ran] == [[10, [False] * 10]] * 4


@pytest.mark.parametrize("count", [2, 30])
def test_many_pairs_go_and_the_peers_with_them(sandbox: Sandbox, count: int) -> None:
    names = [f"hvg{number}" for number in range(count)]
    before = "\n".join(f"ip link add {name} type veth peer name {name}p" for name in names)
    assert deleted(sandbox, *names, before=before) == (count, [False] * count)
