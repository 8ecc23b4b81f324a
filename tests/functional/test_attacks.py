"""A captured caller sends what it likes: everything is refused by that word, and nothing of anybody else's changes.

Straight through the channel, past our own client. What the daemon has loaded, opened and executed is compared once for
the whole table, at its end; strace sees it where it may attach.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest

from hybridvif import Port, plug, wire, wiring_of
from hybridvif.privileged.channel import Channel
from hybridvif.privileged.context import daemon_context
from hybridvif.pytest_plugin import connected
from hybridvif.sandbox import Sandbox
from tests.functional.conftest import Lab, make_port, until
from tests.functional.test_boundary import daemons, status_of

SOON = 10.0
PORT = make_port()
NAMES = PORT.names
OTHERS = make_port(2).names
ENTRY = "hybridvif.privileged.entrypoints"
OBSERVE, APPLY = f"{ENTRY}.observe", f"{ENTRY}.apply"
PING, CALL = 1, 3


def part(kind: str, **more: Any) -> list[Any]:
    made = {type(one).__name__: one for one in wiring_of(PORT)}[kind]
    name, values = wire.encode_part(made)
    return [name, {**values, **more}]


def vhost_user(**more: Any) -> list[Any]:
    (made,) = wiring_of(replace(PORT, vhostuser_mode="server"))
    name, values = wire.encode_part(made)
    return [name, {**values, **more}]


def deep(depth: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


def nobody() -> list[Any]:
    """A question that is in order, as a measure of those that are not."""
    return [[NAMES.bridge], time.monotonic() + SOON]


STRANGERS = [
    *("eth0", "lo", "br-int", "br-two", "ovs-system", "../all", "/etc/passwd", "-x", "--", "--all", "", " ", "*"),
    *(
        "qbr",
        "qbr*",
        "qbr../../../../etc",
        f"{NAMES.bridge}\n",
        f"{NAMES.bridge}\0",
        f" {NAMES.bridge}",
        "qbr" + "x" * 11,
    ),
    # Look-alikes: a Cyrillic letter, full width digits, a soft hyphen, an unpaired surrogate.
    *("qbr\u0430000001-7b", "qbr\uff10\uff10000001-7b", f"qbr\u00ad{NAMES.bridge[3:]}", "qbr\udc800000001-7b"),
    *(NAMES.bridge.upper(), NAMES.bridge[:-1], NAMES.bridge + "0", "qvx" + NAMES.bridge[3:], "$(reboot)", "a;reboot"),
]
"""Names that are not of our devices."""
NOT_CALLABLE = [
    *(
        "os.system",
        "os.execv",
        "subprocess.run",
        "builtins.eval",
        "builtins.exec",
        "importlib.import_module",
        "ctypes.CDLL",
    ),
    *("curses.initscr", "antigravity.geohash", "hybridvif.api.plug", "hybridvif.privileged.posture.pass_on"),
    *(f"{ENTRY}._executors", f"{ENTRY}._state.clear", f"{ENTRY}.wire.decode_plans", f"{ENTRY}.observe.__call__"),
    *("hybridvif.privileged.registry.executor_of", "hybridvif.executors.netlink.NetlinkExecutor"),
    *("hybridvif.privileged.context.daemon_context.entrypoint", "pyroute2.IPRoute", ENTRY, "", ".", "..", "observe"),
]
QUESTIONS: dict[str, Any] = {
    "a text": NAMES.bridge,
    "a number": 7,
    "True": True,
    "bytes": [NAMES.bridge.encode()],
    "a number in a list": [7],
    "a list in a list": [[NAMES.bridge]],
    "deep": deep(200),
    "a map": {NAMES.bridge: 1},
    "too many": [NAMES.bridge] * 5000,
    "1 MB": ["x" * 1_000_000],
    "10 MB": ["x" * 10_000_000],
}
OF_VHOST_USER: dict[str, dict[str, Any]] = {
    "a name of a device": {"name": NAMES.switch_end},
    "another's name": {"name": OTHERS.vhost_user},
    "a path for a name": {"name": "../../etc/passwd"},
    "a type of its own": {"type": "dpdk"},
    "a system device's type": {"type": ""},
    "a socket elsewhere": {"socket_as_configured": False},
    "a path for its socket": {"socket_as_configured": "/etc/cron.d"},
    "a field for a path": {"vhost_server_path": "/etc/cron.d/x"},
    "a MTU that no packet has": {"mtu": 65_536},
    "a bridge that is not allowed": {"bridge": "br-ex"},
}
PLANS: dict[str, Any] = {
    "None": None,
    "a text": "plans",
    "a map": {"create": part("Bridge")},
    "deep": deep(200),
    "10 MB": [[["create", part("Bridge", alias="x" * 10_000_000)]]],
    "a step of bytes": [[[b"create", part("Bridge")]]],
    "an unknown verb": [[["exec", part("Bridge")]]],
    "a verb too many": [[["create", part("Bridge"), part("Bridge")]]],
    "an update of one": [[["update", part("Bridge")]]],
    "an update of two": [[["update", part("Bridge"), part("Veth")]]],
    "an unknown kind": [[["create", ["Route", {"name": NAMES.bridge}]]]],
    "a class as a kind": [[["create", ["hybridvif.parts.Bridge", part("Bridge")[1]]]]],
    "a field too many": [[["create", part("Bridge", command="reboot")]]],
    "an attribute as a field": [[["create", part("Bridge", __class__="x")]]],
    "no field": [[["create", ["Bridge", {}]]]],
    "True for 1": [[["create", part("Bridge", mtu=True)]]],
    "1 for True": [[["create", part("Bridge", up=1)]]],
    "1500.0": [[["create", part("Bridge", mtu=1500.0)]]],
    "a MTU of 0": [[["create", part("Bridge", mtu=0)]]],
    "a huge MTU": [[["create", part("Bridge", mtu=2**62)]]],
    "a multicast MAC": [[["create", part("Bridge", mac="01:00:5e:00:00:01")]]],
    "a MAC and more": [[["create", part("OvsPort", attached_mac="fa:16:3e:00:00:01 -- del-br br-int")]]],
    "words for an id": [[["create", part("OvsPort", iface_id="x' -- del-br br-int")]]],
    "an id with a newline": [[["create", part("OvsPort", iface_id=PORT.id + "\n")]]],
    "another port's alias": [[["create", part("Bridge", alias=make_port(2).id)]]],
    "another port's id": [[["create", part("OvsPort", port_id=make_port(2).id)]]],
    "another port's bridge": [[["create", part("Veth", master=OTHERS.bridge)]]],
    "br-int as a master": [[["create", part("Veth", master="br-int")]]],
    "eth0 as a peer": [[["create", part("Veth", peer="eth0")]]],
    "another port's peer": [[["create", part("Veth", peer=OTHERS.switch_end)]]],
    "two ports": [[["create", part("Bridge")], ["delete", part("Bridge", name=OTHERS.bridge)]]],
    "one port twice": [[["create", part("Bridge")]], [["delete", part("Veth")]]],
    "a good plan and a bad one": [[["create", part("Bridge")]], [["delete", part("Bridge", name="eth0")]]],
    "a link group": [[["create", part("Bridge", group=65536)]]],
    "a bridge that is not allowed": [[["create", part("OvsPort", bridge="br-ex")]]],
    "a bridge of no name": [[["create", part("OvsPort", bridge="")]]],
    "an option as a bridge": [[["create", part("OvsPort", bridge="--all")]]],
    "an internal port": [[["create", part("OvsPort", type="internal")]]],
    "a tunnel": [[["create", part("OvsPort", type="vxlan")]]],
    "a row of vhost-user's type": [[["create", part("OvsPort", type="dpdkvhostuser")]]],
    **{f"a vhost-user port with {what}": [[["create", vhost_user(**more)]]] for what, more in OF_VHOST_USER.items()},
    "a tap that is made": [[["create", ["Tap", {"name": NAMES.tap, "master": ""}]]]],
    "a tap that is deleted": [[["delete", ["Tap", {"name": NAMES.tap, "master": ""}]]]],
    "a tap elsewhere": [
        [["update", ["Tap", {"name": NAMES.tap, "master": ""}], ["Tap", {"name": NAMES.tap, "master": "br-int"}]]]
    ],
    "a stray": [[["delete", ["Stray", {"name": NAMES.bridge, "what": "", "alias": ""}]]]],
    "an executor's name": [[["create", part("Bridge", executor="recording")]]],
    "too many steps": [[["delete", part("Bridge")]] * 17],
    "too many plans": [[]] * 513,
    **{
        f"{verb} {name!r}": [[[verb, part("Bridge", name=name)]]]
        for verb in ("create", "delete")
        for name in ("eth0", "lo", "br-int", "../all", "--", OTHERS.tap, f"{NAMES.bridge}\0")
    },
}
TWIN = make_port(2, id=make_port(2).id[:-1] + "f")
"""Another port, with the names of one that is plugged."""
ROWED, STRAYED, TAPPED = make_port(4), make_port(5), make_port(6)


def of(port: Port, kind: str, **more: Any) -> list[Any]:
    made = {type(one).__name__: one for one in wiring_of(port)}[kind]
    name, values = wire.encode_part(made)
    return [name, {**values, **more}]


def nobodys(kind: str) -> list[Any]:
    """A part of the port that is plugged, as if it bore no mark."""
    silent = {name: "" for name in ("alias", "peer_alias", "iface_id") if name in part(kind)[1]}
    return of(TWIN, kind, **silent)


PLANS |= {
    f"a tap that is made {what}": [[["create", of(replace(PORT, create_tap=True), "MadeTap", **more)]]]
    for what, more in {
        "and nobody's": {"alias": ""},
        "and another port's": {"alias": make_port(2).id},
        "under another name": {"name": "eth0"},
        "in br-int": {"master": "br-int"},
    }.items()
}
WEAK: dict[str, dict[str, tuple[Any, ...]]] = {
    "Bridge": {
        "stp": (True,),
        "multicast_snooping": (True,),
        "disable_ipv6": (False, None),
        "addr_gen_mode": ("eui64", "random", None),
        "arp_ignore": (0, 8),
        "arp_announce": (0, 1),
        "host_ip": ("forwarding 1", "on", "", None),
    },
    "Veth": {
        "host_ip": ("rp_filter 0", None),
        "peer_host_ip": ("IPv6 on", None),
        "bridge_port": ("isolated on", "hairpin on", None),
    },
    "MadeTap": {"host_ip": ("ARP on",), "bridge_port": ("locked on",), "owner": (-1, 65534, 2**40, None)},
}
"""Values that open a host to its tenant, or the VM's connection to others."""
PLANS |= {
    f"{verb} {kind} with {name} {value}": [
        [[verb, *([made] if verb == "update" else []), of(replace(PORT, create_tap=True), kind, **{name: value})]]
    ]
    for kind, names in WEAK.items()
    for made in [of(replace(PORT, create_tap=True), kind)]
    for name, values in names.items()
    for value in values
    for verb in ("create", "update")
    # Nothing is written of what is None in an update.
    if verb == "create" or value is not None
}
PLANS |= {
    "a MAC of its choice for qbr": [[["create", part("Bridge", mac="0a:00:00:00:00:01")]]],
    "a pair that was another's": [[["update", part("Veth", peer=OTHERS.switch_end), part("Veth")]]],
    "a pair that was eth0's": [[["update", part("Veth", peer="eth0"), part("Veth", peer="eth0")]]],
    "IPv6 that a small MTU is said to have hidden": [
        [["update", part("Bridge", mtu=1200, disable_ipv6=None), part("Bridge", disable_ipv6=False)]]
    ],
}
TWO_OWNERS = {
    "two owners": [
        [["create", part("Bridge")], ["create", part("OvsPort", iface_id=PORT.id[:-1] + "f", port_id="")]],
        [["create", part("Veth", peer_alias=PORT.id[:-1] + "f")]],
        [["delete", part("Bridge")], ["delete", part("Veth", alias=PORT.id[:-1] + "f", peer_alias="")]],
        [["update", part("Bridge", alias=PORT.id[:-1] + "f"), part("Bridge")]],
    ],
    "an owner that the names do not fit": [
        [["delete", part("Bridge", alias=TWIN.id)]],
        [["create", part("OvsPort", iface_id=TWIN.id)]],
        [["update", part("OvsPort"), part("OvsPort", iface_id=TWIN.id)]],
    ],
    "out of a foreign bridge": [
        [["update", part("Veth", master="br0"), part("Veth", master="")]],
        [
            [
                "update",
                ["Tap", {"name": TAPPED.names.tap, "master": "br0"}],
                ["Tap", {"name": TAPPED.names.tap, "master": ""}],
            ]
        ],
    ],
}
PLANS |= {f"{what} {number}": [plan] for what, plans in TWO_OWNERS.items() for number, plan in enumerate(plans)}
TAP = [["Tap", {"name": TAPPED.names.tap, "master": master}] for master in ("", TAPPED.names.bridge)]
UNPROVEN: dict[str, Any] = {
    "another's links by names that fit": [["delete", of(TWIN, "Veth")], ["delete", of(TWIN, "Bridge")]],
    "another's links of which nothing is said": [["delete", nobodys("Veth")], ["delete", nobodys("Bridge")]],
    "another's links one by one": [["delete", of(TWIN, "Bridge")]],
    "another's bridge set down": [["update", of(TWIN, "Bridge"), of(TWIN, "Bridge", up=False)]],
    "another's bridge made one's own": [["update", nobodys("Bridge"), of(TWIN, "Bridge")]],
    "a pair into another's bridge": [["create", of(TWIN, "Veth")], ["create", of(TWIN, "OvsPort")]],
    "another's row": [["delete", of(TWIN, "OvsPort")]],
    "another's row of which nothing is said": [["delete", nobodys("OvsPort")]],
    "another's row parked": [["update", of(TWIN, "OvsPort"), of(TWIN, "OvsPort", type="patch", realized=False)]],
    "another's row given an id": [["update", nobodys("OvsPort"), of(TWIN, "OvsPort")]],
    "a row for another's device": [["create", of(TWIN, "OvsPort")]],
    "a row on a foreign bridge": [["delete", of(ROWED, "OvsPort")]],
    "a row on a foreign bridge taken home": [["update", of(ROWED, "OvsPort", bridge="br-ex"), of(ROWED, "OvsPort")]],
    "a row on a foreign bridge by another name for it": [
        ["update", of(ROWED, "OvsPort", iface_id=""), of(ROWED, "OvsPort")]
    ],
    "a row for a device of another shape": [["create", of(STRAYED, "OvsPort")]],
    "a row before its device": [["create", of(STRAYED, "OvsPort")], ["create", of(STRAYED, "Bridge")]],
    "a device of another shape": [["delete", of(STRAYED, "Veth")]],
    "a VM's tap as one that was made": [["delete", of(replace(TAPPED, create_tap=True), "MadeTap")]],
    "another's tap": [["create", of(replace(TWIN, create_tap=True), "MadeTap")]],
    "a tap out of a foreign bridge": [["update", *TAP]],
    "a tap out of a foreign bridge by another name for it": [["update", *TAP[::-1]]],
}
"""Plans that are in order by themselves, of what is not this port's here."""
CALLS: dict[str, Any] = {
    "no argument": (CALL, OBSERVE, (), {}),
    "one argument": (CALL, OBSERVE, ([],), {}),
    "three arguments": (CALL, APPLY, ([], 1.0, "x"), {}),
    "by name": (CALL, APPLY, (), {"plans": [], "deadline": 1.0}),
    "an unknown name": (CALL, APPLY, ([], 1.0), {"shell": True}),
    "a number as a name": (CALL, APPLY, ([], 1.0), {7: True}),
    "arguments as a text": (CALL, APPLY, "ab", {}),
    "no arguments at all": (CALL, APPLY),
    "a number as a function": (CALL, 7, (), {}),
    "a list as a function": (CALL, ["os.system"], (), {}),
    "a reply": (4, "x"),
    "a failure": (5, "builtins.SystemExit", ()),
    "a log line": (6, {"msg": "x"}),
    "an unknown request": (99, "x"),
    "a negative one": (-1,),
    "a ping with more": (PING, "x"),
    "a text": "call",
    "nothing": (),
    "a deadline of text": (CALL, OBSERVE, ([], "soon"), {}),
    "a deadline that is no number": (CALL, APPLY, ([], float("nan")), {}),
}


@pytest.fixture(scope="module")
def connection(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """With executors that run no programs, whichever the matrix chooses: what is executed is an attack's."""
    directory = tmp_path_factory.mktemp("attacks")
    with connected(sandbox, directory, integration_bridges="br-int,br-two", deadline=10) as host:
        yield Lab(sandbox, host)


@pytest.fixture(scope="module")
def channel(connection: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Channel]:
    """The channel to the daemon of a host with things of others on it; afterwards they are as they were to the bit."""
    lab = connection
    lab.sh(
        "ip link add eth0 type veth peer name hvpeer; ip link set eth0 up mtu 1400 alias uplink; "
        "ovs-vsctl add-port br-int hvpeer -- set Interface hvpeer external_ids:iface-id=theirs; "
        f"ovs-vsctl add-br br-ex -- set Bridge br-ex datapath_type=netdev -- add-port br-ex {ROWED.names.switch_end}; "
        f"ip link add {STRAYED.names.switch_end} type bridge; ip link add br0 type bridge; "
        f"ip link add {TAPPED.names.tap} type veth peer name vm6; ip link set {TAPPED.names.tap} master br0"
    )
    assert plug(make_port(2), lab.host).ok
    # Once each in order, so that what the daemon loads at first use is there.
    daemon_context.reach(time.monotonic() + SOON).remote_call(APPLY, ([], time.monotonic() + SOON), {}, SOON)
    channel = daemon_context.reach(time.monotonic() + SOON)
    channel.remote_call(OBSERVE, tuple(nobody()), {}, SOON)
    with pytest.raises(NameError):
        channel.remote_call("none", (), {}, SOON)
    (pid,) = daemons(lab.box)
    before, loaded = lab.snapshot(), libraries_of(pid)
    with watched(pid, tmp_path_factory.mktemp("seen") / "calls") as calls:
        yield channel
    assert lab.snapshot() == before
    # No module was looked for, nothing was executed, and no file was opened to be made or changed.
    assert [call for call in calls() if re.search(r"exec|\.py|\.so|O_WRONLY|O_RDWR|O_CREAT", call)] == []
    # What an observation does open was seen, so that all threads were.
    assert not calls() or any("/proc/thread-self/net/packet" in call for call in calls())
    assert daemons(lab.box) == [pid]
    assert libraries_of(pid) == loaded
    # Nothing was executed: page faults of children that it waited for, none, and the children that it has, none.
    assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[8:11:2] == ["0", "0"]
    assert not any(task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/children"))
    lab.sweep()


@contextmanager
def watched(pid: int, log: Path) -> Iterator[Callable[[], list[str]]]:
    """What the daemon opens and executes meanwhile, thread by thread; nothing where strace may not look."""
    if shutil.which("strace") is None or os.geteuid() != 0:
        yield list
        return
    traced = "trace=execve,execveat,openat,openat2"
    with subprocess.Popen(["strace", "-f", "-qq", "-o", log, "-e", traced, "-p", str(pid)]) as strace:
        try:
            assert until(lambda: status_of(pid)["TracerPid"] == str(strace.pid))
            yield lambda: log.read_text(encoding="utf-8", errors="replace").splitlines()
        finally:
            strace.terminate()


def libraries_of(pid: int) -> set[str]:
    """The files that are mapped there, among them every module that is written in C."""
    return {line.split(maxsplit=5)[5] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "/" in line}


def refusal(channel: Channel, message: Any) -> str:
    """What the daemon says to this; it must be a refusal, as data or raised."""
    answer = channel.send_recv(message, SOON)
    if answer[0] == 4:
        verdict, code, sentence = answer[1]
        assert (verdict, code) == ("failed", "refused")
    else:
        assert answer[0] == 5, answer
        (sentence,) = answer[2]
    assert str(sentence).startswith("refused: ")
    assert len(sentence) < 300
    return str(sentence)


def test_what_is_in_order_is_answered(channel: Channel) -> None:
    assert channel.remote_call(OBSERVE, tuple(nobody()), {}, SOON)[0] == "ok"


@pytest.mark.parametrize("name", STRANGERS, ids=ascii)
def test_names_that_are_not_ours_are_refused(channel: Channel, name: str) -> None:
    refusal(channel, (CALL, OBSERVE, ([name], time.monotonic() + SOON), {}))
    refusal(channel, (CALL, APPLY, ([[["delete", part("Bridge", name=name)]]], time.monotonic() + SOON), {}))


@pytest.mark.parametrize("name", NOT_CALLABLE)
def test_nothing_else_can_be_called(channel: Channel, name: str) -> None:
    refusal(channel, (CALL, name, ("touch /tmp/hybridvif-attacked",), {}))


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_questions_that_are_none_are_refused(channel: Channel, question: Any) -> None:
    refusal(channel, (CALL, OBSERVE, (question, time.monotonic() + SOON), {}))


@pytest.mark.parametrize("plans", PLANS.values(), ids=PLANS)
def test_plans_that_are_none_are_refused(channel: Channel, plans: Any) -> None:
    refusal(channel, (CALL, APPLY, (plans, time.monotonic() + SOON), {}))


@pytest.mark.parametrize("plan", UNPROVEN.values(), ids=UNPROVEN)
def test_plans_of_what_is_not_this_ports_are_refused_alone(channel: Channel, plan: Any) -> None:
    absent = [["delete", part("OvsPort")], ["delete", part("Veth")], ["delete", part("Bridge")]]
    answer = channel.remote_call(APPLY, ([plan, absent], time.monotonic() + SOON), {}, SOON)
    assert answer[0] == "ok", answer
    (refused, others), _ = answer[1]
    assert [outcome[0] for outcome in refused] == ["refused"] * len(plan)
    assert all(outcome[1].startswith("refused: ") for outcome in refused)
    assert [outcome[0] for outcome in others] == ["done"] * 3


@pytest.mark.parametrize("message", CALLS.values(), ids=CALLS)
def test_messages_that_are_none_are_refused(channel: Channel, message: Any) -> None:
    refusal(channel, message)


def test_frames_without_a_name_do_no_harm(channel: Channel) -> None:
    frames: list[Any] = [7, None, [], {}, "x", (None, (6, {})), (7, (1,))]
    for frame in frames:
        channel.writer.writesock.sendall(msgpack.packb(frame))
    assert channel.remote_call(OBSERVE, tuple(nobody()), {}, SOON)[0] == "ok"
