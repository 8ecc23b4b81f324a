"""hybridvif executors: the installed executors."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from hybridvif.cli.options import ROWS, Command, connected
from hybridvif.cli.terminal import Answer, Paint
from hybridvif.executors.command import how_to_install
from hybridvif.model.errors import did_you_mean
from hybridvif.model.settings import Settings

CAPABILITIES = ("CAP_NET_ADMIN",)
"""The capabilities that the daemon keeps. An executor can override them with an attribute `capabilities`."""


def run(args: argparse.Namespace) -> Answer:
    """List the installed executors. Nothing is changed."""
    with connected(args) as host:
        settings = host.settings
    by_role = installed(settings)
    chosen = {role: [document for document in by_role[role] if document["configured"]] for role in by_role}
    unknown = {role: getattr(settings, f"{role}_executor") for role in by_role if not chosen[role]}
    executors = [*by_role["link"], *by_role["switch"]]
    return Answer(
        document={"command": "executors", "executors": executors},
        lines=lambda paint: _lines(executors, unknown, paint),
        rows=executors,
        exit_code=5 if unknown or any(document["missing"] for found in chosen.values() for document in found) else 0,
    )


def installed(settings: Settings) -> Mapping[str, list[Mapping[str, Any]]]:
    """Return the documents of the installed executors by role, ordered by name."""
    return {
        role: [
            _document(role, point, name, settings)
            for point in sorted(entry_points(group=f"hybridvif.{role}_executors"), key=lambda point: point.name)
        ]
        for role, name in {"link": settings.link_executor, "switch": settings.switch_executor}.items()
    }


def _document(role: str, point: EntryPoint, chosen: str, settings: Settings) -> Mapping[str, Any]:
    try:
        cls, missing = point.load(), []
    except Exception as error:  # noqa: BLE001  # whatever a third party's module raises when it is imported
        cls, missing = None, [f"it cannot be loaded ({type(error).__name__}: {error}); reinstall it"]
    programs = list(getattr(cls, "programs", ()))
    for program in programs:
        if shutil.which(program, path=settings.program_path) is None:
            missing.append(f"{program} is not in {settings.program_path}; {how_to_install(program)}")
    if cls is not None and getattr(getattr(cls, "role", None), "value", None) != role:
        missing.append(f"its role is not {role}; report this to its author")
    return {
        "name": point.name,
        "role": role,
        "configured": point.name == chosen,
        "origin": f"{point.dist.name} {point.dist.version}" if point.dist else "unknown",
        "object": point.value,
        "serves": sorted(kind.kind for kind in getattr(cls, "serves", ())),
        "programs": programs,
        "capabilities": list(getattr(cls, "capabilities", CAPABILITIES)),
        "missing": missing,
    }


def _lines(executors: Sequence[Mapping[str, Any]], unknown: Mapping[str, str], paint: Paint) -> Iterator[str]:
    for executor in executors:
        mark, colour = ("*", "bold") if executor["configured"] else (" ", "")
        yield paint(f"{mark} {executor['role']:<6}  {executor['name']:<18}  {executor['origin']}", colour)
        needs = [*(f"the program {name}" for name in executor["programs"]), *executor["capabilities"]]
        yield paint(f"            serves {', '.join(executor['serves']) or 'nothing'}; needs {', '.join(needs)}", "dim")
        for sentence in executor["missing"]:
            yield paint(f"            MISSING: {sentence}", "red")
    yield "* is configured."
    for role, name in unknown.items():
        hint = did_you_mean(name, [executor["name"] for executor in executors if executor["role"] == role])
        yield paint(f"[hybridvif] {role}_executor: no executor named {name!r} is installed{hint}", "red")


COMMANDS = {
    "executors": Command(
        run,
        ROWS,
        epilog="Choose one with [hybridvif] link_executor or switch_executor. Exits with 5 if a chosen one lacks "
        "something.",
        columns=("name", "role", "configured", "origin", "serves", "programs", "capabilities", "missing"),
    )
}
