"""What is on a host, read with `ip` and `ovs-vsctl` alone: a judge that shares no line with what it judges."""

from __future__ import annotations

import json
from typing import Any

from tests.functional.conftest import Lab

_SEEN = """
ip -d -j link; echo '#'
ovs-vsctl --timeout=5 --format=json --columns=name,ports list Bridge; echo '#'
ovs-vsctl --timeout=5 --format=json --columns=_uuid,name,tag list Port; echo '#'
ovs-vsctl --timeout=5 --format=json --columns=name,type,options,external_ids,ofport,error list Interface; echo '#'
cat /proc/net/packet; echo '#'
for d in /sys/class/net/q*; do
    [ -e $d ] || continue
    n=${d##*/}
    cd /proc/sys/net/ipv4/conf/$n
    echo $n $(cat /proc/sys/net/ipv6/conf/$n/disable_ipv6 arp_ignore arp_announce forwarding proxy_arp rp_filter)
done
"""
_ONCE_PATCH = "No usable peer"
_BRIDGE_OPTIONS = ("forward_delay", "ageing_time", "stp_state", "mcast_snooping")

Likeness = dict[str, Any]


def likeness(lab: Lab) -> Likeness:
    """Every link and every row by name, without what no two plugs have alike: indexes, uuids, a veth's MACs."""
    links, bridges, ports, interfaces, sockets, sysctls = lab.sh(_SEEN).split("#\n")
    devices = {link["ifname"]: link for link in json.loads(links)}
    switched = {line.split()[4] for line in sockets.splitlines()[1:]}
    settings = {line.split()[0]: line.split()[1:] for line in sysctls.splitlines()}
    homes = {uuid: row["name"] for row in _rows(bridges) for uuid in _all(row["ports"])}
    seen = {f"link {name}": _link(link, settings.get(name)) for name, link in devices.items()}
    for row in _rows(ports):
        seen[f"port {row['name']}"] = {"bridge": homes.get(row["_uuid"][1]), "tag": row["tag"]}
    for row in _rows(interfaces):
        ofport = row.pop("ofport")
        device = devices.get(row["name"])
        # ovs-vswitchd keeps the error of a patch port that the row was for a moment, however well it is (seen in 3.1).
        errors = [error for error in _all(row.pop("error")) if _ONCE_PATCH not in error]
        row["taken"] = isinstance(ofport, int) and ofport > 0 and not errors
        row["realized"] = device is not None and str(device["ifindex"]) in switched
        row["external_ids"] = dict(row["external_ids"][1])
        seen[f"interface {row['name']}"] = row
    return seen


def _link(link: dict[str, Any], settings: list[str] | None) -> dict[str, Any]:
    about = link.get("linkinfo", {})
    kept = {key: link.get(key) for key in ("mtu", "master", "ifalias", "group", "link", "promiscuity")}
    kept["up"] = "UP" in link["flags"]
    kept["promisc"] = "PROMISC" in link["flags"]
    kept["arp"] = "NOARP" not in link["flags"]
    kept["settings"] = settings
    kept["kind"] = about.get("info_kind")
    if kept["kind"] == "bridge":
        kept |= {key: about["info_data"].get(key) for key in _BRIDGE_OPTIONS}
        kept["addrgenmode"] = link.get("inet6_addr_gen_mode")
    return kept


def _rows(document: str) -> list[dict[str, Any]]:
    table = json.loads(document)
    return [dict(zip(table["headings"], row, strict=True)) for row in table["data"]]


def _all(value: Any) -> list[Any]:
    """The members of an OVSDB set, which is a lone value where there is one."""
    if isinstance(value, list) and value[0] == "set":
        return [one[1] if isinstance(one, list) else one for one in value[1]]
    return [value[1] if isinstance(value, list) else value]


def differences(was: Likeness, now: Likeness) -> list[str]:
    """What differs, a line each."""
    return [
        f"{name}: {was.get(name)} -> {now.get(name)}" for name in sorted({*was, *now}) if was.get(name) != now.get(name)
    ]
