"""The examples work: the plugin's tests without root, the third party's executors if installed."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from hybridvif.testing.pytest_plugin import NO_SKIP
from hybridvif.testing.sandbox.box import Sandbox

EXAMPLES = Path(__file__).parents[2] / "examples"


def pytest_in(python: Path | str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(directory), str(directory)],
        cwd=directory,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_the_plugins_own_tests_need_no_root() -> None:
    done = pytest_in(sys.executable, EXAMPLES / "plugin")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the third party's distribution installed.

    It shares the libraries of this environment. The test is about entry points of another distribution.
    """
    directory = tmp_path_factory.mktemp("thirdparty")
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    libraries = [*site.getsitepackages(), str(EXAMPLES.parent)]
    (directory / "lib" / version / "site-packages" / "libraries.pth").write_text("\n".join(libraries) + "\n")
    # From a copy: setuptools builds beside the source.
    source = shutil.copytree(EXAMPLES / "thirdparty", directory / "source")
    subprocess.run(
        [str(python), "-m", "pip", "install", "-q", "--no-deps", str(source)],
        check=True,
        capture_output=True,
        timeout=180,
    )
    return python


def test_a_third_partys_executors_are_installed_keep_the_contract_and_plug(sandbox: Sandbox, fresh: Path) -> None:
    done = pytest_in(fresh, EXAMPLES / "thirdparty" / "tests", **{NO_SKIP: "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
