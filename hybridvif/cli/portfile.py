"""Parse the file of -F: a list of mappings in YAML or JSON. Its keys are the fields of hybridvif.Port.

An error names the file, the entry (counted from 1) and the field.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Hashable
from typing import Any

import yaml

from hybridvif.cli.ports import FIELDS, PortRequest
from hybridvif.model.errors import InvalidInput, did_you_mean
from hybridvif.model.port import VifType

LIMIT = 64 << 20
"""Maximum size in bytes, about 400,000 ports. An endless file such as /dev/zero must not fill the memory."""
_KINDS = {dict: "a mapping", list: "a list", str: "text", bool: "a truth value", int: "a number", type(None): "empty"}


class _Loader(yaml.SafeLoader):
    """A YAML loader with the integers of YAML 1.2, that rejects duplicate keys.

    PyYAML implements YAML 1.1, where the MAC address 52:54:00:12:34:56 is an integer to the base of 60.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        """Construct a mapping. Raises ConstructorError for a duplicate key."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    sign: [(tag, rule) for tag, rule in rules if tag.rpartition(":")[2] in ("bool", "null")]
    for sign, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z"), list("-+0123456789"))


def read_ports(name: str) -> list[PortRequest]:
    """Read the ports of a file; "-" is stdin. Raises InvalidInput."""
    shown = "stdin" if name == "-" else name
    entries = _load(name, shown)
    if entries is None:
        raise InvalidInput(
            f"{shown}: there is nothing in it; write a list of mappings with the keys {', '.join(FIELDS)}, or [] for "
            "no ports"
        )
    if isinstance(entries, dict) and "command" in entries:
        # The document of `hybridvif ports -f json`.
        entries = entries.get("ports")
    if not isinstance(entries, list):
        raise InvalidInput(f"{shown}: it is {_kind(entries)}, not a list of ports; begin each port with '- id:'")
    entry_of: dict[str, int] = {}
    requests = [_port_request(entry, f"{shown}: entry {number}") for number, entry in enumerate(entries, start=1)]
    for number, request in enumerate(requests, start=1):
        first = entry_of.setdefault(request.port_id, number)
        if first != number:
            raise InvalidInput(
                f"{request.where}: id {request.port_id} is that of entry {first} too; name each port once"
            )
    return requests


def _load(name: str, shown: str) -> Any:
    try:
        text = _read(name)
    except OSError as error:
        raise InvalidInput(f"{shown}: it cannot be read: {error.strerror}; give a file of ports with -F") from error
    if len(text) > LIMIT:
        raise InvalidInput(f"{shown}: it has more than {LIMIT >> 20} MiB; divide the ports among several files")
    try:
        return yaml.load(text.decode(), Loader=_Loader)  # noqa: S506  # a SafeLoader
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{shown}: it is no text in UTF-8; write it as YAML or JSON") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InvalidInput(f"{shown}: it is neither YAML nor JSON: {_parse_error(error)}; correct it there") from error


def _read(name: str) -> bytes:
    if name != "-":
        with open(name, "rb") as file:
            return file.read(LIMIT + 1)
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    return sys.stdin.buffer.read(LIMIT + 1)


def _parse_error(error: Exception) -> str:
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark
    return f"{error.problem}" + (f" (line {mark.line + 1}, column {mark.column + 1})" if mark else "")


def _port_request(entry: object, where: str) -> PortRequest:
    if not isinstance(entry, dict):
        raise InvalidInput(f"{where}: it is {_kind(entry)}, not a mapping; write id:, mac:, instance_id: and so on")
    for key in entry:
        if key not in FIELDS:
            hint = did_you_mean(str(key)[:40], FIELDS)
            raise InvalidInput(f"{where}: unknown field {str(key)[:40]!r}; use {', '.join(FIELDS)}{hint}")
    if "id" not in entry:
        raise InvalidInput(f"{where}: field 'id' is missing; every port has one")
    for key, value in entry.items():
        if isinstance(value, dict | list):
            raise InvalidInput(f"{where}: field {key!r} is {_kind(value)}, not one value; write it on one line")
    if "vif_type" in entry:
        # Port rejects a text that is no VifType.
        text = entry["vif_type"]
        entry["vif_type"] = next((kind for kind in VifType if kind.value == text), text)
    return PortRequest(fields=entry, where=where)


def _kind(value: object) -> str:
    return _KINDS.get(type(value), f"a {type(value).__name__}")
