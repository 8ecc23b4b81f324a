"""Devices as the library pyroute2 decodes them: an independent reader, for comparison with ours."""

from __future__ import annotations

from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from hybridvif.executors.netlink.devices import ADDR_GEN_MODES, BRIDGE, FLAGS, IPV4, LINK, PORT, Device
from hybridvif.model.errors import escaped
from hybridvif.model.parts import ANYBODY

IFF_RUNNING, IFF_TUN, NO_COUNTERS = 0x40, 1, 1 << 3
QUEUES = ("IFLA_TUN_NUM_QUEUES", "IFLA_TUN_NUM_DISABLED_QUEUES")
_NLA_MAP = ifinfmsg.ifinfo.data_map["bridge_slave"].nla_map
_PORT_NAMES = {name: _NLA_MAP[flag.number][0] for name, flag in PORT.items()}


def dumped() -> list[Device]:
    """Return all devices of this network namespace."""
    with IPRoute(groups=0, strict_check=True) as ipr:
        return [_device_of(message) for message in ipr.link("dump", ext_mask=NO_COUNTERS)]


def _device_of(message: Any) -> Device:
    get, flags = message.get_attr, message["flags"]
    kind = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or ""
    data = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
    values: dict[str, Any] = {name: flags & row.number for name, row in FLAGS.items()}
    values |= {name: get(f"IFLA_{row.key.upper()}") for name, row in LINK.items()}
    values["alias"] = _text(values["alias"])
    if kind == "bridge":
        values |= {name: data.get_attr(f"IFLA_BR_{row.key.upper()}") for name, row in BRIDGE.items()}
    families = get("IFLA_AF_SPEC")
    ipv4, ipv6 = (families.get_attr(family) if families else None for family in ("AF_INET", "AF_INET6"))
    values |= {name: ipv4[name] for name in IPV4} if ipv4 else {}
    if ipv6 is not None:
        mode, settings = ipv6.get_attr("IFLA_INET6_ADDR_GEN_MODE"), ipv6.get_attr("IFLA_INET6_CONF")
        values["disable_ipv6"] = settings["disable_ipv6"] if settings else None
        values["addr_gen_mode"] = None if mode is None else dict(enumerate(ADDR_GEN_MODES)).get(mode, str(mode))
    is_member = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_KIND") == "bridge"
    port = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA") if is_member else None
    flags_of_port = {name: port.get_attr(word) for name, word in _PORT_NAMES.items()} if port else {}
    names = get("IFLA_PROP_LIST")
    tun = data if kind == "tun" else None
    owner = tun.get_attr("IFLA_TUN_OWNER") if tun else None
    running = FLAGS["up"].number | IFF_RUNNING
    return Device(
        index=message["index"],
        name=_text(get("IFLA_IFNAME")),
        kind=kind,
        carrier=bool(get("IFLA_CARRIER")),
        runs=bool(get("IFLA_CARRIER")) and flags & running == running,
        values=values,
        master=get("IFLA_MASTER") or 0,
        # A link in another namespace has an index of that namespace, which may be another device here.
        peer=get("IFLA_LINK") or 0 if kind == "veth" and get("IFLA_LINK_NETNSID") is None else 0,
        altnames=tuple(map(_text, names.get_attrs("IFLA_ALT_IFNAME"))) if names else (),
        port={name: value for name, value in flags_of_port.items() if value is not None},
        owner=ANYBODY if owner is None else owner,
        is_tap=not tun or tun.get_attr("IFLA_TUN_TYPE") != IFF_TUN,
        queues=sum(tun.get_attr(key) or 0 for key in QUEUES) if tun else 0,
    )


def _text(value: str | bytes | None) -> str:
    """Return a name or an alias. pyroute2 returns bytes if they are not UTF-8."""
    text = value.rstrip(b"\0").decode(errors="surrogateescape") if isinstance(value, bytes) else value
    return escaped(text or "")
