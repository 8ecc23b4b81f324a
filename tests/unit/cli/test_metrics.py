"""hybridvif list -f prometheus, the time of the last reconcile, and the histogram of the library."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from hybridvif import RecordingHost, plug, plug_all, unplug
from hybridvif.cli import parse_arguments
from hybridvif.cli.commands import list as listing
from hybridvif.cli.options import UsageError
from hybridvif.client import metrics
from hybridvif.engine import converge, locks
from hybridvif.model.parts import Bridge
from tests.support.answers import ID, OTHER, PORT, QBR, QVO, plugged


def printed(host: RecordingHost) -> list[str]:
    return listing.list_of(host).drawings["prometheus"]().splitlines()


def test_metrics_of_some_states_are_refused() -> None:
    """The ports of the other states would be counted as none."""
    args = parse_arguments(["list", "-f", "prometheus", "--state", "drift"])
    with pytest.raises(UsageError, match="leave --state out"):
        listing.run(args)


def test_every_state_has_a_sample_also_without_ports() -> None:
    lines = printed(RecordingHost())
    assert [line for line in lines if line.startswith("hybridvif_ports")] == [
        f'hybridvif_ports{{state="{state}"}} 0' for state in listing.STATES
    ]
    assert lines.count("# TYPE hybridvif_drift gauge") == 1
    assert not [line for line in lines if line.startswith(("hybridvif_drift", "hybridvif_last_reconcile"))]


def test_drift_is_counted_by_attribute_and_a_missing_part_is_one() -> None:
    host = plugged(PORT, OTHER)
    bridge = host.state.links[QBR]
    assert isinstance(bridge, Bridge)
    host.state = host.state.with_parts(replace(bridge, ageing=300)).without(host.state.ports[OTHER.names.switch_end])
    lines = printed(host)
    assert 'hybridvif_drift{kind="bridge",attribute="ageing"} 1' in lines
    assert 'hybridvif_drift{kind="ovs-port",attribute="part"} 1' in lines
    assert 'hybridvif_ports{state="drift"} 1' in lines
    assert 'hybridvif_orphans{tagged="true"} 1' in lines


def test_label_cannot_end_its_quotes() -> None:
    host = plugged(PORT)
    host.state = host.state.without(host.state.ports[QVO])
    answer = listing.list_of(host)
    assert answer.drawings["prometheus"]().count('"') % 2 == 0
    from hybridvif.cli.commands.list import _family

    assert _family("m", "t", [({"a": 'x"} 1\n\\'}, 2)]).splitlines()[-1] == r'hybridvif_m{a="x\"} 1\n\\"} 2'


def test_time_of_the_last_reconcile_is_that_of_the_file(tmp_path: Path) -> None:
    assert locks.last_reconcile(str(tmp_path)) is None
    locks.note_reconcile(str(tmp_path / "missing"))
    file = tmp_path / locks.RECONCILED
    locks.note_reconcile(str(tmp_path))
    os.utime(file, (1.0, 1.0))
    assert locks.last_reconcile(str(tmp_path)) == 1.0
    locks.note_reconcile(str(tmp_path))
    assert abs((locks.last_reconcile(str(tmp_path)) or 0) - time.time()) < 60


def test_planted_link_and_fifo_are_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (tmp_path / locks.RECONCILED).symlink_to(target)
    locks.note_reconcile(str(tmp_path))
    assert not target.exists()
    (tmp_path / locks.RECONCILED).unlink()
    os.mkfifo(tmp_path / locks.RECONCILED)
    locks.note_reconcile(str(tmp_path))


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    registry = CollectorRegistry()
    metrics.export(registry)
    yield registry
    converge.listeners.clear()


def count(registry: CollectorRegistry, **labels: str) -> float:
    return registry.get_sample_value("hybridvif_call_seconds_count", labels) or 0.0


def test_histogram_counts_each_port_by_call_and_status(registry: CollectorRegistry) -> None:
    host = RecordingHost()
    plug_all([PORT, OTHER], host)
    plug(PORT, host)
    unplug(ID, host)
    assert count(registry, call="plug", status="done", changed="true") == 2
    assert count(registry, call="plug", status="done", changed="false") == 1
    assert count(registry, call="unplug", status="done", changed="true") == 1
    labels = {"call": "plug", "status": "done", "changed": "true"}
    assert 0 < (registry.get_sample_value("hybridvif_call_seconds_sum", labels) or 0) < 60
