"""The class of the plugin `ovs`: in any order of directories, after a reset, and with other plugins. And eventlet."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import distribution
from itertools import permutations
from pathlib import Path
from subprocess import run

import pytest

DROP_IN = "hybridvif.osvif.plugins.HybridOvsPlugin"
ASK = """
import json, sys
sys.path[:0] = sys.argv[2:]
import warnings; warnings.simplefilter("ignore")
import os_vif
from oslo_config import cfg
cfg.CONF(args=["--config-file", sys.argv[1]], project="nova")
classes = []
for reset in (False, True, True):
    os_vif.initialize(reset=reset)
    found = os_vif._EXT_MANAGER["ovs"].obj
    classes.append([type(found).__module__ + "." + type(found).__name__, found.config is cfg.CONF.os_vif_ovs])
print(json.dumps([classes, list(os_vif._EXT_MANAGER.names())]))
"""
Directory = Callable[[str], str]


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    """Return a function that creates a directory with the entry points of one distribution only."""

    def directory(name: str) -> str:
        place = tmp_path / name
        meta = place / f"{name}-99.dist-info"
        meta.mkdir(parents=True)
        (meta / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 99\n")
        if name == "another":
            (meta / "entry_points.txt").write_text("[os_vif]\novs = vif_plug_noop.noop:NoOpPlugin\n")
        else:
            text = distribution(name.replace("_", "-")).read_text("entry_points.txt")
            (meta / "entry_points.txt").write_text(text or "")
        return str(place)

    return directory


def classes_of(config: Path, *directories: str) -> tuple[list[list[object]], list[str]]:
    # stevedore gets its own cache of entry points, which other tests must not share.
    env = {"PATH": "/usr/bin:/bin", "HOME": str(config.parent), "XDG_CACHE_HOME": str(config.parent)}
    done = run(
        [sys.executable, "-c", ASK, str(config), *directories], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    classes, names = json.loads(done.stdout.splitlines()[-1])
    return classes, names


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "nova.conf"
    path.write_text("[hybridvif]\nanswer_to_ovs = true\n")
    return path


@pytest.mark.parametrize("order", list(permutations(["hybridvif", "os_vif", "another"])), ids=" ".join)
def test_drop_in_replaces_ovs_in_any_order_of_directories(
    config: Path, directory: Directory, order: tuple[str, ...]
) -> None:
    classes, names = classes_of(config, *(directory(name) for name in order))
    assert classes == [[DROP_IN, True]] * 3
    assert names.count("ovs") == 2


def test_order_of_plugins_follows_order_of_directories(config: Path, directory: Directory) -> None:
    both = directory("hybridvif"), directory("os_vif")
    classes, first = classes_of(config, *both)
    assert first.index("hybridvif") < first.index("ovs")
    reversed_classes, last = classes_of(config, *reversed(both))
    assert last.index("ovs") < last.index("hybridvif")
    assert classes == reversed_classes == [[DROP_IN, True]] * 3


def test_without_option_ovs_is_not_replaced(config: Path, directory: Directory) -> None:
    config.write_text("[hybridvif]\n")
    classes, _ = classes_of(config, directory("hybridvif"), directory("os_vif"))
    assert [cls for cls, _ in classes] == ["vif_plug_ovs.ovs.OvsPlugin"] * 3


@pytest.mark.parametrize(("option", "verdict"), [("true", "pass"), ("false", "info")])
def test_doctor_reports_class_of_ovs(tmp_path: Path, option: str, verdict: str) -> None:
    found = doctor(tmp_path, option)["os-vif"]
    assert found["verdict"] == verdict
    assert (DROP_IN in found["text"]) is (option == "true")


@pytest.mark.parametrize(("option", "verdict"), [("true", "info"), ("false", "fail")])
def test_doctor_reports_duplicate_plugins(tmp_path: Path, directory: Directory, option: str, verdict: str) -> None:
    assert "os-vif, doubles" not in doctor(tmp_path, option)
    found = doctor(tmp_path, option, directory("another"))["os-vif, doubles"]
    assert found["verdict"] == verdict
    assert "NoOpPlugin (another)" in found["text"]


def test_doctor_reports_plugin_that_fails_to_load(tmp_path: Path, directory: Directory) -> None:
    place = Path(directory("another"))
    code = "class Plugin:\n    def load(name):\n        raise RuntimeError('no card here')\n"
    (place / "no_card.py").write_text(code)
    (place / "another-99.dist-info" / "entry_points.txt").write_text("[os_vif]\ncard = no_card:Plugin\n")
    found = doctor(tmp_path, "true", str(place))["os-vif"]
    assert (found["verdict"], found["text"]) == ("fail", "os-vif cannot load its plugins: RuntimeError: no card here")


def doctor(tmp_path: Path, option: str, *directories: str) -> dict[str, dict[str, str]]:
    config = tmp_path / "doctor.conf"
    config.write_text(f"[hybridvif]\nanswer_to_ovs = {option}\nlock_path = {tmp_path}/locks\n")
    shutil.rmtree(tmp_path / "python-entrypoints", ignore_errors=True)
    command = ["-W", "ignore", "-m", "hybridvif", "--config-file", str(config), "doctor", "-f", "json"]
    env = {"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": ":".join(directories)}
    done = run([sys.executable, *command], env=env, capture_output=True, text=True, check=False)
    return {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}


def test_doctor_suppresses_warnings_of_eventlet(tmp_path: Path) -> None:
    config = tmp_path / "quiet.conf"
    config.write_text(f"[hybridvif]\nanswer_to_ovs = true\nlock_path = {tmp_path}/locks\n")
    command = [sys.executable, "-m", "hybridvif", "--config-file", str(config), "doctor"]
    done = run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)
    assert "answers to 'ovs'" in done.stdout
    assert "ventlet" not in done.stderr


PATCHED = """
import eventlet
eventlet.monkey_patch({patched})
from hybridvif import PreconditionError, connect
try:
    connect().close()
    print("connected")
except PreconditionError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("patched", "answer"),
    [
        ("", "connected"),
        ("thread=False", "connected"),
        ("all=False, socket=True", "connected"),
        ("all=False, thread=True, socket=True, subprocess=True", "connected"),
        ("all=False, thread=True", "eventlet has patched the threads of this program but not the module socket"),
        ("socket=False", "eventlet has patched the threads of this program but not the module socket"),
        ("subprocess=False", "eventlet has patched the threads of this program but not the module subprocess"),
    ],
)
def test_threads_patched_without_their_waits_are_refused(patched: str, answer: str) -> None:
    """The first wait for the daemon would block all green threads, beyond any deadline."""
    command = [sys.executable, "-c", PATCHED.replace("{patched}", patched)]
    assert run(command, capture_output=True, text=True, check=True).stdout.startswith(answer)
