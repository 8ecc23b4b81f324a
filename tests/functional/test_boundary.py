"""The privilege boundary with the real daemon behind it: requests, refusals, and faults on either side."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from hybridvif import HybridVifError, InvalidInput, Port, Status, check, desired_state, plug, plug_all, unplug
from hybridvif.client.host import NoResponse
from hybridvif.model.planner import plan
from hybridvif.model.report import Result
from hybridvif.model.settings import MAX_NAMES
from hybridvif.model.state import NOTHING, Create, Delete, Step, Update, agree
from hybridvif.privileged import codec
from hybridvif.privileged.channel import APPLY, OBSERVE
from hybridvif.privileged.codec import MAX_PLANS
from hybridvif.privileged.context import daemon_context
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import Lab, make_port, until

pytestmark = pytest.mark.alone

CAP_NET_ADMIN = 1 << 12
SOON = 5.0
SLACK = 0.5
"""Permitted seconds of a call beyond its deadline: a quarter of one, and as much for a busy machine."""
PORT = make_port()
NAMES = PORT.names
OTHERS = make_port(2).names


def daemons(box: Sandbox) -> list[int]:
    """Return the pids of the privileged daemons in a sandbox, in this process's namespace."""
    children = Path(f"/proc/{box.pid}/task/{box.pid}/children").read_text().split()
    found = []
    for pid in children:
        # A process may end between the listing and the reading.
        with suppress(OSError):
            if b"privsep_context" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found


def status_of(pid: int) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())


def the_daemon(lab: Lab) -> int:
    lab.host.observe({NAMES.bridge}, time.monotonic() + SOON)
    (pid,) = daemons(lab.box)
    return pid


# Rights of the daemon.


def test_the_daemon_may_administer_networks_and_nothing_else(lab: Lab) -> None:
    status = status_of(the_daemon(lab))
    assert {name: int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {
        "CapEff": CAP_NET_ADMIN,
        "CapPrm": CAP_NET_ADMIN,
        "CapInh": 0,
        "CapAmb": 0,
    }


# Permitted requests.


def ask(question: str, argument: Any, deadline: Any = None) -> tuple[str, str, str]:
    """Return the refusal of the daemon to a request of a captured client."""
    until = time.monotonic() + SOON if deadline is None else deadline
    answer = daemon_context.reach(time.monotonic() + SOON).call(question, (argument, until), SOON)
    assert answer[0] == "failed", answer
    verdict, code, sentence = answer
    return verdict, code, sentence


def part(kind: str, **more: Any) -> list[Any]:
    made = {type(item).__name__: item for item in desired_state(PORT)}[kind]
    name, values = codec.encode_part(made)
    return [name, {**values, **more}]


BIG = "x" * 10_000_000
HOSTILE_NAMES: dict[str, Any] = {
    "eth0": ["eth0"],
    "lo beside ours": [NAMES.bridge, "lo"],
    "../all": ["../all"],
    "qbr../../../../etc": ["qbr../../../../etc"],
    "NUL": [NAMES.bridge + "\0"],
    "a text of 10 MB": [BIG],
    "a text instead of a list": NAMES.bridge,
    "a number": [7],
    "True": True,
    "too many": [NAMES.bridge] * (MAX_NAMES + 1),
}
HOSTILE_PLANS: dict[str, Any] = {
    "no list": "plans",
    "no plan": ["plan"],
    "no step": [["step"]],
    "an unknown verb": [[["exec", part("Bridge")]]],
    "an unknown kind": [[["create", ["Wire", {"name": NAMES.bridge}]]]],
    "an unknown field": [[["create", part("Bridge", command="reboot")]]],
    "a missing field": [[["create", ["Bridge", {"name": NAMES.bridge}]]]],
    "True for 1": [[["create", part("Bridge", mtu=True)]]],
    "a text for a number": [[["create", part("Bridge", mtu="1500")]]],
    "a number out of range": [[["create", part("Bridge", mtu=2**31)]]],
    "eth0 as a bridge": [[["delete", part("Bridge", name="eth0")]]],
    "the integration bridge": [[["delete", part("Bridge", name="br-int")]]],
    "../all": [[["create", part("Bridge", name="../all")]]],
    "NUL": [[["create", part("Bridge", name=NAMES.bridge + "\0")]]],
    "a text of 10 MB": [[["create", part("Bridge", alias=BIG)]]],
    "an option as a name": [[["create", part("OvsPort", name="--all")]]],
    "a veth to a stranger": [[["create", part("Veth", peer="eth0")]]],
    "a foreign master": [[["create", part("Veth", master="br-int")]]],
    "a group": [[["create", part("Bridge", group=7)]]],
    "another port's names in one plan": [
        [["create", part("Bridge")], ["create", part("Veth", name=OTHERS.bridge_end, peer=OTHERS.switch_end)]]
    ],
    "two plans for one port": [[["create", part("Bridge")]], [["delete", part("Veth")]]],
    "one bad plan among good ones": [[["create", part("Bridge")]], [["delete", part("Bridge", name="eth0")]]],
    "a bridge that is not configured": [[["create", part("OvsPort", bridge="br-ex")]]],
    "a type of its own": [[["create", part("OvsPort", type="internal")]]],
    "words for an id": [[["create", part("OvsPort", iface_id="x -- del-br br-int")]]],
    "a tap": [[["create", ["Tap", {"name": NAMES.tap, "master": ""}]]]],
    "a stray": [[["delete", ["ForeignObject", {"name": NAMES.bridge, "what": "", "alias": ""}]]]],
    "too many steps": [[["delete", part("Bridge")]] * 17],
    "too many plans": [[]] * (MAX_PLANS + 1),
}


@pytest.fixture(scope="module")
def guarded(connection: Lab) -> Iterator[Callable[[], None]]:
    """A host with foreign objects. The returned function checks that they are unchanged."""
    connection.sh(
        "ip link add eth0 type veth peer name hvpeer; ip link set eth0 up mtu 1400 alias uplink; "
        "ovs-vsctl add-port br-int hvpeer -- set Interface hvpeer external_ids:iface-id=theirs"
    )
    plug(make_port(3), connection.host)
    before = connection.snapshot()

    def unchanged() -> None:
        assert connection.snapshot() == before

    yield unchanged
    connection.sweep()


@pytest.mark.parametrize("names", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
def test_hostile_questions_are_refused(connection: Lab, guarded: Callable[[], None], names: Any) -> None:
    _, code, sentence = ask(OBSERVE, names)
    assert code == "refused"
    assert sentence.startswith("refused: ")
    assert len(sentence) < 300
    guarded()


@pytest.mark.parametrize("plans", HOSTILE_PLANS.values(), ids=HOSTILE_PLANS)
def test_hostile_plans_are_refused(connection: Lab, guarded: Callable[[], None], plans: Any) -> None:
    _, code, sentence = ask(APPLY, plans)
    assert code == "refused"
    assert sentence.startswith("refused: ")
    assert len(sentence) < 300
    guarded()


@pytest.mark.parametrize("deadline", ["soon", b"", 7, True, float("nan")], ids=repr)
@pytest.mark.parametrize("question", [OBSERVE, APPLY])
def test_a_deadline_that_is_none_is_refused(
    connection: Lab, guarded: Callable[[], None], question: str, deadline: Any
) -> None:
    _, code, sentence = ask(question, [], deadline)
    assert (code, sentence) == ("refused", "refused: the deadline is no number")


def test_a_refusal_is_a_refusal_to_the_caller_too(connection: Lab, guarded: Callable[[], None]) -> None:
    bridge = desired_state(PORT).links[NAMES.bridge]
    twice: list[list[Step]] = [[Create(bridge)], [Update(bridge, bridge)]]
    with pytest.raises(HybridVifError, match=r"^refused: two plans") as caught:
        connection.host.apply(twice, time.monotonic() + SOON)
    assert caught.value.code == "refused"
    guarded()


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "curses.initscr",
        "hybridvif.privileged.requests.codec.decode_plans",
        "hybridvif.privileged.requests._executors",
        "hybridvif.privileged.context.subprocess.run",
        "hybridvif.privileged.requests",
        "",
        "..",
    ],
)
def test_nothing_but_the_two_entry_points_can_be_called_or_even_imported(lab: Lab, tmp_path: Path, name: str) -> None:
    pid = the_daemon(lab)
    channel = daemon_context.channel
    assert channel is not None
    assert channel.call(name, (f"touch {tmp_path}/done",), SOON)[:2] == ("failed", "refused")
    assert list(tmp_path.iterdir()) == []
    # curses stands for any module that is not loaded: to import it is to run it.
    assert "_curses" not in Path(f"/proc/{pid}/maps").read_text()
    assert daemons(lab.box) == [pid]


def test_a_message_of_another_kind_does_no_harm(lab: Lab) -> None:
    pid = the_daemon(lab)
    channel = daemon_context.channel
    assert channel is not None
    for message in ((99, "x"), (3,), (3, "os.system", 1, 2, 3, 4)):
        assert channel.send_recv(message, SOON) == (4, ("failed", "refused", "refused: no such request"))
    assert the_daemon(lab) == pid


def test_done_step_is_observed_at_once_and_failed_step_is_left_to_caller(lab: Lab) -> None:
    steps = plan(NOTHING, desired_state(PORT))
    outcomes = lab.host.apply([steps], time.monotonic() + SOON)
    assert outcomes.observed is not None
    assert agree(outcomes.observed.state, desired_state(PORT))
    assert outcomes.observed == lab.host.observe(set(NAMES), time.monotonic() + SOON)
    again = lab.host.apply([steps], time.monotonic() + SOON)
    assert again[0][0].result is Result.FAILED
    assert again.observed is None


# A dead or hung daemon.


def ask_a_silent_switch(lab: Lab, port: Port) -> tuple[float, Result]:
    """Return the duration and the result of a request that waits for a hung switch."""
    row = desired_state(port).ports[port.names.switch_end]
    started = time.monotonic()
    (outcomes,) = lab.host.apply([[Create(row)]], started + 20)
    return time.monotonic() - started, outcomes[0].result


@pytest.mark.parametrize("callers", [1, 2, 8])
def test_killed_daemon_answers_every_caller_and_next_call_works(lab: Lab, callers: int) -> None:
    ports = [make_port(number) for number in range(1, callers + 1)]
    plug_all(ports, lab.host)
    for port in ports:
        lab.sh(f"ovs-vsctl del-port {port.names.switch_end}")
    lab.box.pause("ovs-vswitchd")
    try:
        with ThreadPoolExecutor(callers) as pool:
            pid = the_daemon(lab)
            waiting = [pool.submit(ask_a_silent_switch, lab, port) for port in ports]
            assert until(lambda: all(lab.row(port.names.switch_end) for port in ports))
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            answers = [future.result(timeout=10) for future in waiting]
            assert time.monotonic() - killed < 1
        assert {result for _, result in answers} == {Result.UNKNOWN}
    finally:
        lab.box.resume("ovs-vswitchd")
    assert the_daemon(lab) != pid
    assert [report.status for report in plug_all(ports, lab.host)] == [Status.DONE] * callers


@pytest.mark.parametrize("callers", [1, 2, 8])
def test_what_a_killed_daemon_had_not_yet_read_is_answered_as_well(lab: Lab, hung: int, callers: int) -> None:
    """The channel then ends with a reset, which oslo.privsep's reader does not survive."""
    with ThreadPoolExecutor(callers) as pool:
        waiting = [pool.submit(ask_a_silent_switch, lab, make_port(number)) for number in range(1, callers + 1)]
        time.sleep(0.2)
        killed = time.monotonic()
        os.kill(hung, signal.SIGKILL)
        answers = [future.result(timeout=30) for future in waiting]
        assert time.monotonic() - killed < 1
    assert {result for _, result in answers} == {Result.UNKNOWN}
    assert plug(PORT, lab.host).ok


def test_what_a_killed_daemon_was_asked_to_look_at_the_next_one_is_asked(lab: Lab, hung: int) -> None:
    with ThreadPoolExecutor(2) as pool:
        looking = [pool.submit(lab.host.observe, set(NAMES), time.monotonic() + SOON) for _ in range(2)]
        time.sleep(0.2)
        os.kill(hung, signal.SIGKILL)
        assert [list(future.result(timeout=10).state) for future in looking] == [[], []]


def test_a_daemon_killed_while_nobody_waited_for_it_is_not_noticed(lab: Lab) -> None:
    """The client may or may not have read its end by then."""
    for number in range(6):
        os.kill(the_daemon(lab), signal.SIGKILL)
        time.sleep(0.001 * (number % 3))
        assert (plug(PORT, lab.host) if number % 2 == 0 else unplug(PORT.id, lab.host)).ok


def test_under_fire_no_caller_is_ever_left_without_an_answer(lab: Lab) -> None:
    """The reader of the channel gets an end of file, a broken pipe or a reset, by chance."""
    stop = threading.Event()
    longest = [0.0] * 4

    def keep_asking(index: int) -> int:
        answered = 0
        while not stop.is_set():
            started = time.monotonic()
            with suppress(NoResponse):
                lab.host.observe(set(NAMES), started + SOON)
            longest[index] = max(longest[index], time.monotonic() - started)
            answered += 1
        return answered

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(keep_asking, index) for index in range(4)]
        for _ in range(3):
            time.sleep(0.2)
            for pid in daemons(lab.box):
                os.kill(pid, signal.SIGKILL)
            assert until(lambda: bool(daemons(lab.box)))
        stop.set()
        assert all(future.result(timeout=10) > 0 for future in asking)
    # A response, or a new daemon, which takes half a second to start.
    assert max(longest) < 3


@contextmanager
def out_of_files(pid: int) -> Iterator[None]:
    """Lower the limit of a process, so that it cannot open another file."""
    was = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    listed = os.open(f"/proc/{pid}/fd", os.O_RDONLY)
    taken = {int(name) for name in os.listdir(listed)} - ({listed} if pid == os.getpid() else set())
    os.close(listed)
    lowest = min(set(range(len(taken) + 1)) - taken)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest, was[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, was)


@pytest.mark.parametrize("whose", ["the daemon's", "the caller's"])
def test_no_file_left_to_open_is_told_and_changes_nothing(lab: Lab, whose: str) -> None:
    pid, before = the_daemon(lab), lab.snapshot()
    with out_of_files(pid if whose == "the daemon's" else os.getpid()), pytest.raises(HybridVifError) as caught:
        plug(PORT, lab.host)
    assert "oo many open files" in str(caught.value)
    assert caught.value.report is not None
    assert caught.value.report.leftovers == ()
    assert lab.snapshot() == before
    assert plug(PORT, lab.host).ok


@contextmanager
def standing_still(pid: int, seconds: float = 8.0) -> Iterator[None]:
    """Stop a daemon for a limited time, so that a failing test does not hang."""

    def go_on() -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    os.kill(pid, signal.SIGSTOP)
    timer = threading.Timer(seconds, go_on)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        go_on()


@pytest.fixture
def hung(lab: Lab) -> Iterator[int]:
    """The pid of a stopped daemon."""
    pid = the_daemon(lab)
    with standing_still(pid):
        yield pid


def test_a_hung_daemon_is_told_by_the_deadline_and_works_when_it_goes_on(lab: Lab, hung: int) -> None:
    started = time.monotonic()
    with pytest.raises(NoResponse):
        lab.host.observe(set(NAMES), started + 0.5)
    assert time.monotonic() - started < 0.5 + SLACK
    started = time.monotonic()
    (outcomes,) = lab.host.apply([[Delete(desired_state(PORT).links[NAMES.bridge])]], started + 0.5)
    assert time.monotonic() - started < 0.5 + SLACK
    assert [outcome.result for outcome in outcomes] == [Result.UNKNOWN]
    os.kill(hung, signal.SIGCONT)
    assert plug(PORT, lab.host).ok
    assert the_daemon(lab) == hung


def test_request_larger_than_socket_buffer_of_hung_daemon_meets_deadline(lab: Lab, hung: int) -> None:
    parts = [part for number in range(1, 401) for part in desired_state(make_port(number))]
    plans = [[Delete(part)] for part in parts[::3]]

    def ask_much(_: int) -> float:
        started = time.monotonic()
        lab.host.apply(plans, started + 0.5)
        return time.monotonic() - started

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(ask_much, range(4))) < 0.5 + SLACK


# Other kinds of programs.


def in_a_child(work: Callable[[], bool]) -> bool:
    """Return True if the function succeeds in a forked child of this process."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if work() else 1)
        except BaseException:  # noqa: BLE001  # a child of a test must not go on as the test
            os._exit(2)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status == 0
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def test_a_forked_child_has_a_daemon_of_its_own(lab: Lab) -> None:
    pid = the_daemon(lab)

    def work() -> bool:
        plug(PORT, lab.host)
        own = set(daemons(lab.box)) - {pid}
        return len(own) == 1 and check(PORT, lab.host) == ()

    assert in_a_child(work)
    # It ends with the child; that of the parent is unchanged.
    assert until(lambda: daemons(lab.box) == [pid], 2)
    assert check(PORT, lab.host) == ()
    assert the_daemon(lab) == pid


def test_a_forked_child_can_connect_for_itself(lab: Lab, tmp_path: Path) -> None:
    def work() -> bool:
        lab.host.close()
        with connected(lab.box, tmp_path) as host:
            return plug(PORT, host).ok

    assert in_a_child(work)
    assert check(PORT, lab.host) == ()


def test_inside_an_event_loop_it_works_in_a_thread_and_directly(lab: Lab) -> None:
    async def program() -> list[Status]:
        ports = [make_port(number) for number in range(1, 5)]
        reports = await asyncio.gather(*(asyncio.to_thread(plug, port, lab.host) for port in ports))
        direct = unplug(ports[0].id, lab.host)
        return [report.status for report in [*reports, direct]]

    assert asyncio.run(program()) == [Status.DONE] * 5


# Deadlines of callers.


@pytest.mark.parametrize("deadline", [float("inf"), 1e300, 1e12, 10**400], ids=["inf", "1e300", "1e12", "10**400"])
def test_a_far_deadline_is_bounded(lab: Lab, deadline: float) -> None:
    assert lab.host.observe({NAMES.bridge}, deadline).facts.serves
    with lab.host.locked([NAMES.bridge[3:]], deadline):
        pass
    assert lab.host.seconds_since_first_seen((), deadline) == {}


@pytest.mark.parametrize("deadline", [-float("inf"), -(10**400), -1.0], ids=["-inf", "-10**400", "-1"])
def test_a_deadline_before_the_boot_has_passed(lab: Lab, deadline: float) -> None:
    with pytest.raises(NoResponse, match="deadline had passed"):
        lab.host.observe(None, deadline)


def test_a_deadline_that_is_no_number_is_refused(lab: Lab) -> None:
    with pytest.raises(InvalidInput, match=r"deadline nan is not a number; pass an instant of time.monotonic\(\)"):
        lab.host.observe(None, float("nan"))
    with pytest.raises(InvalidInput), lab.host.locked([NAMES.bridge[3:]], float("nan")):
        pass
