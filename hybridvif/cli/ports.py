"""The ports of a command line: described by options, or listed in a file. Required fields may be missing."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING

from hybridvif.cli.options import Argument, UsageError, argument, flag
from hybridvif.model.errors import InvalidInput
from hybridvif.model.names import DATAPATH_TYPES, MAX_MTU, MIN_MTU, is_uuid, not_canonical
from hybridvif.model.port import Port, VifType

if TYPE_CHECKING:
    from hybridvif.engine.any_host import AnyHost
    from hybridvif.model.state import Observed

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
PORTS = argument("port", nargs="*", metavar="PORT", text=PORT_HELP)
_FILE = f"the ports of a YAML or JSON file (- is stdin): a list of mappings with the keys {', '.join(FIELDS)}"
FILE = argument("-F", "--file", metavar="FILE", text=_FILE)
_TO = "native: the tap itself is a port of Open vSwitch; hybrid: with a Linux bridge in between"
TARGET = (
    argument("--to", choices=("native", "hybrid"), text=_TO),
    flag("--unfiltered", "convert even if nothing filters the port then"),
)
"""The options of a conversion."""
PLACEHOLDERS: Mapping[str, object] = {
    "mac": "02:00:00:00:00:00",
    "instance_id": "00000000-0000-0000-0000-000000000000",
}
"""Valid values for unknown fields. No port is ever plugged with them."""
ID_SUFFIX = "00-0000-0000-000000000000"
"""Completes the 11 characters of a device name to a UUID if the port id is unknown."""


@dataclass(frozen=True, kw_only=True)
class PortRequest:
    """The given fields of a port, validated by the constructor. Raises InvalidInput."""

    fields: Mapping[str, object]
    where: str = ""
    """The source of the fields, as "ports.yaml: entry 2"; "" for the command line."""

    def __post_init__(self) -> None:
        if not self.where and not is_uuid(self.port_id) and not self.is_named:
            raise InvalidInput(
                f"port id {self.port_id!r} {not_canonical(self.port_id)}, or a name of a plugged port, such as "
                "tap5f2c0e1a-7b"
            )
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


def _whole_number(text: str) -> object:
    # Port rejects other text with a better message than argparse.
    return int(text) if text.isascii() and text.isdigit() else text


def _port_option(field: str, metavar: str, text: str) -> Argument:
    if not metavar:
        return argument(OPTIONS[field], dest=field, action="store_true", default=None, text=text)
    kind = _whole_number if field == "mtu" else str
    return argument(OPTIONS[field], dest=field, metavar=metavar, type=kind, text=text)


PORT_OPTIONS = tuple(_port_option(field, *words) for field, words in _HELP.items())
"""The options for the fields of a port."""


def requested_ports(args: argparse.Namespace, *, optional: bool = False) -> list[PortRequest]:
    """Return the ports of the command line; none with --all. optional: no port stands for all. Raises InvalidInput."""
    given = {field: value for field in OPTIONS if (value := getattr(args, field, None)) is not None}
    port = getattr(args, "port", None)
    ids = [port] if isinstance(port, str) else port or []
    file = getattr(args, "file", None)
    if getattr(args, "all", False):
        if ids or given or file is not None:
            raise UsageError("--all stands for all ports; leave PORT, its options and -F out")
        return []
    if file is not None:
        if ids or given:
            raise UsageError("-F stands for all ports and their fields; leave PORT and its options out")
        from hybridvif.cli.portfile import read_ports

        return read_ports(file)
    if not ids and not optional:
        others = {"file": ", or a file of ports with -F", "all": ", or give --all"}
        raise UsageError(f"name a port{''.join(words for name, words in others.items() if name in args)}")
    if given and len(ids) > 1:
        raise UsageError("the options of a port are for one port; use -F for several")
    requests = [PortRequest(fields={"id": port_id, **given}) for port_id in ids]
    for index, port_id in enumerate(ids):
        if port_id in ids[:index]:
            raise InvalidInput(f"port {port_id} is there more than once; name each port once")
    return requests


def observe_all(host: AnyHost) -> Observed:
    """Observe the whole host. Raises HybridVifError."""
    return host.observe(None, time.monotonic() + host.settings.deadline)


def found_ports(requests: Sequence[PortRequest], host: AnyHost, **rules: bool) -> list[PortRequest]:
    """Return the requests with the port ids of all names, as find_ports(). Without names, the host is not observed."""
    if not any(request.is_open for request in requests):
        return list(requests)
    from hybridvif.cli.output.topology import find_ports

    return find_ports(requests, host, **rules)


def found_ids(requests: Sequence[PortRequest], host: AnyHost, **rules: bool) -> list[str]:
    """Return the ids of the requested ports, as found_ports()."""
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
