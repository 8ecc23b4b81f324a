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
from collections.abc import Callable, Iterator

from hybridvif.cli.stdio import print_text
from hybridvif.cli.terminal import Paint
from hybridvif.engine.converge import AnyHost
from hybridvif.executors.recording import RecordingHost
from hybridvif.model.port import Port
from hybridvif.model.report import Report
from hybridvif.testing.sandbox import PROMISE, Requirement, Vm, enter, here, probe
from hybridvif.testing.sandbox.missing import missing_for_vm

_PORTS = tuple(
    Port(id=port_id, mac=f"fa:16:3e:aa:bb:0{number}", instance_id=f"0b1c2d3e-0000-4000-8000-00000000000{number}")
    for number, port_id in enumerate(
        ("5f2c0e1a-7b00-4c00-8000-000000000001", "91d3aa02-4100-4c00-8000-000000000002"), start=1
    )
)
_ADDRESSES = ("192.0.2.1", "192.0.2.2")  # TEST-NET-1, RFC 5737
_DATABASE = "/run/openvswitch/db.sock"
_TABLES = ("Bridge", "Port", "Interface", "QoS", "Queue", "Mirror")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif demo`."""
    parser.add_argument(
        "--level",
        "--rung",
        choices=("packets", "none"),
        help="the level: Open vSwitch with its netdev datapath, or a simulated host (default: the best of this host)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo at the best level of this host. Return 0 if every step succeeded and nothing is left over."""
    unmet = None
    if args.level != "none":
        if here():
            return _run_in_sandbox()
        unmet = None if args.level else probe()
        if not unmet:
            # It starts the demo again inside a sandbox.
            enter(["hybridvif", "demo"], quiet=True)
    _print("A simulated host, in memory: what would be done is shown, nothing is done and no packet crosses.")
    _print_missing(unmet)
    with RecordingHost() as host:
        return _demonstrate(
            host, lambda: {part.name for part in host.state}, "simulated links and OVS ports", vms=False
        )


def _run_in_sandbox() -> int:
    from hybridvif.client.host import connect

    no_vm = missing_for_vm()
    _print(f"A throw-away host with {PROMISE}. Nothing of yours is touched.")
    _print_missing(no_vm)
    try:
        with connect([]) as host:
            return _demonstrate(host, _inventory, "links, network namespaces and OVSDB rows", vms=not no_vm)
    except subprocess.CalledProcessError as error:
        print(f"error: {error.cmd[0]} failed: {error.stderr.strip()}; see: hybridvif doctor", file=sys.stderr)
        return 1


def _demonstrate(host: AnyHost, inventory: Callable[[], set[str]], kinds: str, *, vms: bool) -> int:
    """Plug, ping, draw, unplug. inventory: a function that returns the names of these kinds of objects on the host."""
    from hybridvif.cli.commands import show
    from hybridvif.engine.converge import check, plug_all, unplug_all

    before = inventory()
    _print("\nplug two ports")
    for step in [step for port in _PORTS for step in check(port, host)]:
        _print(f"   {type(step).__name__.lower()} {step.part.kind} {step.part.name}")
    succeeded = _print_reports(lambda: plug_all(_PORTS, host))
    with _running_vms() if vms and succeeded else contextlib.nullcontext() as vm:
        if vm is not None:
            succeeded &= _ping(vm)
        _print("\nwhat is plugged")
        for line in show.answer_of(host).lines(Paint(on=False)):
            _print(f"   {line}")
    _print("\nunplug them")
    succeeded &= _print_reports(lambda: unplug_all([port.id for port in _PORTS], host))
    remaining = before ^ inventory()
    _print(f"\n{len(remaining)} left over ({kinds}, compared with before)")
    for name in sorted(remaining):
        _print(f"   {name}")
    return 0 if succeeded and not remaining else 1


@contextlib.contextmanager
def _running_vms() -> Iterator[Vm]:
    """Run a VM behind each port; yields the first."""
    _print("\nstart a VM behind each: a network namespace with the VM's MAC, its tap in the port's qbr")
    with contextlib.ExitStack() as running:
        vms = []
        for port, address in zip(_PORTS, _ADDRESSES, strict=True):
            vm = Vm(port.names.tap, port.mac, f"{address}/24", bridge=port.names.bridge)
            vms.append(running.enter_context(vm))
            _print(f"   {vm.tap}  {vm.mac}  {vm.address}")
        yield vms[0]
        _print("\nstop the VMs")


def _ping(vm: Vm) -> bool:
    _print("\nping from the first to the second")
    ping = vm.ping(_ADDRESSES[1], count=3)
    for line in filter(None, (ping.stdout + ping.stderr).splitlines()):
        _print(f"   {line}")
    return ping.returncode == 0


def _inventory() -> set[str]:
    """Return the names of all links, network namespaces and OVSDB rows of this host."""
    names = {f"link {name}" for _, name in socket.if_nameindex()}
    with contextlib.suppress(FileNotFoundError):
        names |= {f"network namespace {name}" for name in os.listdir("/run/netns")}
    if os.path.exists(_DATABASE):
        select = [{"op": "select", "table": table, "where": [], "columns": ["_uuid"]} for table in _TABLES]
        argv = ["ovsdb-client", "transact", f"unix:{_DATABASE}", json.dumps(["Open_vSwitch", *select])]
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        for table, result in zip(_TABLES, json.loads(done.stdout), strict=True):
            names |= {f"OVSDB {table} {row['_uuid'][1]}" for row in result["rows"]}
    return names


def _print_reports(work: Callable[[], list[Report]]) -> bool:
    started = time.monotonic()
    reports = work()
    took = 1000 * (time.monotonic() - started)
    for report in reports:
        words = [report.status.value, "simulated" if report.simulated else "", report.reason]
        _print(f"   {report.port_id}  {', '.join(filter(None, words))}")
    _print(f"   {took:.0f} ms")
    return all(report.ok for report in reports)


def _print_missing(requirement: Requirement | None) -> None:
    if requirement:
        _print(f"Missing for more: {requirement.what}\n   fix it with: {requirement.remedy}")


def _print(text: str) -> None:
    print_text(f"{text}\n")
