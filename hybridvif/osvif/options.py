"""os-vif's own options, where a file sets them; never os-vif's defaults, and without os-vif.

os-vif's default for OVSDB is tcp:127.0.0.1:6640, which is open to every local user.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from oslo_config import cfg

from hybridvif.engine.config_files import files_of
from hybridvif.model.errors import ConfigurationError
from hybridvif.model.port import QOS_TYPES

SECTION = "os_vif_ovs"
_MADE_OF = 8
"""Of how many other options an option may be made that we do not know."""

_OPTIONS: tuple[cfg.Opt, ...] = (
    cfg.IntOpt("network_device_mtu", deprecated_group="DEFAULT"),
    cfg.IntOpt("ovs_vsctl_timeout", deprecated_group="DEFAULT"),
    cfg.StrOpt("ovsdb_connection"),
    cfg.BoolOpt("isolate_vif"),
    cfg.StrOpt("default_qos_type", choices=QOS_TYPES),
)


def set_in_files(conf: cfg.ConfigOpts, names: Collection[str]) -> dict[str, Any]:
    """What the files of this configuration set of these options of os-vif's; what they leave out is not there.

    Raises cfg.ConfigFileValueError for a value that is not legal, ConfigurationError for one that no file tells whole.
    """
    files, directories = files_of(conf).values()
    if not files and not directories:
        return {}
    # The same files once more: in the caller's configuration these names are os-vif's to register, with its defaults.
    own = cfg.ConfigOpts()
    own.register_opts(_OPTIONS, group=SECTION)
    # Files alone: by config_source oslo.config would load a driver that fetches others, in the privileged daemon too.
    own.set_override("config_source", [])
    own(args=[], default_config_files=files, default_config_dirs=directories, use_env=False)
    return {name: value for name in names if (value := _value(own, name)) is not None}


def _value(own: cfg.ConfigOpts, name: str) -> Any:
    """The value of an option. Where it is made of options that are not ours to know ($my_ip), the files tell those."""
    made_of: list[str] = []
    while len(made_of) < _MADE_OF:
        try:
            value = own[SECTION][name]
        except cfg.NoSuchGroupError as lacking:
            own.register_group(cfg.OptGroup(lacking.group_name))
        except cfg.NoSuchOptError as lacking:
            made_of.append(lacking.opt_name)
            group, _, option = lacking.opt_name.rpartition(".")
            own.register_opt(cfg.StrOpt(option), group=group or None)
        else:
            for other in made_of:
                group, _, option = other.rpartition(".")
                if own.get_location(option, group or None) is None:
                    raise ConfigurationError(
                        f"[{SECTION}] {name} is made of ${other}, which no file sets; write its value there, or set "
                        "the option of [hybridvif] that stands for it"
                    )
            return value
    raise ConfigurationError(f"[{SECTION}] {name} is made of too many other options; write its value there")
