"""A contender in a process inside the sandbox: it runs the operations of its input and measures the time.

A request is a line with a JSON object: verb (plug, unplug), ports ([id, mac, instance] each), threads. The response
has seconds, and rss: the memory of this process and its daemon in kilobytes. This module imports only the standard
library, because os-vif runs with the Python of another environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Port = tuple[str, str, str]


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
    """The floor: one `ip -batch` and one `ovs-vsctl` for all ports, without observation."""

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
        _run("ip", "-batch", "-", text="\n".join(f"link delete {kind}{end}" for end in ends for kind in ("qvb", "qbr")))


CONTENDERS: dict[str, Callable[[str], Any]] = {"hybridvif": Ours, "os-vif": OsVif, "recipe": Recipe, "floor": Floor}


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


def _memory() -> int:
    return sum(_resident(pid) for pid in (os.getpid(), *_below(os.getpid())))


def _below(pid: int) -> Iterable[int]:
    # The daemon of oslo.privsep forks twice, so its parent is process 1. Its name is unique in the sandbox.
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if int(name) != pid and b"privsep" in file.read():
                    yield int(name)
        except OSError:
            continue


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
        started = time.perf_counter()
        _carry_out(contender, order["verb"], ports, order["threads"])
        seconds = time.perf_counter() - started
        sys.stdout.write(json.dumps({"seconds": seconds, "rss": _memory()}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
