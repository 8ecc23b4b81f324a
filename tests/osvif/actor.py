"""What stands in for nova-compute: a program in the sandbox that calls os-vif as it is told, a line of JSON a call.

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

Answer = dict[str, Any]


def main() -> None:
    cfg.CONF(args=["--config-file", sys.argv[1]], project="nova")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    os_vif.initialize()
    for line in sys.stdin:
        order = json.loads(line)
        answer = asyncio.run(inside_a_loop(order)) if STYLE == "asyncio" else answered(order)
        print(json.dumps(answer), flush=True)


async def inside_a_loop(order: dict[str, Any]) -> Answer:
    """Half of the calls block the loop, half are made beside it."""
    if order.get("beside"):
        return await asyncio.to_thread(answered, order)
    return answered(order)


def answered(order: dict[str, Any]) -> Answer:
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
                return {"ok": True, "answers": list(pool.map(called, order["orders"]))}
        case _ if order.get("clock"):
            return beside_a_clock(order)
        case _:
            return called(order)
    return {"ok": True}


def beside_a_clock(order: dict[str, Any]) -> Answer:
    """The call, and for how many seconds at most another thread of this program, or a green one, did not run."""
    ticks, ended = [time.monotonic()], threading.Event()

    def tick() -> None:
        while not ended.is_set():
            time.sleep(0.01)
            ticks.append(time.monotonic())

    clock = threading.Thread(target=tick)
    clock.start()
    answer = called(order)
    ticks.append(time.monotonic())
    ended.set()
    clock.join()
    return {**answer, "longest": max(after - before for before, after in pairwise(ticks))}


def called(order: dict[str, Any]) -> Answer:
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
            "sentence": str(cause),
            "status": report.status.value if report else None,
        }
    return {"ok": True}


def path_of(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def instance_of(said: dict[str, Any]) -> Any:
    return objects.instance_info.InstanceInfo(name="demo", uuid=said["instance_id"])


def vif_of(said: dict[str, Any]) -> Any:
    """The VIF that Nova makes of a Neutron port (nova/network/os_vif_util.py)."""
    network = objects.network.Network(
        id="437c6db5-4e6f-4b43-b64b-ed6a11ee5ba7",
        bridge=said.get("bridge", "br-int"),
        subnets=objects.subnet.SubnetList(),
    )
    if said.get("mtu"):
        network.mtu = said["mtu"]
    key = said["id"][:11]
    profile = objects.vif.VIFPortProfileOpenVSwitch(
        interface_id=said.get("interface_id", said["id"]), datapath_type=said.get("datapath_type", "netdev")
    )
    if "create_port" in said:
        profile.create_port = said["create_port"]
    for flag in ("create_tap", "multiqueue"):
        if flag in said:
            setattr(profile, flag, said[flag])
    shared = {
        "id": said["id"],
        "address": said["mac"],
        "network": network,
        "plugin": said["plugin"],
        "port_profile": profile,
    }
    match said.get("kind", "bridge"):
        case "bridge":
            return objects.vif.VIFBridge(
                vif_name=f"tap{key}", bridge_name=said.get("bridge_name", f"qbr{key}"), **shared
            )
        case "ovs":
            return objects.vif.VIFOpenVSwitch(vif_name=f"tap{key}", bridge_name="br-int", **shared)
        case "vhostuser":
            return objects.vif.VIFVHostUser(
                vif_name=f"vhu{key}", path=f"/run/openvswitch/vhu{key}", mode=said["mode"], **shared
            )
        case "hostdevice":
            return objects.vif.VIFHostDevice(dev_type="ethernet", dev_address=said["pci"], **shared)
        case "direct":
            return objects.vif.VIFDirect(mode="vepa", vif_name=f"tap{key}", **shared)
    raise ValueError(said)


if __name__ == "__main__":
    main()
