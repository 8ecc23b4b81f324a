"""Links that are deleted together go as one group, which is proven to hold nothing else; else one by one."""

from __future__ import annotations

import json

import pytest

from hybridvif.sandbox import Sandbox

DELETE = """
import json, sys, time
from hybridvif.executors import linkgroups
from hybridvif.executors.linkmessages import delete_link, get_link, message_of
from hybridvif.executors.rtnetlink import Channel

names, group, lock = json.loads(sys.argv[1])
if group:
    linkgroups.FIRST, linkgroups.LAST = group, group + 1
if lock:
    import socket
    other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    other.bind(linkgroups._NAME)
    linkgroups.PATIENCE = 0.05
deadline = time.monotonic() + 10
with Channel(deadline) as channel:
    found = [message_of(body) for body in channel.exchange([get_link(name) for name in names])]
    gone = linkgroups.delete_together(channel, [delete_link(one.index) for one in found], deadline)
    there = [isinstance(body, bytes) for body in channel.exchange([get_link(name) for name in names])]
print(json.dumps([len(gone), there]))
"""
MADE = """
ip link add hvgbridge type bridge
ip link add hvgone type veth peer name hvgtwo
ip link set hvgone master hvgbridge
ip link add hvgother type dummy 2>/dev/null || ip link add hvgother type bridge
"""
GONE = "for l in hvgone hvgbridge hvgother; do ip link delete $l 2>/dev/null; done; true"


def deleted(box: Sandbox, *names: str, group: int = 0, lock: bool = False, before: str = "") -> tuple[int, list[bool]]:
    """How many went as a group, and which are there after it."""
    box.run(["sh", "-ec", MADE + before])
    try:
        number, there = json.loads(box.python(DELETE, json.dumps([names, group, lock])).stdout)
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


def test_while_another_daemon_is_at_it_no_group_is_made(sandbox: Sandbox) -> None:
    assert deleted(sandbox, "hvgone", "hvgbridge", lock=True) == (0, [True, True])


@pytest.mark.parametrize("count", [2, 30])
def test_many_pairs_go_and_the_peers_with_them(sandbox: Sandbox, count: int) -> None:
    names = [f"hvg{at}" for at in range(count)]
    before = "\n".join(f"ip link add {name} type veth peer name {name}p" for name in names)
    assert deleted(sandbox, *names, before=before) == (count, [False] * count)
