"""The configured executor is loaded, or an error lists the installed ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from stevedore import _cache
from stevedore.extension import ExtensionManager

from hybridvif.executors.base import Executor
from hybridvif.executors.recording import RecordingLinks, RecordingSwitch
from hybridvif.model.errors import ConfigurationError
from hybridvif.model.parts import Role
from hybridvif.model.settings import Settings
from hybridvif.privileged.execute import GROUPS, executor_of, installed

OPTIONS = {Role.LINK: "link_executor", Role.SWITCH: "switch_executor"}
BOTH = pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)


@pytest.fixture(autouse=True)
def _clear_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clear the cache of stevedore, which lasts as long as the process."""
    monkeypatch.setattr(ExtensionManager, "ENTRY_POINT_CACHE", {})
    monkeypatch.setattr(_cache._c, "_internal", {})


def settings(role: Role, name: str) -> Settings:
    return Settings(**{OPTIONS[role]: name})  # type: ignore[arg-type]


def sentence(role: Role, name: str) -> str:
    """Return the error for an unusable executor: option, name, and the installed executors."""
    with pytest.raises(ConfigurationError) as caught:
        executor_of(role, settings(role, name))
    message = str(caught.value)
    assert message.startswith(f"[hybridvif] {OPTIONS[role]}: ")
    assert f"{name!r}" in message
    assert f"there are {', '.join(installed(role))}" in message
    return message


# Installed executors.


def test_default_executors_are_installed() -> None:
    for role in Role:
        assert getattr(Settings(), OPTIONS[role]) in installed(role)


@BOTH
def test_installed_executors_have_the_right_role(role: Role) -> None:
    assert "recording" in installed(role)
    for name in installed(role):
        executor = executor_of(role, settings(role, name))
        assert isinstance(executor, Executor)
        assert executor.role is role
        assert all(part.role is role for part in executor.serves)


def test_recording_executor_exists_for_both_roles() -> None:
    assert isinstance(executor_of(Role.LINK, settings(Role.LINK, "recording")), RecordingLinks)
    assert isinstance(executor_of(Role.SWITCH, settings(Role.SWITCH, "recording")), RecordingSwitch)


# Missing and broken executors.


@BOTH
@pytest.mark.parametrize("name", ["recordign", "", "os:getcwd", "../recording", "Recording"])
def test_misspelled_executor_error_lists_the_installed_ones(role: Role, name: str) -> None:
    message = sentence(role, name)
    assert "no executor named" in message
    assert message.endswith("; did you mean recording?") is ("record" in name.lower())


MODULE = """
import time
from hybridvif.executors.recording import RecordingLinks, RecordingSwitch

NOTHING = None

class Halved:
    role = RecordingLinks.role
    serves = RecordingLinks.serves

class Spelled(RecordingLinks):
    role = "link"

class OfLinks(RecordingLinks):
    pass

class OfSwitches(RecordingSwitch):
    pass

class WritesByLetters(RecordingLinks):
    writes = "/run"

class WritesAnywhere(RecordingLinks):
    writes = ("run",)

class Failing(RecordingLinks):
    def __init__(self, settings):
        raise ValueError("no such luck")
"""
BROKEN = {
    "absent-module": ("hv_no_such_module:Executor", "cannot be loaded"),
    "absent-class": ("hv_plugin:Executor", "cannot be loaded"),
    "no-executor": ("hv_plugin:NOTHING", "lacks role"),
    "another-object": ("os:getcwd", "lacks role"),
    "half-an-executor": ("hv_plugin:Halved", "lacks programs, atomic, observe, apply"),
    "misspelt-role": ("hv_plugin:Spelled", "is a link executor"),
    "letters": ("hv_plugin:WritesByLetters", "not a tuple of absolute paths"),
    "no-path": ("hv_plugin:WritesAnywhere", "not a tuple of absolute paths"),
    "no-start": ("hv_plugin:Failing", "no such luck"),
    "no-syntax": ("hv_syntax:Executor", "cannot be loaded"),
    "no-import": ("hv_raising:Executor", "cannot be loaded"),
}


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a distribution with broken executors."""
    (tmp_path / "hv_plugin.py").write_text(MODULE)
    (tmp_path / "hv_syntax.py").write_text("class Executor(:\n")
    (tmp_path / "hv_raising.py").write_text("raise ZeroDivisionError\n")
    meta = tmp_path / "hv_plugin-1.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: hv-plugin\nVersion: 1\n")
    points = [f"{name} = {target}" for name, (target, _) in BROKEN.items()]
    points += ["of-links = hv_plugin:OfLinks", "of-switches = hv_plugin:OfSwitches"]
    lines = [line for group in GROUPS.values() for line in (f"[{group}]", *points)]
    twice = [f"[{GROUPS[Role.LINK]}]", "twice = hv_plugin:RecordingLinks"]
    (meta / "entry_points.txt").write_text("\n".join(lines))
    other = tmp_path / "hv_other-1.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: hv-other\nVersion: 1\n")
    (other / "entry_points.txt").write_text("\n".join([*twice, "recording = hv_plugin:Failing"]))
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_executor_error_contains_the_reason(plugins: None, name: str) -> None:
    assert BROKEN[name][1] in sentence(Role.LINK, name)


@pytest.mark.parametrize(
    ("role", "name", "its"), [(Role.SWITCH, "of-links", "link"), (Role.LINK, "of-switches", "switch")]
)
def test_executor_of_the_other_role_is_refused(plugins: None, role: Role, name: str, its: str) -> None:
    assert f"is a {its} executor" in sentence(role, name)


def test_two_executors_with_one_name_are_refused(plugins: None) -> None:
    assert isinstance(executor_of(Role.LINK, settings(Role.LINK, "twice")), RecordingLinks)
    assert "recording" in sentence(Role.LINK, "recording")


def test_shadowed_distribution_counts_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older hybridvif later in sys.path is not the one that is imported."""
    older = tmp_path / "hybridvif-0.0.1.dist-info"
    older.mkdir()
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: hybridvif\nVersion: 0.0.1\n")
    (older / "entry_points.txt").write_text(f"[{GROUPS[Role.LINK]}]\nrecording = os:getcwd\nolder = os:getcwd\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert isinstance(executor_of(Role.LINK, settings(Role.LINK, "recording")), RecordingLinks)
    assert "older" not in installed(Role.LINK)


# A planted cache.

PLANTED = """
import sys
from stevedore.driver import DriverManager
from hybridvif.model.parts import Role
from hybridvif.privileged.execute import GROUPS, executor_of
from hybridvif.model.settings import Settings
if sys.argv[1] == "stevedore":
    print(DriverManager(GROUPS[Role.LINK], "iproute2-netlink").driver.__module__)
else:
    print(type(executor_of(Role.LINK, Settings())).__module__)
"""
PATH = """
import json, sys
from stevedore import _cache
print(json.dumps([_cache._get_cache_dir(), _cache._hash_settings_for_path(tuple(sys.path))[0]]))
"""


def test_planted_cache_is_ignored(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": os.fspath(Path(__file__).parents[3])}
    environment.pop("XDG_CACHE_HOME", None)

    def run(code: str, *arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    directory, digest = json.loads(run(PATH))
    assert directory.startswith(str(tmp_path))
    os.makedirs(directory)
    point = ["iproute2-netlink", "os:getcwd", GROUPS[Role.LINK]]
    Path(directory, digest).write_text(json.dumps({"groups": {GROUPS[Role.LINK]: [point]}}))

    assert run(PLANTED, "stevedore") == "posix"  # what stevedore alone would have loaded
    assert run(PLANTED, "registry") == "hybridvif.executors.netlink.executor"


def test_daemon_has_no_directory_for_caches() -> None:
    """An executor may use stevedore for plugins of its own."""
    code = "from hybridvif.privileged.helper import reset; reset(); from stevedore import _cache; print(_cache._c._dir)"
    directory = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True).stdout
    with pytest.raises(NotADirectoryError):
        os.makedirs(directory.strip())
