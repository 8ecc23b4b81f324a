"""Try what a captured client can make each project's daemon do: python -m tests.support.captured DIR.

DIR holds a virtual environment for each project, named osvif, nova and neutron; tools/captured creates them. Each is
tried in its own sandbox by captured_actor.py. Prints the rows of the table in SECURITY.md, and all responses.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hybridvif.testing.sandbox.box import Sandbox

ACTOR = Path(__file__).with_name("captured_actor.py")
HOST = "ip link add eth0 type veth peer name eth0-peer; ip link add captured type bridge"
DATABASE = "ovs-vsctl --timeout=5 set-manager ptcp:6640:127.0.0.1; ip link set lo up"
PEERS = {"osvif": "os-vif", "nova": "nova", "neutron": "neutron"}
PROJECTS = ("hybridvif", *PEERS)
SAID = {True: "yes", False: "refused", None: "no call for it"}
ROWS = (
    "run a program of its choice",
    "write a file of its choice",
    "put eth0 into a bridge",
    "delete eth0",
    "import a module of its choice",
)


def tried(project: str, binaries: Path) -> list[dict[str, Any]]:
    """Return the requests to this project's daemon, with results and responses."""
    helper = binaries / ("hybridvif-privsep-helper" if project == "hybridvif" else "privsep-helper")
    with Sandbox() as box:
        box.run(["sh", "-ec", HOST])
        done = box.run([str(binaries / "python"), str(ACTOR), project, str(helper)], timeout=120)
        answers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
        return answers


def reached_over_tcp() -> bool:
    """Return True if a user without rights can put eth0 into br-int by the TCP port of ovsdb-server."""
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    ask = ["ovs-vsctl", "--timeout=5", "--db=tcp:127.0.0.1:6640", "add-port", "br-int", "eth0"]
    with Sandbox() as box:
        box.run(["sh", "-ec", f"{HOST}; {DATABASE}"])
        box.run([*nobody, *ask], check=False)
        return "eth0" in box.run(["ovs-vsctl", "list-ports", "br-int"]).stdout.split()


def version_of(name: str, binaries: Path) -> str:
    program = f"from importlib.metadata import version; print(version({name!r}))"
    with Sandbox(ovs=False) as box:
        return box.run([str(binaries / "python"), "-c", program]).stdout.strip()


def table(directory: Path) -> Iterator[str]:
    """Yield the rows of the table, and then the responses."""
    places = {project: directory / project / "bin" for project in PEERS} | {"hybridvif": Path(sys.executable).parent}
    answers = {
        project: {attempt["what"]: attempt for attempt in tried(project, places[project])} for project in PROJECTS
    }
    names = {project: PEERS.get(project, project) for project in PROJECTS}
    heads = [f"{name} {version_of(name, places[project])}" for project, name in names.items()]
    yield f"| a captured client can | {' | '.join(heads)} |"
    yield "|---" * (1 + len(PROJECTS)) + "|"
    for row in ROWS:
        cells = [answers[project].get(row, {"done": None})["done"] for project in PROJECTS]
        yield f"| {row} | {' | '.join(SAID[cell] for cell in cells)} |"
    yield f"\nnobody puts eth0 into br-int over tcp:127.0.0.1:6640: {reached_over_tcp()}\n"
    for project, found in answers.items():
        for attempt in found.values():
            yield f"{project}: {attempt['what']}: {attempt['by']}: {attempt['answer']}"


if __name__ == "__main__":
    for line in table(Path(sys.argv[1]).resolve()):
        print(line)
