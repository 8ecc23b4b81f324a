"""The import guard of the daemon permits the standard library and pyroute2 only."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridvif.privileged import imports


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The first directory of sys.path, in a process with an open guard."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    before = dict(sys.modules)
    imports.arm()
    yield tmp_path
    for name in sys.modules.keys() - before.keys():
        del sys.modules[name]
    sys.modules.update(before)


def test_open_guard_permits_all_imports(guarded: Path) -> None:
    (guarded / "planted.py").write_text("RUN = True\n")
    assert importlib.import_module("planted").RUN


def test_closed_guard_refuses_a_planted_module(guarded: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger=imports.__name__)
    (guarded / "planted.py").write_text("raise SystemExit('it ran')\n")
    (guarded / "kept.py").write_text("")
    kept = importlib.import_module("kept")
    imports.close()
    with pytest.raises(ImportError, match="^refused: planted was not imported when") as caught:
        importlib.import_module("planted")
    assert caught.value.name == "planted"
    assert [record.getMessage() for record in caplog.records] == [str(caught.value)]
    # A loaded module stays available.
    assert importlib.import_module("kept") is kept


def test_closed_guard_finds_only_real_standard_modules(guarded: Path) -> None:
    sys.modules.pop("this", None)
    for name in ("colorsys", "winreg"):
        sys.modules.pop(name, None)
        (guarded / f"{name}.py").write_text("raise SystemExit('it ran')\n")
    imports.close()
    assert importlib.import_module("colorsys").rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0)
    assert importlib.import_module("encodings.cp037").__name__ == "encodings.cp037"
    with pytest.raises(ModuleNotFoundError, match="winreg"):
        importlib.import_module("winreg")


def test_closed_guard_permits_a_deferred_import(guarded: Path) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyroute2"]:
        del sys.modules[name]
    imports.close()
    assert importlib.import_module("pyroute2.netlink.exceptions").NetlinkError
