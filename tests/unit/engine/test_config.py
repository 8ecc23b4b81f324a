"""What the configuration may say, how it is read, and that one process is connected in one way at a time."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from oslo_config import cfg

from hybridvif import connect
from hybridvif.engine import config
from hybridvif.engine.config import GROUP, OPTIONS, list_opts, read, register, settings_of
from hybridvif.model.errors import ConfigurationError, PreconditionError
from hybridvif.model.settings import MAX_DEADLINE, MIN_DEADLINE, OVS_SOCKET, Settings

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a configuration file; its name."""

    def write(text: str = "", name: str = "hybridvif.conf", **options: object) -> str:
        lines = [f"{key} = {value}" for key, value in options.items()]
        path = tmp_path / name
        path.write_text("\n".join(["[hybridvif]", *lines, text]))
        return str(path)

    return write


def settings_from(*files: str) -> Settings:
    conf = cfg.ConfigOpts()
    register(conf)
    read(conf, files)
    return settings_of(conf)


def complaint(*files: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        settings_from(*files)
    assert isinstance(caught.value, PreconditionError)
    return str(caught.value)


# What it says.

TLS: dict[str, Any] = {f"ssl_{name}_file": f"/etc/openvswitch/{name}.pem" for name in ("key", "cert", "ca_cert")}


def test_a_connection_by_tls_takes_three_files(write: Write) -> None:
    settings = settings_from(write(ovsdb_connection="ssl:[::1]:6640", **TLS))
    assert settings == Settings(ovsdb_connection="ssl:[::1]:6640", **TLS)
    theirs = settings_from(write("[os_vif_ovs]\novsdb_connection = ssl:10.0.0.7:6640", **TLS))
    assert theirs == Settings(ovsdb_connection="ssl:10.0.0.7:6640", **TLS)


@pytest.mark.parametrize("section", ["hybridvif", "os_vif_ovs"])
@pytest.mark.parametrize(
    "value", ["tcp:10.0.0.7", "tcp:10.0.0.7:99999", "tcp:10.0.0.7:0", "tcp:::1:6640", "unix:", "x:y"]
)
def test_an_illegal_endpoint_is_told_by_the_section_that_sets_it(write: Write, section: str, value: str) -> None:
    file = write("[os_vif_ovs]\novsdb_connection = " + value) if section != GROUP else write(ovsdb_connection=value)
    said = complaint(file)
    assert said.startswith(f"[{section}] ovsdb_connection: {value!r} ")
    assert "write unix:FILE with an absolute path, tcp:HOST:PORT or ssl:HOST:PORT" in said
    assert (" or set [hybridvif] ovsdb_connection" in said) is (section != GROUP)
    assert "\n" not in said


@pytest.mark.parametrize("section", ["hybridvif", "os_vif_ovs"])
def test_a_connection_by_tls_without_its_files_names_both_options(write: Write, section: str) -> None:
    text = "[os_vif_ovs]\novsdb_connection = ssl:10.0.0.7:6640"
    some: dict[str, Any] = {"ssl_ca_cert_file": "/ca.pem"}
    file = write(text, **some) if section != GROUP else write(ovsdb_connection="ssl:10.0.0.7:6640", **some)
    said = complaint(file)
    assert said.startswith(f"[{section}] ovsdb_connection: 'ssl:10.0.0.7:6640' needs [hybridvif] ssl_key_file and ")
    assert "ssl_cert_file;" in said


@pytest.mark.parametrize("path", ["key.pem", "./key.pem", "/etc/\x1bkey.pem"])
def test_a_file_of_tls_without_an_absolute_path_is_told(write: Write, path: str) -> None:
    said = complaint(write(ssl_key_file=path))
    assert said == f"[hybridvif] ssl_key_file: {path!r} is no absolute path; write one"


def test_every_setting_is_an_option_and_every_option_a_setting() -> None:
    assert [option.dest for option in OPTIONS] == [spec.name for spec in fields(Settings)]
    assert all(option.help and option.help.strip().endswith(".") for option in OPTIONS)


def test_without_a_word_all_is_as_the_defaults_are() -> None:
    assert settings_of(cfg.ConfigOpts()) == Settings()
    assert Settings().ovsdb_connection == OVS_SOCKET


def test_all_that_a_file_says_is_heard(write: Write) -> None:
    said: dict[str, Any] = {
        "link_executor": "subprocess-brctl",
        "switch_executor": "ovs-vsctl",
        "ovsdb_connection": "tcp:127.0.0.1:6640",
        "deadline": 2.5,
        "unplug_running": "force",
        "lock_path": "/var/lock/x",
        "program_path": "/opt/bin",
    }
    settings = settings_from(write(integration_bridges="br-int, br-two,tbr-1", **said))
    assert settings == Settings(integration_bridges=("br-int", "br-two", "tbr-1"), **said)


def test_the_later_of_two_files_wins(write: Write) -> None:
    one, two = write(deadline=5, unplug_running="force"), write(name="two.conf", deadline=7)
    assert (settings_from(one, two).deadline, settings_from(one, two).unplug_running) == (7.0, "force")


def test_other_sections_are_other_peoples(write: Write) -> None:
    assert settings_from(write("[DEFAULT]\ndeadline = 9\n[oslo_concurrency]\nlock_path = /x")) == Settings()


@pytest.mark.parametrize(("timeout", "deadline"), [("7", 7.0), ("0", MAX_DEADLINE), ("99999", MAX_DEADLINE)])
def test_what_a_file_sets_for_os_vif_counts_where_ours_is_silent(write: Write, timeout: str, deadline: float) -> None:
    theirs = f"[os_vif_ovs]\novsdb_connection = tcp:127.0.0.1:6641\novs_vsctl_timeout = {timeout}"
    settings = settings_from(write(theirs))
    assert (settings.ovsdb_connection, settings.deadline) == ("tcp:127.0.0.1:6641", deadline)
    both = settings_from(write(theirs, ovsdb_connection="unix:/run/x.sock", deadline=3))
    assert (both.ovsdb_connection, both.deadline) == ("unix:/run/x.sock", 3.0)


@pytest.mark.parametrize(
    ("made_of", "elsewhere"),
    [
        ("$my_ip", "[DEFAULT]\nmy_ip = 10.0.0.7"),
        ("${neutron.address}", "[neutron]\naddress = 10.0.0.7"),
        ("$my_ip", "[DEFAULT]\nmy_ip = ${management}\nmanagement = 10.0.0.7"),
    ],
    ids=["default section", "other section", "twice"],
)
def test_what_a_file_sets_for_os_vif_may_be_made_of_options_that_are_novas(
    write: Write, made_of: str, elsewhere: str
) -> None:
    theirs = f"[os_vif_ovs]\novsdb_connection = tcp:{made_of}:6640\n"
    assert settings_from(write(theirs + elsewhere)).ovsdb_connection == "tcp:10.0.0.7:6640"
    said = complaint(write(theirs))
    assert said.startswith(f"[os_vif_ovs] ovsdb_connection is made of ${made_of.strip('${}')}, which no file sets;")
    assert settings_from(write(theirs, ovsdb_connection="unix:/run/x.sock")).ovsdb_connection == "unix:/run/x.sock"


def test_os_vifs_defaults_never_count(write: Write) -> None:
    assert settings_from(write("[os_vif_ovs]\nisolate_vif = true")) == Settings()


def test_an_illegal_option_of_os_vifs_is_a_configuration_error(write: Write) -> None:
    assert "often" in complaint(write("[os_vif_ovs]\novs_vsctl_timeout = often"))


def test_a_second_registration_does_no_harm() -> None:
    conf = cfg.ConfigOpts()
    register(conf)
    register(conf)
    assert settings_of(conf) == Settings()


def test_the_options_can_be_listed_for_a_sample_file() -> None:
    assert list_opts() == [(GROUP, list(OPTIONS))]


# What it may not say.


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("deadline", MIN_DEADLINE - 0.1),
        ("deadline", MAX_DEADLINE + 1),
        ("deadline", "soon"),
        ("deadline", "nan"),
        ("deadline", "inf"),
        ("deadline", "-1"),
        ("unplug_running", "ask"),
        ("integration_bridges", "br-int,br int"),
        ("integration_bridges", "../br-int"),
        ("integration_bridges", "br-int-that-is-too-long"),
        ("integration_bridges", "--all"),
        ("ovsdb_connection", "unix:db.sock"),
        ("ovsdb_connection", "/var/run/openvswitch/db.sock"),
        ("ovsdb_connection", "http://localhost"),
        ("ovsdb_connection", ""),
    ],
)
def test_what_is_not_legal_is_told_by_the_name_of_its_option(write: Write, option: str, value: object) -> None:
    assert option in complaint(write(**{option: value}))


@pytest.mark.parametrize("deadline", [MIN_DEADLINE, MAX_DEADLINE])
def test_a_deadline_at_its_limit_is_legal(write: Write, deadline: float) -> None:
    assert settings_from(write(deadline=deadline)).deadline == deadline


def test_a_file_that_is_not_there_is_named(write: Write, tmp_path: Path) -> None:
    for name in ("absent.conf", "."):
        assert f"{tmp_path / name} does not exist or is not a file" in complaint(str(tmp_path / name))
    assert "absent.conf" in complaint(write(), str(tmp_path / "absent.conf"))


@pytest.mark.parametrize(
    "text", [b"deadline = 3\n[hybridvif\n", b"[hybridvif]\nno sense\n", b"[hybridvif]\nlock_path = \xff\n"], ids=repr
)
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "odd.conf"
    path.write_bytes(text)
    assert str(path) in complaint(str(path))


# One process, one configuration.


@pytest.fixture
def files(write: Write) -> Iterator[tuple[str, str]]:
    """Two files; afterwards this process's configuration is as if it had never been read."""
    yield write(deadline=5), write(name="two.conf", deadline=7)
    connect().close()


def test_a_second_connection_with_other_files_is_told_what_the_first_has(files: tuple[str, str]) -> None:
    one, two = files
    with connect([one]) as host:
        assert host.settings.deadline == 5
        for others in ([two], [one, two], []):
            with pytest.raises(ConfigurationError, match=r"close\(\) that host") as caught:
                connect(others)
            assert one in str(caught.value)
            assert all(name in str(caught.value) for name in others)
        with connect([one]) as again:
            assert again.settings == host.settings


def test_a_closed_connection_leaves_room_for_another(files: tuple[str, str]) -> None:
    one, two = files
    with connect([one]):
        pass
    with connect([two]) as host:
        assert host.settings.deadline == 7
    with connect() as host:
        assert host.settings == Settings()
        with pytest.raises(ConfigurationError, match="its own configuration"):
            connect([one])


def test_the_last_to_close_makes_room_and_a_second_close_is_harmless(files: tuple[str, str]) -> None:
    one, two = files
    first, second = connect([one]), connect([one])
    first.close()
    first.close()
    with pytest.raises(ConfigurationError):
        connect([two])
    second.close()
    connect([two]).close()


def test_a_closed_host_says_so(files: tuple[str, str]) -> None:
    host = connect([files[0]])
    host.close()
    with pytest.raises(PreconditionError, match="closed"):
        host.observe(set(), 0)


def test_a_file_that_cannot_be_read_connects_nobody(files: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        connect([str(tmp_path / "absent.conf")])
    with connect([files[0]]) as host:
        assert host.settings.deadline == 5


def test_a_relative_name_is_the_same_file(files: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(files[0]).parent)
    with connect(["hybridvif.conf"]), connect([files[0]]):
        pass


PROGRAM = """
import sys
from oslo_config import cfg
from hybridvif import ConfigurationError, connect

one, two = sys.argv[1:]
cfg.CONF.register_opt(cfg.StrOpt("own"))
cfg.CONF(args=[], default_config_files=[one], project="nova")
cfg.CONF.set_override("own", "theirs")
with connect() as host:
    print(host.settings.deadline)
with connect([one]) as host:
    print(host.settings.deadline)
try:
    connect([two])
except ConfigurationError as error:
    print(one in str(error), two in str(error), "without files" in str(error))
print(cfg.CONF.own, cfg.CONF.project)
"""


def test_a_program_that_has_read_its_own_configuration_keeps_it(write: Write) -> None:
    one, two = write(deadline=5), write(name="two.conf", deadline=7)
    done = subprocess.run([sys.executable, "-c", PROGRAM, one, two], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:4] == ["5.0", "5.0", "True True True", "theirs nova"]


@pytest.mark.parametrize("directory", ["/var/run/openvswitch", "/run/vhost.d/a_b-c", "/" + 91 * "x"])
def test_sockets_are_in_any_directory_whose_path_is_plain(write: Write, directory: str) -> None:
    assert settings_from(write(vhost_socket_dir=directory)).vhost_socket_dir == directory


@pytest.mark.parametrize(
    "directory", ["", "run", "/", "/run/", "/run/../etc", "/run//x", "/r n", "/run;x", "/" + 92 * "x"]
)
def test_a_directory_of_sockets_that_could_lead_elsewhere_is_told(write: Write, directory: str) -> None:
    assert f"[hybridvif] vhost_socket_dir: {directory!r} is no absolute path" in complaint(
        write(vhost_socket_dir=directory)
    )


class _Fetched(BaseHTTPRequestHandler):
    paths: ClassVar[list[str]] = []

    def do_GET(self) -> None:  # http.server's name
        self.paths.append(self.path)
        self.send_error(404)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002  # its own
        """Nothing for people."""


def test_daemon_fetches_no_configuration_and_reads_no_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """config_source has oslo.config load a driver that fetches more; config_dir in a file names more files."""
    elsewhere, file = tmp_path / "elsewhere", tmp_path / "h.conf"
    elsewhere.mkdir()
    (elsewhere / "x.conf").write_text(
        "[hybridvif]\nlink_executor = evil\n[os_vif_ovs]\novsdb_connection = tcp:192.0.2.1:1\n"
    )
    for name in ("OS_HYBRIDVIF__LINK_EXECUTOR", "OS_OS_VIF_OVS__OVSDB_CONNECTION", "OS_HYBRIDVIF_PRIVILEGED__USER"):
        monkeypatch.setenv(name, "evil")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Fetched)
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        file.write_text(
            f"[DEFAULT]\nconfig_source = remote\nconfig_dir = {elsewhere}\nlog_file = {tmp_path}/log\n"
            f"[remote]\ndriver = remote_file\nuri = http://127.0.0.1:{server.server_port}/evil\n"
            "[os_vif_ovs]\novs_vsctl_timeout = 7\n[hybridvif]\nintegration_bridges = br-x\n"
        )
        own = config.read_own(["--config-file", str(file)])
        settings = config.settings_of(own)
        server.shutdown()
    assert _Fetched.paths == []
    assert settings == Settings(integration_bridges=("br-x",), deadline=7.0)
    assert (own.hybridvif_privileged.user, own.hybridvif_privileged.thread_pool_size) == (None, 32)
    assert list(tmp_path.iterdir()) == [elsewhere, file] or not (tmp_path / "log").exists()


@pytest.mark.parametrize("text", ["no section\n", "[hybridvif_privileged]\nthread_pool_size = x\n"])
def test_daemon_names_a_configuration_that_is_not_legal(tmp_path: Path, text: str) -> None:
    (tmp_path / "h.conf").write_text(text)
    with pytest.raises(ConfigurationError, match="the configuration of the privileged daemon is not legal"):
        config.read_own(["--config-file", str(tmp_path / "h.conf")])
    with pytest.raises(ConfigurationError, match="is not legal"):
        config.read_own(["--config-file", str(tmp_path / "absent")])
