"""The ports of a host from Neutron: openstacksdk against a local HTTP server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hybridvif import cli
from hybridvif.cli.commands.reconcile import reconcile
from hybridvif.cli.portfile import read_ports
from tests.support.answers import ID, OTHER, OTHER_ID, PORT, arguments, plugged, text_of
from tests.support.fake_cloud import HOST, PASSWORD, TOKEN, FakeCloud, number, port, served
from tests.support.schemas import validate, validate_as

# openstacksdk 4 deprecates what it uses itself.
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}DeprecationWarning") for kind in ("", "Pending")]
Run = Callable[..., tuple[int, list[dict[str, Any]], str]]


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the clouds of the person who runs the tests."""
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    with served([]) as cloud:
        yield cloud


@pytest.fixture
def run(cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs `hybridvif ports` for HOST: exit code, ports, stderr."""

    def function(*words: str, host: str = HOST, **variables: str) -> tuple[int, list[dict[str, Any]], str]:
        for name, value in (variables or {"OS_AUTH_TYPE": "none", "OS_ENDPOINT": cloud.url}).items():
            monkeypatch.setenv(name, value)
        code = cli.main(["ports", "--from-neutron", *(["--host", host] if host else []), *words])
        captured = capsys.readouterr()
        return code, json.loads(captured.out or "[]"), captured.err

    return function


def password(cloud: FakeCloud, **changes: str) -> dict[str, str]:
    """Return the variables of a user of Keystone."""
    names = dict.fromkeys(("OS_USERNAME", "OS_PROJECT_NAME", "OS_USER_DOMAIN_NAME", "OS_PROJECT_DOMAIN_NAME"), "x")
    return {**names, "OS_AUTH_URL": f"{cloud.url}/identity/v3", "OS_PASSWORD": PASSWORD, **changes}


def test_bound_hybrid_port_has_the_fields_of_nova(cloud: FakeCloud, run: Run) -> None:
    cloud.ports = [port(1)]
    assert run() == (
        0,
        [
            {
                "id": number(1),
                "mac": "fa:16:3e:00:00:01",
                "instance_id": number(1, 1),
                "mtu": 1450,
                "bridge": "br-int",
                "datapath_type": "system",
            }
        ],
        "",
    )


def test_document_and_list_are_files_of_the_same_ports(cloud: FakeCloud, run: Run, tmp_path: Path) -> None:
    cloud.ports = [port(1), port(2)]
    listed, document = run()[1], run("-f", "json")[1]
    validate_as("port-file", listed)
    validate(document)
    files = {tmp_path / "list.json": listed, tmp_path / "document.json": document}
    for file, content in files.items():
        file.write_text(json.dumps(content), encoding="utf-8")
    first, second = ([request.to_port() for request in read_ports(str(file))] for file in files)
    assert first == second
    assert [port.id for port in first] == [number(1), number(2)]


@pytest.mark.parametrize(
    ("details", "fields"),
    [
        ({"bridge_name": "tbr-91d3aa02-4"}, {"bridge": "tbr-91d3aa02-4"}),
        # Nova cuts the name of a bridge to 14 characters.
        ({"bridge_name": "br-of-16-letters"}, {"bridge": "br-of-16-lette"}),
        ({"bridge_name": None}, {"bridge": "br-int"}),
        ({"datapath_type": "netdev"}, {"datapath_type": "netdev", "qos_type": "none"}),
        ({"datapath_type": None}, {"datapath_type": "system"}),
    ],
)
def test_details_of_the_binding_are_used(
    details: dict[str, Any], fields: dict[str, str], cloud: FakeCloud, run: Run
) -> None:
    cloud.ports = [port(1, details=details)]
    code, [listed], _ = run()
    assert (code, fields.items() - listed.items()) == (0, set())


@pytest.mark.parametrize(
    "changes",
    [
        {"device_owner": "network:dhcp"},
        {"device_owner": "network:router_interface_distributed"},
        {"device_owner": "trunk:subport", "device_id": ""},
        {"details": {"ovs_hybrid_plug": False}},
        {"binding:vif_type": "vhostuser"},
        {"binding:vif_details": None},
    ],
    ids=str,
)
def test_port_of_another_kind_is_omitted(changes: dict[str, Any], cloud: FakeCloud, run: Run) -> None:
    cloud.ports = [port(1, **changes), port(2)]
    code, [listed], errors = run()
    assert (code, listed["id"], errors) == (0, number(2), "")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device_id": "", "device_owner": ""}, "device_id ''"),
        ({"binding:vif_type": "binding_failed"}, "binding_failed"),
        ({"device_id": "a-vm"}, "instance_id 'a-vm'"),
        ({"mac_address": "01:00:5e:00:00:01"}, "unicast"),
        ({"network_id": number(999, 2)}, "mtu None"),
        ({"details": {"bridge_name": "a b"}}, "bridge 'a b'"),
    ],
    ids=str,
)
def test_port_that_cannot_be_plugged_is_skipped_and_named(
    changes: dict[str, Any], reason: str, cloud: FakeCloud, run: Run
) -> None:
    cloud.ports = [port(1, **changes), port(2)]
    code, [listed], errors = run()
    assert (code, listed["id"]) == (0, number(2))
    assert errors.startswith(f"warning: skipped in Neutron: port {number(1)}: ")
    assert reason in errors
    assert len(errors.splitlines()) == 1


def test_hundreds_of_ports_come_in_pages(cloud: FakeCloud, run: Run, tmp_path: Path) -> None:
    cloud.ports = [port(index) for index in range(1, 601)]
    code, listed, errors = run()
    assert (code, errors) == (0, "")
    assert [entry["id"] for entry in listed] == [number(index) for index in range(1, 601)]
    assert sum(request.startswith("GET /v2.0/ports") for request in cloud.requests) == 6
    assert max(map(len, cloud.requests)) < 8190
    (tmp_path / "ports.json").write_text(json.dumps(listed))
    assert len([request.to_port() for request in read_ports(str(tmp_path / "ports.json"))]) == 600


def test_destination_of_a_live_migration_has_its_own_binding(cloud: FakeCloud, run: Run) -> None:
    details = {"ovs_hybrid_plug": True, "bridge_name": "br-dest", "datapath_type": "netdev"}
    cloud.ports = [port(index, **{"binding:host_id": "source"}) for index in (1, 2)]
    cloud.bindings = {
        number(1): [
            {"host": "source", "vif_type": "ovs", "vif_details": {}, "status": "ACTIVE"},
            {"host": HOST, "vif_type": "ovs", "vif_details": details, "status": "INACTIVE"},
        ]
    }
    code, [listed], errors = run()
    assert (code, listed["id"], listed["bridge"], errors) == (0, number(1), "br-dest", "")


def test_host_without_ports_has_an_empty_list(cloud: FakeCloud, run: Run) -> None:
    assert run() == (0, [], "")


def test_unknown_host_is_bad_input(cloud: FakeCloud, run: Run) -> None:
    """A wrong name must not become an empty list, by which --prune would unplug all ports."""
    code, _, errors = run(host="compute1.example.org")
    assert (code, len(errors.splitlines())) == (2, 1)
    assert "'compute1.example.org'" in errors


def test_default_host_is_the_hostname(cloud: FakeCloud, run: Run) -> None:
    cloud.ports = [port(1, **{"binding:host_id": socket.gethostname()}), port(2)]
    code, [listed], _ = run(host="")
    assert (code, listed["id"]) == (0, number(1))


def test_user_of_keystone_gets_the_ports(cloud: FakeCloud, run: Run, tmp_path: Path) -> None:
    cloud.ports, cloud.with_token = [port(1)], True
    code, listed, errors = run("-vv", **password(cloud))
    assert (code, len(listed)) == (0, 1)
    assert PASSWORD not in errors
    assert TOKEN not in errors


def test_cloud_of_clouds_yaml_is_used(cloud: FakeCloud, run: Run, tmp_path: Path) -> None:
    cloud.ports = [port(1)]
    entry = {"auth_type": "none", "auth": {"endpoint": cloud.url}}
    (tmp_path / "clouds.yaml").write_text(json.dumps({"clouds": {"first": entry}}))
    ways: list[tuple[list[str], dict[str, str]]] = [(["--os-cloud", "first"], {}), ([], {"OS_CLOUD": "first"})]
    for words, variables in ways:
        code, listed, _ = run(*words, **{"OS_CLIENT_CONFIG_FILE": "clouds.yaml", **variables})
        assert (code, len(listed)) == (0, 1)


@pytest.mark.parametrize("status", [401, 403, 404, 503])
def test_error_of_neutron_is_one_line_with_exit_code_5(status: int, cloud: FakeCloud, run: Run) -> None:
    cloud.status = status
    code, listed, errors = run()
    assert (code, listed, len(errors.splitlines())) == (5, [], 1)
    assert errors.startswith("error: Neutron cannot be read: ")


@pytest.mark.parametrize(("drops", "expected"), [(2, 0), (9, 5)])
def test_dropped_connection_is_tried_again(drops: int, expected: int, cloud: FakeCloud, run: Run) -> None:
    cloud.ports, cloud.drops = [port(1)], drops
    code, listed, errors = run()
    assert (code, len(listed), len(errors.splitlines())) == (expected, int(not expected), int(bool(expected)))


def test_user_who_may_not_see_bindings_is_an_error(cloud: FakeCloud, run: Run) -> None:
    own = {key: value for key, value in port(1).items() if not key.startswith("binding:")}
    cloud.ports = [own]
    code, _, errors = run()
    assert (code, len(errors.splitlines())) == (5, 1)
    assert "role admin or service" in errors


@pytest.mark.parametrize(
    ("variables", "words", "reason"),
    [
        ({"OS_AUTH_TYPE": "none", "OS_ENDPOINT": "http://127.0.0.1:1"}, [], "http://127.0.0.1:1"),
        ({"OS_REGION_NAME": "R"}, [], "auth_url"),
        ({"OS_REGION_NAME": "R"}, ["--os-cloud", "nowhere"], "nowhere"),
        ({"OS_CLIENT_CONFIG_FILE": "bad.yaml"}, [], "Neutron cannot be read"),
    ],
    ids=["no server", "nothing configured", "no such cloud", "no YAML"],
)
def test_unusable_cloud_is_one_line_with_exit_code_5(
    variables: dict[str, str], words: list[str], reason: str, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "bad.yaml").write_text("clouds: [")
    code, listed, errors = run(*words, **variables)
    assert (code, listed, len(errors.splitlines())) == (5, [], 1), errors
    assert reason in errors


def test_wrong_password_is_one_line_with_exit_code_5(cloud: FakeCloud, run: Run) -> None:
    code, _, errors = run(**password(cloud, OS_PASSWORD="wrong"))
    assert (code, len(errors.splitlines())) == (5, 1)
    assert "401" in errors


def test_missing_library_is_one_line_with_exit_code_5(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['openstack'] = None")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    words = [sys.executable, "-P", "-m", "hybridvif", "reconcile", "--from-neutron"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (5, "", 1)
    assert "pip install 'hybridvif[neutron]'" in done.stderr


@pytest.mark.parametrize(
    "words", [["ports"], ["reconcile"], ["reconcile", "--from-neutron", "-F", "ports.yaml"]], ids=" ".join
)
def test_exactly_one_source_of_ports_is_needed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert "--from-neutron" in capsys.readouterr().err


def test_other_commands_do_not_import_the_library() -> None:
    code = "import sys; from hybridvif import cli; cli.parse_arguments(sys.argv[1:]); print('openstack' in sys.modules)"
    words = [sys.executable, "-P", "-c", code, "reconcile", "--from-neutron"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "False\n"


# reconcile --from-neutron


def test_reconcile_names_each_port_that_is_left() -> None:
    host = plugged(PORT, OTHER)
    answer = reconcile([PORT], host, arguments("reconcile"), [])
    assert answer.exit_code == 0
    assert list(answer.warnings) == [f"port {OTHER_ID}: left, because it is not desired here"]
    assert answer.document["warnings"] == list(answer.warnings)
    assert reconcile([PORT], host, arguments("reconcile", "--prune"), []).warnings == []
    assert OTHER_ID not in text_of(reconcile([PORT], host, arguments("reconcile"), []))


def test_prune_keeps_ports_that_neutron_shows() -> None:
    dry_run = reconcile([], plugged(PORT, OTHER), arguments("reconcile", "--prune", "--dry-run"), [ID])
    assert [(row["port"], row["goal"]) for row in dry_run.rows] == [(OTHER_ID, "unplug")]
