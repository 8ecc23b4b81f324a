"""A port as a user describes it, from options or from a file, before it is a whole Port."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from hybridvif.model.errors import InvalidInput
from hybridvif.model.port import Port, VifType

FIELDS: tuple[str, ...] = tuple(spec.name for spec in fields(Port))
REQUIRED = ("mac", "instance_id")
"""What a Port has no default for, beside its id."""
OPTIONS: Mapping[str, str] = {
    "mac": "--mac",
    "instance_id": "--instance",
    "interface_id": "--interface-id",
    "mtu": "--mtu",
    "bridge": "--bridge",
    "datapath_type": "--datapath-type",
    "qos_type": "--qos-type",
    "vhostuser_mode": "--vhostuser-mode",
}
PLACEHOLDERS: Mapping[str, object] = {
    "mac": "02:00:00:00:00:00",
    "instance_id": "00000000-0000-0000-0000-000000000000",
}
"""Legal values for fields nobody knows; nothing is ever plugged with them."""


@dataclass(frozen=True, kw_only=True)
class PortRequest:
    """A port as it was asked for: the fields that were given, and where. One that exists is legal as far as it goes."""

    fields: Mapping[str, object]
    where: str = ""
    """ "ports.yaml: entry 2"; empty: the command line."""

    def __post_init__(self) -> None:
        self.with_defaults(PLACEHOLDERS)

    @property
    def port_id(self) -> str:
        """The port's id."""
        return str(self.fields["id"])

    @property
    def missing(self) -> tuple[str, ...]:
        """The fields without which there is no Port."""
        return tuple(name for name in REQUIRED if name not in self.fields)

    def with_defaults(self, others: Mapping[str, object]) -> Port:
        """The Port, with these values for fields that were not given. Raises InvalidInput."""
        try:
            return Port(**{name: others[name] for name in FIELDS if name in others} | dict(self.fields))  # type: ignore[arg-type]
        except InvalidInput as error:
            raise InvalidInput(f"{self.where}: {error}" if self.where else str(error)) from error

    def to_port(self) -> Port:
        """The Port, where all is given that it needs. Raises InvalidInput."""
        if self.missing:
            raise self.missing_error(self.missing, f"lacks {' and '.join(self.missing)}")
        return self.with_defaults({})

    def missing_error(self, names: Sequence[str], why: str) -> InvalidInput:
        """The error that these fields must be given."""
        if self.where:
            return InvalidInput(f"{self.where}: port {self.port_id} {why}; add {' and '.join(names)}")
        return InvalidInput(f"port {self.port_id} {why}; give {' and '.join(OPTIONS[name] for name in names)}")


def sentence_of_unknown(names: Sequence[str]) -> str:
    """Return the sentence about fields that a plugged port does not tell: "nothing tells its mtu; give --mtu"."""
    return f"nothing tells its {' and '.join(names)}; give {' and '.join(OPTIONS[name] for name in names)}"


def vif_type_of(text: object) -> object:
    """The VifType that a file spells, or what it says instead, which Port refuses."""
    return next((kind for kind in VifType if kind.value == text), text)
