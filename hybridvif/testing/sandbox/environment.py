"""What a program finds in its environment inside a sandbox."""

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
"""Where a sandbox keeps what is about itself; in its own /run, so it is nowhere else."""
_SELF = f"{OWN_DIRECTORY}/sandbox.json"
_PROGRAMS = f"{OWN_DIRECTORY}/bin"
_TEMPORARY = f"{OWN_DIRECTORY}/temporary"


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment, less what would lead to the host's Open vSwitch, plus a PATH to everything needed.

    `hybridvif` is the very one that made the sandbox, whether it is installed or not, and in a virtualenv or not.
    """
    kept = {name: value for name, value in base.items() if not name.startswith("OVS_")}
    path = [_PROGRAMS, *search_path(kept).split(":"), os.path.dirname(sys.executable)]
    kept["PATH"] = ":".join(dict.fromkeys(path))
    # A checkout. A site-packages directory is found anyway, and would come before the standard library here.
    own = [] if os.path.basename(ROOT) in ("site-packages", "dist-packages") else [ROOT]
    if own or "PYTHONPATH" in kept:
        # An empty element means the working directory.
        kept["PYTHONPATH"] = ":".join(dict.fromkeys(filter(None, [*own, *kept.get("PYTHONPATH", "").split(":")])))
    kept["TMPDIR"] = _TEMPORARY  # so that temporary files, too, go with the sandbox, however it ends
    kept["debian_chroot"] = "sandbox"  # Debian's and Ubuntu's bashrc show it in the prompt
    return kept


def working_directory() -> str | None:
    """Return the working directory of this process; None if it has been deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def describe(answer: Response) -> None:
    """Leave inside what the sandbox is and the `hybridvif` program; called by its first process."""
    os.makedirs(_PROGRAMS)
    os.mkdir(_TEMPORARY)
    Path(_SELF).write_text(answer.to_json(), encoding="utf-8")
    program = Path(_PROGRAMS, "hybridvif")
    # -P: the working directory is the caller's, and others may write in it.
    program.write_text(f'#!/bin/sh\nexec {quote(sys.executable)} -P -m hybridvif "$@"\n')
    program.chmod(0o755)


def here() -> tuple[Level, tuple[Requirement, ...]] | None:
    """What the sandbox is that this process is in, as probe() has it; None outside of any."""
    try:
        answer = Response.from_json(Path(_SELF).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return answer.level, answer.missing
