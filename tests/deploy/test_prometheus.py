"""deploy/prometheus and the metrics that the command prints, checked by promtool."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from hybridvif import RecordingHost, plug, unplug
from hybridvif.cli.commands import list as listing
from hybridvif.client import metrics
from hybridvif.engine import converge
from hybridvif.testing.pytest_plugin import lacking
from tests.support.answers import ID, OTHER, PORT, QVO, plugged

HERE = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = HERE / "hybridvif.rules.yaml"
Promtool = Callable[..., str]


@pytest.fixture(scope="module")
def promtool() -> Promtool:
    """A function that runs promtool and returns its output."""
    program = shutil.which("promtool")
    if program is None:
        lacking("promtool is not installed; try: apt-get install prometheus")

    def run(*words: str, stdin: str = "") -> str:
        done = subprocess.run([str(program), *words], input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def printed(host: RecordingHost) -> str:
    return listing.list_of(host).drawings["prometheus"]()


def half() -> RecordingHost:
    host = plugged(PORT, OTHER)
    host.state = host.state.without(host.state.ports[QVO])
    return host


def test_metrics_of_the_command_are_accepted(promtool: Promtool) -> None:
    text = printed(half())
    assert promtool("check", "metrics", stdin=text) == ""
    assert 'hybridvif_ports{state="orphan"} 1\n' in text


def test_metrics_of_the_library_are_accepted(promtool: Promtool) -> None:
    registry = CollectorRegistry()
    metrics.export(registry)
    try:
        host = plugged(PORT)
        plug(PORT, host)
        unplug(ID, host)
    finally:
        converge.listeners.clear()
    text = generate_latest(registry).decode()
    assert 'hybridvif_call_seconds_count{call="unplug",changed="true",status="done"} 1.0' in text
    assert promtool("check", "metrics", stdin=text) == ""


def test_alerts_are_accepted_and_fire(promtool: Promtool) -> None:
    assert "SUCCESS: 6 rules found" in promtool("check", "rules", str(RULES))
    assert "SUCCESS" in promtool("test", "rules", str(HERE / "hybridvif.rules.test.yaml"))


def test_alerts_and_dashboard_use_metrics_that_exist() -> None:
    registry = CollectorRegistry()
    metrics.export(registry)
    converge.listeners.clear()
    known = set(re.findall(r"# TYPE (\w+)", printed(half()) + generate_latest(registry).decode()))
    known |= {"hybridvif_call_seconds_bucket", "hybridvif_last_reconcile_timestamp_seconds"}
    dashboard = json.loads((HERE / "dashboard.json").read_text(encoding="utf-8"))
    texts = [RULES.read_text(encoding="utf-8"), json.dumps(dashboard)]
    used = {name for text in texts for name in re.findall(r"\bhybridvif_\w+", text)}
    assert used
    assert used <= known
