"""Rules of imports, read from the sources; a planted violation breaks each.

core         stdlib and core; which modules are core, pyproject.toml says, GUARDS apart
executors    core, what executors share, and their own library; never another executor
privileged   core, wire, config, configfiles, postponed, executors.base, oslo; executors through entry points alone
client       all else: neither an executor (but the fake) nor a library that executors stand on
"""

from __future__ import annotations

import ast
import configparser
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "hybridvif").rglob("*.py"))

ENTRYPOINTS = "hybridvif.privileged.entrypoints"
HOST = "hybridvif.client.host"
STARTUP = "hybridvif.privileged.startup"
CHILDREN = "hybridvif.children"
"""The standard library alone, for all who start programs."""
REGISTRY = "hybridvif.privileged.registry"
OS_VIF = "hybridvif.osvif.plugins"
FAKE = "hybridvif.executors.recording"
GUARDS = ("hybridvif.privileged.codec", "hybridvif.privileged.policy")
"""Listed with the core for their coverage, and not of it."""
EXECUTOR_LIBRARIES = ("pyroute2", "ovsdbapp", "ovs")
OWN_LIBRARY = {
    "hybridvif.executors.netlink.executor": ("pyroute2",),
    "hybridvif.executors.ovsdbapp_executor": ("ovsdbapp", "ovs"),
    "hybridvif.executors.ovsdbapp_connection": ("ovsdbapp", "ovs"),
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def core_modules() -> tuple[str, ...]:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["coverage"]["report"]["include"]
    return tuple(module for path in listed if (module := module_of(ROOT / path)) not in GUARDS)


def executor_modules() -> tuple[str, ...]:
    config = configparser.ConfigParser(delimiters=("=",))
    config.read(ROOT / "setup.cfg")
    points = config["options.entry_points"]
    lines = "\n".join(points[group] for group in ("hybridvif.link_executors", "hybridvif.switch_executors")).split("\n")
    return tuple(sorted({line.partition("=")[2].partition(":")[0].strip() for line in lines if line}))


CORE = core_modules()
EXECUTORS = executor_modules()


@dataclass(frozen=True)
class Import:
    """One imported name, dotted and absolute; "" if it is computed at run time."""

    target: str
    line: int
    for_types: bool


def imports_of(module: str, source: str, is_package: bool = False) -> Iterator[Import]:
    tree = ast.parse(source)
    typed = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        for target in targets_of(node, module if is_package else module.rpartition(".")[0]):
            yield Import(target, getattr(node, "lineno", 0), id(node) in typed)


def targets_of(node: ast.AST, package: str) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [name.name for name in names]
        case ast.ImportFrom(module=origin, names=names, level=level):
            above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
            return [".".join([*above, *([origin] if origin else []), name.name]) for name in names]
        case ast.Call(func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module")):
            match node.args:
                case [ast.Constant(value=str(name)), *_]:
                    return [name]
                case _:
                    return [""]
    return []


def is_of(target: str, *modules: str) -> bool:
    return any(target == module or target.startswith(f"{module}.") for module in modules)


def may_import(module: str, target: str) -> bool:
    """Whether a rule permits it; a name computed at run time only the client may import."""
    library = target.partition(".")[0]
    if is_of(target, ENTRYPOINTS) and module not in (HOST, STARTUP):
        return False
    if library == "stevedore":
        return module == REGISTRY
    if library in ("os_vif", "vif_plug_ovs"):
        return module == OS_VIF
    if is_of(target, OS_VIF):
        # Who imports it imports os-vif, which is an extra: doctor alone, where os-vif is installed.
        return module == "hybridvif.cli.osvif"
    if module in CORE:
        return is_of(target, *CORE) or library in sys.stdlib_module_names
    if is_of(module, "hybridvif.executors"):
        shared = is_of(target, "hybridvif.executors") and not is_of(target, *EXECUTORS)
        own = library in OWN_LIBRARY.get(module, ())
        return is_of(target, *CORE, CHILDREN) or shared or own or library in sys.stdlib_module_names
    if is_of(module, "hybridvif.privileged"):
        ours = (
            "hybridvif.privileged.codec",
            "hybridvif.engine.config",
            "hybridvif.engine.config_files",
            "hybridvif.postponed",
            "hybridvif.executors.base",
            "hybridvif.privileged",
            CHILDREN,
        )
        # msgpack is what oslo.privsep's channel speaks.
        channel = library.startswith("oslo_") or library == "msgpack"
        return is_of(target, *CORE, *ours) or channel or library in sys.stdlib_module_names
    if is_of(target, "hybridvif.executors"):
        # Without a library each: what they share, a plan as text and what comes with it, the names of packages, and
        # what must be seen of /proc/sys.
        shared_names = ("base", "besides", "script", "command", "procfs", "ovsrows")
        return is_of(target, FAKE, *(f"hybridvif.executors.{name}" for name in shared_names))
    return library not in EXECUTOR_LIBRARIES


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """Imports that break a rule, as sentences. Those for types alone do not run, and bind the core alone."""
    return [
        f"line {found.line}: {module} may not import {found.target or 'a name computed at run time'}"
        for found in imports_of(module, source, is_package)
        if not (found.for_types and module not in CORE) and not may_import(module, found.target)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_a_module_imports_only_what_its_layer_may(path: Path) -> None:
    assert violations(module_of(path), path.read_text(), path.name == "__init__.py") == []


def test_the_layers_are_where_they_are_said_to_be() -> None:
    modules = {module_of(path) for path in SOURCES}
    assert modules >= {*CORE, HOST, ENTRYPOINTS, REGISTRY, FAKE, *OWN_LIBRARY}
    assert {name.removeprefix("hybridvif.") for name in CORE} >= {
        *("names", "port", "parts", "wiring", "steps", "planner"),
        *("identity", "limits", "report", "reasons", "errors"),
    }
    assert FAKE in EXECUTORS
    assert "hybridvif.executors.base" not in EXECUTORS


@pytest.mark.parametrize(
    ("module", "source", "target"),
    [
        ("hybridvif.model.planner", "import oslo_config", "oslo_config"),
        ("hybridvif.model.planner", "from hybridvif.client.host import Host", "hybridvif.client.host.Host"),
        ("hybridvif.model.planner", "from hybridvif import wire", "hybridvif.privileged.codec"),
        ("hybridvif.model.planner", "from hybridvif import Port", "hybridvif.Port"),
        ("hybridvif.model.planner", "import hybridvif", "hybridvif"),
        ("hybridvif.model.planner", "import json, yaml", "yaml"),
        ("hybridvif.model.planner", "def late():\n    import pyroute2", "pyroute2"),
        ("hybridvif.model.planner", "from . import api", "hybridvif.engine.api"),
        ("hybridvif.model.planner", "from .host import Host", "hybridvif.client.host.Host"),
        ("hybridvif.model.planner", "import importlib\nimportlib.import_module('oslo_log')", "oslo_log"),
        ("hybridvif.model.planner", "import importlib\nimportlib.import_module(name)", "a name computed at run time"),
        ("hybridvif.model.planner", "__import__('yaml')", "yaml"),
        (
            "hybridvif.model.planner",
            "if TYPE_CHECKING:\n    from hybridvif.engine.api import plug",
            "hybridvif.engine.api.plug",
        ),
        ("hybridvif.model.planner", "from hybridvif.partsmen import x", "hybridvif.partsmen.x"),
        ("hybridvif.model.report", "from hybridvif.engine.config import read", "hybridvif.engine.config.read"),
        ("hybridvif.executors.netlink.executor", "import ovs", "ovs"),
        (
            "hybridvif.executors.netlink.executor",
            "from hybridvif.executors import ovsdb",
            "hybridvif.executors.ovsdb.executor",
        ),
        ("hybridvif.executors.netlink.executor", "from . import recording", "hybridvif.executors.recording"),
        ("hybridvif.executors.netlink.executor", "from .ovsdb import X", "hybridvif.executors.ovsdb.executor.X"),
        ("hybridvif.executors.netlink.executor", "from ..wire import decode", "hybridvif.privileged.codec.decode"),
        ("hybridvif.executors.ovsdb.executor", "from pyroute2 import IPRoute", "pyroute2.IPRoute"),
        ("hybridvif.executors.recording", "import pyroute2", "pyroute2"),
        ("hybridvif.executors.base", "from oslo_config import cfg", "oslo_config.cfg"),
        ("hybridvif.executors.base", "from hybridvif.engine.config import read", "hybridvif.engine.config.read"),
        ("hybridvif.executors.anew", "import requests", "requests"),
        (
            "hybridvif.privileged.registry",
            "from hybridvif.executors import netlink",
            "hybridvif.executors.netlink.executor",
        ),
        ("hybridvif.privileged.registry", "from hybridvif.executors.recording import X", FAKE + ".X"),
        (
            "hybridvif.privileged.registry",
            "import_module('hybridvif.executors.ovsdb.executor')",
            "hybridvif.executors.ovsdb.executor",
        ),
        (
            "hybridvif.privileged.registry",
            "import_module(f'hybridvif.executors.{name}')",
            "a name computed at run time",
        ),
        ("hybridvif.privileged.batches", "from stevedore import driver", "stevedore.driver"),
        ("hybridvif.privileged.batches", "import pyroute2", "pyroute2"),
        ("hybridvif.privileged.batches", "from hybridvif.engine.api import plug", "hybridvif.engine.api.plug"),
        ("hybridvif.privileged.batches", "from hybridvif.privileged import entrypoints", ENTRYPOINTS),
        ("hybridvif.engine.api", "from hybridvif.privileged import entrypoints", ENTRYPOINTS),
        ("hybridvif.engine.api", "import hybridvif.privileged.entrypoints", ENTRYPOINTS),
        ("hybridvif.engine.api", "from hybridvif.privileged.entrypoints import observe", ENTRYPOINTS + ".observe"),
        ("hybridvif.engine.api", "from .privileged import entrypoints as twin", ENTRYPOINTS),
        ("hybridvif.engine.api", "import stevedore.driver", "stevedore.driver"),
        ("hybridvif.cli.commands.executors", "from stevedore import named", "stevedore.named"),
        ("hybridvif.cli.commands.doctor", "import stevedore", "stevedore"),
        ("hybridvif.cli.commands.doctor", "def late():\n    import pyroute2", "pyroute2"),
        ("hybridvif.osvif.translation", "from os_vif import objects", "os_vif.objects"),
        ("hybridvif.client.host", "import vif_plug_ovs.ovs", "vif_plug_ovs.ovs"),
        ("hybridvif.engine.config", "from hybridvif.osvif import plugins", "hybridvif.osvif.plugins"),
        ("hybridvif.client.host", "from ovsdbapp.backend import x", "ovsdbapp.backend.x"),
        ("hybridvif.client.host", "import ovs.db.idl", "ovs.db.idl"),
        (
            "hybridvif.client.host",
            "from hybridvif.executors.netlink.executor import N",
            "hybridvif.executors.netlink.executor.N",
        ),
        ("hybridvif.testing.sandbox.vm", "try:\n    import pyroute2\nexcept ImportError:\n    x = 1", "pyroute2"),
    ],
)
def test_a_violation_is_found(module: str, source: str, target: str) -> None:
    [sentence] = violations(module, source)
    assert sentence.endswith(f"{module} may not import {target}")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "hybridvif.model.planner",
            "import json, os.path\nfrom hybridvif.model.parts import Veth\nfrom . import steps",
        ),
        ("hybridvif.model.planner", "if TYPE_CHECKING:\n    from hybridvif.model.report import Report"),
        (
            "hybridvif.executors.netlink.executor",
            "from pyroute2 import IPRoute\nfrom . import procfs\nfrom .base import Executor",
        ),
        (
            "hybridvif.executors.ovsdbapp_executor",
            "import ovs.db.idl, ovsdbapp\nfrom hybridvif.model.settings import Settings",
        ),
        ("hybridvif.executors.anew", "if TYPE_CHECKING:\n    import requests"),
        (
            "hybridvif.privileged.registry",
            "import stevedore, oslo_config\nfrom hybridvif.executors.base import Executor",
        ),
        ("hybridvif.privileged.entrypoints", "from hybridvif import config, wire\nfrom . import policy"),
        ("hybridvif.client.host", "from hybridvif.privileged import entrypoints\nfrom oslo_config import cfg"),
        ("hybridvif.testing.pytest_plugin", "from hybridvif.executors.recording import RecordingHost"),
        ("hybridvif.cli.commands.doctor", "import importlib\nimportlib.import_module(name)\nimport rich"),
        ("hybridvif.cli.commands.executors", "from importlib.metadata import entry_points"),
        ("hybridvif.engine.api", "if typing.TYPE_CHECKING:\n    import pyroute2"),
        ("hybridvif.engine.api", "import ovsomething"),
        (OS_VIF, "import os_vif\nfrom vif_plug_ovs.ovs import OvsPlugin\nfrom hybridvif import api"),
    ],
)
def test_what_a_layer_may_import_is_no_violation(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_what_runs_where_types_are_not_checked_is_no_import_for_types() -> None:
    source = "if TYPE_CHECKING:\n    import json\nelse:\n    import pyroute2"
    assert violations("hybridvif.engine.api", source) == ["line 4: hybridvif.engine.api may not import pyroute2"]


def test_a_relative_import_of_a_package_is_seen_from_inside_it() -> None:
    assert violations("hybridvif.executors", "from . import netlink", is_package=True) == [
        "line 1: hybridvif.executors may not import hybridvif.executors.netlink.executor"
    ]
