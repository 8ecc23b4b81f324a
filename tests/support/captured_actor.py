"""A captured client of one project's privileged daemon: it tries each attack, and prints the results as JSON.

Run in a sandbox, by a Python that has the project: python captured_actor.py osvif|nova|neutron|hybridvif. The daemon is
the project's own, started as root by its own helper. Requests bypass the project's client and name a function.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from typing import Any

from oslo_config import cfg

WRITTEN = "/run/captured-was-here"
SHELL = ["sh", "-c", "id -u; grep CapEff /proc/self/status"]
NEUTRON = "neutron.privileged.agent.linux"
CONTEXTS = {
    "osvif": "vif_plug_ovs.privsep.vif_plug",
    "nova": "nova.privsep.sys_admin_pctxt",
    "neutron": "neutron.privileged.default",
    "hybridvif": "hybridvif.privileged.context.daemon_context",
}
CALLS: dict[str, dict[str, tuple[str, list[Any]]]] = {
    "osvif": {
        "run a program of its choice": ("vif_plug_ovs.ovsdb.impl_vsctl._run_vsctl", [SHELL]),
        "write a file of its choice": ("vif_plug_ovs.ovsdb.impl_vsctl._run_vsctl", [["touch", WRITTEN]]),
        "put eth0 into a bridge": ("vif_plug_ovs.linux_net.add_bridge_port", ["captured", "eth0"]),
        "delete eth0": ("vif_plug_ovs.linux_net.delete_net_dev", ["eth0"]),
    },
    "nova": {
        "write a file of its choice": ("nova.privsep.path.writefile", [WRITTEN, "w", "x"]),
        "delete eth0": ("nova.privsep.linux_net.delete_net_dev_escalated", ["eth0"]),
    },
    "neutron": {
        "run a program of its choice": (f"{NEUTRON}.utils.execute_process", [SHELL, None, {}]),
        "write a file of its choice": (f"{NEUTRON}.utils.execute_process", [["touch", WRITTEN], None, {}]),
        "put eth0 into a bridge": (
            f"{NEUTRON}.utils.execute_process",
            [["ip", "link", "set", "eth0", "master", "captured"], None, {}],
        ),
        "delete eth0": (f"{NEUTRON}.ip_lib.delete_interface", ["eth0", None]),
    },
    "hybridvif": {
        "run a program of its choice": ("subprocess.check_output", [SHELL]),
        "write a file of its choice": ("pathlib.Path.touch", [WRITTEN]),
        "put eth0 into a bridge": (
            "hybridvif.privileged.requests.apply",
            [
                [
                    [
                        [
                            "update",
                            ["Tap", {"name": "eth0", "master": ""}],
                            ["Tap", {"name": "eth0", "master": "captured"}],
                        ]
                    ]
                ],
                1e9,
            ],
        ),
        "delete eth0": (
            "hybridvif.privileged.requests.apply",
            [[[["delete", ["Tap", {"name": "eth0", "master": ""}]]]], 1e9],
        ),
    },
}
MODULES = {
    "osvif": ["vif_plug_ovs.ovsdb.impl_vsctl", "vif_plug_ovs.linux_net"],
    "nova": ["nova.privsep.path", "nova.privsep.linux_net"],
    "neutron": [f"{NEUTRON}.utils", f"{NEUTRON}.ip_lib"],
    "hybridvif": ["hybridvif.privileged.requests"],
}
# A module of the standard library with a shared object in /proc, which nothing else here imports.
IMPORT = "import a module of its choice"
UNRELATED, SHOWN = "curses.initscr", "_curses"


def link(name: str) -> dict[str, Any]:
    done = subprocess.run(["ip", "-j", "link", "show", "dev", name], capture_output=True, text=True, check=False)
    return dict(json.loads(done.stdout)[0]) if done.returncode == 0 else {}


def daemon_of(context_path: str) -> int:
    """Return the pid of the process with this context on its command line."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
                if b"--privsep_context" in (given := cmdline.read()) and context_path.encode() in given:
                    return int(pid)
        except OSError:
            continue
    raise SystemExit(f"no daemon of {context_path}")


def started(context: Any) -> Any:
    from oslo_privsep.priv_context import Method

    context.start(Method.ROOTWRAP)
    return context.channel


def was_done(attack: str, answer: str) -> bool:
    """Return True if the host shows the attack; for a program, if it has answered."""
    if attack.startswith("write"):
        return os.path.exists(WRITTEN)
    if attack.startswith("put"):
        return link("eth0").get("master") == "captured"
    if attack.startswith("delete"):
        return link("eth0") == {}
    return "CapEff:" in answer


def main() -> None:
    project, helper = sys.argv[1:]
    path = CONTEXTS[project]
    cfg.CONF([], project=project)
    for module in MODULES[project]:
        importlib.import_module(module)
    module, _, name = path.rpartition(".")
    context = getattr(importlib.import_module(module), name)
    cfg.CONF.set_override("helper_command", helper, group=context.cfg_section)
    channel = context.reach(time.monotonic() + 30) if project == "hybridvif" else started(context)
    found = []
    for attack, (function, arguments) in [*CALLS[project].items(), (IMPORT, (UNRELATED, []))]:
        try:
            if project == "hybridvif":
                answer = repr(channel.call(function, arguments, 20.0))
            else:
                answer = repr(channel.remote_call(function, arguments, {}, 20.0))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is what was answered
            answer = f"{type(error).__name__}: {error}"
        if attack == IMPORT:
            with open(f"/proc/{daemon_of(path)}/maps") as maps:
                done = SHOWN in maps.read()
        else:
            done = was_done(attack, answer)
        found.append({"what": attack, "by": function, "done": done, "answer": answer[:400]})
    print(json.dumps(found), flush=True)


main()
