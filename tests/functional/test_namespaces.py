"""Devices and names that another namespace or device has: reported by name, with the remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.functional.conftest import Lab, make_port
from tests.support.sizes import sample

PORT = make_port()
PLUG = ("plug", PORT.id, "--mac", PORT.mac, "--instance", PORT.instance_id)
EXECUTORS = {"iproute2-netlink": "ovsdb", "subprocess-brctl": "ovs-vsctl"}


@pytest.mark.prove
@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("kind", sample(["bridge", "bridge_end", "switch_end", "tap"], 2))
def test_altname_of_another_device_is_named_with_the_remedy(lab: Lab, tmp_path: Path, executor: str, kind: str) -> None:
    """The kernel returns "File exists", and no list of devices has that name."""
    name = str(getattr(PORT.names, kind))
    config = tmp_path / "hybridvif.conf"
    config.write_text(f"[hybridvif]\nlink_executor = {executor}\nswitch_executor = {EXECUTORS[executor]}\n")
    lab.sh(f"ip link add hvholder type bridge; ip link property add dev hvholder altname {name}")
    before = lab.snapshot()
    words = ["hybridvif", *PLUG, "--config-file", str(config), "-f", "json"]
    errors = []
    for command in (["plug"], ["check"], ["plan", "plug"]):
        call = ["hybridvif", *command, *words[2:], *(["--create-tap"] if kind == "tap" else [])]
        done = lab.box.run(call, check=False)
        errors.append(json.loads(done.stdout)["error"])
        assert (done.returncode, errors[-1]["code"]) == (6, "conflict")
        assert lab.snapshot() == before
    error = errors[0]
    assert [other["message"] for other in errors] == [error["message"]] * 3
    assert f"{name} is an alternative name of the device hvholder; remove it: " in error["message"]
    unplugged = lab.box.run(["hybridvif", "unplug", PORT.id, "--config-file", str(config)])
    assert "was not there" in unplugged.stdout
    assert lab.snapshot() == before
    lab.sh(error["message"].partition("remove it: ")[2])
    assert lab.box.run(words).returncode == 0
    lab.box.run(["hybridvif", "unplug", PORT.id])
    lab.sh("ip link delete hvholder")


def finding(lab: Lab, *prefix: str) -> dict[str, str]:
    done = lab.box.run([*prefix, "hybridvif", "doctor", "-f", "json"], check=False)
    document = json.loads(done.stdout)
    assert (done.returncode == 0) == document["ok"]
    (found,) = [item for item in document["findings"] if item["name"] == "network namespace"]
    return dict(found)


def test_doctor_tells_that_the_switch_is_in_another_network_namespace(lab: Lab) -> None:
    assert finding(lab)["verdict"] == "pass"
    elsewhere = finding(lab, "unshare", "--net")
    assert elsewhere["verdict"] == "fail"
    assert "ovs-vswitchd is in another one" in elsewhere["text"]
    remedy = elsewhere["remedy"].partition(": ")[2].removeprefix("sudo ").replace("hybridvif ...", "hybridvif doctor")
    assert lab.box.run(["unshare", "--net", *remedy.split()]).returncode == 0


def test_doctor_tells_so_where_the_process_of_the_switch_is_hidden(lab: Lab) -> None:
    """In another pid namespace, as in a container. The bridge's own device is not here then."""
    hidden = ["unshare", "--pid", "--fork", "--mount-proc"]
    assert finding(lab, *hidden)["verdict"] == "pass"
    assert finding(lab, *hidden, "--net")["verdict"] == "fail"
