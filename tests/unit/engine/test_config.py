"""The options, the parsing of files, and the single configuration of a process."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from oslo_config import cfg

from hybridvif import connect
from hybridvif.engine import config
from hybridvif.engine.any_host import HostClosed
from hybridvif.engine.config import GROUP, OPTIONS, list_opts, read, register, settings_of
from hybridvif.model.errors import ConfigurationError, PreconditionError
from hybridvif.model.settings import MAX_DEADLINE, MIN_DEADLINE, OVS_SOCKET, Settings

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a configuration file and returns its name."""

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


# Valid values.

TLS: dict[str, Any] = {f"ssl_{name}_file": f"/etc/openvswitch/{name}.pem" for name in ("key", "cert", "ca_cert")}


def test_tls_connection_takes_three_files(write: Write) -> None:
    settings = settings_from(write(ovsdb_connection="ssl:[::1]:6640", **TLS))
    assert settings == Settings(ovsdb_connection="ssl:[::1]:6640", **TLS)
    from_os_vif = settings_from(write("[os_vif_ovs]\novsdb_connection = ssl:10.0.0.7:6640", **TLS))
    assert from_os_vif == Settings(ovsdb_connection="ssl:10.0.0.7:6640", **TLS)


@pytest.mark.parametrize("section", ["hybridvif", "os_vif_ovs"])
@pytest.mark.parametrize(
    "value", ["tcp:10.0.0.7", "tcp:10.0.0.7:99999", "tcp:10.0.0.7:0", "tcp:::1:6640", "unix:", "x:y"]
)
def test_invalid_address_of_ovsdb_names_section_that_sets_it(write: Write, section: str, value: str) -> None:
    file = write("[os_vif_ovs]\novsdb_connection = " + value) if section != GROUP else write(ovsdb_connection=value)
    message = complaint(file)
    assert message.startswith(f"[{section}] ovsdb_connection: {value!r} ")
    assert "is not unix:FILE with an absolute path, tcp:HOST:PORT or ssl:HOST:PORT" in message
    assert message.endswith("; set [hybridvif] ovsdb_connection") is (section != GROUP)
    assert "\n" not in message


@pytest.mark.parametrize("section", ["hybridvif", "os_vif_ovs"])
def test_tls_connection_without_files_names_missing_options(write: Write, section: str) -> None:
    text = "[os_vif_ovs]\novsdb_connection = ssl:10.0.0.7:6640"
    some: dict[str, Any] = {"ssl_ca_cert_file": "/ca.pem"}
    file = write(text, **some) if section != GROUP else write(ovsdb_connection="ssl:10.0.0.7:6640", **some)
    message = complaint(file)
    assert message.startswith(f"[{section}] ovsdb_connection: 'ssl:10.0.0.7:6640' needs [hybridvif] ssl_key_file and ")
    assert "ssl_cert_file;" in message


@pytest.mark.parametrize("path", ["key.pem", "./key.pem", "/etc/\x1bkey.pem"])
def test_tls_file_with_relative_path_is_refused(write: Write, path: str) -> None:
    message = complaint(write(ssl_key_file=path))
    assert message == f"[hybridvif] ssl_key_file: {path!r} is not an absolute path; leave it out for ''"


def test_every_option_has_a_help_text() -> None:
    assert all(option.help and option.help.strip().endswith(".") for option in OPTIONS)


def test_empty_configuration_gives_defaults() -> None:
    assert settings_of(cfg.ConfigOpts()) == Settings()
    assert Settings().ovsdb_connection == OVS_SOCKET


def test_options_of_file_become_settings(write: Write) -> None:
    options: dict[str, Any] = {
        "link_executor": "subprocess-brctl",
        "switch_executor": "ovs-vsctl",
        "ovsdb_connection": "tcp:127.0.0.1:6640",
        "deadline": 2.5,
        "unplug_running": "force",
        "lock_path": "/var/lock/x",
        "program_path": "/opt/bin",
    }
    settings = settings_from(write(integration_bridges="br-int, br-two,tbr-1", **options))
    assert settings == Settings(integration_bridges=("br-int", "br-two", "tbr-1"), **options)


def test_later_file_overrides_earlier_one(write: Write) -> None:
    first, second = write(deadline=5, unplug_running="force"), write(name="two.conf", deadline=7)
    assert (settings_from(first, second).deadline, settings_from(first, second).unplug_running) == (7.0, "force")


def test_options_in_other_sections_are_ignored(write: Write) -> None:
    assert settings_from(write("[DEFAULT]\ndeadline = 9\n[oslo_concurrency]\nlock_path = /x")) == Settings()


@pytest.mark.parametrize(("timeout", "deadline"), [("7", 7.0), ("0", MAX_DEADLINE), ("99999", MAX_DEADLINE)])
def test_os_vif_option_of_file_is_default_of_ours(write: Write, timeout: str, deadline: float) -> None:
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
def test_os_vif_option_may_refer_to_options_of_nova(write: Write, made_of: str, elsewhere: str) -> None:
    theirs = f"[os_vif_ovs]\novsdb_connection = tcp:{made_of}:6640\n"
    assert settings_from(write(theirs + elsewhere)).ovsdb_connection == "tcp:10.0.0.7:6640"
    message = complaint(write(theirs))
    assert message.startswith(f"[os_vif_ovs] ovsdb_connection is made of ${made_of.strip('${}')}, which no file sets;")
    assert settings_from(write(theirs, ovsdb_connection="unix:/run/x.sock")).ovsdb_connection == "unix:/run/x.sock"


def test_defaults_of_os_vif_are_ignored(write: Write) -> None:
    assert settings_from(write("[os_vif_ovs]\nisolate_vif = true")) == Settings()


def test_invalid_os_vif_option_is_configuration_error(write: Write) -> None:
    assert "often" in complaint(write("[os_vif_ovs]\novs_vsctl_timeout = often"))


def test_second_registration_changes_nothing() -> None:
    conf = cfg.ConfigOpts()
    register(conf)
    register(conf)
    assert settings_of(conf) == Settings()


def test_list_opts_returns_all_options() -> None:
    assert list_opts() == [(GROUP, list(OPTIONS))]


# Invalid values.


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
def test_invalid_value_names_its_option(write: Write, option: str, value: object) -> None:
    assert option in complaint(write(**{option: value}))


@pytest.mark.parametrize("deadline", [MIN_DEADLINE, MAX_DEADLINE])
def test_deadline_at_limit_is_valid(write: Write, deadline: float) -> None:
    assert settings_from(write(deadline=deadline)).deadline == deadline


def test_missing_file_is_named(write: Write, tmp_path: Path) -> None:
    for name in ("absent.conf", "."):
        assert f"{tmp_path / name} does not exist or is not a file" in complaint(str(tmp_path / name))
    assert "absent.conf" in complaint(write(), str(tmp_path / "absent.conf"))


@pytest.mark.parametrize(
    "text", [b"deadline = 3\n[hybridvif\n", b"[hybridvif]\nno sense\n", b"[hybridvif]\nlock_path = \xff\n"], ids=repr
)
def test_file_with_invalid_syntax_is_named(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "odd.conf"
    path.write_bytes(text)
    assert str(path) in complaint(str(path))


# One process, one configuration.


@pytest.fixture
def files(write: Write) -> Iterator[tuple[str, str]]:
    """Return two files. Afterwards, reset the configuration of this process."""
    yield write(deadline=5), write(name="two.conf", deadline=7)
    connect().close()


def test_connection_with_other_files_is_refused_by_name(files: tuple[str, str]) -> None:
    first, second = files
    with connect([first]) as host:
        assert host.settings.deadline == 5
        for others in ([second], [first, second], []):
            with pytest.raises(ConfigurationError, match=r"close\(\) that host") as caught:
                connect(others)
            assert first in str(caught.value)
            assert all(name in str(caught.value) for name in others)
        with connect([first]) as again:
            assert again.settings == host.settings


def test_connection_with_other_files_works_after_close(files: tuple[str, str]) -> None:
    first, second = files
    with connect([first]):
        pass
    with connect([second]) as host:
        assert host.settings.deadline == 7
    with connect() as host:
        assert host.settings == Settings()
        with pytest.raises(ConfigurationError, match="its own configuration"):
            connect([first])


def test_second_close_of_host_changes_nothing(files: tuple[str, str]) -> None:
    first, second = files
    host, again = connect([first]), connect([first])
    host.close()
    host.close()
    with pytest.raises(ConfigurationError):
        connect([second])
    again.close()
    connect([second]).close()


def test_observe_on_closed_host_raises(files: tuple[str, str]) -> None:
    host = connect([files[0]])
    host.close()
    with pytest.raises(HostClosed, match="closed"):
        host.observe(set(), 0)


def test_text_in_place_of_a_list_of_files_is_refused(files: tuple[str, str]) -> None:
    """Its first character was taken for a file: "configuration file / does not exist"."""
    with pytest.raises(ConfigurationError, match="config_files is a text, not a list of files"):
        connect(files[0])
    connect([files[1]]).close()


def test_missing_file_leaves_process_unconnected(files: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        connect([str(tmp_path / "absent.conf")])
    with connect([files[0]]) as host:
        assert host.settings.deadline == 5


def test_relative_name_is_same_file(files: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(files[0]).parent)
    with connect(["hybridvif.conf"]), connect([files[0]]):
        pass


PROGRAM = """
import sys
from oslo_config import cfg
from hybridvif import ConfigurationError, connect

first, second = sys.argv[1:]
cfg.CONF.register_opt(cfg.StrOpt("own"))
cfg.CONF(args=[], default_config_files=[first], project="nova")
cfg.CONF.set_override("own", "theirs")
with connect() as host:
    print(host.settings.deadline)
with connect([first]) as host:
    print(host.settings.deadline)
try:
    connect([second])
except ConfigurationError as error:
    print(first in str(error), second in str(error), "without files" in str(error))
print(cfg.CONF.own, cfg.CONF.project)
"""


def test_connect_keeps_configuration_of_program(write: Write) -> None:
    first, second = write(deadline=5), write(name="two.conf", deadline=7)
    done = subprocess.run([sys.executable, "-c", PROGRAM, first, second], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:4] == ["5.0", "5.0", "True True True", "theirs nova"]


@pytest.mark.parametrize("directory", ["/var/run/openvswitch", "/run/vhost.d/a_b-c", "/" + 91 * "x"])
def test_socket_directory_with_plain_path_is_valid(write: Write, directory: str) -> None:
    assert settings_from(write(vhost_socket_dir=directory)).vhost_socket_dir == directory


@pytest.mark.parametrize(
    "directory", ["", "run", "/", "/run/", "/run/../etc", "/run//x", "/r n", "/run;x", "/" + 92 * "x"]
)
def test_socket_directory_with_unsafe_path_is_refused(write: Write, directory: str) -> None:
    assert f"[hybridvif] vhost_socket_dir: {directory!r} is not an absolute path" in complaint(
        write(vhost_socket_dir=directory)
    )


class _Fetched(BaseHTTPRequestHandler):
    paths: ClassVar[list[str]] = []

    def do_GET(self) -> None:  # the name is that of http.server
        self.paths.append(self.path)
        self.send_error(404)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002  # its own
        """Print nothing."""


def test_daemon_fetches_no_configuration_and_reads_no_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """config_source would load a driver that fetches files, and config_dir in a file would add files."""
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
def test_daemon_reports_invalid_configuration(tmp_path: Path, text: str) -> None:
    (tmp_path / "h.conf").write_text(text)
    with pytest.raises(ConfigurationError, match="the configuration of the privileged daemon is not legal"):
        config.read_own(["--config-file", str(tmp_path / "h.conf")])
    with pytest.raises(ConfigurationError, match="is not legal"):
        config.read_own(["--config-file", str(tmp_path / "absent")])
