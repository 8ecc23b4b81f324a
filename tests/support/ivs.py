"""Stand-in for ivs-ctl. Its ports are the lines of a file beside it."""

from __future__ import annotations

from pathlib import Path

SCRIPT = """#!/bin/sh
ports=${0%/*}/ports; touch $ports
case $1 in
    show) echo "ivs:"; sed 's/^/  port /' $ports ;;
    add-port) grep -qx -- "$2" $ports && { echo "port $2 exists" >&2; exit 1; }; echo "$2" >> $ports ;;
    del-port) grep -qx -- "$2" $ports || { echo "no port $2" >&2; exit 1; }; sed -i "/^$2\\$/d" $ports ;;
    *) exit 2 ;;
esac
"""


def program_path_with_ivs(directory: Path) -> str:
    """Return a program_path with ivs-ctl in this directory, and the usual directories."""
    program = directory / "ivs-ctl"
    program.write_text(SCRIPT)
    program.chmod(0o755)
    directory.chmod(0o755)
    return f"{directory}:/usr/sbin:/usr/bin:/sbin:/bin"
