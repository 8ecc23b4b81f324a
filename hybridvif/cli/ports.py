"""The ports of a command line: described by options, or listed in a file. Required fields may be missing."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING

from hybridvif.cli.options import UsageError
from hybridvif.model.errors import InvalidInput
from hybridvif.model.names import DATAPATH_TYPES, MAX_MTU, MIN_MTU, is_uuid
from hybridvif.model.port import Port, VifType

if TYPE_CHECKING:
    from hybridvif.engine.any_host import AnyHost

_NAME = re.compile(r"(?:qbr|qvb|qvo|tap|vhu)?[0-9a-f][0-9a-f-]{5,35}", re.ASCII)
"""A device name of a port, 11 characters of an id, or a part of one of them."""
PORT_HELP = "the port: its id, its 11 characters, or its tap, qbr, qvb or qvo; or the id of an instance"
_SPECS = {spec.name: spec for spec in fields(Port)}
FIELDS = tuple(_SPECS)
REQUIRED = tuple(name for name, spec in _SPECS.items() if name != "id" and spec.default is MISSING)
"""Fields of a Port that have no default, except the id."""
_HELP: Mapping[str, tuple[str, str]] = {
    "mac": ("MAC", "the VM's MAC address"),
    "instance_id": ("UUID", "the VM's id"),
    "interface_id": ("UUID", "external_ids:iface-id (default: the port id)"),
    "mtu": ("BYTES", f"{MIN_MTU} to {MAX_MTU} (default: {_SPECS['mtu'].default})"),
    "bridge": ("NAME", f"the integration bridge (default: {_SPECS['bridge'].default})"),
    "datapath_type": ("TYPE", f"of an integration bridge that plug creates: {' or '.join(DATAPATH_TYPES)}"),
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
"""The metavar and the help of the option for each field. A flag has no metavar."""
OPTIONS = {name: "--instance" if name == "instance_id" else f"--{name.replace('_', '-')}" for name in _HELP}
PLACEHOLDERS: Mapping[str, object] = {
    "mac": "02:00:00:00:00:00",
    "instance_id": "00000000-0000-0000-0000-000000000000",
}
"""Valid values for unknown fields. No port is ever plugged with them."""


@dataclass(frozen=True, kw_only=True)
class PortRequest:
    """The given fields of a port, validated by the constructor. Raises InvalidInput."""

    fields: Mapping[str, object]
    where: str = ""
    """The source of the fields, as "ports.yaml: entry 2"; "" for the command line."""

    def __post_init__(self) -> None:
        if self.is_named:
            # found_ports() replaces it by the id. Only the other fields can be checked before.
            PortRequest(fields={**self.fields, "id": PLACEHOLDERS["instance_id"]}, where=self.port_id)
        else:
            self.with_defaults(PLACEHOLDERS)

    @property
    def port_id(self) -> str:
        """The port's id, or the word of the command line in its place."""
        return str(self.fields["id"])

    @property
    def is_named(self) -> bool:
        """True if a command line has a device name, or a part of one, in place of the id."""
        return not self.where and not is_uuid(self.port_id) and _NAME.fullmatch(self.port_id) is not None

    @property
    def is_open(self) -> bool:
        """True if the port must be looked up on the host: for a name, and for an id of a port or an instance."""
        return self.is_named or (not self.where and bool(self.missing))

    @property
    def missing(self) -> tuple[str, ...]:
        """The required fields that were not given."""
        return tuple(name for name in REQUIRED if name not in self.fields)

    def with_defaults(self, others: Mapping[str, object]) -> Port:
        """Create the Port, with these values for fields that were not given. Raises InvalidInput."""
        try:
            return Port(**{**others, **self.fields})  # type: ignore[arg-type]
        except InvalidInput as error:
            raise InvalidInput(f"{self.where}: {error}" if self.where else str(error)) from error

    def require_all(self) -> None:
        """Raise InvalidInput if a required field is missing."""
        if self.missing:
            raise self.missing_error(self.missing, f"lacks {' and '.join(self.missing)}")

    def to_port(self) -> Port:
        """Create the Port. Raises InvalidInput if a required field is missing."""
        self.require_all()
        return self.with_defaults({})

    def missing_error(self, names: Sequence[str], why: str) -> InvalidInput:
        """Create the error for missing or unknown fields."""
        if self.where:
            return InvalidInput(f"{self.where}: port {self.port_id} {why}; add {' and '.join(names)}")
        return InvalidInput(f"port {self.port_id} {why}; give {options_in_words(names)}")


def options_in_words(names: Sequence[str]) -> str:
    """Return the options of these fields: "--mac and --mtu"; PORT for the id."""
    return " and ".join(OPTIONS.get(name, "PORT") for name in names)


def add_port_options(parser: argparse.ArgumentParser, *, several: bool) -> None:
    """Add PORT, the options for its fields, and -F."""
    parser.add_argument("port", nargs="*" if several else "?", metavar="PORT", help=PORT_HELP)
    for field, (metavar, text) in _HELP.items():
        if metavar:
            kind = _whole_number if field == "mtu" else str
            parser.add_argument(OPTIONS[field], dest=field, metavar=metavar, type=kind, help=text)
        else:
            parser.add_argument(OPTIONS[field], dest=field, action="store_true", default=None, help=text)
    add_file_option(parser)


def add_file_option(parser: argparse.ArgumentParser) -> None:
    """Add -F, a file of ports."""
    text = f"the ports of a YAML or JSON file (- is stdin): a list of mappings with the keys {', '.join(FIELDS)}"
    parser.add_argument("-F", "--file", metavar="FILE", help=text)


def add_target_options(parser: argparse.ArgumentParser) -> None:
    """Add --to and --unfiltered, of a conversion."""
    text = "native: the tap itself is a port of Open vSwitch; hybrid: with a Linux bridge in between"
    parser.add_argument("--to", choices=("native", "hybrid"), help=text)
    parser.add_argument("--unfiltered", action="store_true", help="convert even if nothing filters the port then")


def requested_ports(args: argparse.Namespace) -> list[PortRequest]:
    """Return the ports of the command line. Raises InvalidInput."""
    given = {field: value for field in OPTIONS if (value := getattr(args, field, None)) is not None}
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


def found_ports(requests: Sequence[PortRequest], host: AnyHost, **rules: bool) -> list[PortRequest]:
    """Return the requests with the port ids of all names, as find_ports(). Without names, do not observe the host."""
    if not any(request.is_open for request in requests):
        return list(requests)
    from hybridvif.cli.find import find_ports

    return find_ports(requests, host, **rules)


def found_ids(words: Sequence[str], host: AnyHost, **rules: bool) -> list[str]:
    """Return the ids of the ports that these words name, as find_ports(). Raises InvalidInput, NameCollision."""
    requests = [PortRequest(fields={"id": word}) for word in words]
    return [request.port_id for request in found_ports(requests, host, **rules)]


def entry_of(port: Port) -> Mapping[str, object]:
    """Return the entry of a port in a file for -F: its own values, and those of a network or a host in any case."""
    return {
        name: value.value if isinstance(value, VifType) else value
        for name, spec in _SPECS.items()
        if (value := getattr(port, name)) != spec.default or name in ("mtu", "bridge")
    }


def options_of(port: Port, unknown: Sequence[str] = ()) -> list[str]:
    """Return the arguments of `hybridvif plug` for this port. An unknown field gets its metavar as value."""
    words = [port.id]
    for field, (metavar, _) in _HELP.items():
        value = metavar if field in unknown else getattr(port, field)
        if value != _SPECS[field].default:
            words += [OPTIONS[field], str(value)] if metavar else [OPTIONS[field]]
    return words


def _whole_number(text: str) -> object:
    # Port rejects other text with a better message than argparse.
    return int(text) if text.isascii() and text.isdigit() else text
