"""A stand-in for nova-compute: a program in the sandbox that calls os-vif, with one line of JSON per call.

python actor.py CONFIG [eventlet|asyncio]

{"do": "plug", "vif": {...}} -> {"ok": true} or {"raised": ..., "text": ..., "cause": ..., "status": ...}
"""

from __future__ import annotations

import sys

STYLE = sys.argv[2] if len(sys.argv) > 2 else ""
if STYLE == "eventlet":
    import warnings

    warnings.simplefilter("ignore")
    import eventlet

    eventlet.monkey_patch()

import asyncio
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import os_vif
from os_vif import objects
from oslo_config import cfg

Response = dict[str, Any]


def main() -> None:
    cfg.CONF(args=["--config-file", sys.argv[1]], project="nova")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    os_vif.initialize()
    for line in sys.stdin:
        order = json.loads(line)
        response = asyncio.run(call_in_loop(order)) if STYLE == "asyncio" else respond(order)
        print(json.dumps(response), flush=True)


async def call_in_loop(order: dict[str, Any]) -> Response:
    """Make a call inside an event loop: in the loop, or in a thread next to it."""
    if order.get("in_thread"):
        return await asyncio.to_thread(respond, order)
    return respond(order)


def respond(order: dict[str, Any]) -> Response:
    match order["do"]:
        case "initialize":
            os_vif.initialize(reset=True)
        case "class":
            return {"ok": True, "class": path_of(os_vif._EXT_MANAGER[order["plugin"]].obj)}
        case "describe":
            return {"ok": True, "plugins": os_vif.host_info().obj_to_primitive()}
        case "threads":
            return {"ok": True, "threads": threading.active_count()}
        case "many":
            with ThreadPoolExecutor(8) as pool:
                return {"ok": True, "responses": list(pool.map(call, order["orders"]))}
        case _ if order.get("clock"):
            return call_with_clock(order)
        case _:
            return call(order)
    return {"ok": True}


def call_with_clock(order: dict[str, Any]) -> Response:
    """Make a call. Return also the longest time in seconds in which another thread, or greenlet, did not run."""
    ticks, ended = [time.monotonic()], threading.Event()

    def tick() -> None:
        while not ended.is_set():
            time.sleep(0.01)
            ticks.append(time.monotonic())

    clock = threading.Thread(target=tick)
    clock.start()
    response = call(order)
    ticks.append(time.monotonic())
    ended.set()
    clock.join()
    return {**response, "longest": max(after - before for before, after in pairwise(ticks))}


def call(order: dict[str, Any]) -> Response:
    try:
        getattr(os_vif, order["do"])(vif_of(order["vif"]), instance_of(order["vif"]))
    except Exception as error:
        cause = getattr(error, "kwargs", {}).get("err")
        report = getattr(cause, "report", None)
        return {
            "ok": False,
            "raised": path_of(error),
            "text": str(error),
            "cause": path_of(cause),
            "message": str(cause),
            "status": report.status.value if report else None,
        }
    return {"ok": True}


def path_of(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def instance_of(fields: dict[str, Any]) -> Any:
    return objects.instance_info.InstanceInfo(name="demo", uuid=fields["instance_id"])


def vif_of(fields: dict[str, Any]) -> Any:
    """Return the VIF that Nova creates for a Neutron port (nova/network/os_vif_util.py)."""
    network = objects.network.Network(
        id="437c6db5-4e6f-4b43-b64b-ed6a11ee5ba7",
        bridge=fields.get("bridge", "br-int"),
        subnets=objects.subnet.SubnetList(),
    )
    if fields.get("mtu"):
        network.mtu = fields["mtu"]
    key = fields["id"][:11]
    profile = objects.vif.VIFPortProfileOpenVSwitch(
        interface_id=fields.get("interface_id", fields["id"]), datapath_type=fields.get("datapath_type", "netdev")
    )
    if "create_port" in fields:
        profile.create_port = fields["create_port"]
    for flag in ("create_tap", "multiqueue"):
        if flag in fields:
            setattr(profile, flag, fields[flag])
    shared = {
        "id": fields["id"],
        "address": fields["mac"],
        "network": network,
        "plugin": fields["plugin"],
        "port_profile": profile,
    }
    match fields.get("kind", "bridge"):
        case "bridge":
            return objects.vif.VIFBridge(
                vif_name=f"tap{key}", bridge_name=fields.get("bridge_name", f"qbr{key}"), **shared
            )
        case "ovs":
            return objects.vif.VIFOpenVSwitch(vif_name=f"tap{key}", bridge_name="br-int", **shared)
        case "vhostuser":
            return objects.vif.VIFVHostUser(
                vif_name=f"vhu{key}", path=f"/run/openvswitch/vhu{key}", mode=fields["mode"], **shared
            )
        case "hostdevice":
            return objects.vif.VIFHostDevice(dev_type="ethernet", dev_address=fields["pci"], **shared)
        case "direct":
            return objects.vif.VIFDirect(mode="vepa", vif_name=f"tap{key}", **shared)
    raise ValueError(fields)


if __name__ == "__main__":
    main()
