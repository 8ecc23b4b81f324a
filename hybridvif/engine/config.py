"""oslo.config options, and their translation into Settings. The client and the daemon each read their own files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

from oslo_config import cfg

from hybridvif.model.errors import ConfigurationError
from hybridvif.model.names import QOS_TYPES
from hybridvif.model.settings import MAX_DEADLINE, MIN_DEADLINE, Settings

GROUP = "hybridvif"
_OPTION_TYPES: dict[type, type[cfg.Opt]] = {
    str: cfg.StrOpt,
    bool: cfg.BoolOpt,
    float: cfg.FloatOpt,
    tuple: cfg.ListOpt,
}
OPTIONS: tuple[cfg.Opt, ...] = tuple(
    _OPTION_TYPES[type(spec.default)](
        spec.name,
        default=list(spec.default) if isinstance(spec.default, tuple) else spec.default,
        help=spec.metadata["help"],
        **spec.metadata["limits"],
    )
    for spec in fields(Settings)
)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the options by group, for oslo-config-generator."""
    return [(GROUP, list(OPTIONS))]


def register(conf: cfg.ConfigOpts) -> None:
    """Register our options. A second call changes nothing."""
    conf.register_opts(OPTIONS, group=GROUP)


def is_set(conf: cfg.ConfigOpts, name: str) -> bool:
    """Return whether one of our options is set, in a file or by the program."""
    source = conf.get_location(name, GROUP)
    return source is not None and source.location not in (cfg.Locations.opt_default, cfg.Locations.set_default)


def settings_of(conf: cfg.ConfigOpts) -> Settings:
    """Return the settings of a configuration. Raises ConfigurationError with the name of the option."""
    register(conf)
    try:
        section: Any = conf[GROUP]
        inherited = _from_os_vif(conf)
        values = {option.dest: getattr(section, option.dest) for option in OPTIONS} | inherited
    except (cfg.Error, ValueError) as error:
        raise ConfigurationError(f"the configuration is not legal: {error}") from error
    for spec in fields(Settings):
        value = values[spec.name] = tuple(values[spec.name]) if spec.type.startswith("tuple") else values[spec.name]
        is_legal, legal_values = spec.metadata["rule"]
        if legal_values and not is_legal(value):
            section, remedy = GROUP, f"leave it out for {spec.default!r}"
            if spec.name in inherited:
                section, remedy = OS_VIF, f"set [{GROUP}] {spec.name}"
            raise ConfigurationError(f"[{section}] {spec.name}: {value!r:.120} is not {legal_values}; {remedy}")
    remote, missing = values["ovsdb_connection"], [name for name in _SSL_FILES if not values[name]]
    if remote.startswith("ssl:") and missing:
        raise ConfigurationError(
            f"[{OS_VIF if 'ovsdb_connection' in inherited else GROUP}] ovsdb_connection: {remote!r} needs "
            f"[{GROUP}] {' and '.join(missing)}; set them to absolute paths of PEM files"
        )
    return Settings(**values)


_SSL_FILES = ("ssl_key_file", "ssl_cert_file", "ssl_ca_cert_file")


def _from_os_vif(conf: cfg.ConfigOpts) -> dict[str, Any]:
    """Return the values from os-vif's section that ours does not set. In Nova both sides read Nova's files."""
    unset = {option.dest: ours for option, ours in _OS_VIF_OPTIONS if ours and not is_set(conf, ours)}
    values = {unset[theirs]: value for theirs, value in set_in_files(conf, unset).items()}
    if "deadline" in values:
        # In os-vif, 0 means no timeout.
        values["deadline"] = min(max(float(values["deadline"] or MAX_DEADLINE), MIN_DEADLINE), MAX_DEADLINE)
    return values


def read(conf: cfg.ConfigOpts, files: Sequence[str]) -> None:
    """Parse these files into a configuration. Raises ConfigurationError if a file cannot be read."""
    for name in files:
        if not os.path.isfile(name):
            raise ConfigurationError(f"configuration file {name} does not exist or is not a file; check the path")
    try:
        conf(
            args=[],
            project=GROUP,
            default_config_files=[absolute(name) for name in files],
            default_config_dirs=[],
        )
    except (cfg.Error, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the configuration in {', '.join(files)} is not legal: {error}") from error


PRIVILEGED = "hybridvif_privileged"
THREADS = 32
"""Threads of the daemon. The default of oslo.privsep is the number of CPUs: a hung switch could block all of them."""
FILE_OPTIONS = {"config_file": "--config-file", "config_dir": "--config-dir"}
"""The options of oslo.config that name files and directories to read, with their flags."""
DAEMON_OPTIONS: tuple[cfg.Opt, ...] = (
    cfg.StrOpt("user"),
    cfg.StrOpt("group"),
    cfg.IntOpt("thread_pool_size", min=1, default=THREADS),
)
"""Options of oslo.privsep that apply in the daemon."""


def read_own(arguments: Sequence[str]) -> cfg.ConfigOpts:
    """Parse the files of the daemon, given as --config-file and --config-dir. Raises ConfigurationError.

    The configuration is a separate object, so options of libraries have no effect (oslo.log opens log_file). The
    environment and config_source have no effect either, because a driver could fetch further files.
    """
    own = cfg.ConfigOpts()
    own.register_opts(DAEMON_OPTIONS, group=PRIVILEGED)
    own.set_override("config_source", [])
    try:
        own(list(arguments), GROUP, GROUP, default_config_files=[], default_config_dirs=[], use_env=False)
        for option, flag in FILE_OPTIONS.items():
            # [DEFAULT] config_dir in a file must not add a directory.
            own.set_override(option, [value for name, value in pairwise(arguments) if name == flag])
        for daemon_option in DAEMON_OPTIONS:
            getattr(own[PRIVILEGED], daemon_option.dest)
    except (cfg.Error, ValueError) as error:
        raise ConfigurationError(f"the configuration of the privileged daemon is not legal: {error}") from error
    return own


# -- the files ---------------------------------------------------------------------------------------------------------


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
    given = {option: _given(conf, option) for option in FILE_OPTIONS}
    files = set(getattr(conf._namespace, "_sections_to_file", {}).values())
    parsed = {"config_file": files, "config_dir": {os.path.dirname(name) for name in files}}
    start = _start((name, parsed[option]) for option in FILE_OPTIONS for name in given[option])
    return {option: [_resolved(name, start, parsed[option]) for name in given[option]] for option in FILE_OPTIONS}


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

_OS_VIF_OPTIONS: tuple[tuple[cfg.Opt, str], ...] = (
    (cfg.IntOpt("network_device_mtu", deprecated_group="DEFAULT"), ""),
    (cfg.IntOpt("ovs_vsctl_timeout", deprecated_group="DEFAULT"), "deadline"),
    (cfg.StrOpt("ovsdb_connection"), "ovsdb_connection"),
    (cfg.BoolOpt("isolate_vif"), ""),
    (cfg.StrOpt("default_qos_type", choices=QOS_TYPES), "default_qos_type"),
)
"""Options of os-vif, each with the option of ours that defaults to it. "": none, it is for ports."""


def set_in_files(conf: cfg.ConfigOpts, names: Collection[str]) -> dict[str, Any]:
    """Return the values of these os-vif options that the files of a configuration set.

    Raises cfg.ConfigFileValueError for an invalid value, ConfigurationError for a value that refers to an unset option.
    """
    files, directories = files_of(conf).values()
    if not files and not directories:
        return {}
    # Parse the files again: in the program's configuration, os-vif registers these names with its defaults.
    own = cfg.ConfigOpts()
    own.register_opts([option for option, _ in _OS_VIF_OPTIONS], group=OS_VIF)
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
