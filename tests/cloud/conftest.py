"""One Neutron for all tests of a worker, because its start takes longer than a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cloud.cloud import TRUNKS, Cloud
from tests.cloud.hosts import host_of, join


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
