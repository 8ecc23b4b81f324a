"""A library is found only if it may be imported."""

from __future__ import annotations

import subprocess
import sys

import pytest


def python(code: str) -> str:
    """Return the output of a separate Python process."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


FORBIDDING = (
    "import sys; from hybridvif.optional import found; "
    "sys.meta_path.insert(0, type('Forbidding', (), {'find_spec': staticmethod(forbid)})()); "
)


@pytest.mark.parametrize("name", ["eventlet", "rich", "json", "no_such_package.module"])
@pytest.mark.parametrize(
    "error", ["ImportError('forbidden')", "ModuleNotFoundError('forbidden')", "RuntimeError", "SystemExit"]
)
def test_module_whose_import_is_forbidden_is_absent(name: str, error: str) -> None:
    code = (
        f"exec('def forbid(name, path=None, target=None): raise {error.replace(chr(39), chr(34))}'); {FORBIDDING}"
        f"sys.modules.pop({name!r}, None); print(found({name!r}))"
    )
    assert python(code).strip() == "None"


@pytest.mark.parametrize("stand_in", ["None", "types.ModuleType('eventlet')"])
def test_module_with_a_stand_in_is_absent(stand_in: str) -> None:
    code = "import sys, types; from hybridvif.optional import found; "
    assert python(f"{code}sys.modules['eventlet'] = {stand_in}; print(found('eventlet'))").strip() == "None"
