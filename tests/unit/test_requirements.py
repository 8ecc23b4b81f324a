"""Imported libraries are declared in setup.cfg, and declared libraries are imported."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_layering import ROOT, SOURCES, imports_of, module_of

EXTRAS = {
    "hybridvif.cli.commands.ports": "neutron",
    "hybridvif.cli.terminal": "progress",
    "hybridvif.client.metrics": "metrics",
    "hybridvif.osvif.plugins": "osvif",
    "hybridvif.testing.pytest_plugin": "test",
}
"""Modules that may import the libraries of an extra."""
DISTRIBUTIONS = {"openstack": "openstacksdk", "yaml": "pyyaml", "vif_plug_ovs": "os-vif"}
"""Packages with another name than their distribution."""
CONSTRAINTS = sorted((ROOT / "tests" / "constraints").glob("*.txt"))


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser(delimiters=("=",))
    config.read(ROOT / "setup.cfg")
    return config


def names_in(requirements: str) -> set[str]:
    return {normal(name) for name in re.findall(r"^([\w.-]+)", requirements, re.MULTILINE)}


def normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def imported_by(path: Path) -> set[str]:
    module = module_of(path)
    packages = {found.target.partition(".")[0] for found in imports_of(module, path.read_text())}
    foreign = packages - {"", "hybridvif"} - set(sys.stdlib_module_names)
    return {DISTRIBUTIONS.get(name, normal(name)) for name in foreign}


def always() -> set[str]:
    return names_in(setup_cfg()["options"]["install_requires"])


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_module_imports_what_is_declared(path: Path) -> None:
    extras = setup_cfg()["options.extras_require"]
    extra = EXTRAS.get(module_of(path))
    assert imported_by(path) - always() <= (names_in(extras[extra]) if extra else set())


def test_requirement_is_imported_somewhere() -> None:
    assert always() <= {name for path in SOURCES for name in imported_by(path)}


def test_requirement_has_a_lower_bound() -> None:
    required = setup_cfg()["options"]["install_requires"]
    lines = [line for line in required.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if ">=" not in line] == []


def test_lower_bounds_are_constraints_of_every_requirement() -> None:
    program = ROOT / "tests" / "constraints" / "lower_bounds.py"
    printed = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=True).stdout
    assert names_in(printed) == always() | {"os-vif"}
    assert "oslo.privsep==3.6.0\n" in printed


@pytest.mark.parametrize("path", CONSTRAINTS, ids=lambda path: path.stem)
def test_constraints_of_a_series_pin_every_requirement(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert always() | {"os-vif"} <= names_in("\n".join(lines))
    assert [line for line in lines if "===" not in line] == []
