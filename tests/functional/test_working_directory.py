"""In a directory where other users may write, no started program runs or imports a file of it.

The directory has a trap for each module of Python and of the used libraries, and for each program.
tests/unit/test_python_starts.py finds each place in the source that starts a Python.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hybridvif.executors.netlink.executor import NetlinkExecutor
from hybridvif.testing.contract.bench import Worker
from hybridvif.testing.pytest_plugin import connected, lacking
from hybridvif.testing.sandbox.box import Sandbox
from hybridvif.testing.sandbox.launch import ROOT, probe

LIBRARIES = (
    *(
        "hybridvif",
        "msgpack",
        "ovs",
        "ovsdbapp",
        "pip",
        "pyroute2",
        "pytest",
        "rich",
        "setuptools",
        "stevedore",
        "yaml",
    ),
    *("oslo_concurrency", "oslo_config", "oslo_log", "oslo_privsep", "oslo_utils", "sitecustomize", "usercustomize"),
)
PROGRAMS = (
    *("brctl", "cat", "dirname", "hybridvif", "ip", "mktemp", "nsenter", "ovs-vsctl", "ovsdb-client", "ovsdb-server"),
    *("ovsdb-tool", "ping", "python", "python3", "setpriv", "sh", "sha256sum", "sort", "sudo", "unshare", "xargs"),
)
SPRUNG = "sprung"
BINARIES = Path(sys.executable).parent
BENCH = (
    "--ports",
    "1",
    "--rounds",
    "1",
    "--recipe",
    "--threads-on",
    "1",
    "--operations",
    "100",
    "--out",
    os.devnull,
)
STARTS = {
    "demo": (str(BINARIES / "hybridvif"), "demo"),
    "demo as a module": (sys.executable, "-P", "-m", "hybridvif", "demo"),
    "demo of tools": (f"{ROOT}/tools/demo",),
    "bench": (f"{ROOT}/tools/bench", *BENCH),
    "sandbox": (str(BINARIES / "hybridvif"), "sandbox", "--", "hybridvif", "show"),
    "plug": (
        *(str(BINARIES / "hybridvif"), "sandbox", "--", "hybridvif", "plug", "5f2c0e1a-7b00-4c00-8000-000000000001"),
        *("--mac", "fa:16:3e:aa:bb:cc", "--instance", "0b1c2d3e-0000-4000-8000-000000000002"),
    ),
    "doctor": (str(BINARIES / "hybridvif"), "sandbox", "--", "hybridvif", "doctor"),
    "search for a Python": ("bash", "-c", f". {ROOT}/tools/setup.sh; fits $venv/bin/python; find_python; make_venv"),
}


@pytest.fixture
def trapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory full of traps, also as an empty element of PATH and PYTHONPATH. No trap may run."""
    if unmet := probe():
        lacking(str(unmet))
    sprung = tmp_path / SPRUNG
    place = tmp_path / "traps"
    place.mkdir()
    for name in {*sys.stdlib_module_names, *LIBRARIES}:
        (place / f"{name}.py").write_text(f"open({str(sprung)!r}, 'a').write('module {name}\\n')\nraise ImportError\n")
    for name in PROGRAMS:
        (place / name).write_text(f"#!/bin/bash\necho program {name} >>{sprung}\nexit 1\n")
        (place / name).chmod(0o755)
    monkeypatch.chdir(place)
    monkeypatch.setenv("PATH", f":.:{os.environ['PATH']}")
    yield place
    assert (sprung.read_text() if sprung.exists() else "") == ""


def run(argv: Sequence[str]) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout


@pytest.mark.parametrize("name", STARTS)
def test_command_in_trapped_directory_springs_no_trap(trapped: Path, name: str) -> None:
    assert trapped.exists()
    run(STARTS[name])


def test_trap_is_sprung_by_python_without_safe_path(trapped: Path) -> None:
    """A control: the traps work."""
    sprung = trapped.parent / SPRUNG
    subprocess.run([sys.executable, "-c", "import argparse"], check=False, capture_output=True)
    subprocess.run("ip link", shell=True, check=False, capture_output=True)
    assert sprung.read_text() == "module argparse\nprogram ip\n"
    sprung.unlink()


def test_box_of_tests_in_trapped_directory_springs_no_trap(trapped: Path) -> None:
    with Sandbox() as box:
        assert box.python("import argparse, json, os; print(os.getcwd())").stdout.strip() == str(trapped)
        box.run(["ip", "link"])
        with connected(box, trapped.parent) as host:
            assert list(host.observe((), time.monotonic() + 20).state) == []
        with Worker(NetlinkExecutor, box, {}) as worker:
            assert not worker.observe((), time.monotonic() + 20).state.links
        box.reboot()
