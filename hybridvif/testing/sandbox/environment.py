"""The environment of programs inside a sandbox."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from shlex import quote

from hybridvif.testing.sandbox.capability import Level, Requirement
from hybridvif.testing.sandbox.commands import Response
from hybridvif.testing.sandbox.launch import ROOT
from hybridvif.testing.sandbox.missing import search_path

OWN_DIRECTORY = "/run/hybridvif-sandbox"
"""The directory for files about the sandbox, in its own /run."""
_SELF = f"{OWN_DIRECTORY}/sandbox.json"
_PROGRAMS = f"{OWN_DIRECTORY}/bin"
_TEMPORARY = f"{OWN_DIRECTORY}/temporary"


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """Return the caller's environment without OVS_* variables, with a PATH to all required programs.

    `hybridvif` in this PATH is the one that created the sandbox, installed or not, in a virtualenv or not.
    """
    kept = {name: value for name, value in base.items() if not name.startswith("OVS_")}
    path = [_PROGRAMS, *search_path(kept).split(":"), os.path.dirname(sys.executable)]
    kept["PATH"] = ":".join(dict.fromkeys(path))
    # A checkout only: a site-packages directory in PYTHONPATH would come before the standard library.
    own = [] if os.path.basename(ROOT) in ("site-packages", "dist-packages") else [ROOT]
    if own or "PYTHONPATH" in kept:
        # An empty element means the working directory.
        kept["PYTHONPATH"] = ":".join(dict.fromkeys(filter(None, [*own, *kept.get("PYTHONPATH", "").split(":")])))
    kept["TMPDIR"] = _TEMPORARY  # temporary files are deleted with the sandbox
    kept["debian_chroot"] = "sandbox"  # Debian's and Ubuntu's bashrc show it in the prompt
    return kept


def working_directory() -> str | None:
    """Return the working directory of this process; None if it has been deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def describe(answer: Response) -> None:
    """Write the description of the sandbox and the `hybridvif` program. Called by the first process."""
    os.makedirs(_PROGRAMS)
    os.mkdir(_TEMPORARY)
    Path(_SELF).write_text(answer.to_json(), encoding="utf-8")
    program = Path(_PROGRAMS, "hybridvif")
    # -P: other users may be able to write to the working directory.
    program.write_text(f'#!/bin/sh\nexec {quote(sys.executable)} -P -m hybridvif "$@"\n')
    program.chmod(0o755)


def here() -> tuple[Level, tuple[Requirement, ...]] | None:
    """Return the level and missing requirements of the surrounding sandbox; None outside of a sandbox."""
    try:
        answer = Response.from_json(Path(_SELF).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return answer.level, answer.missing
