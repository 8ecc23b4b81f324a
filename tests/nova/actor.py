"""Nova's own VIF driver, started as by nova-compute, with one line of JSON per command.

    python actor.py --config-file nova.conf

{"do": "plug", "ports": [{...}]} -> {"ok": true, ...} or {"ok": false, "raised": ..., "text": ...}

tell                    the plugin and the threading mode
plug, unplug            all ports at once, each in a thread
plug_vifs, unplug_vifs  LibvirtDriver's own loops
get_config              the XML of the interfaces for libvirt
hard_reboot             the calls of a hard reboot, in their order
pre_live_migration      the calls at the destination of a live migration
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
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import nova.conf
import os_vif
from nova import config, objects, utils
from nova.network import model
from nova.objects import migrate_data
from nova.virt.libvirt import driver, vif
from oslo_log import log
from oslo_privsep import priv_context

CONF = nova.conf.CONF
IMAGE = objects.ImageMeta.from_dict({"properties": {"hw_vif_model": "virtio"}})


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
    """Execute a command and return its result with its time."""
    start = time.monotonic()
    try:
        response = {"ok": True, **done(libvirt, order["do"], order.get("ports", []))}
    except Exception as error:
        response = {"ok": False, "raised": type(error).__name__, "text": str(error)}
    return {**response, "seconds": round(time.monotonic() - start, 3)}


def done(libvirt: Any, verb: str, ports: list[dict[str, Any]]) -> dict[str, Any]:
    """Execute a command."""
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
            }
        case "get_config":
            return {"xml": [config_of(libvirt, instance, each) for each in vifs]}
        case "plug_vifs" | "unplug_vifs":
            getattr(libvirt, verb)(instance, model.NetworkInfo(vifs))
        case "plug" | "unplug":
            with ThreadPoolExecutor(len(vifs)) as pool:
                list(pool.map(lambda each: getattr(libvirt.vif_driver, verb)(instance, each), vifs))
        case "hard_reboot":
            # LibvirtDriver._hard_reboot: cleanup, then the XML, then the VIFs, then the guest.
            libvirt._unplug_vifs(instance, model.NetworkInfo(vifs), ignore_errors=True)
            xml = [config_of(libvirt, instance, each) for each in vifs]
            libvirt.plug_vifs(instance, model.NetworkInfo(vifs))
            return {"xml": xml}
        case "pre_live_migration":
            data = migrate_data.LibvirtLiveMigrateData(vifs=[move_of(each) for each in vifs])
            libvirt._pre_live_migration_plug_vifs(instance, model.NetworkInfo([]), data)
        case _:
            raise ValueError(verb)
    return {}


def config_of(libvirt: Any, instance: Any, vif: Any) -> str:
    """Return the XML of an interface."""
    return str(libvirt.vif_driver.get_config(instance, vif, IMAGE, instance.flavor, "qemu").to_xml())


def move_of(vif: Any) -> Any:
    """Return the binding of a port at the destination."""
    return migrate_data.VIFMigrateData(
        port_id=vif["id"],
        vnic_type=vif["vnic_type"],
        vif_type=vif["type"],
        vif_details=vif["details"],
        profile={},
        host="destination",
        source_vif=vif,
    )


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
