"""A contender in a process inside the sandbox: it runs the operations of its input and measures the time.

A request is a line with a JSON object: verb (plug, unplug), ports ([id, mac, instance] each), threads. The response
has seconds; cpu: the CPU seconds of this operation, by process; and rss: the memory of this process and its daemon in
kilobytes. This module imports only the standard library, because os-vif runs with the Python of another environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Port = tuple[str, str, str]
GROUP = 70_000
"""The link group of the deletes of the floor."""


class Ours:
    """hybridvif as a library."""

    def __init__(self, socket: str) -> None:
        from hybridvif import connect

        del socket  # from its own configuration
        config = os.environ["HYBRIDVIF_BENCH_CONFIG"]
        self._host = connect([config])

    def plug(self, ports: Sequence[Port]) -> None:
        """Plug these ports."""
        from hybridvif import Port, plug_all

        asked = [Port(id=port_id, mac=mac, instance_id=instance) for port_id, mac, instance in ports]
        bad = [report for report in plug_all(asked, self._host) if not report.ok]
        if bad:
            raise RuntimeError(f"{len(bad)} ports were not plugged: {bad[0].reason}")

    def unplug(self, ports: Sequence[Port]) -> None:
        """Unplug these ports."""
        from hybridvif import unplug_all

        bad = [report for report in unplug_all([port[0] for port in ports], self._host) if not report.ok]
        if bad:
            raise RuntimeError(f"{len(bad)} ports were not unplugged: {bad[0].reason}")

    def convert(self, ports: Sequence[Port]) -> None:
        """Convert these ports to native ones."""
        from hybridvif import convert_all

        reports = convert_all([port[0] for port in ports], self._host, unfiltered=True)
        bad = [report for report in reports if not report.ok]
        if bad:
            raise RuntimeError(f"{len(bad)} ports were not converted: {bad[0].reason}")


class OsVif:
    """os-vif with its own privileged daemon, as used by Nova. It plugs one port at a time."""

    def __init__(self, socket: str) -> None:
        del socket  # from its own configuration
        import os_vif  # type: ignore[import-not-found, unused-ignore]  # of another environment
        from oslo_config import cfg

        cfg.CONF(["--config-file", os.environ["HYBRIDVIF_BENCH_CONFIG"]], project="bench")
        os_vif.initialize()
        helper = os.path.join(os.path.dirname(sys.executable), "privsep-helper")
        cfg.CONF.set_override("helper_command", helper, "vif_plug_ovs_privileged")
        self._os_vif = os_vif

    def plug(self, ports: Sequence[Port]) -> None:
        """Plug these ports."""
        for port in ports:
            self._os_vif.plug(*self._objects(port))

    def unplug(self, ports: Sequence[Port]) -> None:
        """Unplug these ports."""
        for port in ports:
            self._os_vif.unplug(*self._objects(port))

    def _objects(self, port: Port) -> tuple[Any, Any]:
        from os_vif.objects import instance_info, network, vif  # type: ignore[import-not-found, unused-ignore]

        port_id, mac, instance = port
        datapath = os.environ["HYBRIDVIF_BENCH_DATAPATH"]
        profile = vif.VIFPortProfileOpenVSwitch(interface_id=port_id, datapath_type=datapath)
        net = network.Network(id=port_id, bridge="br-int", mtu=1500)
        end = port_id[:11]
        device = vif.VIFBridge(
            id=port_id, address=mac, network=net, bridge_name=f"qbr{end}", vif_name=f"tap{end}", plugin="ovs",
            port_profile=profile, has_traffic_filtering=True, active=False, preserve_on_delete=False,
        )  # fmt: skip
        return device, instance_info.InstanceInfo(uuid=instance, name="bench")


class Recipe:
    """The commands that Nova formerly ran for each port."""

    def __init__(self, socket: str) -> None:
        del socket

    def plug(self, ports: Sequence[Port]) -> None:
        """Plug these ports."""
        for port_id, mac, instance in ports:
            end = port_id[:11]
            qbr, qvb, qvo = f"qbr{end}", f"qvb{end}", f"qvo{end}"
            if not os.path.exists(f"/sys/class/net/{qbr}"):
                _run("brctl", "addbr", qbr)
                _run("brctl", "setfd", qbr, "0")
                _run("brctl", "stp", qbr, "off")
            if not os.path.exists(f"/sys/class/net/{qvo}"):
                _run("ip", "link", "add", qvb, "type", "veth", "peer", "name", qvo)
                for link in (qvb, qvo):
                    _run("ip", "link", "set", link, "up", "promisc", "on")
                _run("ip", "link", "set", qbr, "up")
                _run("brctl", "addif", qbr, qvb)
            _run("ovs-vsctl", *_add_port(qvo, port_id, mac, instance))

    def unplug(self, ports: Sequence[Port]) -> None:
        """Unplug these ports."""
        for port_id, _, _ in ports:
            end = port_id[:11]
            _run("brctl", "delif", f"qbr{end}", f"qvb{end}")
            _run("ip", "link", "set", f"qbr{end}", "down")
            _run("brctl", "delbr", f"qbr{end}")
            _run("ovs-vsctl", "--if-exists", "del-port", "br-int", f"qvo{end}")
            _run("ip", "link", "delete", f"qvb{end}")


class Floor:
    """The floor: one `ip -batch` and one `ovs-vsctl` for all ports, without observation.

    An unplug is the bare script of its deletes: one `ovs-vsctl` for all rows, and one delete of a link group.
    """

    def __init__(self, socket: str) -> None:
        del socket

    def plug(self, ports: Sequence[Port]) -> None:
        """Plug these ports."""
        lines, adds = [], []
        for port_id, mac, instance in ports:
            end = port_id[:11]
            qbr, qvb, qvo = f"qbr{end}", f"qvb{end}", f"qvo{end}"
            options = "forward_delay 0 stp_state 0 mcast_snooping 0 ageing_time 0"
            lines += [
                f"link add {qbr} mtu 1500 type bridge {options}",
                f"link set {qbr} up",
                f"link add {qvb} mtu 1500 type veth peer name {qvo} mtu 1500",
                f"link set {qvb} master {qbr} up promisc on",
                f"link set {qvo} up promisc on",
            ]
            adds += ["--", *_add_port(qvo, port_id, mac, instance)]
        _run("ip", "-batch", "-", text="\n".join(lines))
        _run("ovs-vsctl", *adds[1:])

    def unplug(self, ports: Sequence[Port]) -> None:
        """Unplug these ports."""
        ends = [port_id[:11] for port_id, _, _ in ports]
        dels = [word for end in ends for word in ("--", "--if-exists", "del-port", "br-int", f"qvo{end}")]
        _run("ovs-vsctl", *dels[1:])
        lines = [f"link set {kind}{end} group {GROUP}" for end in ends for kind in ("qvb", "qbr")]
        _run("ip", "-batch", "-", text="\n".join([*lines, f"link delete group {GROUP}"]))


CONTENDERS: dict[str, Callable[[str], Any]] = {
    "hybridvif": Ours,
    "os-vif": OsVif,
    "recipe": Recipe,
    "floor": Floor,
    "with Nova": Ours,
}


def _add_port(qvo: str, port_id: str, mac: str, instance: str) -> list[str]:
    ids = {"iface-id": port_id, "iface-status": "active", "attached-mac": mac, "vm-uuid": instance}
    columns = [f'external_ids:{key}="{value}"' for key, value in ids.items()]
    return ["--may-exist", "add-port", "br-int", qvo, "--", "set", "Interface", qvo, *columns]


def _run(*argv: str, text: str | None = None) -> None:
    subprocess.run(argv, check=True, input=text, capture_output=True, text=True)


def _carry_out(contender: Any, verb: str, ports: Sequence[Port], threads: int) -> None:
    do = getattr(contender, verb)
    if threads < 2:
        do(ports)
        return
    with ThreadPoolExecutor(threads) as pool:
        # One port per call, as independent clients do.
        for _ in pool.map(do, ([port] for port in ports)):
            pass


def _memory(daemons: Iterable[int]) -> int:
    return sum(map(_resident, (os.getpid(), *daemons)))


def _processes() -> dict[str, list[int]]:
    """Return the pids of the daemon of this process, and of both daemons of Open vSwitch."""
    # The daemon of oslo.privsep forks twice, so its parent is process 1. Its name is unique in the sandbox.
    words = {"daemon": b"privsep", "ovs-vswitchd": b"ovs-vswitchd", "ovsdb-server": b"ovsdb-server"}
    found: dict[str, list[int]] = {process: [] for process in words}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                line = file.read()
        except OSError:
            continue
        for process, word in words.items():
            if int(name) != os.getpid() and word in line:
                found[process].append(int(name))
    return found


def _used(processes: Mapping[str, Iterable[int]]) -> dict[tuple[str, int], float]:
    """Return the CPU seconds so far, by process and pid. The client's are with those of its commands."""
    own, ticks = os.times(), os.sysconf("SC_CLK_TCK")
    used = {("client", os.getpid()): own.user + own.system + own.children_user + own.children_system}
    for process, pids in processes.items():
        for pid in pids:
            try:
                with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                    user, system = file.read().rpartition(")")[2].split()[11:13]
            except OSError:
                continue
            used[process, pid] = (int(user) + int(system)) / ticks
    return used


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
    except OSError:
        return 0


def main(name: str, socket: str) -> None:
    """Create the contender and serve requests until the input ends."""
    contender = CONTENDERS[name](socket)
    for line in sys.stdin:
        order = json.loads(line)
        ports = [(port[0], port[1], port[2]) for port in order["ports"]]
        before = _used(_processes())
        started = time.perf_counter()
        _carry_out(contender, order["verb"], ports, order["threads"])
        seconds = time.perf_counter() - started
        processes = _processes()
        cpu = dict.fromkeys(("client", *processes), 0.0)
        # A process that has ended meanwhile is the daemon of the contender before.
        for (process, pid), used in _used(processes).items():
            cpu[process] += used - before.get((process, pid), 0.0)
        sys.stdout.write(json.dumps({"seconds": seconds, "cpu": cpu, "rss": _memory(processes["daemon"])}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
