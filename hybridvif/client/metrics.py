"""The duration of every plug of this process, as a histogram of prometheus_client (the extra `metrics`)."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import REGISTRY, CollectorRegistry, Histogram

from hybridvif.engine import converge
from hybridvif.engine.goals import Goal
from hybridvif.model.report import Report

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds in seconds: from a port in sync to the default deadline."""


def export(registry: CollectorRegistry = REGISTRY) -> Histogram:
    """Register hybridvif_call_seconds, and record every port of every later call of this process.

    A port takes as long as its batch. Labels: call (plug, unplug, convert), status (of the report), changed.
    """
    histogram = Histogram(
        "hybridvif_call_seconds",
        "Duration of a plug, an unplug or a conversion of a port",
        ("call", "status", "changed"),
        registry=registry,
        buckets=BUCKETS,
    )

    def record(goals: Sequence[Goal], reports: Sequence[Report], seconds: float) -> None:
        for goal, report in zip(goals, reports, strict=True):
            call = "convert" if goal.is_conversion else "plug" if goal.is_plug else "unplug"
            histogram.labels(call, report.status.value, str(report.changed).lower()).observe(seconds)

    converge.listeners.append(record)
    return histogram
