"""hybridvif sandbox: run a shell or one command in a sandbox. hybridvif demo: plug, ping, draw and unplug in one."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from hybridvif.cli.options import Command, argument
from hybridvif.cli.stdio import print_text
from hybridvif.cli.terminal import Answer, Paint
from hybridvif.testing.sandbox.box import Vm
from hybridvif.testing.sandbox.launch import PROMISE, enter, here, probe
from hybridvif.testing.sandbox.missing import Requirement, missing_for_vm

if TYPE_CHECKING:
    from hybridvif.engine.any_host import AnyHost

IDS = ("5f2c0e1a-7b00-4c00-8000-000000000001", "91d3aa02-4100-4c00-8000-000000000002")
"""The ids of the ports of the demo."""
ADDRESSES = ("192.0.2.1", "192.0.2.2")
"""The addresses of its VMs. TEST-NET-1, RFC 5737."""
_DATABASE = "/run/openvswitch/db.sock"
_TABLES = ("Bridge", "Port", "Interface", "QoS", "Queue", "Mirror")


def run(args: argparse.Namespace) -> int:
    """Replace this process by a sandbox, or run the demo at the best level of this host.

    The exit code is that of the command, 128+n for signal n, or 5 without a sandbox. That of the demo is 0 if every
    step succeeded and nothing is left over.
    """
    if args.command == "sandbox":
        enter(args.argv[1:] if args.argv[:1] == ["--"] else args.argv, quiet=args.quiet)
    unmet = None
    if args.level != "none":
        if here():
            return _run_in_sandbox()
        unmet = None if args.level else probe()
        if not unmet:
            # It starts the demo again inside a sandbox.
            enter(["hybridvif", "demo"], quiet=True)
    from hybridvif.executors.recording import RecordingHost

    _print(
        "A simulated host, in memory: what would be done is shown, nothing is done and no packet crosses.",
        *_missing(unmet),
    )
    with RecordingHost() as host:
        kinds = "simulated links and OVS ports"
        return _demonstrate(host, lambda: {part.name for part in host.state}, kinds, vms=False)


def _run_in_sandbox() -> int:
    from hybridvif.client.host import connect

    no_vm = missing_for_vm()
    _print(f"A throw-away host with {PROMISE}. Nothing of yours is touched.", *_missing(no_vm))
    try:
        with connect([]) as host:
            return _demonstrate(host, _inventory, "links, network namespaces and OVSDB rows", vms=not no_vm)
    except subprocess.CalledProcessError as error:
        print(f"error: {error.cmd[0]} failed: {error.stderr.strip()}; see: hybridvif doctor", file=sys.stderr)
        return 1


def _demonstrate(host: AnyHost, inventory: Callable[[], set[str]], kinds: str, *, vms: bool) -> int:
    """Plug, ping, draw, unplug. inventory: a function that returns the names of these kinds of objects on the host."""
    from hybridvif.cli.commands import show
    from hybridvif.cli.output.changes import changes_of, diff_lines
    from hybridvif.cli.output.report import answer_of_reports
    from hybridvif.engine.converge import plug_all, unplug_all
    from hybridvif.model.port import Port

    ports = [
        Port(id=port_id, mac=f"fa:16:3e:aa:bb:0{number}", instance_id=f"0b1c2d3e-0000-4000-8000-00000000000{number}")
        for number, port_id in enumerate(IDS, start=1)
    ]
    before = inventory()
    reports = plug_all(ports, host)
    plugged = answer_of_reports("plug", reports)
    changes = [line for report in reports for line in diff_lines(changes_of(report), Paint(on=False))]
    _print("\nplug two ports", *_lines_of(plugged), *changes)
    succeeded = not plugged.exit_code
    machines = [
        Vm(port.names.tap, port.mac, f"{address}/24", bridge=port.names.bridge)
        for port, address in zip(ports, ADDRESSES, strict=True)
    ]
    with _running(machines) if vms and succeeded else contextlib.nullcontext() as vm:
        if vm is not None:
            ping = vm.ping(ADDRESSES[1], count=3)
            _print("\nping from the first to the second", *_indented((ping.stdout + ping.stderr).splitlines()))
            succeeded &= ping.returncode == 0
        _print("\nwhat is plugged", *_lines_of(show.answer_of(host)))
    unplugged = answer_of_reports("unplug", unplug_all(IDS, host))
    _print("\nunplug them", *_lines_of(unplugged))
    remaining = before ^ inventory()
    _print(f"\n{len(remaining)} left over ({kinds}, compared with before)", *_indented(sorted(remaining)))
    return 0 if succeeded and not (unplugged.exit_code or remaining) else 1


@contextlib.contextmanager
def _running(vms: Iterable[Vm]) -> Iterator[Vm]:
    """Run the VMs; yields the first."""
    _print("\nstart a VM behind each: a network namespace with the VM's MAC, its tap in the port's qbr")
    with contextlib.ExitStack() as running:
        for vm in vms:
            running.enter_context(vm)
            _print(f"   {vm.tap}  {vm.mac}  {vm.address}")
        yield next(iter(vms))
        _print("\nstop the VMs")


def _inventory() -> set[str]:
    """Return the names of all links, network namespaces and OVSDB rows of this host."""
    names = {f"link {name}" for _, name in socket.if_nameindex()}
    with contextlib.suppress(FileNotFoundError):
        names |= {f"network namespace {name}" for name in os.listdir("/run/netns")}
    if os.path.exists(_DATABASE):
        for table in _TABLES:
            argv = ["ovs-vsctl", f"--db=unix:{_DATABASE}", "--timeout=10", "--bare", "--columns=_uuid", "list", table]
            done = subprocess.run(argv, check=True, capture_output=True, text=True)
            names |= {f"OVSDB {table} {row}" for row in done.stdout.split()}
    return names


def _missing(requirement: Requirement | None) -> Iterator[str]:
    if requirement:
        yield f"Missing for more: {requirement.what}\n   fix it with: {requirement.remedy}"


def _lines_of(answer: Answer) -> Iterator[str]:
    return _indented([*answer.lines(Paint(on=False)), *(failure.message for failure in answer.failures)])


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"   {line}" for line in lines if line)


def _print(*lines: str) -> None:
    for line in lines:
        print_text(f"{line}\n")


_LEVEL = "the level: Open vSwitch with its netdev datapath, "
_ANY_LEVEL = f"{_LEVEL}or a simulated host (default: the best of this host)"
_ARGV = argument("argv", nargs=argparse.REMAINDER, metavar="[--] CMD", text="the command; a shell if there is none")
COMMANDS = {
    "sandbox": Command(
        run, arguments=(argument("--level", "--rung", choices=("packets",), text=f"{_LEVEL}the only one"), _ARGV)
    ),
    "demo": Command(run, arguments=(argument("--level", "--rung", choices=("packets", "none"), text=_ANY_LEVEL),)),
}
