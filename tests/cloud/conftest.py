"""One Neutron for all tests of a worker, because its start takes longer than a test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from tests.cloud.cloud import TRUNKS, Cloud
from tests.cloud.hosts import host_of, join

NEUTRON = ("test_fleet.py", "test_neutron.py")
"""The files that use the fixture `cloud`."""


class OneNeutron(LoadScopeScheduling):  # type: ignore[misc]
    """Give each file to one worker, and the files with Neutron to the same one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "neutron" if file.endswith(NEUTRON) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneNeutron:
    """Distribute the tests. The marker xdist_group does not work with xdist 3.8 and pytest 9.2."""
    return OneNeutron(config, log)


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A Neutron with two hosts. This process is not connected to them."""
    directory = tmp_path_factory.mktemp("neutron")
    # By default only the role service, which Nova has, may create a second binding.
    (directory / "policy.yaml").write_text("create_port_binding: '@'\nactivate: '@'\n")
    with (
        host_of(directory / "host1", is_connected=False, options=TRUNKS) as first,
        host_of(directory / "host2", 2, is_connected=False) as second,
    ):
        join(first, second)
        yield Cloud(first, second, directory)


@pytest.fixture(scope="module")
def cloud(services: Cloud) -> Iterator[Cloud]:
    """A Neutron. This process is connected to its first host, which other modules leave to others."""
    with services.lab.connection():
        yield services
