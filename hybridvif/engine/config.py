"""oslo.config options, and their translation into Settings. The client and the daemon each read their own files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from oslo_config import cfg

from hybridvif.engine.config_files import absolute
from hybridvif.model.endpoint import ALLOWED, endpoint_of
from hybridvif.model.errors import ConfigurationError
from hybridvif.model.names import TRUNK_BRIDGES
from hybridvif.model.port import NONE, QOS_TYPES, is_bridge_name
from hybridvif.model.settings import MAX_DEADLINE, MIN_DEADLINE, OVS_SOCKET, SOCKET_DIR, Settings
from hybridvif.osvif import options as osvif

GROUP = "hybridvif"
MAX_SOCKET_DIR = 92
"""Maximum number of characters. sun_path holds 108 bytes: the directory, the name and a null byte (unix(7))."""
_SOCKET_DIR = re.compile(rf"(?=/.{{1,{MAX_SOCKET_DIR - 1}}}\Z)(/[A-Za-z0-9_.-]+)+", re.ASCII)
_DEFAULT = Settings()

OPTIONS: tuple[cfg.Opt, ...] = (
    cfg.StrOpt(
        "link_executor",
        default=_DEFAULT.link_executor,
        help="The executor for bridges and veth pairs: the name of an entry point of hybridvif.link_executors.",
    ),
    cfg.StrOpt(
        "switch_executor",
        default=_DEFAULT.switch_executor,
        help="The executor for ports of the switch: the name of an entry point of hybridvif.switch_executors.",
    ),
    cfg.StrOpt(
        "ovsdb_connection",
        default=OVS_SOCKET,
        help="The address of ovsdb-server: unix:FILE (absolute), tcp:HOST:PORT or ssl:HOST:PORT. Prefer the socket: "
        "everyone with access to a TCP port can put any device of this host into any bridge. ssl: needs the "
        "options ssl_key_file, ssl_cert_file and ssl_ca_cert_file.",
    ),
    cfg.StrOpt(
        "ssl_key_file",
        default=_DEFAULT.ssl_key_file,
        help="The private key for an ovsdb_connection of ssl:, without a password: an absolute path. Only the daemon "
        "reads it.",
    ),
    cfg.StrOpt(
        "ssl_cert_file",
        default=_DEFAULT.ssl_cert_file,
        help="The certificate that belongs to ssl_key_file: an absolute path.",
    ),
    cfg.StrOpt(
        "ssl_ca_cert_file",
        default=_DEFAULT.ssl_ca_cert_file,
        help="The certificate of the CA that signed the certificate of ovsdb-server: an absolute path.",
    ),
    cfg.ListOpt(
        "integration_bridges",
        default=list(_DEFAULT.integration_bridges),
        help="The Open vSwitch bridges for ports. A plug into any other bridge is refused. ``tbr-*`` means all trunk "
        "bridges of Neutron.",
    ),
    cfg.ListOpt(
        "create_bridges",
        default=list(_DEFAULT.create_bridges),
        help="The integration bridges that are created if they are missing. ``tbr-*`` means all trunk bridges. The "
        "default is none, because a missing bridge may be a typing error.",
    ),
    cfg.BoolOpt(
        "remove_trunk_bridges",
        default=_DEFAULT.remove_trunk_bridges,
        help="Remove a trunk bridge (``tbr-*``) with the last of its ports, together with Neutron's patch ports. "
        "Other bridges are never removed.",
    ),
    cfg.FloatOpt(
        "deadline",
        default=_DEFAULT.deadline,
        min=MIN_DEADLINE,
        max=MAX_DEADLINE,
        help="Maximum number of seconds for one port, or for one batch of a bulk call.",
    ),
    cfg.StrOpt(
        "unplug_running",
        default=_DEFAULT.unplug_running,
        choices=["refuse", "force"],
        help="Whether to refuse or to force an unplug of a port with a running VM (a member of its bridge has "
        "carrier).",
    ),
    cfg.StrOpt(
        "lock_path",
        default=_DEFAULT.lock_path,
        help="The directory of the locks. All callers of this host share it, both root and the user of the service.",
    ),
    cfg.StrOpt(
        "program_path",
        default=_DEFAULT.program_path,
        help="The directories with brctl, ip, ovs-vsctl and ivs-ctl, for the executors that run programs. Only root "
        "may be able to write to them.",
    ),
    cfg.BoolOpt(
        "call_iptables",
        default=_DEFAULT.call_iptables,
        help="Whether the Linux bridge of each port calls iptables and ip6tables, for Neutron's hybrid firewall. It "
        "replaces net.bridge.bridge-nf-call-iptables = 1, which applies to all Linux bridges of the host. Needs "
        "br_netfilter.",
    ),
    cfg.BoolOpt(
        "require_isolate",
        default=_DEFAULT.require_isolate,
        help="Create every new port of Open vSwitch in the dead VLAN until Neutron's agent wires it, as with "
        "isolate. The daemon refuses any other, so a captured client cannot put a VM into the untagged network. "
        "Trunk bridges are exempt. Set it on both sides. Without Neutron's agent no port works.",
    ),
    cfg.StrOpt(
        "default_qos_type",
        default=_DEFAULT.default_qos_type,
        choices=[NONE, *QOS_TYPES],
        help="The type of the QoS row of a new port of Open vSwitch, unless the port has its own. The row is deleted "
        "with the port.",
    ),
    cfg.StrOpt(
        "vhost_socket_dir",
        default=_DEFAULT.vhost_socket_dir,
        help="The directory in which QEMU creates the sockets of vhost-user ports of the mode 'server': "
        "vhostuser_socket_dir of Neutron. A socket has the name of its port, vhu... Open vSwitch connects to "
        "it.",
    ),
    cfg.BoolOpt(
        "answer_to_ovs",
        default=_DEFAULT.answer_to_ovs,
        help="Whether hybridvif replaces the plugin 'ovs' of os-vif, which Nova uses. hybridvif then plugs hybrid "
        "ports, and the code of os-vif plugs all other VIFs.",
    ),
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
    if not MIN_DEADLINE <= values["deadline"] <= MAX_DEADLINE:
        # oslo.config accepts "nan", because its comparison with the limits is false.
        raise ConfigurationError(
            f"[hybridvif] deadline: {values['deadline']} is not from {MIN_DEADLINE} to {MAX_DEADLINE} seconds"
        )
    for option in ("integration_bridges", "create_bridges"):
        values[option] = tuple(values[option])
        for name in values[option]:
            if name != TRUNK_BRIDGES and not is_bridge_name(name):
                raise ConfigurationError(
                    f"[hybridvif] {option}: {name!r} cannot be the name of an Open vSwitch bridge; "
                    f"use 1 to 15 letters, digits, '_', '.' or '-', or {TRUNK_BRIDGES}"
                )
    _require_endpoint(values, osvif.SECTION if "ovsdb_connection" in inherited else GROUP)
    for option, paths in (
        ("lock_path", [values["lock_path"]]),
        ("program_path", values["program_path"].split(":")),
    ):
        if not all(os.path.isabs(path) for path in paths):
            raise ConfigurationError(
                f"[hybridvif] {option}: {values[option]!r} is relative, and the processes that read it have different "
                f"working directories; use absolute paths, or leave it out for {getattr(_DEFAULT, option)}"
            )
    sockets = values["vhost_socket_dir"]
    if not _SOCKET_DIR.fullmatch(sockets) or ".." in sockets.split("/"):
        raise ConfigurationError(
            f"[hybridvif] vhost_socket_dir: {sockets!r} is not an absolute path of at most {MAX_SOCKET_DIR} letters, "
            f"digits, '_', '.', '-' and '/' without '..' and without a '/' at its end; leave it out for {SOCKET_DIR}"
        )
    return Settings(**values)


def _require_endpoint(values: Mapping[str, Any], section: str) -> None:
    """Check the address of OVSDB. section: the section that sets ovsdb_connection. Raises ConfigurationError."""
    remote = values["ovsdb_connection"]
    try:
        endpoint = endpoint_of(remote)
    except ValueError as error:
        otherwise = f"leave it out for {OVS_SOCKET}" if section == GROUP else f"set [{GROUP}] ovsdb_connection"
        raise ConfigurationError(
            f"[{section}] ovsdb_connection: {remote[:80]!r} {error}; {ALLOWED}, or {otherwise}"
        ) from None
    for option in _SSL_FILES:
        path = values[option]
        if path and not (os.path.isabs(path) and path.isprintable()):
            raise ConfigurationError(f"[{GROUP}] {option}: {path[:80]!r} is not an absolute path; use one")
    missing = [option for option in _SSL_FILES if not values[option]]
    if endpoint.scheme == "ssl" and missing:
        raise ConfigurationError(
            f"[{section}] ovsdb_connection: {remote!r} needs [{GROUP}] {' and '.join(missing)}; "
            "set them to absolute paths of PEM files"
        )


_SSL_FILES = ("ssl_key_file", "ssl_cert_file", "ssl_ca_cert_file")

_OS_VIF_OPTIONS = {
    "ovsdb_connection": "ovsdb_connection",
    "ovs_vsctl_timeout": "deadline",
    "default_qos_type": "default_qos_type",
}
"""Options of os-vif, with the options of ours that default to them."""


def _from_os_vif(conf: cfg.ConfigOpts) -> dict[str, Any]:
    """Return the values from os-vif's section that ours does not set. In Nova both sides read Nova's files."""
    unset = [theirs for theirs, ours in _OS_VIF_OPTIONS.items() if not is_set(conf, ours)]
    values = {_OS_VIF_OPTIONS[theirs]: value for theirs, value in osvif.set_in_files(conf, unset).items()}
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
_FLAGS = {"config_file": "--config-file", "config_dir": "--config-dir"}
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
        for option, flag in _FLAGS.items():
            # [DEFAULT] config_dir in a file must not add a directory.
            own.set_override(option, [value for name, value in pairwise(arguments) if name == flag])
        for daemon_option in DAEMON_OPTIONS:
            getattr(own[PRIVILEGED], daemon_option.dest)
    except (cfg.Error, ValueError) as error:
        raise ConfigurationError(f"the configuration of the privileged daemon is not legal: {error}") from error
    return own
