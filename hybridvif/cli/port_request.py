"""The fields of a port given on the command line or in a file. Some required fields may be missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from hybridvif.model.errors import InvalidInput
from hybridvif.model.port import Port, VifType

FIELDS: tuple[str, ...] = tuple(spec.name for spec in fields(Port))
REQUIRED = ("mac", "instance_id")
"""Fields of a Port that have no default, except the id."""
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
"""Valid values for unknown fields. No port is ever plugged with them."""


@dataclass(frozen=True, kw_only=True)
class PortRequest:
    """The given fields of a port, validated by the constructor. Raises InvalidInput."""

    fields: Mapping[str, object]
    where: str = ""
    """The source of the fields, as "ports.yaml: entry 2"; "" for the command line."""

    def __post_init__(self) -> None:
        self.with_defaults(PLACEHOLDERS)

    @property
    def port_id(self) -> str:
        """The port's id."""
        return str(self.fields["id"])

    @property
    def missing(self) -> tuple[str, ...]:
        """The required fields that were not given."""
        return tuple(name for name in REQUIRED if name not in self.fields)

    def with_defaults(self, others: Mapping[str, object]) -> Port:
        """Create the Port, with these values for fields that were not given. Raises InvalidInput."""
        try:
            return Port(**{name: others[name] for name in FIELDS if name in others} | dict(self.fields))  # type: ignore[arg-type]
        except InvalidInput as error:
            raise InvalidInput(f"{self.where}: {error}" if self.where else str(error)) from error

    def to_port(self) -> Port:
        """Create the Port. Raises InvalidInput if a required field is missing."""
        if self.missing:
            raise self.missing_error(self.missing, f"lacks {' and '.join(self.missing)}")
        return self.with_defaults({})

    def missing_error(self, names: Sequence[str], why: str) -> InvalidInput:
        """Create the error for missing or unknown fields."""
        if self.where:
            return InvalidInput(f"{self.where}: port {self.port_id} {why}; add {' and '.join(names)}")
        return InvalidInput(f"port {self.port_id} {why}; give {' and '.join(OPTIONS[name] for name in names)}")


def unknown_fields_hint(names: Sequence[str]) -> str:
    """Return a hint about unknown fields: "its mtu cannot be inferred; give --mtu"."""
    return f"its {' and '.join(names)} cannot be inferred; give {' and '.join(OPTIONS[name] for name in names)}"


def vif_type_of(text: object) -> object:
    """Return the VifType with this name, or the text itself, which Port rejects."""
    return next((kind for kind in VifType if kind.value == text), text)
