"""Each kind of drift: detected by check and repaired by the next plug. test_repair.py checks by pings."""

from __future__ import annotations

import pytest

from hybridvif import check, plug
from tests.functional.conftest import Lab, make_port, until
from tests.functional.test_repair import DRIFTS, named_by
from tests.support.figures import note
from tests.support.likeness import Likeness, differences, likeness
from tests.support.sizes import FULL

pytestmark = pytest.mark.prove


def test_every_drift_is_found_and_put_right(lab: Lab) -> None:
    port, kinds = make_port(), DRIFTS if FULL else DRIFTS[::10]
    missed, wrong = [], []
    for drift in kinds:
        lab.sweep()
        assert plug(port, lab.host).ok
        wanted = likeness(lab)
        lab.sh(drift.befalls)

        def found(named: str = drift.named) -> bool:
            return named in named_by(check(port, lab.host))

        missed += [] if until(found, 1) else [drift.sentence]
        plug(port, lab.host)

        def left(wanted: Likeness = wanted) -> list[str]:
            return differences(wanted, {name: part for name, part in likeness(lab).items() if "br-two" not in name})

        # ovs-vswitchd changes the MTU of br-int a moment after that of its ports.
        wrong += [] if until(lambda: not left(), 1) else [f"{drift.sentence}: {left()}"]
    note("drift", kinds=len(kinds), found=len(kinds) - len(missed), repaired=len(kinds) - len(wrong))
    assert missed == []
    assert wrong == []
