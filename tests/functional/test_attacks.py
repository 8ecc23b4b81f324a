"""A captured client sends hostile requests: all are refused, and foreign objects do not change.

The requests bypass our own client and use the channel directly. Modules, files and programs of the daemon are compared
once at the end of the table, by strace if it may attach.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest

from hybridvif import Port, desired_state, plug
from hybridvif.model.parts import CONVERTING
from hybridvif.model.settings import MAX_NAMES
from hybridvif.privileged import codec, launch
from hybridvif.privileged.channel import MAX_MESSAGE, MAX_VALUES, Channel
from hybridvif.privileged.codec import MAX_PLANS
from hybridvif.privileged.context import daemon_context
from hybridvif.privileged.requests import MAX_WATCHERS
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import Lab, make_port, until
from tests.functional.test_boundary import daemons, status_of

SOON = 10.0
PORT = make_port()
NAMES = PORT.names
OTHERS = make_port(2).names
ENTRY = "hybridvif.privileged.requests"
OBSERVE, APPLY, WATCH = f"{ENTRY}.observe", f"{ENTRY}.apply", f"{ENTRY}.watch"
PING, CALL = 1, 3


def part(kind: str, **more: Any) -> list[Any]:
    made = {type(item).__name__: item for item in desired_state(PORT)}[kind]
    name, values = codec.encode_part(made)
    return [name, {**values, **more}]


def vhost_user(**more: Any) -> list[Any]:
    (made,) = desired_state(replace(PORT, vhostuser_mode="server"))
    name, values = codec.encode_part(made)
    return [name, {**values, **more}]


def deep(depth: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


def legal_request() -> list[Any]:
    """Return a legal request, as a control."""
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
    *(
        "curses.initscr",
        "antigravity.geohash",
        "hybridvif.engine.converge.plug",
        "hybridvif.privileged.privileges.pass_on",
    ),
    *(f"{ENTRY}._executors", f"{ENTRY}._state.clear", f"{ENTRY}.codec.decode_plans", f"{ENTRY}.observe.__call__"),
    *("hybridvif.privileged.execute.executor_of", "hybridvif.executors.netlink.executor.NetlinkExecutor"),
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
    "too many": [NAMES.bridge] * (MAX_NAMES + 1),
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
    "a MTU that no packet has": {"mtu_request": 65_536},
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
    "a class as a kind": [[["create", ["hybridvif.model.parts.Bridge", part("Bridge")[1]]]]],
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
    **{
        f"a MTU of ovs-vswitchd's, {before} and then {after}": [
            [["update", part("OvsPort", mtu_request=before), part("OvsPort", mtu_request=after)]]
        ]
        for before, after in ((0, 1200), (1200, 1500))
    },
    "a row with a MTU of ovs-vswitchd's": [[["create", part("OvsPort", mtu_request=1200)]]],
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
    "a stray": [[["delete", ["ForeignObject", {"name": NAMES.bridge, "what": "", "alias": ""}]]]],
    "an executor's name": [[["create", part("Bridge", executor="recording")]]],
    "too many steps": [[["delete", part("Bridge")]] * 17],
    "too many plans": [[]] * (MAX_PLANS + 1),
    **{
        f"{verb} {name!r}": [[[verb, part("Bridge", name=name)]]]
        for verb in ("create", "delete")
        for name in ("eth0", "lo", "br-int", "../all", "--", OTHERS.tap, f"{NAMES.bridge}\0")
    },
}
TWIN = make_port(2, id=make_port(2).id[:-1] + "f")
"""Another port with the names of a plugged one."""
ROWED, STRAYED, TAPPED = make_port(4), make_port(5), make_port(6)
ALIASED = make_port(7)
"""Its links have its id, and its row on a foreign bridge has none: another program has created them under it."""
HELD = [make_port(number) for number in (8, 9, 10)]
"""For a link of each, Open vSwitch has a row of that name on a foreign bridge: its qbr, its qvb, its tap."""


def of(port: Port, kind: str, **more: Any) -> list[Any]:
    made = {type(item).__name__: item for item in desired_state(port)}[kind]
    name, values = codec.encode_part(made)
    return [name, {**values, **more}]


def untagged(kind: str) -> list[Any]:
    """Return a part of the plugged port without an ownership tag."""
    silent = {name: "" for name in ("alias", "peer_alias", "iface_id") if name in part(kind)[1]}
    return of(TWIN, kind, **silent)


PLANS |= {
    f"a tap that is made {what}": [[["create", of(replace(PORT, create_tap=True), "ManagedTap", **more)]]]
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
    "ManagedTap": {"host_ip": ("ARP on",), "bridge_port": ("locked on",), "owner": (-1, 65534, 2**40, None)},
}
"""Values that open a host to its tenant, or the VM's connection to other users."""
PLANS |= {
    f"{verb} {kind} with {name} {value}": [
        [[verb, *([made] if verb == "update" else []), of(replace(PORT, create_tap=True), kind, **{name: value})]]
    ]
    for kind, names in WEAK.items()
    for made in [of(replace(PORT, create_tap=True), kind)]
    for name, values in names.items()
    for value in values
    for verb in ("create", "update")
    # An attribute that is None in an update is not written.
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
    "another's links of which nothing is said": [["delete", untagged("Veth")], ["delete", untagged("Bridge")]],
    "another's links one by one": [["delete", of(TWIN, "Bridge")]],
    "another's bridge set down": [["update", of(TWIN, "Bridge"), of(TWIN, "Bridge", up=False)]],
    "another's bridge made one's own": [["update", untagged("Bridge"), of(TWIN, "Bridge")]],
    "a pair into another's bridge": [["create", of(TWIN, "Veth")], ["create", of(TWIN, "OvsPort")]],
    "another's row": [["delete", of(TWIN, "OvsPort")]],
    "another's row of which nothing is said": [["delete", untagged("OvsPort")]],
    "another's row parked": [["update", of(TWIN, "OvsPort"), of(TWIN, "OvsPort", type="patch", realized=False)]],
    "another's row given an id": [["update", untagged("OvsPort"), of(TWIN, "OvsPort")]],
    "a row for another's device": [["create", of(TWIN, "OvsPort")]],
    "a row on a foreign bridge": [["delete", of(ROWED, "OvsPort")]],
    "a row on a foreign bridge taken home": [["update", of(ROWED, "OvsPort", bridge="br-ex"), of(ROWED, "OvsPort")]],
    "a row on a foreign bridge by another name for it": [
        ["update", of(ROWED, "OvsPort", iface_id=""), of(ROWED, "OvsPort")]
    ],
    "links under a row on a foreign bridge": [["create", of(ROWED, "Bridge")], ["create", of(ROWED, "Veth")]],
    "all of a port under a row on a foreign bridge": [
        ["create", of(ROWED, "Bridge")],
        ["create", of(ROWED, "Veth")],
        ["create", of(ROWED, "OvsPort")],
    ],
    "a pair alone under a row on a foreign bridge": [["create", of(ROWED, "Veth", master="")]],
    "a pair of nobody's under a row on a foreign bridge": [
        ["create", of(ROWED, "Veth", master="", alias="", peer_alias="")]
    ],
    "an alias for a row on a foreign bridge": [["delete", of(ALIASED, "OvsPort", bridge="br-ex")]],
    "an alias for a row on a foreign bridge taken home": [
        ["update", of(ALIASED, "OvsPort", bridge="br-ex", iface_id=""), of(ALIASED, "OvsPort")]
    ],
    "an alias for a row on a foreign bridge given an id": [
        ["update", of(ALIASED, "OvsPort", bridge="br-ex", iface_id=""), of(ALIASED, "OvsPort", bridge="br-ex")]
    ],
    "an alias for a row on a foreign bridge parked": [
        [
            "update",
            of(ALIASED, "OvsPort", bridge="br-ex"),
            of(ALIASED, "OvsPort", bridge="br-ex", type="patch", realized=False),
        ]
    ],
    "a bridge that Open vSwitch would take": [["create", of(HELD[0], "Bridge")]],
    "a pair that Open vSwitch would take by its other end": [["create", of(HELD[1], "Veth", master="")]],
    "a tap that Open vSwitch would take": [["create", of(replace(HELD[2], create_tap=True), "ManagedTap", master="")]],
    "a row for a device of another shape": [["create", of(STRAYED, "OvsPort")]],
    "a row before its device": [["create", of(STRAYED, "OvsPort")], ["create", of(STRAYED, "Bridge")]],
    "a device of another shape": [["delete", of(STRAYED, "Veth")]],
    "a VM's tap as one that was made": [["delete", of(replace(TAPPED, create_tap=True), "ManagedTap")]],
    "another's tap": [["create", of(replace(TWIN, create_tap=True), "ManagedTap")]],
    "a tap out of a foreign bridge": [["update", *TAP]],
}
"""Plans that are legal by themselves, but for objects that do not belong to this port."""
CALLS: dict[str, Any] = {
    "no argument": (CALL, OBSERVE, (), {}),
    "one argument": (CALL, OBSERVE, ([],), {}),
    "three arguments": (CALL, APPLY, ([], 1.0, "x"), {}),
    "four arguments": (CALL, APPLY, ([], 1.0, True, True), {}),
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
    """Executors that run no programs, in every run of the matrix: any executed program is an attack."""
    directory = tmp_path_factory.mktemp("attacks")
    with connected(sandbox, directory, integration_bridges="br-int,br-two", deadline=10) as host:
        yield Lab(sandbox, host)


@pytest.fixture(scope="module")
def channel(connection: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Channel]:
    """The channel to the daemon of a host with foreign objects, which must be unchanged at the end."""
    lab = connection
    lab.sh(
        "ip link add eth0 type veth peer name hvpeer; ip link set eth0 up mtu 1400 alias uplink; "
        "ovs-vsctl add-port br-int hvpeer -- set Interface hvpeer external_ids:iface-id=theirs; "
        f"ovs-vsctl add-br br-ex -- set Bridge br-ex datapath_type=netdev -- add-port br-ex {ROWED.names.switch_end} "
        f"-- add-port br-ex {ALIASED.names.switch_end} -- add-port br-ex {HELD[0].names.bridge} "
        f"-- add-port br-ex {HELD[1].names.bridge_end} -- add-port br-ex {HELD[2].names.tap}; "
        f"ip link add {ALIASED.names.bridge_end} type veth peer name {ALIASED.names.switch_end}; "
        f"ip link set {ALIASED.names.bridge_end} alias {ALIASED.id}; "
        f"ip link set {ALIASED.names.switch_end} alias {ALIASED.id}; "
        f"ip link add {STRAYED.names.switch_end} type bridge; ip link add br0 type bridge; "
        f"ip link add {TAPPED.names.tap} type veth peer name vm6; ip link set {TAPPED.names.tap} master br0"
    )
    assert plug(make_port(2), lab.host).ok
    # One legal request each, so that the daemon has loaded what it loads at first use.
    daemon_context.reach(time.monotonic() + SOON).call(APPLY, ([], time.monotonic() + SOON), SOON)
    channel = daemon_context.reach(time.monotonic() + SOON)
    channel.call(OBSERVE, tuple(legal_request()), SOON)
    assert channel.call("none", (), SOON)[1] == "refused"
    (pid,) = daemons(lab.box)
    before, loaded = lab.snapshot(), libraries_of(pid)
    with watched(pid, tmp_path_factory.mktemp("seen") / "calls") as calls:
        yield channel
    assert lab.snapshot() == before
    # No module was searched, nothing was executed, and no file was opened for writing.
    assert [call for call in calls() if re.search(r"exec|\.py|\.so|O_WRONLY|O_RDWR|O_CREAT", call)] == []
    # The files of an observation were traced, so all threads were.
    assert not calls() or any("/proc/thread-self/net/packet" in call for call in calls())
    assert daemons(lab.box) == [pid]
    assert libraries_of(pid) == loaded
    # Nothing was executed: no page faults of reaped children, and no living children.
    assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[8:11:2] == ["0", "0"]
    assert not any(task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/children"))
    lab.sweep()


@contextmanager
def watched(pid: int, log: Path) -> Iterator[Callable[[], list[str]]]:
    """Trace the files that the daemon opens and executes, by thread; nothing if strace is not permitted."""
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
    """Return the files mapped by the process, among them every module written in C."""
    return {line.split(maxsplit=5)[5] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "/" in line}


def refusal(channel: Channel, message: Any) -> str:
    """Return the refusal of the daemon."""
    kind, (verdict, code, sentence) = channel.send_recv(message, SOON)
    assert (kind, verdict, code) == (4, "failed", "refused")
    assert str(sentence).startswith("refused: ")
    assert len(sentence) < 300
    return str(sentence)


def test_what_is_in_order_is_answered(channel: Channel) -> None:
    assert channel.call(OBSERVE, tuple(legal_request()), SOON)[0] == "ok"


@pytest.mark.parametrize("name", STRANGERS, ids=ascii)
def test_names_that_are_not_ours_are_refused(channel: Channel, name: str) -> None:
    refusal(channel, (CALL, OBSERVE, ([name], time.monotonic() + SOON), {}))
    refusal(channel, (CALL, WATCH, ([[name], ""], time.monotonic() + SOON), {}))
    refusal(channel, (CALL, APPLY, ([[["delete", part("Bridge", name=name)]]], time.monotonic() + SOON), {}))


@pytest.mark.parametrize("name", NOT_CALLABLE)
def test_nothing_else_can_be_called(channel: Channel, name: str) -> None:
    refusal(channel, (CALL, name, ("touch /tmp/hybridvif-attacked",), {}))


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_questions_that_are_none_are_refused(channel: Channel, question: Any) -> None:
    refusal(channel, (CALL, OBSERVE, (question, time.monotonic() + SOON), {}))
    refusal(channel, (CALL, WATCH, (question, time.monotonic() + SOON), {}))
    refusal(channel, (CALL, WATCH, ([question, ""], time.monotonic() + SOON), {}))
    refusal(channel, (CALL, WATCH, ([[NAMES.bridge], question if isinstance(question, list) else 7], SOON), {}))


def watch(channel: Channel, digest: str, seconds: float = SOON) -> Any:
    return channel.call(WATCH, ([[NAMES.bridge], digest], time.monotonic() + seconds), 2 * SOON)


@pytest.mark.parametrize("digest", ["", "x" * 100_000, "\udc80", "../../etc/passwd"], ids=ascii)
def test_watch_shows_nothing_that_observe_does_not(channel: Channel, digest: str) -> None:
    verdict, (_, watched) = watch(channel, digest)
    assert [verdict, watched] == list(channel.call(OBSERVE, tuple(legal_request()), SOON))


def test_change_of_a_foreign_object_does_not_answer_a_watch(channel: Channel, connection: Lab) -> None:
    _, (digest, _) = watch(channel, "")
    change = (
        "ip link set eth0 mtu 1401; ip link set eth0 mtu 1400; ovs-vsctl set Port hvpeer tag=7 -- clear Port hvpeer tag"
    )
    timer = threading.Timer(0.3, connection.sh, [change])
    timer.start()
    assert watch(channel, digest, 2.0) == ("ok", None)
    timer.join()


def test_watches_that_wait_are_few_and_leave_other_requests_served(channel: Channel) -> None:
    _, (digest, _) = watch(channel, "")
    with ThreadPoolExecutor(50) as pool:
        answers = [pool.submit(watch, channel, digest, 2.0) for _ in range(50)]
        assert channel.call(OBSERVE, tuple(legal_request()), SOON)[0] == "ok"
        verdicts = [answer.result()[0] for answer in answers]
    assert verdicts.count("ok") == MAX_WATCHERS
    assert watch(channel, "")[0] == "ok"


@pytest.mark.parametrize("plans", PLANS.values(), ids=PLANS)
def test_plans_that_are_none_are_refused(channel: Channel, plans: Any) -> None:
    refusal(channel, (CALL, APPLY, (plans, time.monotonic() + SOON), {}))


@pytest.mark.parametrize("plan", UNPROVEN.values(), ids=UNPROVEN)
def test_plans_of_what_is_not_this_ports_are_refused_alone(channel: Channel, plan: Any) -> None:
    absent = [["delete", part("OvsPort")], ["delete", part("Veth")], ["delete", part("Bridge")]]
    answer = channel.call(APPLY, ([plan, absent], time.monotonic() + SOON), SOON)
    assert answer[0] == "ok", answer
    (refused, others), _ = answer[1]
    assert [outcome[0] for outcome in refused] == ["refused"] * len(plan)
    assert all(outcome[1].startswith("refused: ") for outcome in refused)
    assert [outcome[0] for outcome in others] == ["done"] * 3


def test_mark_of_a_conversion_carries_no_text_of_the_client(channel: Channel) -> None:
    """The mark holds attached-mac, which no plan that leaves it unchanged is authorized to write."""
    kind, values = of(make_port(2), "OvsPort", attached_mac="x' -- del-br br-int")
    plan = [["update", [kind, values], [kind, {**values, "converting": CONVERTING}]]]
    _, (((outcome,),), _) = channel.call(APPLY, ([plan], time.monotonic() + SOON), SOON)
    assert outcome[0] == "failed"
    assert "has changed since it was observed" in outcome[1]


@pytest.mark.parametrize("message", CALLS.values(), ids=CALLS)
def test_messages_that_are_none_are_refused(channel: Channel, message: Any) -> None:
    refusal(channel, message)


def test_frames_without_a_name_do_no_harm(channel: Channel) -> None:
    frames: list[Any] = [7, None, [], {}, "x", (None, (6, {})), (7, (1,))]
    for frame in frames:
        channel.connection.sendall(msgpack.packb(frame))
    assert channel.call(OBSERVE, tuple(legal_request()), SOON)[0] == "ok"


# Cost of a client that reads no responses.

MOST_MEMORY = 200
"""Upper limit of the daemon's memory in MB. It starts with 20. Without limits 48 MB of messages made it 3,743 MB.

If small messages with many values had no limit, 4 MB of them made it 505 MB.
"""
ITEMS: dict[str, bytes] = {
    "empty maps": b"\x80",
    "maps of one": b"\x81\x00\x00",
    "empty lists": b"\x90",
    "short texts": b"\xa2ab",
    "short texts that are not Latin": b"\xa2\xc4\x80",
    "numbers": b"\xcd\xff\xff",
    "nothing": b"\xc0",
    "small numbers": b"\x01",
}
VALUES = {b"\x80": 2, b"\x81\x00\x00": 4, b"\x90": 2}
"""The number of values of an item, if it is not one (channel.py)."""


def great_frame(name: str, item: bytes, rows: int) -> bytes:
    """Return a request of rows with 8,000 objects of one kind."""
    row = b"\xdc" + (8000).to_bytes(2, "big") + item * 8000
    names = b"\xdd" + rows.to_bytes(4, "big") + row * rows
    head, entry = (bytes(msgpack.packb(text)) for text in (name, OBSERVE))
    return b"\x92" + head + b"\x94\x03" + entry + b"\x92" + names + b"\xcb" + bytes(8) + b"\x80"


FILLERS = {
    "none": b"",
    "many": b"".join(msgpack.packb((f"{n}", (99,))) for n in range(50_000)),
    # The daemon goes on reading, because one request waits.
    "one": msgpack.packb(("x" * 250_000, (99,))),
}
"""Requests whose responses do not fit into the channel. The daemon waits then."""


@pytest.mark.parametrize(
    ("limit", "filler"), [("bytes", "none"), ("bytes", "many"), ("values", "none"), ("values", "one")]
)
@pytest.mark.parametrize("item", ITEMS.values(), ids=ITEMS)
def test_caller_that_reads_nothing_does_not_make_the_daemon_grow(
    connection: Lab, item: bytes, limit: str, filler: str
) -> None:
    """Send the largest requests, and small ones with the largest number of values."""
    most = MAX_MESSAGE // len(item) if limit == "bytes" else MAX_VALUES // VALUES.get(item, 1)
    rows = most // 8000 - 1
    others = set(daemons(connection.box))
    with launch.Launch(daemon_context.helper_command) as started, started.accept(time.monotonic() + SOON) as captured:
        captured.settimeout(SOON)
        captured.sendall(msgpack.packb(("greeting", (PING,))))
        assert captured.recv(1 << 16)
        # The daemon becomes a child of the sandbox when its helper has exited.
        started.wait(time.monotonic() + SOON)
        (pid,) = set(daemons(connection.box)) - others
        captured.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            captured.sendall(FILLERS[filler])
            for number in range(24):
                captured.sendall(great_frame(f"great {number}", item, rows))
        time.sleep(0.2)
        assert int(status_of(pid)["VmHWM"].split()[0]) < MOST_MEMORY * 1024
        captured.close()
        assert until(lambda: set(daemons(connection.box)) == others)
