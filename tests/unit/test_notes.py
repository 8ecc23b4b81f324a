"""Since when something has been seen, across processes and users, and no longer than since the boot."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from hybridvif import PreconditionError, locks, notes
from hybridvif.host import Host, NoAnswer
from hybridvif.settings import Settings

SOON = 20.0


def noted(path: Path, *signs: str) -> dict[str, float]:
    return notes.noted(signs, str(path), time.monotonic() + SOON)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks"


def test_what_is_new_is_noted_and_what_is_found_again_has_been_there_since(path: Path) -> None:
    assert noted(path, "a") == {"a": 0}
    time.sleep(0.02)
    again = noted(path, "a", "b")
    assert again["a"] >= 0.02
    assert again["b"] == 0


def test_what_is_not_found_is_forgotten(path: Path) -> None:
    noted(path, "a")
    assert noted(path) == {}
    assert noted(path, "a") == {"a": 0}


def test_after_a_reboot_nothing_has_been_seen_before(path: Path) -> None:
    noted(path, "a")
    file = path / notes.FILE
    said = json.loads(file.read_text())
    said["since"]["a"] = 1.0
    file.write_text(json.dumps(said))
    assert noted(path, "a")["a"] > 0
    file.write_text(json.dumps({**said, "boot": "another"}))
    assert noted(path, "a") == {"a": 0}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"boot": 1}', '{"since": {"a": 1}}', '{"boot": "x", "since": []}', "\xff"]
)
def test_a_file_that_makes_no_sense_says_nothing(path: Path, text: str) -> None:
    noted(path, "a")
    (path / notes.FILE).write_bytes(text.encode("latin-1"))
    assert noted(path, "a") == {"a": 0}


def test_what_is_said_to_be_of_the_future_is_new(path: Path) -> None:
    noted(path, "a")
    file = path / notes.FILE
    said = json.loads(file.read_text())
    file.write_text(json.dumps({**said, "since": {"a": time.monotonic() + 1000, "b": "x"}}))
    assert noted(path, "a", "b") == {"a": 0, "b": 0}


def test_the_group_can_write_it_whatever_the_umask(path: Path) -> None:
    before = os.umask(0o077)
    try:
        noted(path, "a")
    finally:
        os.umask(before)
    assert (path / notes.FILE).stat().st_mode & 0o777 == 0o660


def test_a_planted_link_leads_nowhere(path: Path, tmp_path: Path) -> None:
    noted(path)
    target = tmp_path / "target"
    target.write_text("precious")
    for name in (notes.FILE, f"{notes.FILE}.part"):
        (path / name).unlink(missing_ok=True)
        (path / name).symlink_to(target)
    assert noted(path, "a") == {"a": 0}
    assert target.read_text() == "precious"
    assert not (path / notes.FILE).is_symlink()


def test_what_a_killed_writer_left_is_no_obstacle(path: Path) -> None:
    noted(path)
    (path / f"{notes.FILE}.part").write_text("half")
    noted(path, "a")
    assert set(noted(path, "a")) == {"a"}


def test_a_file_that_cannot_be_written_is_told_with_the_remedy(path: Path) -> None:
    noted(path)
    (path / f"{notes.FILE}.part").mkdir()
    with pytest.raises(PreconditionError, match=r"cannot note remains in .*lock_path"):
        noted(path, "a")


def test_threads_that_note_together_lose_nothing(path: Path) -> None:
    noted(path, "a")
    threads = [threading.Thread(target=noted, args=(path, "a")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert noted(path, "a")["a"] > 0


def test_who_waits_in_vain_for_the_notes_is_told_at_the_deadline(path: Path) -> None:
    host = Host(Settings(lock_path=str(path)))
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locks.holding((notes.FILE,), str(path), time.monotonic() + SOON):
            held.set()
            done.wait(SOON)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(SOON)
        with pytest.raises(NoAnswer, match="call again"):
            host.noted(["a"], time.monotonic() + 0.1)
    finally:
        done.set()
        thread.join()
    assert host.noted(["a"], time.monotonic() + SOON) == {"a": 0}
