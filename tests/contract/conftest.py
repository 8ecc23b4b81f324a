"""One daemon per module and executor; a host that is swept after every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hybridvif.testing.pytest_plugin import connected
from hybridvif.testing.sandbox.box import Sandbox
from tests.contract.bench import Bench
from tests.support.ovsdb_proxy import judged


@pytest.fixture(scope="module")
def executor() -> dict[str, str]:
    """Options that choose the executor under test. Each test module has its own."""
    return {}


@pytest.fixture(scope="module")
def standing(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory, executor: dict[str, str]) -> Iterator[Bench]:
    """Bench for tests that sweep it themselves."""
    options = {"integration_bridges": "br-int,br-two", "deadline": 10, **executor}
    directory = tmp_path_factory.mktemp("bench")
    with judged(sandbox, directory, options) as led, connected(sandbox, directory, **led) as host:
        bench = Bench(sandbox, host)
        yield bench
        bench.sweep()


@pytest.fixture
def bench(standing: Bench) -> Bench:
    """Empty bench."""
    standing.sweep()
    return standing
