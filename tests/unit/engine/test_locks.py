"""Locks of ports, across threads and processes: waiting, order, release, and the permissions of the files."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from hybridvif.engine.locks import BUCKETS, LockTimeout, bucket_of, busy, holding
from hybridvif.model.errors import PreconditionError

ONE, OTHER = "5f2c0e1a-7b", "91d3aa02-41"
HOLD = """
import sys, time
from hybridvif.engine.locks import holding
with holding(sys.argv[2:], sys.argv[1], time.monotonic() + 5):
    print("held", flush=True)
    sys.stdin.read()
"""
COUNT = """
import sys, time
from hybridvif.engine.locks import holding
path, file, keys = sys.argv[1], sys.argv[2], sys.argv[3:]
for _ in range(10):
    with holding(keys, path, time.monotonic() + 20):
        number = int(open(file).read())
        time.sleep(0.001)
        with open(file, "w") as out:
            out.write(str(number + 1))
"""
Wait = Callable[..., float]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return a lock directory that does not exist yet."""
    return str(tmp_path / "run" / "locks")


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


def in_order(count: int) -> list[str]:
    """Return keys in the order of their locks."""
    return sorted((f"{number:08x}-7b" for number in range(count)), key=bucket_of)


@contextmanager
def held_elsewhere(path: str, *keys: str) -> Iterator[subprocess.Popen[str]]:
    """Hold locks in another process until the end of the block, or until the process is killed."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, path, *keys], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def is_free(path: str, key: str) -> bool:
    try:
        with holding([key], path, soon(0.02)):
            return True
    except LockTimeout:
        return False


# The look at locks.


def test_busy_returns_keys_held_by_a_process_or_a_thread_and_takes_none(path: str) -> None:
    assert busy([ONE, OTHER], path) == set()
    with held_elsewhere(path, ONE):
        assert busy([ONE, OTHER], path) == {ONE}
    with holding([OTHER], path, soon()):
        assert busy([ONE, OTHER], path) == {OTHER}
        # POSIX locks of a process end when it closes any descriptor of the file.
        with subprocess.Popen([sys.executable, "-c", HOLD, path, OTHER], stdout=subprocess.PIPE) as other:
            time.sleep(0.3)
            other.kill()
            assert other.communicate()[0] == b""
    assert busy([ONE, OTHER], path) == set()
    assert is_free(path, ONE)


def test_lock_that_cannot_be_read_counts_as_free(path: str) -> None:
    os.makedirs(os.path.join(path, f"port-{bucket_of(ONE):04}", "x"))
    os.symlink("/dev/zero", os.path.join(path, f"port-{bucket_of(OTHER):04}"))
    assert busy([ONE, OTHER], path) == set()


# Numbers of locks.


def test_bucket_of_key_is_same_in_every_process_and_release() -> None:
    """Two releases of the package may run on one host."""
    assert (bucket_of(ONE), bucket_of(OTHER)) == (657, 57)
    assert len({bucket_of(f"{number:08x}-7b") for number in range(20_000)}) == BUCKETS
    assert all(0 <= bucket_of(f"{number:08x}-7b") < BUCKETS for number in range(1000))


def test_many_keys_share_bounded_number_of_files(path: str) -> None:
    keys = [f"{number:08x}-7b" for number in range(300)]
    with holding(keys, path, soon()):
        assert sorted(os.listdir(path)) == [f"port-{number:04}" for number in sorted({bucket_of(key) for key in keys})]
    assert len(os.listdir(path)) < 300


def test_keys_with_same_lock_in_one_call_do_not_block(path: str) -> None:
    twin = next(key for number in range(10_000) if bucket_of(key := f"{number:08x}-7b") == bucket_of(ONE))
    with holding([ONE, twin, ONE], path, soon(0.5)):
        assert not is_free(path, twin)


def test_empty_call_creates_no_lock(path: str) -> None:
    with holding([], path, soon()):
        assert os.listdir(path) == []


# Threads.


def test_thread_waits_for_same_port_only(path: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        with holding([ONE], path, soon()):
            assert pool.submit(is_free, path, OTHER).result()
            assert not pool.submit(is_free, path, ONE).result()
        assert pool.submit(is_free, path, ONE).result()


def test_threads_and_processes_exclude_each_other(path: str, tmp_path: Path) -> None:
    file = tmp_path / "count"
    file.write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, path, str(file), ONE]) for _ in range(2)]

    def count() -> None:
        for _ in range(10):
            with holding([ONE], path, soon(20)):
                number = int(file.read_text())
                time.sleep(0.001)
                file.write_text(str(number + 1))

    threads = [threading.Thread(target=count) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait() for process in processes] == [0, 0]
    assert file.read_text() == "40"


def test_calls_with_ports_in_different_order_do_not_deadlock(path: str) -> None:
    keys = in_order(6)

    def take(some: list[str]) -> None:
        for _ in range(10):
            with holding(some, path, soon(5)):
                time.sleep(0.0005)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(take, [keys, keys[::-1], keys[3:] + keys[:3], keys[1::2]]))


# Processes.


def test_process_waits_until_lock_is_released(path: str) -> None:
    with held_elsewhere(path, ONE) as process:
        assert not is_free(path, ONE)
        assert is_free(path, OTHER)
        assert process.stdin is not None
        timer = threading.Timer(0.2, process.stdin.close)
        timer.start()
        started = time.monotonic()
        with holding([ONE], path, soon()):
            assert 0.1 < time.monotonic() - started < 2
        timer.join()


def test_lock_of_killed_process_is_free(path: str) -> None:
    with held_elsewhere(path, ONE) as process:
        process.kill()
        process.wait()
        assert is_free(path, ONE)


@pytest.mark.parametrize("by", ["thread", "process"])
def test_held_lock_raises_timeout_at_deadline(path: str, by: str) -> None:
    def wait() -> float:
        started = time.monotonic()
        with pytest.raises(LockTimeout), holding([ONE], path, started + 0.3):
            pass
        return time.monotonic() - started

    held = holding([ONE], path, soon()) if by == "thread" else held_elsewhere(path, ONE)
    with held, ThreadPoolExecutor(1) as pool:
        assert 0.3 <= pool.submit(wait).result() < 2


def test_free_lock_is_acquired_after_deadline(path: str) -> None:
    assert time.monotonic() > 1
    with holding([ONE], path, 0):
        assert not is_free(path, ONE)


# Order and release.


def test_locks_are_acquired_in_order_and_released_at_timeout(path: str) -> None:
    low, middle, high = in_order(3)
    seen = {}
    with held_elsewhere(path, middle), ThreadPoolExecutor(1) as pool:

        def wait() -> None:
            with pytest.raises(LockTimeout), holding([high, low, middle], path, soon(2)):
                pass

        waiting = pool.submit(wait)
        while is_free(path, low) and not waiting.done():
            time.sleep(0.01)
        seen = {"low": is_free(path, low), "high": is_free(path, high)}
        waiting.result()
        assert seen == {"low": False, "high": True}
        assert is_free(path, low)


def test_error_releases_locks(path: str) -> None:
    with pytest.raises(ZeroDivisionError), holding([ONE, OTHER], path, soon()):
        raise ZeroDivisionError
    assert is_free(path, ONE)
    assert is_free(path, OTHER)


def test_descriptors_are_closed(path: str) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with held_elsewhere(path, OTHER):
        inside = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            assert is_free(path, ONE)
            assert not is_free(path, OTHER)
        assert len(os.listdir("/proc/self/fd")) == inside
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_forked_child_does_not_inherit_locks_of_threads(path: str) -> None:
    """Otherwise it would wait for itself."""
    with holding([ONE], path, soon()):
        child = os.fork()
        if child == 0:
            # The parent still locks the file, so the child waits for that.
            os._exit(1 if is_free(path, ONE) else 0)
        assert os.waitpid(child, 0)[1] == 0
        assert not is_free_in_child(path, ONE)
    assert is_free_in_child(path, ONE)


def test_child_forked_under_a_lock_can_leave_the_block(path: str) -> None:
    """It raised "release unlocked lock"."""
    code = 1
    try:
        with holding([ONE], path, soon()):
            child = os.fork()
        code = 0
    finally:
        if child == 0:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def is_free_in_child(path: str, key: str) -> bool:
    """Return whether a child gets the lock in time, forked while a thread of this process holds another one."""
    go, gone = threading.Event(), threading.Event()

    def hold() -> None:
        with holding([OTHER], path, soon()):
            gone.set()
            go.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    gone.wait(5)
    child = os.fork()
    if child == 0:
        try:
            with holding([key, OTHER], path, soon(0.4)):
                os._exit(0)
        except BaseException:  # noqa: BLE001  # a child must not continue as the test
            os._exit(1)
    go.set()
    thread.join()
    return os.waitpid(child, 0)[1] == 0


# Permissions.


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_files_are_writable_for_group_with_any_umask(path: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        with holding([ONE], path, soon()):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o2770
    assert {stat.S_IMODE(os.stat(Path(path, name)).st_mode) for name in os.listdir(path)} == {0o660}


def test_existing_directory_keeps_its_mode(path: str) -> None:
    os.makedirs(path)
    os.chmod(path, 0o700)
    with holding([ONE], path, soon()):
        pass
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700


def test_planted_link_is_not_followed(path: str, tmp_path: Path) -> None:
    os.makedirs(path)
    victim = tmp_path / "victim"
    os.symlink(victim, Path(path, f"port-{bucket_of(ONE):04}"))
    with pytest.raises(PreconditionError), holding([ONE], path, soon()):
        pass
    assert not victim.exists()


@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "link", "socket"])
def test_lock_that_is_not_regular_file_is_refused_by_name(path: str, kind: str) -> None:
    if kind == "device" and os.geteuid() != 0:
        # The gate runs it as root, too.
        pytest.skip("only root can make one")
    os.makedirs(path)
    name = Path(path, f"port-{bucket_of(ONE):04}")
    match kind:
        case "directory":
            name.mkdir()
        case "link":
            name.symlink_to(name)
        case _:
            of_kind = {"fifo": stat.S_IFIFO, "device": stat.S_IFCHR, "socket": stat.S_IFSOCK}
            os.mknod(name, 0o660 | of_kind[kind], os.makedev(1, 3))
    with pytest.raises(PreconditionError) as caught, holding([ONE], path, soon()):
        pass
    assert str(caught.value) == f"cannot lock ports: {name} is not a regular file; remove it"


def test_too_few_open_files_have_their_own_remedy(path: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    keys = [f"{number:08x}-7b" for number in range(60)]
    with holding(keys, path, soon()):
        pass
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, limits[1]))
    try:
        with (
            pytest.raises(PreconditionError, match=r"Too many open files.*ulimit -n") as caught,
            holding(keys, path, soon()),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert f"cannot lock ports with {path}/port-" in str(caught.value)


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_parent_directories_are_writable_for_owner_only(tmp_path: Path, umask: int) -> None:
    """Otherwise, with umask 0, any user could replace the lock directory."""
    path = tmp_path / "above" / "locks"
    before = os.umask(umask)
    try:
        with holding([ONE], str(path), soon()):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert stat.S_IMODE(path.stat().st_mode) == 0o2770


def useless(tmp_path: Path, kind: str) -> str:
    match kind:
        case "a file":
            (tmp_path / "file").write_text("")
            return str(tmp_path / "file")
        case "below a file":
            (tmp_path / "file").write_text("")
            return str(tmp_path / "file" / "locks")
    return "/proc/hybridvif"


@pytest.mark.parametrize("kind", ["a file", "below a file", "not writable"])
def test_unusable_directory_is_reported_with_remedy(tmp_path: Path, kind: str) -> None:
    path = useless(tmp_path, kind)
    with pytest.raises(PreconditionError, match="lock_path") as caught, holding([ONE], path, soon()):
        pass
    assert str(caught.value).startswith(f"cannot lock ports with {path}")
    assert "run as root" in str(caught.value)


def test_directory_of_other_user_is_refused_by_name(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        # The gate runs it as root, too.
        pytest.skip("only root can give a directory away")
    path = tmp_path / "locks"
    path.mkdir()
    os.chown(path, 12345, -1)
    with (
        pytest.raises(PreconditionError, match=r"belongs to user 12345.*chown root"),
        holding(["5f2c0e1a-7b"], str(path), soon()),
    ):
        pass
    assert list(path.iterdir()) == []


def test_link_of_other_user_to_directory_of_root_is_refused(tmp_path: Path) -> None:
    """In a directory that all users can write, such a link would make root create files anywhere."""
    if os.geteuid() != 0:
        # The gate runs it as root, too.
        pytest.skip("only root can give a link away")
    path, elsewhere = tmp_path / "locks", tmp_path / "elsewhere"
    elsewhere.mkdir()
    path.symlink_to(elsewhere)
    with holding([ONE], str(path), soon()):
        pass
    os.lchown(path, 12345, -1)
    with pytest.raises(PreconditionError, match="belongs to user 12345"), holding([OTHER], str(path), soon()):
        pass
    assert len(list(elsewhere.iterdir())) == 1


def test_lease_on_lock_raises_timeout_at_deadline(path: str) -> None:
    with holding([ONE], path, soon()):
        pass
    with open(Path(path, f"port-{bucket_of(ONE):04}"), "w", encoding="ascii") as file:
        # The holder of a lease gets SIGIO when the file is opened.
        before = signal.signal(signal.SIGIO, signal.SIG_IGN)
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            began = time.monotonic()
            with pytest.raises(LockTimeout), holding([ONE], path, soon(0.5)):
                pass
            assert time.monotonic() - began < 2
        finally:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            signal.signal(signal.SIGIO, before)
    assert is_free(path, ONE)
