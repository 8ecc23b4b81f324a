"""Validation of the command's JSON documents by the schemas that the package ships."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource

import hybridvif

DIRECTORY = Path(hybridvif.__file__).parent / "schemas"
ENVELOPE = ("command", "version", "host", "time")
"""The keys of every document."""


def schema_of(name: str) -> dict[str, Any]:
    """Return a shipped schema."""
    return dict(json.loads((DIRECTORY / f"{name}.json").read_text(encoding="utf-8")))


def validate(document: Any) -> Any:
    """Check a document by the schema of its command, and return it. A key without a type is an error, too."""
    name = "error" if set(document) == {*ENVELOPE, "error"} else document["command"]
    validate_as(name, document)
    assert document["version"] == hybridvif.__version__
    return document


def validate_as(name: str, document: Any) -> None:
    """Check a document by one schema."""
    _validator(name).validate(document)


@cache
def _validator(name: str) -> Draft202012Validator:
    names = [path.stem for path in DIRECTORY.glob("*.json")]
    resources = [(f"{file}.json", Resource.from_contents(_closed(schema_of(file)))) for file in names]
    registry: Registry[Any] = Registry().with_resources(resources)
    return Draft202012Validator({"$ref": f"{name}.json"}, registry=registry, format_checker=FormatChecker())


def _closed(schema: Any) -> Any:
    """Return a schema that accepts no key that it does not declare. The shipped ones let later versions add keys."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    return {"additionalProperties": False, **closed} if isinstance(schema.get("properties"), Mapping) else closed
