"""Frames of a client over a real socket: an invalid frame is refused by name, and reading goes on."""

from __future__ import annotations

import socket
import threading
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given, strategies as st

from hybridvif.privileged.frames import MAX_FRAME, Frame, Frames, _End

REQUEST = ("good", (1, "x"))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=300)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20)),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=5), inner, max_size=20),
)


def pack(*values: Any) -> bytes:
    return b"".join(msgpack.packb(value) for value in values)


def read(sent: bytes) -> tuple[list[Frame], list[Frame]]:
    """Return the requests read from these bytes, and the refusals."""
    answers: list[Frame] = []
    near, far = socket.socketpair()
    with near, far:

        def send() -> None:
            near.sendall(sent)
            near.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        frames = list(Frames(far, answers.append))
        # Unread bytes must not block the sender.
        far.close()
        sender.join()
    return frames, answers


@pytest.mark.parametrize(
    "sent",
    [
        pack(("bad", (3, "x" * MAX_FRAME))),
        pack(("bad", (3, ["x" * 1000] * 5000))),
        pack(("bad", (3, b"\0" * (3 * MAX_FRAME)))),
        b"\x92\xa3bad" + b"\x91" * 100_000 + b"\xc0",
        b"\x92\xa3bad\x81\x81\x01\x01\x01",
        pack(("bad", 7)),
        pack(("bad", ())),
        pack(("bad", ("3",))),
        pack(("bad", (3,), 7)),
    ],
    ids=["a long text", "many texts", "long bytes", "deep", "a map as a key", "a number", "empty", "no number", "more"],
)
def test_invalid_frame_is_refused_by_name_and_reading_goes_on(sent: bytes) -> None:
    frames, answers = read(pack(REQUEST) + sent + pack(REQUEST))
    assert frames == [REQUEST, REQUEST]
    (answer,) = answers
    name, (_, (verdict, code, sentence)) = answer
    assert (name, verdict, code) == ("bad", "failed", "refused")
    assert sentence.startswith("refused: ")


@pytest.mark.parametrize("sent", [pack(7), pack(None), pack([]), pack({}), pack((None, (6,))), pack((7, (1,)))])
def test_frame_without_name_is_ignored(sent: bytes) -> None:
    assert read(pack(REQUEST) + sent + pack(REQUEST)) == ([REQUEST, REQUEST], [])


def test_invalid_msgpack_ends_reading() -> None:
    assert read(pack(REQUEST) + b"\xc1" + pack(REQUEST)) == ([REQUEST], [])
    assert read(pack(REQUEST) + b"\x92\xa3bad") == ([REQUEST], [])


def nested(item: bytes, count: int, width: int = 8000) -> bytes:
    """Return a request with a list of lists of this object."""
    row = b"\xdc" + width.to_bytes(2, "big") + item * width
    rows = count // width
    return b"\x92\xa3bad\x92\x03\xdd" + rows.to_bytes(4, "big") + row * rows


@pytest.mark.parametrize(
    ("sent", "count"),
    [
        (nested(b"\x80", 1_000_000), 1_000_000),
        (nested(b"\x90", 80_000), 80_000),
        (nested(b"\x81\x00\x00", 400_000), 400_000),
        (nested(b"\xa2ab", 1_000_000), 1_000_000),
        (nested(b"\xcd\xff\xff", 1_000_000), 1_000_000),
        (nested(b"\xcb" + b"\1" * 8, 440_000), 440_000),
        (b"\x92\xa3bad\x92\x03\xdd\xff\xff\xff\xff" + b"\xc0" * 10_000, 0),
        (b"\x92\xa3bad\x92\x03\xdc\x40\x00" + b"\xc0" * 0x4000, 0),
        (b"\x92\xa3bad\x92\x03\xde\x01\x01" + b"".join(pack(n, n) for n in range(257)), 0),
        (pack(("bad", (3, "x" * 300_000))), 0),
        (pack(("bad", (3, b"x" * 70_000))), 0),
        (pack(("bad", (3, msgpack.ExtType(1, b"x")))), 0),
    ],
    ids=[
        "maps",
        "lists",
        "maps of one",
        "texts",
        "numbers",
        "floats",
        "list32",
        "list",
        "map",
        "text",
        "bytes",
        "type",
    ],
)
def test_frame_of_too_many_objects_is_refused(sent: bytes, count: int) -> None:
    """The frame is not decoded. An empty map takes 1 byte in the frame and 72 bytes in memory."""
    tracemalloc.start()
    try:
        frames, answers = read(pack(REQUEST) + sent + pack(REQUEST))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert REQUEST in frames
    assert [name for name, _ in frames if name != "good"] == []
    assert [name for name, _ in answers] in (["bad"], [])
    assert peak < 60_000_000


def test_non_ascii_text_counts_as_one_object() -> None:
    """Its bytes look like lists, maps and values."""
    frame = ("good", (1, *["\u0085" * 60_000] * 8, *["\u20ac" * 60_000] * 8))
    assert read(pack(frame) * 2) == ([frame] * 2, [])


def test_largest_frame_is_accepted() -> None:
    texts = ["x" * 100_000] * 41
    frame = ("good", (1, *texts, "x" * (MAX_FRAME - 41 * 100_005 - 30)))
    assert len(pack(frame)) > MAX_FRAME - 30
    assert read(pack(frame) * 3) == ([frame] * 3, [])


@given(st.binary(max_size=200))
def test_reading_ends_for_any_bytes(sent: bytes) -> None:
    frames, answers = read(sent)
    assert all(type(name) is str for name, _ in [*frames, *answers])


@given(VALUES, st.integers(1, 50))
def test_end_of_a_frame_is_found_for_any_piece_size(value: object, size: int) -> None:
    sent = pack(value) + b"rest"
    end = _End()
    position, rest = 0, None
    while rest is None:
        rest = end.after(sent[position : position + size])
        position += size
    assert not end.lost
    assert rest + sent[position:] == b"rest"
