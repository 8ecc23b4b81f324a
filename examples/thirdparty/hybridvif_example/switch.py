"""example-bridge: a plain Linux bridge as a switch. A file stands for the rows of Open vSwitch."""

import fcntl
import json
import os
from contextlib import contextmanager
from dataclasses import fields, replace

from hybridvif.executors.base import NOT_REALIZED, ExecutorError, StepFailed, one_by_one
from hybridvif.executors.command import Program
from hybridvif.model.names import key_of
from hybridvif.model.parts import OvsPort, Role
from hybridvif.model.state import Create, Delete, Facts, HostState, Observed, PortFact, changes_of

DIRECTORY = "/run/hybridvif-example"
KEPT = tuple(spec.name for spec in fields(OvsPort) if spec.name != "realized")


class BridgeSwitch:
    """An executor for ports of Linux bridges that stand for integration bridges."""

    role = Role.SWITCH
    serves = frozenset({OvsPort})
    programs = ("ip",)
    atomic = False
    writes = ("/run",)  # Landlock limits the writes of the daemon; DIRECTORY does not exist yet

    def __init__(self, settings):
        self._ip = Program("ip", settings.program_path)

    def observe(self, names, deadline):
        with self._rows() as rows:
            links = self._links(deadline)
            ports = {
                name: OvsPort(**row, realized=_holds(links, OvsPort(**row)))
                for name, row in rows.items()
                if key_of(name) and (names is None or name in names)
            }
        bridges = {
            name: "linux" for name, link in links.items() if link.get("linkinfo", {}).get("info_kind") == "bridge"
        }
        facts = Facts(ports={name: PortFact() for name in ports}, switches=bridges, switch_version="linux bridge")
        return Observed(HostState({}, ports), facts)

    def apply(self, steps, deadline):
        names = {step.part.name for step in steps}
        state = self.observe(names, deadline).state
        # Only the link executor observes the device that a port needs. This switch accepts every port.
        return one_by_one(steps, state, lambda step: self._do(step, deadline), deadline)

    def _do(self, step, deadline):
        with self._rows() as rows:
            links = self._links(deadline)
            match step:
                case Delete(OvsPort() as port):
                    self._attach(links, port.name, "", deadline)
                    rows.pop(port.name, None)
                    return
                case Create(OvsPort() as port):
                    pass
                case _:
                    found = OvsPort(**rows[step.part.name])
                    changes = {name: value for name, value in changes_of(step).items() if name != "realized"}
                    port = replace(found, **changes)
            if links.get(port.bridge, {}).get("linkinfo", {}).get("info_kind") != "bridge":
                raise StepFailed(
                    f"{port.bridge} is no Linux bridge of this host; ip link add {port.bridge} type bridge"
                )
            self._attach(links, port.name, "" if port.type else port.bridge, deadline)
            rows[port.name] = {name: getattr(port, name) for name in KEPT}
        if port.type == "" and step.part.realized and port.name not in links:
            raise StepFailed(f"{port.name} is kept, but there is no such device", code=NOT_REALIZED)

    def _attach(self, links, name, bridge, deadline):
        if name in links and links[name].get("master", "") != bridge:
            self._run(["link", "set", "dev", name, *(["master", bridge] if bridge else ["nomaster"])], deadline)

    def _links(self, deadline):
        return {link["ifname"]: link for link in json.loads(self._run(["-d", "-j", "link"], deadline)) if link}

    def _run(self, arguments, deadline):
        done = self._ip.run(arguments, deadline)
        if done.expired:
            raise ExecutorError("ip did not end before the deadline")
        if done.code:
            raise StepFailed(f"ip {' '.join(arguments)} failed: {done.said}")
        return done.stdout

    @contextmanager
    def _rows(self):
        """Lock and read the rows. Changed rows are written back at the end."""
        os.makedirs(DIRECTORY, exist_ok=True)
        with open(f"{DIRECTORY}/lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            path = f"{DIRECTORY}/ports.json"
            before = open(path).read() if os.path.exists(path) else "{}"
            rows = json.loads(before)
            yield rows
            if json.dumps(rows) != before:
                with open(f"{path}.new", "w") as file:
                    file.write(json.dumps(rows))
                os.replace(f"{path}.new", path)


def _holds(links, port):
    return port.type == "" and links.get(port.name, {}).get("master") == port.bridge
