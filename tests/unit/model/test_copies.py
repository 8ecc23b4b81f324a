"""Copy and pickle the values of the API, as for a queue, a worker process or a cache."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from hybridvif import HybridVifError, PlugFailed, check, desired_state, gc, plug, reconcile
from hybridvif.executors.recording import RecordingHost
from hybridvif.model.state import NOTHING, Create, Facts, LinkFact, PortFact
from tests.support.strategies import BRIDGE, PORT, TAP, TAPPED

COPIES: dict[str, Callable[[Any], Any]] = {"copy": copy.copy, "deepcopy": copy.deepcopy}


def pickled(protocol: int, value: Any) -> Any:
    return pickle.loads(pickle.dumps(value, protocol))


COPIES |= {f"pickle {protocol}": partial(pickled, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)}


def values() -> Iterator[tuple[str, object]]:
    host = RecordingHost()
    yield "Port", PORT
    yield "PortNames", PORT.names
    yield "Report", plug(PORT, host)
    observed = host.observe(None, time.monotonic() + 5)
    yield "Observed", observed
    yield "HostState", observed.state
    yield "HostState of a tap", desired_state(TAPPED)
    yield "empty HostState", NOTHING
    yield "Facts", observed.facts
    facts = {"qbr": LinkFact(3, "bridge", up=True, carrier=True)}
    yield (
        "full Facts",
        Facts(facts, {"qbr": ("tap",)}, {"qvo": PortFact(ofport=1)}, {"br-int": "netdev"}, "3.1", simulated=True),
    )
    yield "Settings", host.settings
    yield "steps", (Create(BRIDGE), *check(replace(PORT, mtu=1400), host))
    yield "Tap", TAP
    yield "Reconciled", reconcile([PORT], host)
    yield "CollectedOrphan", gc(host)


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize(("name", "value"), [pytest.param(*pair, id=pair[0]) for pair in values()])
def test_value_copied_is_equal(name: str, value: object, way: str) -> None:
    assert COPIES[way](value) == value, name


@pytest.mark.parametrize("way", COPIES)
def test_state_copied_is_frozen(way: str) -> None:
    state = COPIES[way](desired_state(PORT))
    with pytest.raises(TypeError):
        state.links["qbr"] = BRIDGE


@pytest.mark.parametrize("way", COPIES)
def test_error_copied_keeps_message_and_report(way: str) -> None:
    with pytest.raises(HybridVifError) as raised:
        plug(replace(PORT, bridge="br-none"), RecordingHost())
    again = COPIES[way](raised.value)
    assert (type(again), str(again), again.report) == (type(raised.value), str(raised.value), raised.value.report)
    assert isinstance(again, PlugFailed)
    assert again.report is not None
