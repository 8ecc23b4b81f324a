"""A plan as command lines: run by the executors of programs, or printed as a shell script. Pure.

The recipe is that of OpenStack's hybrid plug:

    brctl addbr qbr; brctl setfd qbr 0; brctl stp qbr off; multicast_snooping 0; disable_ipv6 1; ip link set qbr up
    ip link add qvb type veth peer name qvo; each end: up, promisc on, mtu; brctl addif qbr qvb
    ovs-vsctl add-port br-int qvo -- set Interface qvo external_ids: iface-id, iface-status, attached-mac, vm-uuid

Differences: the bridge has a MAC, an MTU, an ageing time of 0, an alias and its ARP settings. The ends have an alias.
The host's IP stack is off on all three (docs/host.md), and qvb goes up last. multicast_snooping goes through `ip`,
since /sys/class/net shows the network namespace in which it was mounted. A healthy OVS port is never deleted and added
again, which would cost its VLAN tag and OpenFlow number.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hybridvif.executors.command import RANDOM_MAC, Command
from hybridvif.executors.netlink import sysctl
from hybridvif.executors.netlink.devices import ATTRIBUTES, BRIDGE, FLAGS, IPV4, IPV6, LINK, STATE, DeviceAttribute
from hybridvif.executors.netlink.operations import (
    Add,
    AddTap,
    Operation,
    Own,
    Remove,
    RemoveAddresses,
    Set,
    Sysctl,
    operations_of,
)
from hybridvif.executors.ovs_rows import IDS, Operation as RowOperation, columns_at_creation, elements, ids_of
from hybridvif.executors.ovsdb.transaction import interface_changes, interface_columns
from hybridvif.executors.side_effects import (
    INTERFACE,
    PATCH,
    PATCH_PREFIXES,
    PORT,
    bridges_to_create,
    ports_with_qos,
    qos_id_of,
    qos_ids_of,
    removable_trunks,
)
from hybridvif.model.parts import ROOT, IvsPort, OvsPort, Role, VhostUserPort
from hybridvif.model.settings import SOCKET_DIR, Settings
from hybridvif.model.state import Create, Delete, Replace, Step, Update, changes_of, role_of

_ATTACH = """import contextlib, fcntl, struct, sys
tap = open("/dev/net/tun", "r+b", 0)
for flags in (0x1002, 0x1102):
    with contextlib.suppress(OSError):
        fcntl.ioctl(tap, 0x400454ca, struct.pack("16sH22x", sys.argv[1].encode(), flags))
        break
fcntl.ioctl(tap, 0x400454cc, 0)
"""
"""`ip tuntap` cannot attach to an existing tap. The numbers are those of executors/netlink/tap.py."""

_VERBS = {"insert": "add", "delete": "remove"}
"""Words of ovs-vsctl for the mutations of a row."""

Line = Command | Sysctl | Own


def text_of(line: Line) -> str:
    """Return a line for a shell."""
    match line:
        case Sysctl(device, attribute, value):
            ignore = "-e " if attribute in IPV6 else ""
            return f"sysctl -q {ignore}-w {sysctl.key(device, attribute)}={value}"
        case Own(device):
            return f"python3 -I -c {shlex.quote(_ATTACH)} {device}"
    return str(line)


def link_lines(step: Step, mac: str = RANDOM_MAC) -> list[Line]:
    """Return the lines of one step of the link role."""
    return [line for operation in operations_of(step, mac) for line in lines_of(operation)]


def lines_of(operation: Operation) -> Iterator[Line]:
    """Return the lines of one operation on a device."""
    match operation:
        case Add("bridge", name, values):
            yield _brctl("addbr", name)
            yield from _set(name, values)
        case Add(kind, name, values, peer, peer_values):
            yield _ip("add", name, "type", kind, "peer", "name", peer)
            yield from _set(name, {key: value for key, value in values.items() if key != "master"})
            yield from _set(peer, peer_values)
            yield from _set(name, {key: value for key, value in values.items() if key == "master"})
        case AddTap(name, multi_queue):
            queues = ["multi_queue"] if multi_queue else []
            yield Command("ip", ("tuntap", "add", "dev", name, "mode", "tap", "user", str(ROOT), *queues))
        case Set(name, values):
            yield from _set(name, values)
        case RemoveAddresses(name):
            yield Command("ip", ("-4", "address", "flush", "dev", name))
        case Remove(name):
            yield _ip("delete", name, absent=True)
        case Sysctl() | Own():
            yield operation


def _set(name: str, values: Mapping[str, Any]) -> Iterator[Line]:
    """Set attributes of a device: a bridge's first, as the kernel does, and up last.

    brctl takes seconds, and the kernel hundredths of them.
    """
    options = []
    for key, row in BRIDGE.items():
        value = values.get(key)
        if value is not None and " " not in row.command:
            yield _brctl(row.command, name, _on_off(value) if row.type is bool else f"{value / 100:g}")
        elif value is not None:
            options += row.command.format(int(bool(value))).split()
    if options:
        yield _ip("set", "dev", name, "type", "bridge", *options)
    words = [
        word
        for key in values
        if (key in FLAGS or key in LINK) and key != "up"
        for word in _words(ATTRIBUTES[key], values[key])
    ]
    if words:
        yield _ip("set", "dev", name, *words)
    yield from (Sysctl(name, key, int(values[key])) for key in (*IPV4, *IPV6) if key in values)
    if "master" in values:
        master = values["master"]
        yield _brctl("addif", master, name) if master else _ip("set", "dev", name, "nomaster")
    if "bridge_port" in values:
        flags = values["bridge_port"].items()
        words = [word for key, on in flags for word in (key, str(on) if key == STATE else _on_off(on))]
        yield _ip("set", "dev", name, "type", "bridge_slave", *words)
    if "up" in values:
        yield _ip("set", "dev", name, *_words(FLAGS["up"], values["up"]))


def _words(row: DeviceAttribute, value: object) -> list[str]:
    if row.type is bool:
        return row.command.split("|")[not value].split()
    return [row.command.split()[0], str(value)]


def _brctl(*arguments: str) -> Command:
    return Command("brctl", arguments)


def _ip(*arguments: str, absent: bool = False) -> Command:
    return Command("ip", ("link", *arguments), absent)


def _on_off(value: object) -> str:
    return "on" if value else "off"


def ivs_line(step: Step) -> Command:
    """Return the line of one step about a port of an Indigo Virtual Switch."""
    return Command("ivs-ctl", ("del-port" if isinstance(step, Delete) else "add-port", step.part.name))


def switch_words(step: Step, socket_dir: str = SOCKET_DIR) -> list[str]:
    """Return the words of one step in an ovs-vsctl command line; each command begins with `--`.

    A row is changed as by the executors of Open vSwitch, but found by its name.
    """
    match step:
        case Create(OvsPort(name=name) as port):
            words = ["--", "add-port", port.bridge, name]
            words += ["--", "set", "Interface", name, *_keys("external_ids", ids_of(port))]
            words += _columns(interface_columns(port, socket_dir))
            columns = [f"{column}={value}" for column, value in columns_at_creation(port).items()]
            if port.qos_type:
                qos_ids = _keys("external_ids", qos_ids_of(port))
                words += ["--", f"--id=@{name}", "create", "QoS", f"type={port.qos_type}", *qos_ids]
                columns.append(f"qos=@{name}")
            return words + (["--", "set", "Port", name, *columns] if columns else [])
        case Update(OvsPort(name=name) as before, OvsPort() as after):
            changes = changes_of(step)
            if isinstance(after, VhostUserPort) and "realized" in changes:
                # Writing the same value is no change, but makes ovs-vswitchd retry the port.
                changes["type"] = after.type
            operations = interface_changes(after, name, changes, socket_dir)
            words = [word for operation in operations for word in words_of(operation)]
            if "bridge" in changes:
                # Moved, not deleted and added: row, ofport and other_config remain. Each @name is defined once.
                words += ["--", f"--id=@{name}", "get", "Port", name]
                words += ["--", "remove", "Bridge", before.bridge, "ports", f"@{name}"]
                words += ["--", "add", "Bridge", after.bridge, "ports", f"@{name}"]
            return words
        case Delete(OvsPort(name=name)):
            return ["--", "--if-exists", "del-port", name]
    raise ValueError(f"no recipe for {type(step).__name__} {step.part.kind} {step.part.name}")


def _keys(column: str, values: Mapping[str, str]) -> list[str]:
    """Return keys of a map with their values, quoted so that no part of them has another meaning."""
    return [f"{column}:{key}={json.dumps(value)}" for key, value in values.items()]


def words_of(operation: RowOperation) -> list[str]:
    """Return an operation of OVSDB (RFC 7047, 5.2) as words of ovs-vsctl; none for `wait`, which it has no word for.

    ovs-vsctl verifies the rows that it reads itself. It notices no change between the read of the daemon and its own.
    """
    match operation:
        case {"op": "insert", "table": table, "row": row, "uuid-name": name}:
            return ["--", f"--id=@{name}", "create", table, *_columns(row)]
        case {"op": "update", "table": table, "where": where, "row": row}:
            return ["--", "set", table, _record(where), *_columns(row)]
        case {"op": "mutate", "table": table, "where": where, "mutations": mutations}:
            words = []
            for column, verb, value in mutations:
                words += ["--", _VERBS[verb], table, _record(where), column, *_values(value)]
            return words
        case {"op": "delete", "table": table, "where": where}:
            return ["--", "--if-exists", "destroy", table, _record(where)]
    return []


def _record(where: Sequence[Any]) -> str:
    """Return the name or the uuid of the row of a condition. Open_vSwitch has one row, and needs none."""
    match where:
        case [[_, "==", ["uuid", name]]] | [[_, "==", name]]:
            return str(name)
    return "."


def _columns(row: Mapping[str, Any]) -> Iterable[str]:
    return (f"{column}={value_text(value)}" for column, value in row.items())


def _values(value: Any) -> list[str]:
    """Return the elements of a set or a map, each as a word."""
    if value[0] == "map":
        return [f"{value_text(key)}={value_text(item)}" for key, item in value[1]]
    return [value_text(element) for element in elements(value)]


def value_text(value: Any) -> str:
    """Return a value of OVSDB in the syntax of ovs-vsctl, quoted so that no part of it has another meaning.

    >>> value_text(["map", [["a", "1,b"]]]), value_text(["set", [1, 2]]), value_text(7)
    ('{"a"="1,b"}', '[1,2]', '7')
    """
    match value:
        case ["map", pairs]:
            return "{" + ",".join(f"{value_text(key)}={value_text(item)}" for key, item in pairs) + "}"
        case ["set", items]:
            return "[" + ",".join(map(value_text, items)) + "]"
        case ["uuid", uuid]:
            return str(uuid)
        case ["named-uuid", name]:
            return f"@{name}"
    return json.dumps(value)


# -- the shell script of `hybridvif plan -f shell` ---------------------------------------------------------------------


_DEFAULTS = Settings()


def script_lines(
    plans: Iterable[Sequence[Step]], bridges: Iterable[str] = (), settings: Settings = _DEFAULTS
) -> Iterator[str]:
    """Return the plans as lines for `sh -e` run as root, in order. bridges: the existing ones of Open vSwitch.

    The executors query the QoS rows of a port and the contents of a trunk bridge as they run; so do these lines.
    """
    existing = set(bridges)
    for steps in plans:
        for step in steps:
            if role_of(step) is Role.LINK:
                yield from (_in_shell(line) for line in link_lines(step))
            elif isinstance(step.part, IvsPort):
                yield str(ivs_line(step))
            elif isinstance(step, Replace):
                yield from _replace_lines(step)
            else:
                yield from _ovs_lines(step, existing, settings)
                existing |= bridges_to_create([step], existing, settings.creates).keys()
        bridge_of = {step.part.name: getattr(step.part, "bridge", None) for step in steps if isinstance(step, Delete)}
        yield from (_trunk_line(shlex.quote(name)) for name in removable_trunks(steps, bridge_of, settings))


def _ovs_lines(step: Step, existing: Collection[str], settings: Settings) -> list[str]:
    """Return the transaction of a step, and the deletion of QoS rows that belongs to it."""
    words = []
    for name, kind in bridges_to_create([step], existing, settings.creates).items():
        words += ["--", "add-br", name]
        words += ["--", "set", "Bridge", name, f"datapath_type={kind}"] if kind else []
    words += switch_words(step, socket_dir=settings.vhost_socket_dir)
    line = shlex.join(["ovs-vsctl", *words[1:]])
    qos = [_qos_line(name) for name in ports_with_qos([step])]
    return [line, *qos] if isinstance(step, Delete) else [*qos, line]


def _replace_lines(step: Replace) -> Iterator[str]:
    """Return the transaction that replaces a row. Its columns are read when the script runs."""
    old, new, bridge = step.before.name, step.after.name, step.after.bridge

    def copied(table: str, columns: Iterable[str]) -> str:
        return " ".join(f'"{column}=$(ovs-vsctl get {table} {old} {column})"' for column in columns)

    ids = _keys("external_ids", ids_of(step.after))
    gone = [key for key in IDS.values() if key not in ids_of(step.after)]
    cleared = f"-- remove Interface {new} external_ids {' '.join(gone)} " if gone else ""
    yield (
        f"ovs-vsctl del-port {bridge} {old} -- add-port {bridge} {new} "
        f"-- set Interface {new} {copied('Interface', (*INTERFACE, 'external_ids'))} "
        f'"ofport_request=$(ovs-vsctl get Interface {old} ofport)" '
        f"-- set Interface {new} {shlex.join(ids)} {cleared}"
        f"-- set Port {new} {copied('Port', PORT)}"
    )
    yield (
        f"for row in $(ovs-vsctl --bare --columns=_uuid find QoS external_ids:id={qos_id_of(old)}); do "
        f"ovs-vsctl set QoS $row external_ids:id={qos_id_of(new)}; done"
    )


def _qos_line(name: str) -> str:
    """Return the line that deletes the QoS rows of a port, unless another port references them."""
    rows = f"ovs-vsctl --bare --columns=_uuid find QoS external_ids:id={qos_id_of(name)}"
    holders = "ovs-vsctl --bare --columns=name find Port qos=$row"
    return f'for row in $({rows}); do [ "$({holders})" ] || ovs-vsctl --if-exists destroy QoS $row; done'


def _trunk_line(bridge: str) -> str:
    """Return the line that removes a trunk bridge if nothing is left in it but Neutron's patch ports."""
    patterns = "|".join(f"{prefix}*" for prefix in PATCH_PREFIXES)
    # A bond has more than one interface, or one of another name.
    is_alone = '[ "$(ovs-vsctl get Port $port interfaces)" = "[$(ovs-vsctl get Interface $port _uuid)]" ]'
    is_patch = f'[ "$(ovs-vsctl get Interface $port type)" = {PATCH} ]'
    others = f"case $port in {patterns}) {is_alone} && {is_patch} || echo $port;; *) echo $port;; esac"
    return (
        f'[ "$(for port in $(ovs-vsctl list-ports {bridge}); do {others}; done)" ] || '
        f"ovs-vsctl --if-exists del-br {bridge}"
    )


def _in_shell(line: Line) -> str:
    """Return a line that ends `sh -e` only if the executor would report a failure."""
    return f"{text_of(line)} || true" if isinstance(line, Command) and line.absent else text_of(line)
