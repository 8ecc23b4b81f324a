"""Which ports are meant: one from the options of plug, or many from a file."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from hybridvif.cli.options import UsageError
from hybridvif.model.errors import InvalidInput
from hybridvif.model.port import Port, VifType

FIELDS: tuple[str, ...] = tuple(spec.name for spec in fields(Port))
REQUIRED = ("mac", "instance_id")
"""What a Port has no default for, beside its id."""
_OPTIONS: Mapping[str, str] = {
    "mac": "--mac",
    "instance_id": "--instance",
    "interface_id": "--interface-id",
    "mtu": "--mtu",
    "bridge": "--bridge",
    "datapath_type": "--datapath-type",
    "qos_type": "--qos-type",
    "vhostuser_mode": "--vhostuser-mode",
}
_FLAGS: Mapping[str, str] = {
    "call_iptables": "--call-iptables",
    "isolate": "--isolate",
    "create_tap": "--create-tap",
    "multiqueue": "--multiqueue",
}
"""Options that stand for true, and take no value."""
_HELP: Mapping[str, tuple[str, str]] = {
    "mac": ("MAC", "the VM's MAC address"),
    "instance_id": ("UUID", "the VM's id"),
    "interface_id": ("UUID", "external_ids:iface-id (default: the port id)"),
    "mtu": ("BYTES", "68 to 65535 (default: 1500)"),
    "bridge": ("NAME", "the integration bridge (default: br-int)"),
    "datapath_type": ("TYPE", "of an integration bridge that must be made first: system or netdev"),
    "qos_type": ("TYPE", "the QoS of a new port: none, linux-noop, ... (default: the host's default_qos_type)"),
    "vhostuser_mode": ("MODE", "a vhost-user port, and no hybrid one: client (QEMU connects) or server (QEMU listens)"),
    "call_iptables": ("", "its Linux bridge calls iptables, also where the host as a whole does not"),
    "isolate": ("", "a new port is in the dead VLAN until Neutron's agent wires it"),
    "create_tap": ("", "its tap is made ahead of the VM, and removed with the port"),
    "multiqueue": ("", "a tap that is made has a queue for each of the VM's; with --create-tap"),
}
PLACEHOLDERS: Mapping[str, object] = {
    "mac": "02:00:00:00:00:00",
    "instance_id": "00000000-0000-0000-0000-000000000000",
}
"""Legal values for fields nobody knows; nothing is ever plugged with them."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A port as it was asked for: the fields that were given, and where. One that exists is legal as far as it goes."""

    fields: Mapping[str, object]
    where: str = ""
    """ "ports.yaml: entry 2"; empty: the command line."""

    def __post_init__(self) -> None:
        self.having(PLACEHOLDERS)

    @property
    def port_id(self) -> str:
        """The port's id."""
        return str(self.fields["id"])

    @property
    def lacking(self) -> tuple[str, ...]:
        """The fields without which there is no Port."""
        return tuple(name for name in REQUIRED if name not in self.fields)

    def having(self, others: Mapping[str, object]) -> Port:
        """The Port, with these values for fields that were not given. Raises InvalidInput."""
        try:
            return Port(**{name: others[name] for name in FIELDS if name in others} | dict(self.fields))  # type: ignore[arg-type]
        except InvalidInput as error:
            raise InvalidInput(f"{self.where}: {error}" if self.where else str(error)) from error

    def whole(self) -> Port:
        """The Port, where all is given that it needs. Raises InvalidInput."""
        if self.lacking:
            raise self.needs(self.lacking, f"lacks {' and '.join(self.lacking)}")
        return self.having({})

    def needs(self, names: Sequence[str], why: str) -> InvalidInput:
        """The error that these fields must be given."""
        if self.where:
            return InvalidInput(f"{self.where}: port {self.port_id} {why}; add {' and '.join(names)}")
        return InvalidInput(f"port {self.port_id} {why}; give {' and '.join(_OPTIONS[name] for name in names)}")


def sentence_of_unknown(names: Sequence[str]) -> str:
    """Return the sentence about fields that a plugged port does not tell: "nothing tells its mtu; give --mtu"."""
    return f"nothing tells its {' and '.join(names)}; give {' and '.join(_OPTIONS[name] for name in names)}"


def add_port_options(parser: argparse.ArgumentParser, *, several: bool) -> None:
    """PORT with the options that describe it, or -F."""
    parser.add_argument("port", nargs="*" if several else "?", metavar="PORT", help="the port's id, a UUID")
    for field, option in _OPTIONS.items():
        metavar, text = _HELP[field]
        parser.add_argument(
            option, dest=field, metavar=metavar, type=_whole_number if field == "mtu" else str, help=text
        )
    for field, option in _FLAGS.items():
        parser.add_argument(option, dest=field, action="store_true", default=None, help=_HELP[field][1])
    add_file_option(parser)


def add_file_option(parser: argparse.ArgumentParser) -> None:
    """-F: the ports of a file."""
    parser.add_argument(
        "-F",
        "--file",
        metavar="FILE",
        help=f"the ports of a YAML or JSON file (- is stdin), a list of mappings with the keys {', '.join(FIELDS)}",
    )


def asked_ports(args: argparse.Namespace) -> list[Asked]:
    """The ports that the command line means. Raises InvalidInput."""
    given = {field: value for field in (*_OPTIONS, *_FLAGS) if (value := getattr(args, field, None)) is not None}
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
    asked = [Asked(fields={"id": port_id, **given}) for port_id in ids]
    for at, port_id in enumerate(ids):
        if port_id in ids[:at]:
            raise InvalidInput(f"port {port_id} is there more than once; name each port once")
    return asked


def options_of(port: Port, unknown: Sequence[str] = ()) -> list[str]:
    """The arguments of plug that mean this port; a field that is not known in capitals, to be filled in."""
    words = [port.id]
    for field, option in _OPTIONS.items():
        value = getattr(port, field)
        if field in unknown:
            words += [option, _HELP[field][0]]
        elif field in REQUIRED or value != _default_of(field):
            words += [option, str(value)]
    return words + [option for field, option in _FLAGS.items() if getattr(port, field)]


def vif_type_of(text: object) -> object:
    """The VifType that a file spells, or what it says instead, which Port refuses."""
    return next((kind for kind in VifType if kind.value == text), text)


def _default_of(field: str) -> object:
    return next(spec.default for spec in fields(Port) if spec.name == field)


def _whole_number(text: str) -> object:
    # What is none is refused by Port, whose sentence says more than argparse's.
    return int(text) if text.isascii() and text.isdigit() else text
