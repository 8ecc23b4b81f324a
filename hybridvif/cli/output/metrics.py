"""The ports of a host as metrics, in the text format of Prometheus, for the textfile collector of node_exporter."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from hybridvif import __version__
from hybridvif.cli.output.topology import Condition, PluggedPort
from hybridvif.model.changes import WHOLE
from hybridvif.model.orphans import find_orphans
from hybridvif.model.settings import Settings
from hybridvif.model.state import Observed

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
Sample = tuple[Mapping[str, str], float]


def metrics_of(ports: Sequence[PluggedPort], seen: Observed, settings: Settings) -> str:
    """Return the metrics. A time of a reconcile that never was is left out."""
    # It imports oslo.concurrency, which a command line does not need before it is parsed.
    from hybridvif.engine.locks import last_reconcile

    states = Counter(port.condition.value for port in ports)
    drift = Counter((item.part.kind, item.difference.attribute or WHOLE) for port in ports for item in port.drift)
    orphans = Counter(orphan.is_tagged for orphan in find_orphans(seen, settings.integration_bridges))
    families: list[tuple[str, str, list[Sample]]] = [
        ("info", "The version of hybridvif and of the switch.", [(_versions(seen), 1)]),
        (
            "ports",
            "Plugged ports by state.",
            [({"state": state.value}, states[state.value]) for state in Condition],
        ),
        (
            "drift",
            "Ports with a wrong attribute, or without a part (attribute part), by kind of the part.",
            [({"kind": kind, "attribute": name or "part"}, drift[kind, name]) for kind, name in sorted(drift)],
        ),
        (
            "orphans",
            "Leftover ports without a VM; tagged: that hybridvif created for certain.",
            [({"tagged": str(tagged).lower()}, orphans[tagged]) for tagged in (True, False)],
        ),
        ("warnings", "Warnings of hybridvif list.", [({}, sum(len(port.warnings) for port in ports))]),
        (
            "last_reconcile_timestamp_seconds",
            "When hybridvif reconcile last put all ports in order.",
            [({}, time) for time in [last_reconcile(settings.lock_path)] if time is not None],
        ),
    ]
    return "".join(
        f"{line}\n" for name, text, samples in families for line in _family(f"hybridvif_{name}", text, samples)
    )


def _versions(seen: Observed) -> Mapping[str, str]:
    return {"version": __version__, "switch": seen.facts.switch_version or "", "host": os.uname().nodename}


def _family(name: str, text: str, samples: Sequence[Sample]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} gauge"
    for labels, value in samples:
        pairs = ",".join(f'{label}="{content.translate(_ESCAPES)}"' for label, content in labels.items())
        yield f"{name}{{{pairs}}} {value:.17g}" if pairs else f"{name} {value:.17g}"
