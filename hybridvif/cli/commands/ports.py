"""hybridvif ports: the desired ports of this host, as a file for -F.

They are read from Neutron with openstacksdk. The daemon never gets the credentials.
"""

from __future__ import annotations

import argparse
import json
import socket
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from hybridvif.cli.options import UsageError
from hybridvif.cli.ports import PortRequest
from hybridvif.cli.stdio import print_text
from hybridvif.model.errors import InvalidInput, PreconditionError
from hybridvif.model.names import NONE

DEFAULTS = {"api_timeout": 60, "connect_retries": 2}
"""Options of clouds.yaml, if it has others. A server may close an idle connection just when it is used again."""
IDS_PER_REQUEST = 100
"""Web servers limit the length of a URL, often to 8 KiB."""


class CloudError(PreconditionError):
    """Neutron cannot be read: no openstacksdk, no connection, or no authorization."""

    code = "cloud"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hybridvif ports`, which reconcile has too."""
    parser.add_argument(
        "--from-neutron", action="store_true", help="the hybrid ports that Neutron has bound to this host"
    )
    parser.add_argument("--host", metavar="NAME", help="with --from-neutron: this host in Neutron (default: hostname)")
    text = "with --from-neutron: the entry of clouds.yaml (default: OS_CLOUD, or the other OS_ variables)"
    parser.add_argument("--os-cloud", metavar="NAME", help=text)


def run(args: argparse.Namespace) -> int:
    """Print the ports as a list in JSON."""
    if not args.from_neutron:
        raise UsageError("ports needs a source; give --from-neutron")
    print_text(json.dumps([dict(request.fields) for request in ports_from_neutron(args)], indent=2) + "\n")
    return 0


def ports_from_neutron(args: argparse.Namespace) -> list[PortRequest]:
    """Return the hybrid ports of a host, and write a note about each skipped port.

    Raises CloudError, and InvalidInput for a host that Neutron does not know.
    """
    if find_spec("openstack") is None:
        raise CloudError("openstacksdk, which reads from Neutron, is not installed; pip install 'hybridvif[neutron]'")
    from keystoneauth1.exceptions import ClientException
    from openstack.config import OpenStackConfig
    from openstack.connection import Connection
    from openstack.exceptions import SDKException
    from yaml import YAMLError

    requests = []
    try:
        region = OpenStackConfig(override_defaults=DEFAULTS).get_one(cloud=args.os_cloud)
        with Connection(config=region) as cloud:
            for binding in _bindings(cloud.network, args.host or socket.gethostname()):
                try:
                    requests.append(_request_of(*binding))
                except InvalidInput as error:
                    # A user of the cloud chooses some of the values. They must not block the other ports.
                    args.terminal.write_note(f"warning: skipped in Neutron: {error}", "yellow")
    except (SDKException, ClientException, YAMLError, OSError) as error:
        raise CloudError(f"Neutron cannot be read: {' '.join(str(error).split())}") from error
    return [request for request in requests if request]


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
