"""os-vif's own options, where a file sets them; never os-vif's defaults, and without os-vif.

os-vif's default for OVSDB is tcp:127.0.0.1:6640, which is open to every local user.
"""

from __future__ import annotations

from typing import Any

from oslo_config import cfg

from hybridvif.port import QOS_TYPES

SECTION = "os_vif_ovs"

_OPTIONS: tuple[cfg.Opt, ...] = (
    cfg.IntOpt("network_device_mtu", deprecated_group="DEFAULT"),
    cfg.IntOpt("ovs_vsctl_timeout", deprecated_group="DEFAULT"),
    cfg.StrOpt("ovsdb_connection"),
    cfg.BoolOpt("isolate_vif"),
    cfg.StrOpt("default_qos_type", choices=QOS_TYPES),
)


def set_in_files(conf: cfg.ConfigOpts) -> dict[str, Any]:
    """What the files of this configuration set of os-vif's options, by name; what they leave out is not there.

    Raises cfg.ConfigFileValueError for a value that is not legal.
    """
    files, directories = (getattr(conf, name, None) or [] for name in ("config_file", "config_dir"))
    if not files and not directories:
        return {}
    # The same files once more: in the caller's configuration these names are os-vif's to register, with its defaults.
    own = cfg.ConfigOpts()
    own.register_opts(_OPTIONS, group=SECTION)
    own(args=[], default_config_files=list(files), default_config_dirs=list(directories))
    return {option.dest: value for option in _OPTIONS if (value := own[SECTION][option.dest]) is not None}
