"""The fuzzed function: the result of bytes from a captured client, compared with the grammar."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any, cast

import msgpack

from hybridvif.model.errors import Refused
from hybridvif.model.settings import Settings
from hybridvif.privileged import authorize, codec
from hybridvif.privileged.channel import Request, requests_from
from tests.fuzz import grammar

CALL = 3
SETTINGS = Settings(integration_bridges=grammar.BRIDGES)
OPTIONS: dict[str, Any] = {
    "use_list": False,
    "raw": False,
    "strict_map_key": False,
    "unicode_errors": "surrogateescape",
    "max_array_len": 8192,
    "max_map_len": 256,
    "max_str_len": 262_144,
    "max_bin_len": 65_536,
    "max_ext_len": 0,
}


class Wrong(AssertionError):
    """The code and the grammar disagree: accepted or refused wrongly, or decoded to another value."""


class Received:
    """Stand-in for a socket with received bytes."""

    def __init__(self, sent: bytes) -> None:
        self._left = sent

    def recv(self, size: int) -> bytes:
        received, self._left = self._left[:size], self._left[size:]
        return received


def judge(sent: bytes, settings: Settings = SETTINGS) -> list[str]:
    """Return the result of each frame. Raises Wrong, and any exception of the code except Refused."""
    answers: list[Request] = []
    became = []
    requests = [request for request, _ in requests_from(cast(socket.socket, Received(sent)), answers.append)]
    require(sent, requests)
    for name, (_, (result, _, sentence)) in answers:
        if type(name) is not str or result != "failed" or not sentence.startswith("refused: "):
            raise Wrong(f"an answer that is no refusal: {answers!r}")
        became.append("refused by messages")
    for _, message in requests:
        match message:
            case (3, "observe", (question, *_), *_):
                became.append(judge_question(question))
            case (3, "watch", (known, *_), *_):
                became.append(judge_known(known))
            case (3, "apply", (plans, *_), *_):
                became.append(judge_plans(plans, settings))
            case _:
                became.append("no call")
    return became


def require(sent: bytes, requests: list[Request]) -> None:
    """Require that the requests before the first malformed message are those that msgpack itself reads."""
    unpacker = msgpack.Unpacker(max_buffer_size=2**31 - 1, **OPTIONS)
    unpacker.feed(sent)
    objects: list[Any] = []
    with suppress(Exception):  # of many kinds
        objects.extend(unpacker)
    expected = [item for item in objects if _is_request(item)]
    # By repr, because NaN is not equal to itself.
    if repr(requests[: len(expected)]) != repr(expected):
        raise Wrong(f"requests {requests!r} and not {expected!r}")


def _is_request(value: Any) -> bool:
    pair = type(value) is tuple and len(value) == 2 and type(value[0]) is str and type(value[1]) is tuple
    return pair and len(value[1]) > 0 and isinstance(value[1][0], int)


def judge_question(question: Any) -> str:
    legal = grammar.is_question(question)
    try:
        names = codec.decode_names(question)
    except Refused as refused:
        return verdict_of(refused, legal, "wire")
    if not legal or names != (None if question is None else set(question)):
        raise Wrong(f"accepted: {question!r}")
    try:
        authorize.permit_names(names)
    except Refused as refused:
        return verdict_of(refused, grammar.may_be_asked(question), "authorize")
    if not grammar.may_be_asked(question):
        raise Wrong(f"permitted: {question!r}")
    return "asked"


def judge_known(known: Any) -> str:
    legal = grammar.is_known(known)
    try:
        names, digest = codec.decode_known(known)
    except Refused as refused:
        return verdict_of(refused, legal, "wire")
    if not legal or names != (None if known[0] is None else set(known[0])) or digest != known[1]:
        raise Wrong(f"accepted: {known!r}")
    return judge_question(known[0])


def judge_plans(plans: Any, settings: Settings) -> str:
    legal = grammar.is_plans(plans)
    try:
        decoded = codec.decode_plans(plans)
    except Refused as refused:
        return verdict_of(refused, legal, "wire")
    if not legal or plain(codec.encode_plans(decoded)) != plain(plans):
        raise Wrong(f"accepted: {plans!r}")
    try:
        authorize.permit_plans(decoded, settings)
    except Refused as refused:
        return verdict_of(refused, grammar.may_be_done(plans), "authorize")
    if not grammar.may_be_done(plans):
        raise Wrong(f"permitted: {plans!r}")
    return "permitted"


def verdict_of(refused: Refused, legal: bool, by: str) -> str:
    if legal:
        raise Wrong(f"refused by {by} what is legal: {refused}")
    if not str(refused).startswith("refused: ") or len(str(refused)) > 1_000:
        raise Wrong(f"a refusal that is no sentence: {refused}")
    return f"refused by {by}"


def plain(value: Any) -> Any:
    """Return the value with lists for tuples and with its types, because True equals 1."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return type(value), value
