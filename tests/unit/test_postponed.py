"""Postponed modules are loaded at their first use, and not before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FIRST = (
    "from hybridvif.postponed import OF_OSLO, postpone; import sys; "
    "postpone(*OF_OSLO, 'stevedore', 'no_such_module', 'no_such_package.module'); "
)


def python(code: str) -> str:
    """Return the output of a separate Python process."""
    return subprocess.run([sys.executable, "-c", FIRST + code], capture_output=True, text=True, check=True).stdout


def test_what_nobody_uses_is_not_loaded() -> None:
    loaded = python(
        "import hybridvif.privileged.main; "
        "print(*(name for name in OF_OSLO if type(sys.modules[name]).__name__ != '_Postponed'), 'end', *sys.modules)"
    ).split()
    used = loaded[: loaded.index("end")]
    # oslo.log 7.1 still marks its own functions with it.
    assert set(used) <= {"debtcollector"}
    assert not {"netaddr.ip", "rfc3986.api"} & set(loaded)
    # It takes longest, and only debtcollector or stevedore imports it.
    assert used or "importlib.metadata" not in loaded


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("import netaddr; print(netaddr.IPAddress('10.0.0.1'))", "10.0.0.1"),
        ("from netaddr import IPAddress; print(IPAddress('10.0.0.1'))", "10.0.0.1"),
        ("import netaddr.core; print(netaddr.core.INET_PTON)", "1"),
        ("import rfc3986; print(rfc3986.uri_reference('http://host/path').host)", "host"),
        ("import xmlrpc.client; print(xmlrpc.client.dumps((1,)).count('int'))", "2"),
        ("from xmlrpc import client; print(client.dumps((1,)).count('int'))", "2"),
        ("from stevedore import driver; print(driver.DriverManager.__name__)", "DriverManager"),
        ("import debtcollector; print(debtcollector.__version__.count('.'))", "2"),
        ("from debtcollector import removals; print(removals.remove.__name__)", "remove"),
        ("from oslo_utils import timeutils; print(timeutils.parse_isotime('2026-11-28T12:00:00Z').year)", "2026"),
        ("from oslo_utils import timeutils; print(timeutils.utcnow(with_timezone=True).tzname())", "UTC"),
        ("from dateutil import tz; print(tz.UTC)", "tzutc()"),
        ("import dateutil.tz; print(dateutil.tz.UTC)", "tzutc()"),
        ("import logging.config; print(logging.config.dictConfig({'version': 1}))", "None"),
        ("import configparser; print(configparser.ConfigParser().sections())", "[]"),
        ("import zoneinfo; print(zoneinfo.ZoneInfo('UTC'))", "UTC"),
        ("from oslo_serialization import jsonutils; import decimal; print(jsonutils.dumps(decimal.Decimal(1)))", '"1"'),
        ("import tempfile; print(tempfile.TemporaryDirectory.__name__)", "TemporaryDirectory"),
        ("from oslo_config import types; print(types.URI()('http://host/path'))", "http://host/path"),
        ("from oslo_config import types; print(types.IPAddress()('10.0.0.1'))", "10.0.0.1"),
    ],
)
def test_what_is_used_is_whole(code: str, output: str) -> None:
    assert python(code).strip() == output


def test_what_is_loaded_already_stays_as_it_is() -> None:
    assert python("import json as before; postpone('json'); import json; print(json is before)").strip() == "True"


def test_who_uses_it_while_another_thread_loads_it_waits_until_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time, slow\nhas = hasattr(slow, 'value')\ntime.sleep(0.3)\nvalue = 1\n")
    code = (
        f"sys.path.insert(0, {str(tmp_path)!r}); postpone('slow'); import slow, time, threading; "
        "other = threading.Thread(target=lambda: slow.value); other.start(); time.sleep(0.1); "
        "print(slow.value, slow.has); other.join()"
    )
    assert python(code).split() == ["1", "False"]


def test_what_cannot_be_loaded_says_why_each_time(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise OSError('no such disk')\n")
    code = (
        f"sys.path.insert(0, {str(tmp_path)!r}); postpone('broken'); import broken, contextlib\n"
        "for _ in range(2):\n    try:\n        broken.value\n    except OSError as error:\n        print(error)"
    )
    assert python(code).splitlines() == ["no such disk"] * 2


FORBIDDING = (
    "sys.meta_path.insert(0, type('Forbidding', (), {'find_spec': staticmethod(forbid)})()); "
    "from hybridvif.postponed import found; "
)


@pytest.mark.parametrize("name", ["eventlet", "rich", "json", "no_such_package.module"])
@pytest.mark.parametrize("error", ["ImportError('forbidden')", "ModuleNotFoundError('forbidden')"])
def test_module_whose_import_is_forbidden_is_absent(name: str, error: str) -> None:
    code = (
        f"exec('def forbid(name, path=None, target=None): raise {error.replace(chr(39), chr(34))}'); {FORBIDDING}"
        f"sys.modules.pop({name!r}, None); postpone({name!r}); print(found({name!r}), {name!r} in sys.modules)"
    )
    assert python(code).strip() == "None False"


@pytest.mark.parametrize("stand_in", ["None", "types.ModuleType('eventlet')"])
def test_module_with_a_stand_in_is_absent(stand_in: str) -> None:
    code = "import types; from hybridvif.postponed import found; "
    assert python(f"{code}sys.modules['eventlet'] = {stand_in}; print(found('eventlet'))").strip() == "None"
