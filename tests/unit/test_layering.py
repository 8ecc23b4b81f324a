"""Imports between folders, read from the sources. A planted violation breaks each rule."""

from __future__ import annotations

import ast
import configparser
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "hybridvif").rglob("*.py"))

READERS = ("connection", "devices", "socket")
"""Modules of the link executors that read devices without privileges: trace reads them as its caller."""
FOLDERS: Mapping[str, tuple[str, ...]] = {
    "model": (),
    "engine": ("model",),
    "executors": ("model",),
    "privileged": ("model", "engine.config", "executors.base"),
    "client": ("model", "engine", "privileged", *(f"executors.netlink.{name}" for name in READERS)),
    "osvif": ("model", "engine", "client"),
    "testing": ("model", "engine", "client", "privileged", "executors"),
    "cli": (*("model", "engine", "client", "privileged", "osvif", "testing"), "executors.base"),
}
"""Folders that each folder of hybridvif imports."""
FREE = ("hybridvif", "hybridvif.__main__", "hybridvif.children", "hybridvif.spans")
"""Modules beside the folders: the public names, lazily imported, and what loads nothing of ours."""
SHARED = tuple(
    f"hybridvif.executors.{name}"
    for name in ("recording", "side_effects", "command_lines", "command", "netlink.sysctl", "ovs_rows")
)
"""Modules of executors that need no library: the client and the command use them too."""
REQUESTS = "hybridvif.privileged.requests"
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "stevedore": ("hybridvif.privileged.execute",),
    "os_vif": ("hybridvif.osvif.plugins",),
    "vif_plug_ovs": ("hybridvif.osvif.plugins",),
    "pyroute2": ("hybridvif.executors.pyroute2_executor",),
    "ovsdbapp": ("hybridvif.executors.ovsdbapp_executor",),
    "ovs": ("hybridvif.executors.ovsdbapp_executor",),
    "prometheus_client": ("hybridvif.client.metrics",),
    "openstack": ("hybridvif.cli.commands.ports",),
    "keystoneauth1": ("hybridvif.cli.commands.ports",),
}
"""Libraries that only these modules import."""
BARE = ("model", "executors")
"""Folders that import the standard library only, except for LIBRARIES."""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def entry_points() -> tuple[str, ...]:
    """Return the modules of the executors that setup.cfg declares."""
    config = configparser.ConfigParser(delimiters=("=",))
    config.read(ROOT / "setup.cfg")
    points = config["options.entry_points"]
    lines = "\n".join(points[group] for group in ("hybridvif.link_executors", "hybridvif.switch_executors")).split("\n")
    return tuple(sorted({line.partition("=")[2].partition(":")[0].strip() for line in lines if line}))


EXECUTORS = entry_points()
EXTENDED = {
    "hybridvif.executors.brctl": "hybridvif.executors.netlink.executor",
    "hybridvif.executors.pyroute2_executor": "hybridvif.executors.netlink.executor",
    "hybridvif.executors.ovsdbapp_executor": "hybridvif.executors.ovsdb.executor",
    "hybridvif.executors.vsctl": "hybridvif.executors.ovsdb.executor",
}
"""Executors that extend the default one of their role. No other import between executors is permitted."""


@dataclass(frozen=True)
class Import:
    """One imported name, dotted and absolute. Empty if it is computed at run time."""

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


def folder_of(module: str) -> str:
    """Return the folder of a module. Empty: it lies beside the folders."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FOLDERS else ""


def may_import(module: str, target: str) -> bool:
    """Return whether a rule permits the import."""
    folder, library = folder_of(module), target.partition(".")[0]
    if library in LIBRARIES:
        return module in LIBRARIES[library]
    if library != "hybridvif":
        # A name computed at run time is empty.
        return folder not in (*BARE, "privileged") or is_permitted_library(folder, library)
    if is_of(target, REQUESTS):
        return module in ("hybridvif.privileged.main", "hybridvif.client.host")
    if is_of(target, "hybridvif.osvif.plugins"):
        # Only where os-vif is installed, which is an extra.
        return module == "hybridvif.cli.commands.doctor"
    if not folder or is_of(target, f"hybridvif.{folder}"):
        return not is_another_executor(module, target)
    if is_of(target, *SHARED):
        return folder in ("cli", "testing")
    if is_of(target, "hybridvif.children", "hybridvif.spans"):
        return folder != "model"
    return is_of(target, *(f"hybridvif.{other}" for other in FOLDERS[folder])) or (
        folder not in BARE and is_beside_the_folders(target)
    )


def is_permitted_library(folder: str, library: str) -> bool:
    # oslo.privsep's channel uses msgpack.
    own = library.startswith("oslo_") or library == "msgpack"
    return library in sys.stdlib_module_names or (folder == "privileged" and own)


def is_another_executor(module: str, target: str) -> bool:
    others = [name for name in EXECUTORS if name not in (module, EXTENDED.get(module))]
    return is_of(module, "hybridvif.executors") and is_of(target, *others)


def is_beside_the_folders(target: str) -> bool:
    return is_of(target, *FREE[2:]) or target.count(".") <= 1


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """Return the forbidden imports, as sentences. Imports for types alone bind the model only."""
    return [
        f"line {found.line}: {module} may not import {found.target or 'a name computed at run time'}"
        for found in imports_of(module, source, is_package)
        if not (found.for_types and folder_of(module) != "model") and not may_import(module, found.target)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_module_imports_only_permitted_folders(path: Path) -> None:
    assert violations(module_of(path), path.read_text(), path.name == "__init__.py") == []


def test_every_folder_has_a_rule() -> None:
    folders = {path.parent.name for path in (ROOT / "hybridvif").glob("*/__init__.py")}
    assert folders == {*FOLDERS}
    assert {module_of(path) for path in SOURCES} >= {REQUESTS, *EXECUTORS, *FREE, *SHARED}


def test_import_graph_has_no_circle_of_folders() -> None:
    order: list[str] = []
    pending = {folder: {name.partition(".")[0] for name in names} for folder, names in FOLDERS.items()}
    while pending:
        free = [folder for folder, names in pending.items() if names <= {*order}]
        assert free, f"these folders import each other: {sorted(pending)}"
        order += free
        for folder in free:
            del pending[folder]


@pytest.mark.parametrize(
    ("module", "source", "target"),
    [
        ("hybridvif.model.planner", "import oslo_config", "oslo_config"),
        ("hybridvif.model.planner", "from hybridvif.client.host import Host", "hybridvif.client.host.Host"),
        ("hybridvif.model.planner", "from hybridvif.privileged import codec", "hybridvif.privileged.codec"),
        ("hybridvif.model.planner", "from hybridvif import Port", "hybridvif.Port"),
        ("hybridvif.model.planner", "import hybridvif", "hybridvif"),
        ("hybridvif.model.planner", "import json, yaml", "yaml"),
        ("hybridvif.model.planner", "def late():\n    import pyroute2", "pyroute2"),
        ("hybridvif.model.planner", "from ..engine import converge", "hybridvif.engine.converge"),
        ("hybridvif.model.planner", "import importlib\nimportlib.import_module('oslo_log')", "oslo_log"),
        ("hybridvif.model.planner", "import importlib\nimportlib.import_module(name)", "a name computed at run time"),
        ("hybridvif.model.planner", "__import__('yaml')", "yaml"),
        (
            "hybridvif.model.planner",
            "if TYPE_CHECKING:\n    from hybridvif.engine.converge import x",
            "hybridvif.engine.converge.x",
        ),
        ("hybridvif.engine.converge", "from hybridvif.client.host import Host", "hybridvif.client.host.Host"),
        ("hybridvif.engine.converge", "from hybridvif.privileged import codec", "hybridvif.privileged.codec"),
        ("hybridvif.executors.netlink.executor", "import ovs", "ovs"),
        (
            "hybridvif.executors.netlink.executor",
            "from hybridvif.executors.ovsdb import executor",
            "hybridvif.executors.ovsdb.executor",
        ),
        ("hybridvif.executors.brctl", "from . import recording", "hybridvif.executors.recording"),
        ("hybridvif.executors.netlink.executor", "import pyroute2", "pyroute2"),
        ("hybridvif.executors.ovsdb.executor", "from pyroute2 import IPRoute", "pyroute2.IPRoute"),
        ("hybridvif.executors.recording", "import pyroute2", "pyroute2"),
        ("hybridvif.executors.base", "from oslo_config import cfg", "oslo_config.cfg"),
        ("hybridvif.executors.base", "from hybridvif.engine.config import read", "hybridvif.engine.config.read"),
        ("hybridvif.executors.example", "import requests", "requests"),
        ("hybridvif.privileged.execute", "from hybridvif.executors import brctl", "hybridvif.executors.brctl"),
        (
            "hybridvif.privileged.execute",
            "import_module(f'hybridvif.executors.{name}')",
            "a name computed at run time",
        ),
        ("hybridvif.privileged.requests", "from stevedore import driver", "stevedore.driver"),
        ("hybridvif.privileged.execute", "import pyroute2", "pyroute2"),
        (
            "hybridvif.privileged.execute",
            "from hybridvif.engine.converge import plug",
            "hybridvif.engine.converge.plug",
        ),
        ("hybridvif.privileged.execute", "from hybridvif.privileged import requests", REQUESTS),
        ("hybridvif.engine.converge", "from ..privileged.requests import observe", REQUESTS + ".observe"),
        ("hybridvif.engine.converge", "import stevedore.driver", "stevedore.driver"),
        ("hybridvif.cli.commands.doctor", "def late():\n    import pyroute2", "pyroute2"),
        ("hybridvif.osvif", "from os_vif import objects", "os_vif.objects"),
        ("hybridvif.client.host", "import vif_plug_ovs.ovs", "vif_plug_ovs.ovs"),
        ("hybridvif.engine.config", "from hybridvif.osvif import plugins", "hybridvif.osvif.plugins"),
        ("hybridvif.client.host", "import ovs.db.idl", "ovs.db.idl"),
        ("hybridvif.client.host", "from hybridvif.executors.brctl import X", "hybridvif.executors.brctl.X"),
        ("hybridvif.testing.sandbox.box", "try:\n    import pyroute2\nexcept ImportError:\n    x = 1", "pyroute2"),
    ],
)
def test_forbidden_import_is_found(module: str, source: str, target: str) -> None:
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
            "from . import socket\nfrom ..base import Executor",
        ),
        ("hybridvif.executors.pyroute2_executor", "from pyroute2 import IPRoute"),
        ("hybridvif.executors.ovsdbapp_executor", "import ovs.db.idl\nfrom hybridvif.model.settings import Settings"),
        ("hybridvif.executors.example", "if TYPE_CHECKING:\n    import requests"),
        (
            "hybridvif.privileged.execute",
            "import stevedore, oslo_config\nfrom hybridvif.executors.base import Executor",
        ),
        ("hybridvif.privileged.requests", "from hybridvif.engine import config\nfrom . import authorize"),
        ("hybridvif.client.host", "from hybridvif.privileged import codec\nfrom oslo_config import cfg"),
        ("hybridvif.client.host", "def call():\n    from hybridvif.privileged import requests"),
        ("hybridvif.testing.pytest_plugin", "from hybridvif.executors.recording import RecordingHost"),
        ("hybridvif.cli.commands.doctor", "import importlib\nimportlib.import_module(name)\nimport rich"),
        ("hybridvif.cli.commands.executors", "from importlib.metadata import entry_points"),
        ("hybridvif.engine.converge", "if typing.TYPE_CHECKING:\n    import pyroute2"),
        ("hybridvif.engine.converge", "import ovsomething"),
        (
            "hybridvif.osvif.plugins",
            "import os_vif\nfrom vif_plug_ovs.ovs import OvsPlugin\nfrom hybridvif.engine import api",
        ),
    ],
)
def test_permitted_import_is_no_violation(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_else_branch_of_type_checking_is_a_real_import() -> None:
    source = "if TYPE_CHECKING:\n    import json\nelse:\n    import pyroute2"
    assert violations("hybridvif.engine.converge", source) == [
        "line 4: hybridvif.engine.converge may not import pyroute2"
    ]


def test_relative_import_inside_a_package_is_resolved() -> None:
    assert violations("hybridvif.executors", "from . import brctl", is_package=True) == [
        "line 1: hybridvif.executors may not import hybridvif.executors.brctl"
    ]


# -- floors -----------------------------------------------------------------------------------------------------------

FLOORS = 9
"""Modules in the longest chain of imports. It may only become smaller."""


def loaded_by(module: str) -> set[str]:
    """Return the modules of hybridvif that the import of a module loads at once."""
    [path] = [path for path in SOURCES if module_of(path) == module]
    tree = ast.parse(path.read_text())
    late = {
        id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in ast.walk(function)
    }
    names = {module_of(path) for path in SOURCES}
    loaded = set()
    for node in ast.walk(tree):
        if id(node) not in late and isinstance(node, ast.Import | ast.ImportFrom):
            for target in targets_of(node, module.rpartition(".")[0]):
                loaded |= {target if target in names else target.rpartition(".")[0]} & names
    typed = {found.target.rpartition(".")[0] for found in imports_of(module, path.read_text()) if found.for_types}
    return loaded - typed - {module, "hybridvif"}


def test_import_graph_of_modules_has_few_floors_and_no_circle() -> None:
    pending = {module_of(path): loaded_by(module_of(path)) for path in SOURCES}
    floors = 0
    while pending:
        free = {module for module, needed in pending.items() if not needed & pending.keys()}
        assert free, f"these modules import each other: {sorted(pending)}"
        pending = {module: needed for module, needed in pending.items() if module not in free}
        floors += 1
    assert floors <= FLOORS
