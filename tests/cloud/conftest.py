"""The marker of the sample. Run these tests with tools/cloud."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker of the sample."""
    config.addinivalue_line("markers", "sample: belongs to the sample of tools/cloud")
