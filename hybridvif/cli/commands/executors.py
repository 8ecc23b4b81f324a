"""hybridvif executors: the installed executors.

The document:

    command     "executors"
    executors   for each executor:
                name
                role            link or switch
                configured      true if it is the configured one
                origin          its distribution and version
                object          its class, as module:name
                serves          the kinds of parts that it serves
                programs        the programs that it needs
                capabilities    the capabilities that it needs
                missing         unmet requirements, as sentences
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybridvif.cli.terminal import Paint
    from hybridvif.model.settings import Settings

HELP = "list the installed executors: role, origin, requirements, and what is missing"
FORMATS = ("text", "json", "yaml", "table", "value")
COLUMNS = ("name", "role", "configured", "origin", "serves", "programs", "capabilities", "missing")
CAPABILITIES = ("CAP_NET_ADMIN",)
"""The capabilities that the daemon keeps. An executor can override them with an attribute `capabilities`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif executors`."""
    parser.epilog = (
        "Choose one with [hybridvif] link_executor or switch_executor. Exits with 5 if a chosen one lacks something."
    )


def run(args: argparse.Namespace) -> int:
    """Print the installed executors. Nothing is changed."""
    from hybridvif.cli.connection import connected
    from hybridvif.cli.terminal import Answer

    with connected(args) as host:
        executors = [dict(executor) for role in ("link", "switch") for executor in _of_role(role, host.settings)]
    lacking = any(executor["configured"] and executor["missing"] for executor in executors)
    chosen = {executor["role"] for executor in executors if executor["configured"]}
    unknown = [role for role in ("link", "switch") if role not in chosen]
    rows = [{key: _cell(executor[key]) for key in COLUMNS} for executor in executors]
    return int(
        args.terminal.write_answer(
            Answer(
                document={"command": "executors", "executors": executors},
                lines=lambda paint: list(_lines(executors, unknown, host.settings, paint)),
                columns=COLUMNS,
                rows=rows,
                exit_code=5 if lacking or unknown else 0,
            )
        )
    )


def _of_role(role: str, settings: Settings) -> Iterator[dict[str, Any]]:
    points = sorted(entry_points(group=f"hybridvif.{role}_executors"), key=lambda point: point.name)
    for point in points:
        cls, broken = _load(point)
        programs = tuple(getattr(cls, "programs", ()))
        missing = [broken] if broken else []
        missing += [
            f"{program} is not in {settings.program_path}; {_remedy(program)}"
            for program in programs
            if shutil.which(program, path=settings.program_path) is None
        ]
        if cls is not None and getattr(getattr(cls, "role", None), "value", None) != role:
            missing.append(f"its role is not {role}; report this to its author")
        yield {
            "name": point.name,
            "role": role,
            "configured": point.name == getattr(settings, f"{role}_executor"),
            "origin": f"{point.dist.name} {point.dist.version}" if point.dist else "unknown",
            "object": point.value,
            "serves": sorted(kind.kind for kind in getattr(cls, "serves", ())),
            "programs": list(programs),
            "capabilities": list(getattr(cls, "capabilities", CAPABILITIES)),
            "missing": missing,
        }


def _load(point: EntryPoint) -> tuple[Any, str]:
    """Return (class, ""), or (None, error)."""
    try:
        return point.load(), ""
    except Exception as error:  # noqa: BLE001  # whatever a third party's module raises when it is imported
        return None, f"it cannot be loaded ({type(error).__name__}: {error}); reinstall it"


def _remedy(program: str) -> str:
    from hybridvif.executors.command import PACKAGES

    return f"install it: apt-get install {PACKAGES[program]}" if program in PACKAGES else "install it"


def _cell(value: object) -> object:
    return " ".join(str(item) for item in value) if isinstance(value, list) else value


def _lines(
    executors: Sequence[dict[str, Any]], unknown: Sequence[str], settings: Settings, paint: Paint
) -> Iterator[str]:
    for executor in executors:
        mark = "*" if executor["configured"] else " "
        yield paint(
            f"{mark} {executor['role']:<6}  {executor['name']:<18}  {executor['origin']}",
            "bold" if executor["configured"] else "",
        )
        needs = [*(f"the program {name}" for name in executor["programs"]), *executor["capabilities"]]
        yield paint(f"            serves {', '.join(executor['serves']) or 'nothing'}; needs {', '.join(needs)}", "dim")
        for sentence in executor["missing"]:
            yield paint(f"            MISSING: {sentence}", "red")
    yield "* is configured."
    for role in unknown:
        name = getattr(settings, f"{role}_executor")
        yield paint(f"[hybridvif] {role}_executor: no executor named {name!r} is installed", "red")
