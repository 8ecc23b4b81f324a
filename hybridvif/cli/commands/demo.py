"""hybridvif demo: plug two ports in a sandbox, ping, draw the topology, unplug, list leftovers."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from hybridvif import Port, Report
    from hybridvif.engine.converge import AnyHost
    from hybridvif.testing.sandbox import Level, Requirement, Vm

HELP = "plug two ports in a sandbox, ping, draw the ports, unplug"

_IDS = ("5f2c0e1a-7b00-4c00-8000-000000000001", "91d3aa02-4100-4c00-8000-000000000002")
_MACS = ("fa:16:3e:aa:bb:01", "fa:16:3e:aa:bb:02")
_INSTANCES = ("0b1c2d3e-0000-4000-8000-000000000001", "0b1c2d3e-0000-4000-8000-000000000002")
_ADDRESSES = ("192.0.2.1", "192.0.2.2")  # TEST-NET-1, RFC 5737

_TABLES = ("Bridge", "Port", "Interface", "QoS", "Queue", "Mirror")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif demo`."""
    parser.add_argument(
        "--level",
        "--rung",
        choices=("packets", "dummy", "none"),
        help="the level: Open vSwitch with its netdev datapath, with its dummy datapath, or a simulated host "
        "(default: the best of this host)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo at the best level of this host. Return 0 if every step succeeded and nothing is left over."""
    from hybridvif.testing.sandbox import Level, here, probe

    wanted = Level(args.level) if args.level else None
    if wanted is Level.NONE:
        return _run_simulated(())
    place = here()
    if place and wanted in (None, place[0]):
        try:
            return _run_in_sandbox(*place)
        except subprocess.CalledProcessError as error:
            print(f"error: {error.cmd[0]} failed: {error.stderr.strip()}; see: hybridvif doctor", file=sys.stderr)
            return 1
    level, missing = probe()
    if level is Level.NONE and wanted is None:
        return _run_simulated(missing)
    return _enter_sandbox(wanted)


def _enter_sandbox(level: Level | None) -> NoReturn:
    """Restart the demo inside a sandbox, where here() is not None."""
    from hybridvif.testing.sandbox import enter

    enter(["hybridvif", "demo"], level=level, quiet=True)


def _run_in_sandbox(level: Level, missing: Sequence[Requirement]) -> int:
    from hybridvif import connect
    from hybridvif.testing.sandbox.missing import missing_for_vm

    ports = _ports()
    no_vm = missing_for_vm()
    _print(f"A throw-away host with {level.promise}. Nothing of yours is touched.")
    _report_missing([*missing, *([no_vm] if no_vm else [])])
    before = _inventory()
    with connect([]) as host:
        succeeded = _plug_ports(ports, host)
        if succeeded and no_vm:
            _draw(ports)
        elif succeeded:
            with _vms(ports) as first:
                succeeded &= _ping(first)
                _draw(ports)
        succeeded &= _unplug_ports(ports, host)
    return _print_leftovers(
        before ^ _inventory(), "links, network namespaces and OVSDB rows, compared with before", succeeded
    )


def _run_simulated(missing: Sequence[Requirement]) -> int:
    """Run the demo on a simulated host in this process."""
    from hybridvif import RecordingHost

    ports = _ports()
    _print("A simulated host, in memory: what would be done is shown, nothing is done and no packet crosses.")
    _report_missing(missing)
    with RecordingHost() as host:
        before = set(host.state)
        succeeded = _plug_ports(ports, host)
        _draw(ports, is_real=False)
        succeeded &= _unplug_ports(ports, host)
        remaining = {part.name for part in before ^ set(host.state)}
    return _print_leftovers(remaining, "simulated links and OVS ports, compared with before", succeeded)


def _plug_ports(ports: Sequence[Port], host: AnyHost) -> bool:
    from hybridvif import check, plug_all

    _print_title("plug two ports")
    for step in [step for port in ports for step in check(port, host)]:
        _print(f"   {type(step).__name__.lower()} {step.part.kind} {step.part.name}")
    return _print_reports(lambda: plug_all(ports, host))


def _unplug_ports(ports: Sequence[Port], host: AnyHost) -> bool:
    from hybridvif import unplug_all

    _print_title("unplug them")
    return _print_reports(lambda: unplug_all([port.id for port in ports], host))


def _ports() -> list[Port]:
    from hybridvif import Port

    return [
        Port(id=id, mac=mac, instance_id=instance) for id, mac, instance in zip(_IDS, _MACS, _INSTANCES, strict=True)
    ]


@contextlib.contextmanager
def _vms(ports: Sequence[Port]) -> Iterator[Vm]:
    """Run a VM behind each port; yields the first."""
    from hybridvif.testing.sandbox import Vm

    _print_title("start a VM behind each: a network namespace with the VM's MAC, its tap in the port's qbr")
    vms = [
        Vm(port.names.tap, port.mac, f"{address}/24", bridge=port.names.bridge)
        for port, address in zip(ports, _ADDRESSES, strict=True)
    ]
    with contextlib.ExitStack() as running:
        for vm in vms:
            running.enter_context(vm)
            _print(f"   {vm.tap}  {vm.mac}  {vm.address}")
        yield vms[0]
        _print_title("stop the VMs")


def _ping(vm: Vm) -> bool:
    _print_title("ping from the first to the second")
    ping = vm.ping(_ADDRESSES[1], count=3)
    for line in filter(None, (ping.stdout + ping.stderr).splitlines()):
        _print(f"   {line}")
    return ping.returncode == 0


def _draw(ports: Sequence[Port], *, is_real: bool = True) -> None:
    """Print the topology: the output of `hybridvif show` for a real host."""
    _print_title("what is plugged")
    if is_real:
        shown = subprocess.run(["hybridvif", "show"], check=False, capture_output=True, text=True)
        if shown.returncode == 0:
            _print("".join(f"   {line}\n" for line in shown.stdout.splitlines()).rstrip("\n"))
            return
    for port in ports:
        names = port.names
        _print(f"   {names.tap} -- [{names.bridge}] -- {names.bridge_end} == {names.switch_end} -- [{port.bridge}]")


def _inventory() -> set[str]:
    """Return the names of all links, network namespaces and OVSDB rows of this host."""
    names = {f"link {name}" for _, name in socket.if_nameindex()}
    with contextlib.suppress(FileNotFoundError):
        names |= {f"network namespace {name}" for name in os.listdir("/run/netns")}
    if os.path.exists("/run/openvswitch/db.sock"):
        select = [{"op": "select", "table": table, "where": [], "columns": ["_uuid"]} for table in _TABLES]
        question = json.dumps(["Open_vSwitch", *select])
        answer = json.loads(_run("ovsdb-client", "transact", "unix:/run/openvswitch/db.sock", question))
        for table, result in zip(_TABLES, answer, strict=True):
            names |= {f"OVSDB {table} {row['_uuid'][1]}" for row in result["rows"]}
    return names


def _print_leftovers(remaining: set[str], how: str, succeeded: bool) -> int:
    _print_title(f"{len(remaining)} left over ({how})")
    for name in sorted(remaining):
        _print(f"   {name}")
    return 0 if succeeded and not remaining else 1


def _print_reports(work: Callable[[], list[Report]]) -> bool:
    started = time.monotonic()
    reports = work()
    took = 1000 * (time.monotonic() - started)
    for report in reports:
        words = [report.status.value, "simulated" if report.simulated else "", report.reason]
        _print(f"   {report.port_id}  {', '.join(filter(None, words))}")
    _print(f"   {took:.0f} ms")
    return all(report.ok for report in reports)


def _report_missing(missing: Iterable[Requirement]) -> None:
    for requirement in missing:
        _print(f"Missing for more: {requirement.what}\n   fix it with: {requirement.remedy}")


def _run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def _print_title(text: str) -> None:
    _print(f"\n{text}")


def _print(text: str) -> None:
    print(text, flush=True)
