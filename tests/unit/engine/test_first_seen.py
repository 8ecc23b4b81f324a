"""First-seen times of orphans: across processes and users, and reset by a reboot."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from hybridvif import PreconditionError
from hybridvif.client.host import Host, NoResponse
from hybridvif.engine import locks
from hybridvif.model.settings import Settings

SOON = 20.0


def seconds_since_first_seen(path: Path, *signs: str) -> dict[str, float]:
    return locks.seconds_since_first_seen(signs, str(path), time.monotonic() + SOON)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks"


def test_orphan_ages_from_first_call(path: Path) -> None:
    assert seconds_since_first_seen(path, "a") == {"a": 0}
    time.sleep(0.02)
    again = seconds_since_first_seen(path, "a", "b")
    assert again["a"] >= 0.02
    assert again["b"] == 0


def test_orphan_missing_from_call_is_forgotten(path: Path) -> None:
    seconds_since_first_seen(path, "a")
    assert seconds_since_first_seen(path) == {}
    assert seconds_since_first_seen(path, "a") == {"a": 0}


def test_reboot_resets_times(path: Path) -> None:
    seconds_since_first_seen(path, "a")
    file = path / locks.FIRST_SEEN
    document = json.loads(file.read_text())
    document["since"]["a"] = 1.0
    file.write_text(json.dumps(document))
    assert seconds_since_first_seen(path, "a")["a"] > 0
    file.write_text(json.dumps({**document, "boot": "another"}))
    assert seconds_since_first_seen(path, "a") == {"a": 0}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"boot": 1}', '{"since": {"a": 1}}', '{"boot": "x", "since": []}', "\xff"]
)
def test_file_with_invalid_content_is_ignored(path: Path, text: str) -> None:
    seconds_since_first_seen(path, "a")
    (path / locks.FIRST_SEEN).write_bytes(text.encode("latin-1"))
    assert seconds_since_first_seen(path, "a") == {"a": 0}


def hostile(path: Path, kind: str, boot: str) -> None:
    """Replace the file by something that a user of the lock directory can create."""
    file = path / locks.FIRST_SEEN
    times = {
        "401 digits": "1" + "0" * 400,
        "5,000 digits": "1" * 5000,
        "negative": "-1e9",
        "negative integer": "-1000000000",
        "minus infinity": "-Infinity",
        "infinity": "1e999",
        "NaN": "NaN",
        "truth": "true",
        "text": '"1"',
        "future": str(time.monotonic() + 1000),
    }
    legal = f'{{"boot": "{boot}", "since": {{"a": 0.5}}}}'
    texts = {name: f'{{"boot": "{boot}", "since": {{"a": 0.5, "b": {seen}}}}}' for name, seen in times.items()}
    texts |= {"200,000 brackets": "[" * 200_000, "200,000 mappings": '{"a":' * 200_000, "everybody's": legal}
    texts |= {"stranger's": legal, "huge": ""}
    file.unlink()
    if kind in texts:
        file.write_text(texts[kind])
    match kind:
        case "huge":
            os.truncate(file, 1 << 40)
        case "fifo":
            os.mkfifo(file)
        case "socket":
            os.mknod(file, 0o660 | stat.S_IFSOCK)
        case "device":
            os.mknod(file, 0o660 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
        case "link":
            file.symlink_to("/dev/zero")
        case "second name":
            (path / "other").write_text(legal)
            file.hardlink_to(path / "other")
        case "everybody's":
            file.chmod(0o666)
        case "stranger's":
            path.chmod(0o1777)
            os.chown(file, 12345, -1)


@pytest.mark.parametrize(
    "kind",
    [
        *("401 digits", "5,000 digits", "negative", "negative integer", "minus infinity", "infinity", "NaN", "truth"),
        *("text", "future", "200,000 brackets", "200,000 mappings", "huge", "fifo", "socket", "device", "link"),
        *("second name", "everybody's", "stranger's"),
    ],
)
def test_hostile_file_is_ignored_with_one_log_message(path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    """Without checks, a fifo blocks forever, 401 digits raise OverflowError and -1e9 makes all orphans due."""
    if kind in ("device", "stranger's") and os.geteuid() != 0:
        # The gate runs it as root, too.
        pytest.skip("only root can make one")
    seconds_since_first_seen(path, "a", "b")
    hostile(path, kind, json.loads((path / locks.FIRST_SEEN).read_text())["boot"])
    assert seconds_since_first_seen(path, "a", "b") == {"a": 0, "b": 0}
    assert [record.getMessage().count(str(path / locks.FIRST_SEEN)) for record in caplog.records] == [1]
    assert (path / locks.FIRST_SEEN).is_file()
    time.sleep(0.01)
    assert seconds_since_first_seen(path, "a")["a"] > 0


def test_directory_in_place_of_file_is_reported_with_remedy(path: Path) -> None:
    seconds_since_first_seen(path, "a")
    (path / locks.FIRST_SEEN).unlink()
    (path / locks.FIRST_SEEN).mkdir()
    with pytest.raises(PreconditionError, match=r"is a directory; remove it"):
        seconds_since_first_seen(path, "a")


def test_time_in_future_is_ignored(path: Path) -> None:
    seconds_since_first_seen(path, "a")
    file = path / locks.FIRST_SEEN
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "since": {"a": time.monotonic() + 1000, "b": "x"}}))
    assert seconds_since_first_seen(path, "a", "b") == {"a": 0, "b": 0}


def test_file_is_writable_for_group_with_any_umask(path: Path) -> None:
    before = os.umask(0o077)
    try:
        seconds_since_first_seen(path, "a")
    finally:
        os.umask(before)
    assert (path / locks.FIRST_SEEN).stat().st_mode & 0o777 == 0o660


def test_planted_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    seconds_since_first_seen(path)
    target = tmp_path / "target"
    target.write_text("precious")
    for name in (locks.FIRST_SEEN, f"{locks.FIRST_SEEN}.part"):
        (path / name).unlink(missing_ok=True)
        (path / name).symlink_to(target)
    assert seconds_since_first_seen(path, "a") == {"a": 0}
    assert target.read_text() == "precious"
    assert not (path / locks.FIRST_SEEN).is_symlink()


def test_temporary_file_of_killed_writer_is_replaced(path: Path) -> None:
    seconds_since_first_seen(path)
    (path / f"{locks.FIRST_SEEN}.part").write_text("half")
    seconds_since_first_seen(path, "a")
    assert set(seconds_since_first_seen(path, "a")) == {"a"}


def test_unwritable_file_is_reported_with_remedy(path: Path) -> None:
    seconds_since_first_seen(path)
    (path / f"{locks.FIRST_SEEN}.part").mkdir()
    with pytest.raises(PreconditionError, match=r"cannot store first-seen times in .*lock_path"):
        seconds_since_first_seen(path, "a")


def test_concurrent_calls_lose_no_times(path: Path) -> None:
    seconds_since_first_seen(path, "a")
    threads = [threading.Thread(target=seconds_since_first_seen, args=(path, "a")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seconds_since_first_seen(path, "a")["a"] > 0


def test_locked_file_raises_no_response_at_deadline(path: Path) -> None:
    host = Host(Settings(lock_path=str(path)))
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locks.holding((locks.FIRST_SEEN,), str(path), time.monotonic() + SOON):
            held.set()
            done.wait(SOON)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(SOON)
        with pytest.raises(NoResponse, match="call again"):
            host.seconds_since_first_seen(["a"], time.monotonic() + 0.1)
    finally:
        done.set()
        thread.join()
    assert host.seconds_since_first_seen(["a"], time.monotonic() + SOON) == {"a": 0}
