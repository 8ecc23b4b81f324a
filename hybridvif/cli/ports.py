"""The ports of a command line: described by options, or listed in a file."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields

from hybridvif.cli.options import UsageError
from hybridvif.cli.port_request import FIELDS, OPTIONS, REQUIRED, PortRequest
from hybridvif.model.errors import InvalidInput
from hybridvif.model.port import Port

_FLAGS: Mapping[str, str] = {
    "call_iptables": "--call-iptables",
    "isolate": "--isolate",
    "create_tap": "--create-tap",
    "multiqueue": "--multiqueue",
}
"""Options without a value."""
_HELP: Mapping[str, tuple[str, str]] = {
    "mac": ("MAC", "the VM's MAC address"),
    "instance_id": ("UUID", "the VM's id"),
    "interface_id": ("UUID", "external_ids:iface-id (default: the port id)"),
    "mtu": ("BYTES", "68 to 65535 (default: 1500)"),
    "bridge": ("NAME", "the integration bridge (default: br-int)"),
    "datapath_type": ("TYPE", "of an integration bridge that plug creates: system or netdev"),
    "qos_type": ("TYPE", "the QoS of a new port: none, linux-noop, ... (default: the host's default_qos_type)"),
    "vhostuser_mode": (
        "MODE",
        "a vhost-user port instead of a hybrid port: client (QEMU connects) or server (QEMU listens)",
    ),
    "call_iptables": ("", "the Linux bridge of the port calls iptables, even if the host does not"),
    "isolate": ("", "a new port is in the dead VLAN until Neutron's agent configures it"),
    "create_tap": ("", "create the tap before the VM, and delete it with the port"),
    "multiqueue": ("", "create the tap with several queues; with --create-tap"),
}


def add_port_options(parser: argparse.ArgumentParser, *, several: bool) -> None:
    """Add PORT, the options for its fields, and -F."""
    parser.add_argument("port", nargs="*" if several else "?", metavar="PORT", help="the port's id, a UUID")
    for field, option in OPTIONS.items():
        metavar, text = _HELP[field]
        parser.add_argument(
            option, dest=field, metavar=metavar, type=_whole_number if field == "mtu" else str, help=text
        )
    for field, option in _FLAGS.items():
        parser.add_argument(option, dest=field, action="store_true", default=None, help=_HELP[field][1])
    add_file_option(parser)


def add_file_option(parser: argparse.ArgumentParser) -> None:
    """Add -F, a file of ports."""
    parser.add_argument(
        "-F",
        "--file",
        metavar="FILE",
        help=f"the ports of a YAML or JSON file (- is stdin): a list of mappings with the keys {', '.join(FIELDS)}",
    )


def requested_ports(args: argparse.Namespace) -> list[PortRequest]:
    """Return the ports of the command line. Raises InvalidInput."""
    given = {field: value for field in (*OPTIONS, *_FLAGS) if (value := getattr(args, field, None)) is not None}
    ids = [args.port] if isinstance(args.port, str) else args.port or []
    if args.file is not None:
        if ids or given:
            raise UsageError("-F stands for all ports and their fields; leave PORT and its options out")
        from hybridvif.cli.portfile import read_ports

        return read_ports(args.file)
    if not ids:
        raise UsageError("name a port, or a file of ports with -F")
    if given and len(ids) > 1:
        raise UsageError("the options of a port are for one port; use -F for several")
    requests = [PortRequest(fields={"id": port_id, **given}) for port_id in ids]
    for index, port_id in enumerate(ids):
        if port_id in ids[:index]:
            raise InvalidInput(f"port {port_id} is there more than once; name each port once")
    return requests


def options_of(port: Port, unknown: Sequence[str] = ()) -> list[str]:
    """Return the arguments of `hybridvif plug` for this port. An unknown field gets its metavar as value."""
    words = [port.id]
    for field, option in OPTIONS.items():
        value = getattr(port, field)
        if field in unknown:
            words += [option, _HELP[field][0]]
        elif field in REQUIRED or value != _default_of(field):
            words += [option, str(value)]
    return words + [option for field, option in _FLAGS.items() if getattr(port, field)]


def _default_of(field: str) -> object:
    return next(spec.default for spec in fields(Port) if spec.name == field)


def _whole_number(text: str) -> object:
    # Port rejects other text with a better message than argparse.
    return int(text) if text.isascii() and text.isdigit() else text
