"""Absolute names of the configuration files that a program has read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from oslo_config import cfg

from hybridvif import ConfigurationError
from hybridvif.engine.config import absolute, files_of, is_set, set_in_files, settings_of


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a working directory with files in several places. No other directory has files of these names."""
    start = tmp_path / "etc" / "start"
    for name, section in {
        "start/nova.conf": "DEFAULT",
        "start/sub/nova.conf": "hybridvif",
        "start/nova.d/a.conf": "os_vif_ovs",
        "start/empty.conf": "",
        "beside.conf": "hybridvif",
    }.items():
        path = tmp_path / "etc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"[{section}]\n" if section else "# nothing is set here\n")
    monkeypatch.chdir(start)
    return start


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize(
    ("arguments", "files", "directories"),
    [
        ("--config-file nova.conf", ["nova.conf"], []),
        ("--config-file=./nova.conf", ["nova.conf"], []),
        ("--config-file sub/../nova.conf", ["nova.conf"], []),
        ("--config-file sub/nova.conf --config-file nova.conf", ["sub/nova.conf", "nova.conf"], []),
        ("--config-file nova.conf --config-file empty.conf", ["nova.conf", "empty.conf"], []),
        ("--config-file ../beside.conf", ["../beside.conf"], []),
        ("--config-file ../beside.conf --config-file nova.conf", ["../beside.conf", "nova.conf"], []),
        ("--config-file nova.conf --config-dir nova.d", ["nova.conf"], ["nova.d"]),
        ("--config-file nova.conf --config-dir nova.d/ --config-dir sub", ["nova.conf"], ["nova.d", "sub"]),
        ("--config-file ~/nova.conf --config-dir ~/nova.d", ["nova.conf"], ["nova.d"]),
        ("--config-file {start}/nova.conf --config-dir {start}/nova.d", ["nova.conf"], ["nova.d"]),
    ],
)
def test_file_names_are_absolute_after_change_of_directory(
    started: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    files: list[str],
    directories: list[str],
    moved: bool,
) -> None:
    monkeypatch.setenv("HOME", str(started))
    conf = cfg.ConfigOpts()
    conf(arguments.format(start=started).split(), default_config_files=[], default_config_dirs=[])
    if moved:
        monkeypatch.chdir("/")
    found = files_of(conf)
    assert [os.path.normpath(name) for name in found["config_file"]] == [
        os.path.normpath(started / name) for name in files
    ]
    assert [os.path.normpath(name) for name in found["config_dir"]] == [str(started / name) for name in directories]
    assert all(os.path.isabs(name) for names in found.values() for name in names)


def test_program_without_files_has_no_names(started: Path) -> None:
    conf = cfg.ConfigOpts()
    assert files_of(conf) == {"config_file": [], "config_dir": []}
    conf([], default_config_files=[], default_config_dirs=[])
    assert files_of(conf) == {"config_file": [], "config_dir": []}


def test_default_file_is_absolute(started: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = cfg.ConfigOpts()
    conf([], default_config_files=["nova.conf"], default_config_dirs=["nova.d"])
    monkeypatch.chdir("/")
    assert files_of(conf)["config_file"] == [str(started / "nova.conf")]


def test_options_of_os_vif_are_read_after_a_change_of_directory(started: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (started / "nova.conf").write_text(
        "[os_vif_ovs]\novsdb_connection = unix:/run/nova.sock\nnetwork_device_mtu = 9000\n"
    )
    conf = cfg.ConfigOpts()
    conf(["--config-file", "nova.conf"], default_config_files=[], default_config_dirs=[])
    monkeypatch.chdir("/")
    assert set_in_files(conf, ("network_device_mtu",)) == {"network_device_mtu": 9000}
    assert settings_of(conf).ovsdb_connection == "unix:/run/nova.sock"
    assert not is_set(conf, "ovsdb_connection")


def test_relative_name_in_deleted_directory_is_reported(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.rmdir(os.getcwd()); from hybridvif import ConfigurationError, connect\n"
        "try: connect(['x.conf'])\nexcept ConfigurationError as error: print(error)"
    )
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=gone, capture_output=True, text=True, check=True)
    assert done.stdout == (
        "configuration file x.conf: its path is relative, and the working directory has been deleted; "
        "give an absolute path, or change to another directory\n"
    )


def test_absolute_name_needs_no_directory() -> None:
    assert absolute("/etc/../x.conf") == "/x.conf"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *((option, value) for option in ("lock_path", "program_path") for value in ("locks", "./locks", "~/locks", "")),
        *(("program_path", value) for value in ("/usr/bin:locks", "/usr/bin:", ":/usr/bin")),
    ],
)
def test_path_that_two_processes_read_must_be_absolute(tmp_path: Path, option: str, value: str) -> None:
    path = tmp_path / "hybridvif.conf"
    path.write_text(f"[hybridvif]\n{option} = {value}\n")
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(path)], default_config_dirs=[])
    with pytest.raises(ConfigurationError, match=rf"^\[hybridvif\] {option}: ") as refused:
        settings_of(conf)
    assert "absolute" in str(refused.value)
