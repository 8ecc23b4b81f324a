"""Fixtures of the proofs: a connected sandbox of a pair of executors, and a port in sync."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hybridvif import HybridVifError, Report
from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox.box import Sandbox
from tests.functional.conftest import Lab

PAIRS = [(link, switch) for link in ("iproute2-netlink", "subprocess-brctl") for switch in ("ovsdb", "ovs-vsctl")]
"""Pairs of real executors."""


@contextmanager
def lab_of(box: Sandbox, directory: Path, **options: object) -> Iterator[Lab]:
    """Yield a connected, empty host, and empty it again."""
    directory.mkdir(exist_ok=True)
    with connected(box, directory, integration_bridges="br-int,br-two", **{"deadline": 10, **options}) as host:
        lab = Lab(box, host)
        lab.sweep()
        try:
            yield lab
        finally:
            lab.sweep()


@pytest.fixture
def lab(sandbox: Sandbox, tmp_path: Path) -> Iterator[Lab]:
    """A connected, empty host with the default executors."""
    with lab_of(sandbox, tmp_path / "lab") as lab:
        yield lab


def report_of(call: Callable[[], Report]) -> Report:
    """Return the report of a call, even if it fails. A failure without a report is an error."""
    try:
        return call()
    except HybridVifError as failure:
        assert failure.report is not None, failure
        return failure.report
