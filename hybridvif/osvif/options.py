"""Options of os-vif that a file sets. The defaults of os-vif do not count, and os-vif need not be installed.

Its default for OVSDB is tcp:127.0.0.1:6640, which every local user can access.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from oslo_config import cfg

from hybridvif.engine.config_files import files_of
from hybridvif.model.errors import ConfigurationError
from hybridvif.model.port import QOS_TYPES

SECTION = "os_vif_ovs"
_MAX_REFERENCES = 8
"""Maximum number of other options to which the value of an option may refer."""

_OPTIONS: tuple[cfg.Opt, ...] = (
    cfg.IntOpt("network_device_mtu", deprecated_group="DEFAULT"),
    cfg.IntOpt("ovs_vsctl_timeout", deprecated_group="DEFAULT"),
    cfg.StrOpt("ovsdb_connection"),
    cfg.BoolOpt("isolate_vif"),
    cfg.StrOpt("default_qos_type", choices=QOS_TYPES),
)


def set_in_files(conf: cfg.ConfigOpts, names: Collection[str]) -> dict[str, Any]:
    """Return the values of these os-vif options that the files of a configuration set.

    Raises cfg.ConfigFileValueError for an invalid value, ConfigurationError for a value that refers to an unset option.
    """
    files, directories = files_of(conf).values()
    if not files and not directories:
        return {}
    # Parse the files again: in the program's configuration, os-vif registers these names with its defaults.
    own = cfg.ConfigOpts()
    own.register_opts(_OPTIONS, group=SECTION)
    # With config_source, oslo.config would load a driver that fetches further files, in the privileged daemon too.
    own.set_override("config_source", [])
    own(args=[], default_config_files=files, default_config_dirs=directories, use_env=False)
    return {name: value for name in names if (value := _value(own, name)) is not None}


def _value(own: cfg.ConfigOpts, name: str) -> Any:
    """Return the value of an option. If it refers to unknown options ($my_ip), register those and try again."""
    references: list[str] = []
    while len(references) < _MAX_REFERENCES:
        try:
            value = own[SECTION][name]
        except cfg.NoSuchGroupError as error:
            own.register_group(cfg.OptGroup(error.group_name))
        except cfg.NoSuchOptError as error:
            references.append(error.opt_name)
            group, _, option = error.opt_name.rpartition(".")
            own.register_opt(cfg.StrOpt(option), group=group or None)
        else:
            for reference in references:
                group, _, option = reference.rpartition(".")
                if own.get_location(option, group or None) is None:
                    raise ConfigurationError(
                        f"[{SECTION}] {name} is made of ${reference}, which no file sets; write its value there, or "
                        "set the option of [hybridvif] that stands for it"
                    )
            return value
    raise ConfigurationError(f"[{SECTION}] {name} is made of too many other options; write its value there")
