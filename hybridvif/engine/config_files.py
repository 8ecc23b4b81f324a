"""The files of a configuration: their absolute names for the daemon, and the options of os-vif that they set.

oslo.config reads a file when it parses the option, and keeps the name as given. A relative name belongs to the
working directory at that time. The program may have changed its directory since then, as daemons do.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable
from typing import Any

from oslo_config import cfg

from hybridvif.model.attributes import QOS_TYPES
from hybridvif.model.errors import ConfigurationError

OPTIONS = ("config_file", "config_dir")
"""The options of oslo.config that name files and directories to read."""


def absolute(name: str) -> str:
    """Return an absolute name. Raises ConfigurationError if the name is relative to a deleted directory."""
    try:
        return os.path.abspath(name)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"configuration file {name}: its path is relative, and the working directory has been deleted; "
            "give an absolute path, or change to another directory"
        ) from error


def files_of(conf: cfg.ConfigOpts) -> dict[str, list[str]]:
    """Return the files and directories that a configuration was read from, by option, as absolute names.

    Raises ConfigurationError.
    """
    given = {option: _given(conf, option) for option in OPTIONS}
    files = set(getattr(conf._namespace, "_sections_to_file", {}).values())
    parsed = {"config_file": files, "config_dir": {os.path.dirname(name) for name in files}}
    start = _start((name, parsed[option]) for option in OPTIONS for name in given[option])
    return {option: [_resolved(name, start, parsed[option]) for name in given[option]] for option in OPTIONS}


def _given(conf: cfg.ConfigOpts, option: str) -> list[str]:
    """Return the names as given, with "~" expanded as in oslo.config, because root has another home directory."""
    names = list(getattr(conf, option, None) or ())
    if option == "config_dir" and conf.config_dirs:
        # The option itself keeps the last directory only (oslo.config, ConfigDirAction).
        names = conf.config_dirs
    return [os.path.expanduser(name) for name in names]


def _start(given: Iterable[tuple[str, Collection[str]]]) -> str | None:
    """Return the directory in which the relative names are those of the parsed files; None if unknown."""
    possible: set[str] | None = None
    for name, parsed in given:
        tail = f"/{os.path.normpath(name)}"
        directories = {path.removesuffix(tail) or "/" for path in parsed if path.endswith(tail)}
        if directories and not os.path.isabs(name):
            possible = directories if possible is None else possible & directories
    with contextlib.suppress(FileNotFoundError):
        if possible and os.getcwd() in possible:
            return os.getcwd()
    return min(possible) if possible else None


def _resolved(name: str, start: str | None, parsed: Collection[str]) -> str:
    if os.path.isabs(name):
        return name
    if start is not None:
        return os.path.normpath(os.path.join(start, name))
    # For a name that begins with "..", take the parsed file with the same tail if there is exactly one.
    tail = "/" + os.path.normpath(name).replace("../", "")
    matches = [path for path in parsed if path.endswith(tail)]
    return matches[0] if len(matches) == 1 else absolute(name)


OS_VIF = "os_vif_ovs"
"""The section of os-vif. Only values that a file sets count, and os-vif need not be installed.

Its default for OVSDB is tcp:127.0.0.1:6640, which every local user can access.
"""
_MAX_REFERENCES = 8
"""Maximum number of other options to which the value of an option may refer."""

_OS_VIF_OPTIONS: tuple[cfg.Opt, ...] = (
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
    own.register_opts(_OS_VIF_OPTIONS, group=OS_VIF)
    # With config_source, oslo.config would load a driver that fetches further files, in the privileged daemon too.
    own.set_override("config_source", [])
    own(args=[], default_config_files=files, default_config_dirs=directories, use_env=False)
    return {name: value for name in names if (value := _value(own, name)) is not None}


def _value(own: cfg.ConfigOpts, name: str) -> Any:
    """Return the value of an option. If it refers to unknown options ($my_ip), register those and try again."""
    references: list[str] = []
    while len(references) < _MAX_REFERENCES:
        try:
            value = own[OS_VIF][name]
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
                        f"[{OS_VIF}] {name} is made of ${reference}, which no file sets; write its value there, or "
                        "set the option of [hybridvif] that stands for it"
                    )
            return value
    raise ConfigurationError(f"[{OS_VIF}] {name} is made of too many other options; write its value there")
