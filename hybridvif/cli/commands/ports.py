"""The ports of this host as a file for -F: hybridvif ports, as Neutron has bound them, and export, as plugged.

Neutron is read with openstacksdk. The daemon never gets the credentials. A plugged port is described by its rows and
devices. It is left out if they do not show all of its fields: a file with an assumed value would plug another port.
"""

from __future__ import annotations

import argparse
import json
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hybridvif.cli import DIFFERENCES
from hybridvif.cli.options import DOCUMENT, Command, UsageError, argument, connected, flag
from hybridvif.cli.ports import PORT_HELP, PortRequest, entry_of, found_ids, observe_all, requested_ports
from hybridvif.cli.terminal import Answer
from hybridvif.engine.any_host import AnyHost
from hybridvif.model.errors import InvalidInput, PreconditionError
from hybridvif.model.names import DATAPATH_TYPES, NONE, is_trunk_bridge
from hybridvif.model.parts import DEAD_VLAN, NativePort
from hybridvif.model.port import Port
from hybridvif.model.settings import Settings

if TYPE_CHECKING:
    from hybridvif.cli.output.topology import PluggedPort

DEFAULTS = {"api_timeout": 60, "connect_retries": 2}
"""Options of clouds.yaml, if it has others. A server may close an idle connection just when it is used again."""
IDS_PER_REQUEST = 100
"""Web servers limit the length of a URL, often to 8 KiB."""


class CloudError(PreconditionError):
    """Neutron cannot be read: no openstacksdk, no connection, or no authorization."""

    code = "cloud"


# -- Neutron -----------------------------------------------------------------------------------------------------------


def run_ports(args: argparse.Namespace) -> Answer:
    """Read the ports from Neutron."""
    if not args.from_neutron:
        raise UsageError("ports needs a source; give --from-neutron")
    return _answer_with_file([dict(request.fields) for request in ports_from_neutron(args)[0]])


def _answer_with_file(ports: Sequence[Mapping[str, object]], **document: object) -> Answer:
    """Create an answer with these entries. Its text is a list in JSON, as -F takes it."""
    return Answer(document={"ports": ports, **document}, drawings={"text": lambda: f"{json.dumps(ports, indent=2)}\n"})


def ports_from_neutron(args: argparse.Namespace) -> tuple[list[PortRequest], list[str]]:
    """Return the hybrid ports of a host and the ids of its other ports, and write a note about each skipped port.

    Raises CloudError, and InvalidInput for a host that Neutron does not know.
    """
    if find_spec("openstack") is None:
        raise CloudError("openstacksdk, which reads from Neutron, is not installed; pip install 'hybridvif[neutron]'")
    from keystoneauth1.exceptions import ClientException
    from openstack.config import OpenStackConfig
    from openstack.connection import Connection
    from openstack.exceptions import SDKException
    from yaml import YAMLError

    requests, others = list[PortRequest](), list[str]()
    try:
        region = OpenStackConfig(override_defaults=DEFAULTS).get_one(cloud=args.os_cloud)
        with Connection(config=region) as cloud:
            for binding in _bindings(cloud.network, args.host or socket.gethostname()):
                request = None
                try:
                    request = _request_of(*binding)
                except InvalidInput as error:
                    # A user of the cloud chooses some of the values. They must not block the other ports.
                    args.terminal.write_note(f"warning: skipped in Neutron: {error}", "yellow")
                if request:
                    requests.append(request)
                else:
                    others.append(binding[0].id)
    except (SDKException, ClientException, YAMLError, OSError) as error:
        raise CloudError(f"Neutron cannot be read: {' '.join(str(error).split())}") from error
    return requests, others


def _request_of(port: Any, vif_type: str, details: Mapping[str, Any], mtu: int | None) -> PortRequest | None:
    """Return a port, or None if it is not hybrid. Raises InvalidInput if it cannot be plugged.

    The fields are those of Nova and os-vif (nova/network/neutron.py, nova/network/os_vif_util.py).
    """
    if not port.device_id or vif_type in ("unbound", "binding_failed"):
        raise InvalidInput(
            f"port {port.id}: not bound to a VM here (device_id {port.device_id!r}, vif_type {vif_type})"
        )
    if vif_type != "ovs" or not details.get("ovs_hybrid_plug"):
        return None
    datapath_type = details.get("datapath_type") or "system"
    fields = {
        "id": port.id,
        "mac": port.mac_address,
        "instance_id": port.device_id,
        "mtu": mtu,
        "bridge": (details.get("bridge_name") or "br-int")[:14],
        "datapath_type": datapath_type,
    }
    # As in os-vif: no QoS row on a userspace datapath.
    return PortRequest(fields=fields if datapath_type == "system" else {**fields, "qos_type": NONE})


def _bindings(network: Any, host: str) -> Iterator[tuple[Any, str, Mapping[str, Any], int | None]]:
    """Yield (port, vif_type, vif_details, MTU) of VMs' ports on a host. Raises InvalidInput, CloudError."""
    ports = list(network.ports(**{"binding:host_id": host}))
    if not all(port.binding_host_id for port in ports):
        raise CloudError("Neutron does not show bindings to this user; use one with the role admin or service")
    if not ports and not list(network.agents(host=host)):
        raise InvalidInput(f"host {host!r} has neither agent nor port in Neutron; give the name that its agent uses")
    # The DHCP and L3 agents plug their own ports, and a subport of a trunk has no devices.
    ports = [port for port in ports if not port.device_owner or port.device_owner.startswith("compute:")]
    ids, mtus = sorted({port.network_id for port in ports}), dict[str, int | None]()
    for start in range(0, len(ids), IDS_PER_REQUEST):
        mtus |= {entry.id: entry.mtu for entry in network.networks(id=ids[start : start + IDS_PER_REQUEST])}
    for port in ports:
        vif_type, details = port.binding_vif_type, port.binding_vif_details
        if port.binding_host_id != host:
            # The destination of a live migration. The port itself shows the binding to the source.
            binding = next(iter(network.port_bindings(port, host=host)), None)
            vif_type, details = (binding.vif_type, binding.vif_details) if binding else ("unbound", {})
        yield port, vif_type, details or {}, mtus.get(port.network_id)


# -- plugged ports -----------------------------------------------------------------------------------------------------


def run_export(args: argparse.Namespace) -> Answer:
    """Describe the ports."""
    requests = requested_ports(args, optional=True)
    with connected(args) as host:
        return export(host, found_ids(requests, host, exist=True))


def export(host: AnyHost, port_ids: Collection[str] = ()) -> Answer:
    """Return the answer for these ports, or for all. Ports that cannot be described are left out with a warning."""
    from hybridvif.cli.output.report import sentences_about_skipped
    from hybridvif.cli.output.topology import plugged_ports

    seen = observe_all(host)
    entries, skipped = [], []
    for port in plugged_ports(seen, port_ids=port_ids):
        if port_ids and port.port_id not in port_ids:
            continue
        if reason := port.conflict or (port.inferred.unknown_text if port.inferred.unknown else ""):
            skipped.append({"key": port.key, "reason": reason})
        else:
            entries.append(entry_of(_port_of(port, host.settings)))
    return replace(
        _answer_with_file(entries, command="export", simulated=seen.facts.simulated, skipped=skipped),
        warnings=sentences_about_skipped("exported", skipped),
        exit_code=DIFFERENCES if skipped else 0,
    )


def _port_of(port: PluggedPort, settings: Settings) -> Port:
    """Return the port to plug again. A bridge that plug may have to create has its datapath type."""
    row, bridge, inferred = port.row, port.bridge, port.inferred.port
    if bridge is not None and bridge.nf_call_iptables and bridge.nf_call_ip6tables:
        inferred = replace(inferred, call_iptables=True)
    if row is None:
        return inferred
    datapath = port.facts.switches.get(row.bridge, "") if settings.creates(row.bridge) else ""
    return replace(
        inferred,
        isolate=port.fact.tag == DEAD_VLAN and not is_trunk_bridge(row.bridge),
        datapath_type=datapath if datapath in DATAPATH_TYPES else "",
        mtu=port.mtu if isinstance(row, NativePort) and port.mtu else inferred.mtu,
    )


_CLOUD = "with --from-neutron: the entry of clouds.yaml (default: OS_CLOUD, or the other OS_ variables)"
NEUTRON_OPTIONS = (
    flag("--from-neutron", "the hybrid ports that Neutron has bound to this host"),
    argument("--host", metavar="NAME", text="with --from-neutron: this host in Neutron (default: hostname)"),
    argument("--os-cloud", metavar="NAME", text=_CLOUD),
)
"""The options of `hybridvif ports`, which reconcile has too."""
COMMANDS = {
    "ports": Command(run_ports, DOCUMENT, NEUTRON_OPTIONS),
    "export": Command(
        run_export,
        DOCUMENT,
        (argument("port", nargs="*", metavar="PORT", text=f"these ports only; {PORT_HELP}"),),
        "Exits with 3 if a port cannot be described. It is left out, and named on stderr.",
    ),
}
