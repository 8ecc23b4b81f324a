"""ovsdb-server at every kind of endpoint: all executors of Open vSwitch reach it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from subprocess import run

import pytest

from hybridvif import HybridVifError, plug, unplug
from hybridvif.model.parts import Role
from hybridvif.privileged.execute import installed
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox.box import Sandbox
from hybridvif.testing.sandbox.switch import DATABASE, SOCKET, pid_file
from tests.functional.conftest import make_port

EXECUTORS = [name for name in installed(Role.SWITCH) if name not in ("recording", "ivs-ctl")]
PORT = make_port()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with two authorities, and a key and a certificate of each."""
    made = tmp_path_factory.mktemp("keys")
    for number, names in ((1, ("server", "client")), (2, ("stranger",))):
        openssl(
            made, f"req -x509 -newkey rsa:2048 -nodes -keyout ca{number}.key -out ca{number}.pem -subj /CN=ca{number}"
        )
        for name in names:
            openssl(made, f"req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}")
            signed = f"-CA ca{number}.pem -CAkey ca{number}.key -CAcreateserial -out {name}.pem"
            openssl(made, f"x509 -req -in {name}.csr -days 2 {signed}")
    openssl(made, "rsa -aes256 -passout pass:secret -in client.key -out locked.key")
    (made / "nothing.pem").write_text("nothing\n")
    return made


def openssl(directory: Path, words: str) -> None:
    run(["openssl", *words.split()], cwd=directory, check=True, capture_output=True)


@pytest.fixture(scope="module")
def box(keys: Path) -> Iterator[Sandbox]:
    """Sandbox whose ovsdb-server also listens on TCP and TLS."""
    with Sandbox() as made:
        tls = f"--private-key={keys}/server.key --certificate={keys}/server.pem --ca-cert={keys}/ca1.pem"
        listen = f"--remote=punix:{SOCKET} --remote=ptcp:6640:127.0.0.1 --remote='ptcp:6641:[::1]' --remote=pssl:6642"
        pid = pid_file("ovsdb-server")
        made.run(["sh", "-ec", f"kill $(cat {pid}); while [ -e {pid} ]; do sleep 0.01; done; ip link set lo up"])
        made.run(
            ["sh", "-ec", f"ovsdb-server {DATABASE} {listen} {tls} --pidfile={pid} -vconsole:off --detach --no-chdir"]
        )
        yield made


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def tls(keys: Path, **other: str) -> dict[str, str]:
    """Return the options of a TLS connection."""
    files = {"ssl_key_file": "client.key", "ssl_cert_file": "client.pem", "ssl_ca_cert_file": "ca1.pem", **other}
    return {option: f"{keys}/{name}" for option, name in files.items()}


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp:127.0.0.1:6640",
        "tcp:localhost:6640",
        "tcp:[::1]:6641",
        "ssl:127.0.0.1:6642",
        "ssl:localhost:6642",
        "ssl:[::1]:6642",
    ],
)
def test_a_port_is_plugged_by_any_endpoint(
    box: Sandbox, keys: Path, tmp_path: Path, executor: str, endpoint: str
) -> None:
    options = tls(keys) if endpoint.startswith("ssl:") else {}
    if endpoint == "ssl:[::1]:6642":
        box.run(["ovs-appctl", "-t", "ovsdb-server", "ovsdb-server/add-remote", "pssl:6642:[::1]"], check=False)
    with connected(box, tmp_path, switch_executor=executor, ovsdb_connection=endpoint, **options) as host:
        assert plug(PORT, host).ok
        assert not plug(PORT, host).changed
        assert unplug(PORT.id, host).ok


REFUSED = {
    "unknown-server": ({"ssl_ca_cert_file": "ca2.pem"}, ""),
    "unknown-client": ({"ssl_key_file": "stranger.key", "ssl_cert_file": "stranger.pem"}, ""),
    "key-of-another": ({"ssl_key_file": "stranger.key"}, "ssl_key_file"),
    "locked-key": ({"ssl_key_file": "locked.key"}, "ssl_key_file"),
    "no-key": ({"ssl_key_file": "absent.key"}, "ssl_key_file .*/absent.key cannot be read: No such file"),
    "no-certificate": ({"ssl_cert_file": "nothing.pem"}, "ssl_cert_file .*/nothing.pem"),
    "no-authority": ({"ssl_ca_cert_file": "nothing.pem"}, "ssl_ca_cert_file .*/nothing.pem"),
}


@pytest.mark.parametrize(("files", "names"), REFUSED.values(), ids=REFUSED)
def test_files_that_do_not_serve_are_named(
    box: Sandbox, keys: Path, tmp_path: Path, executor: str, files: dict[str, str], names: str
) -> None:
    options = {"deadline": 4, "ovsdb_connection": "ssl:127.0.0.1:6642", **tls(keys, **files)}
    with (
        connected(box, tmp_path, switch_executor=executor, **options) as host,
        pytest.raises(HybridVifError, match=names or "OVSDB at ssl:127.0.0.1:6642"),
    ):
        plug(PORT, host)
    assert "qvo" not in box.run(["ip", "-o", "link"]).stdout


def test_the_key_is_read_by_a_confined_daemon(box: Sandbox, keys: Path, tmp_path: Path) -> None:
    """With an executor without programs, the daemon may open only these three files."""
    with connected(box, tmp_path, ovsdb_connection="ssl:127.0.0.1:6642", **tls(keys)) as host:
        assert plug(PORT, host).ok
        assert unplug(PORT.id, host).ok
