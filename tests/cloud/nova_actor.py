"""Nova's VIF driver as in tests/nova/actor.py, with more commands.

    python nova_actor.py NAME_OF_THE_INSTANCE --config-file nova.conf

get_config            the XML of the interface for libvirt
hard_reboot           the calls of a hard reboot, in their order
pre_live_migration    the calls at the destination of a live migration
"""

from __future__ import annotations

from tests.nova import actor  # the first import, because it patches as nova-compute does

# isort: split
import sys
import time
from typing import Any

from nova import objects
from nova.network import model
from nova.objects import migrate_data

IMAGE = objects.ImageMeta.from_dict({"properties": {"hw_vif_model": "virtio"}})


def done(libvirt: Any, verb: str, ports: list[dict[str, Any]]) -> dict[str, Any]:
    """Execute a command of this program, or one of tests/nova/actor.py."""
    instance = actor.instance_of(ports[0]["instance_id"]) if ports else None
    vifs = [actor.vif_of(port) for port in ports]
    match verb:
        case "get_config":
            return {"xml": [config_of(libvirt, instance, vif) for vif in vifs]}
        case "hard_reboot":
            # LibvirtDriver._hard_reboot: cleanup, then the XML, then the VIFs, then the guest.
            libvirt._unplug_vifs(instance, model.NetworkInfo(vifs), ignore_errors=True)
            xml = [config_of(libvirt, instance, vif) for vif in vifs]
            libvirt.plug_vifs(instance, model.NetworkInfo(vifs))
            return {"xml": xml}
        case "pre_live_migration":
            moves = [move_of(vif) for vif in vifs]
            data = migrate_data.LibvirtLiveMigrateData(vifs=moves)
            libvirt._pre_live_migration_plug_vifs(instance, model.NetworkInfo([]), data)
            return {}
    return standard(libvirt, verb, ports)


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


def respond(libvirt: Any, order: dict[str, Any]) -> dict[str, Any]:
    """Execute a command and add its time."""
    start = time.monotonic()
    try:
        response = {"ok": True, **done(libvirt, order["do"], order.get("ports", []))}
    except Exception as error:  # noqa: BLE001 - all errors are for the test
        response = {"ok": False, "raised": type(error).__name__, "text": str(error)}
    return {**response, "seconds": round(time.monotonic() - start, 3)}


if __name__ == "__main__":
    standard = actor.done
    actor.answered = respond
    sys.argv[0] = "nova-compute"
    actor.main()
