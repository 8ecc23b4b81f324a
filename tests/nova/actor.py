"""Nova's own VIF driver, started as by nova-compute, with one line of JSON per command.

python actor.py NAME_OF_THE_INSTANCE --config-file nova.conf

{"do": "plug", "ports": [{...}]} -> {"ok": true, ...} or {"ok": false, "raised": ..., "text": ...}
"""

from __future__ import annotations

import sys
import warnings

warnings.simplefilter("ignore")
# The first statement of nova/cmd/compute.py: nothing else may be imported earlier.
from nova import monkey_patch

monkey_patch.patch(backend="threading")

import json
import shlex
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import nova.conf
import os_vif
from nova import config, objects, utils
from nova.network import model
from nova.virt.libvirt import driver, vif
from oslo_log import log
from oslo_privsep import priv_context

CONF = nova.conf.CONF


def main() -> None:
    """Start as nova/cmd/compute.py does, without the services, and answer until the end of the input."""
    config.parse_args(sys.argv)
    log.setup(CONF, "nova")
    priv_context.init(root_helper=shlex.split(utils.get_root_helper()))
    objects.register_all()
    os_vif.initialize()
    libvirt = driver.LibvirtDriver.__new__(driver.LibvirtDriver)
    libvirt.vif_driver = vif.LibvirtGenericVIFDriver()
    for line in sys.stdin:
        print(json.dumps(answered(libvirt, json.loads(line))), flush=True)


def answered(libvirt: Any, order: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"ok": True, **done(libvirt, order["do"], order.get("ports", []))}
    except Exception as error:
        return {"ok": False, "raised": type(error).__name__, "text": str(error)}


def done(libvirt: Any, verb: str, ports: list[dict[str, Any]]) -> dict[str, Any]:
    """Execute a command for one port after another, by LibvirtDriver's own loop, or in threads."""
    vifs = [vif_of(port) for port in ports]
    instance = instance_of(ports[0]["instance_id"]) if ports else None
    match verb:
        case "tell":
            plugin = type(os_vif._EXT_MANAGER["ovs"].obj)
            return {
                "ovs": f"{plugin.__module__}.{plugin.__qualname__}",
                "patched": monkey_patch.is_patched(),
                "eventlet": "eventlet" in sys.modules,
                "finders": [type(finder).__name__ for finder in sys.meta_path],
                "threads": threading.active_count(),
            }
        case "define":
            assert instance is not None
            arguments = instance, vifs[0], objects.ImageMeta.from_dict({}), instance.flavor, "qemu"
            return {"xml": libvirt.vif_driver.get_config(*arguments).to_xml()}
        case "plug_vifs" | "unplug_vifs":
            getattr(libvirt, verb)(instance, model.NetworkInfo(vifs))
        case "plug" | "unplug":
            with ThreadPoolExecutor(len(vifs)) as pool:
                list(pool.map(lambda each: getattr(libvirt.vif_driver, verb)(instance, each), vifs))
        case _:
            raise ValueError(verb)
    return {}


def instance_of(uuid: str) -> Any:
    flavor = objects.Flavor(vcpus=1, memory_mb=1, root_gb=1, extra_specs={})
    return objects.Instance(
        id=1, uuid=uuid, project_id="project", display_name="vm", flavor=flavor, system_metadata={}, image_ref=""
    )


def vif_of(port: dict[str, Any]) -> Any:
    """Return a port as Neutron's API describes it (nova/network/neutron.py). native: not with iptables_hybrid."""
    network = model.Network(
        id="91d3aa02-4100-4c00-8000-00000000000a",
        bridge="br-int",
        label="net",
        mtu=port["mtu"],
        tenant_id="project",
        subnets=[
            model.Subnet(cidr="10.0.0.0/24", dns=[], gateway=model.IP(address="10.0.0.254", type="gateway"), routes=[])
        ],
    )
    details = {
        "port_filter": True,
        "ovs_hybrid_plug": not port["native"],
        "bridge_name": "br-int",
        "datapath_type": "netdev",
        "connectivity": "l2",
        "bound_drivers": {"0": "openvswitch"},
    }
    return model.VIF(
        id=port["id"],
        address=port["mac"],
        network=network,
        type=model.VIF_TYPE_OVS,
        details=details,
        devname=f"tap{port['id']}"[:14],
        ovs_interfaceid=port["id"],
        vnic_type="normal",
        profile={},
        active=True,
        preserve_on_delete=False,
    )


if __name__ == "__main__":
    main()
