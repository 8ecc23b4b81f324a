"""Messages of a client over a real socket: a bad one is refused by its name, and reading goes on."""

from __future__ import annotations

import socket
import threading
import tracemalloc
from contextlib import suppress
from typing import Any, cast

import msgpack
import pytest
from hypothesis import given, strategies as st
from oslo_privsep import comm

from hybridvif.privileged.channel import MAX_BUFFER, MAX_MESSAGE, VALUE_SIZE, Message, Request, requests_from

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


def read(sent: bytes) -> tuple[list[Request], list[Request]]:
    """Return the requests read from these bytes, and the refusals."""
    answers: list[Request] = []
    near, far = socket.socketpair()
    with near, far:

        def send() -> None:
            with suppress(OSError):
                near.sendall(sent)
                near.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        received = list(requests_from(far, answers.append))
        # Unread bytes must not block the sender.
        far.close()
        sender.join()
    return [request for request, _ in received], answers


@pytest.mark.parametrize(
    "sent",
    [
        pack(("bad", (3, "x" * MAX_MESSAGE))),
        pack(("bad", (3, ["x" * 1000] * 7000))),
        pack(("bad", (3, b"\0" * (2 * MAX_MESSAGE)))),
        b"\x92\xa3bad" + b"\x91" * 500 + b"\xc0",
        b"\x92\xa3bad\x81\x81\x01\x01\x01",
        pack(("bad", 7)),
        pack(("bad", ())),
        pack(("bad", ("3",))),
        pack(("bad", (3,), 7)),
    ],
    ids=["a long text", "many texts", "long bytes", "deep", "a map as a key", "a number", "empty", "no number", "more"],
)
def test_bad_message_is_refused_by_name_and_reading_goes_on(sent: bytes) -> None:
    requests, answers = read(pack(REQUEST) + sent + pack(REQUEST))
    assert requests == [REQUEST, REQUEST]
    (answer,) = answers
    name, (_, (verdict, code, sentence)) = answer
    assert (name, verdict, code) == ("bad", "failed", "refused")
    assert sentence.startswith("refused: ")


@pytest.mark.parametrize("sent", [pack(7), pack(None), pack([]), pack({}), pack((None, (6,))), pack((7, (1,)))])
def test_message_without_name_is_ignored(sent: bytes) -> None:
    assert read(pack(REQUEST) + sent + pack(REQUEST)) == ([REQUEST, REQUEST], [])


@pytest.mark.parametrize(
    "sent",
    [b"\xc1", b"\x91" * 100_000 + b"\xc0", b"\xdb\xff\xff\xff\xff" + bytes(2 * MAX_BUFFER)],
    ids=["no msgpack", "deep", "4 GiB"],
)
def test_reading_ends_if_the_next_message_cannot_be_found(sent: bytes) -> None:
    assert read(pack(REQUEST) + sent + pack(REQUEST)) == ([REQUEST], [])
    assert read(pack(REQUEST) + b"\x92\xa3bad") == ([REQUEST], [])


def nested(item: bytes, count: int, width: int = 8000) -> bytes:
    """Return a request with a list of lists of this object."""
    row = b"\xdc" + width.to_bytes(2, "big") + item * width
    rows = count // width
    return b"\x92\xa3bad\x92\x03\xdd" + rows.to_bytes(4, "big") + row * rows


@pytest.mark.parametrize(
    "sent",
    [
        nested(b"\x80", 1_000_000),
        nested(b"\x90", 400_000),
        nested(b"\x81\x00\x00", 400_000),
        nested(b"\xa2ab", 1_000_000),
        nested(b"\xcd\xff\xff", 1_000_000),
        nested(b"\xcb" + b"\1" * 8, 800_000),
        b"\x92\xa3bad\x92\x03\xdd\xff\xff\xff\xff" + b"\xc0" * 10_000,
        b"\x92\xa3bad\x92\x03\xdc\x80\x01" + b"\xc0" * 0x8001,
        b"\x92\xa3bad\x92\x03\xde\x01\x01" + b"".join(pack(n, n) for n in range(257)),
        pack(("bad", (3, "x" * 300_000))),
        pack(("bad", (3, b"x" * 70_000))),
        pack(("bad", (3, msgpack.ExtType(1, b"x")))),
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
def test_message_of_too_many_values_is_refused(sent: bytes) -> None:
    """An empty map takes 1 byte in the message and 64 bytes in memory."""
    tracemalloc.start()
    try:
        requests, answers = read(pack(REQUEST) + sent + pack(REQUEST))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert REQUEST in requests
    assert [name for name, _ in requests if name != "good"] == []
    assert [name for name, _ in answers] in (["bad"], [])
    assert peak < 80_000_000


@pytest.mark.parametrize(
    ("content", "cost"), [((1, "x" * 1000), 1011), ((1, *[{}] * 1000), 2005 * VALUE_SIZE)], ids=["a text", "empty maps"]
)
def test_cost_is_the_size_or_that_of_many_values(content: tuple[Any, ...], cost: int) -> None:
    pieces = cast(socket.socket, Pieces(pack(("good", content)), 5000))
    answers: list[Request] = []
    assert [found for _, found in requests_from(pieces, answers.append)] == [cost]


def test_largest_message_is_accepted() -> None:
    texts = ["x" * 100_000] * 62
    message = ("good", (1, *texts, "x" * (MAX_MESSAGE - 62 * 100_005 - 30)))
    assert len(pack(message)) > MAX_MESSAGE - 30
    assert read(pack(message) * 3) == ([message] * 3, [])


@given(st.binary(max_size=200))
def test_reading_ends_for_any_bytes(sent: bytes) -> None:
    requests, answers = read(sent)
    assert all(type(name) is str for name, _ in [*requests, *answers])


class Pieces:
    """Stand-in for a socket that receives pieces of one size."""

    def __init__(self, sent: bytes, size: int) -> None:
        self._left, self._size = sent, size

    def recv(self, _: int) -> bytes:
        received, self._left = self._left[: self._size], self._left[self._size :]
        return received


@given(VALUES, st.integers(1, 50))
def test_end_of_a_message_is_found_for_any_piece_size(value: object, size: int) -> None:
    answers: list[Request] = []
    pieces = cast(socket.socket, Pieces(pack(value, REQUEST, ("bad", 7), REQUEST), size))
    assert list(requests_from(pieces, answers.append))[-2:] == [(REQUEST, 6 * VALUE_SIZE)] * 2
    assert [name for name, _ in answers][-1:] == ["bad"]


def test_messages_have_the_numbers_of_oslo_privsep() -> None:
    """Its own client could use our daemon."""
    assert {(kind.name, kind.value) for kind in Message} <= {(kind.name, kind.value) for kind in comm.Message}
