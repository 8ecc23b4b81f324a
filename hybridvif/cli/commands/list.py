"""hybridvif list: the plugged ports, one per line, or as metrics."""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

from hybridvif import __version__
from hybridvif.cli import INTERRUPTED
from hybridvif.cli.options import Command, UsageError, argument, connected, flag
from hybridvif.cli.output.topology import Condition, PluggedPort, look_at_ports
from hybridvif.cli.terminal import Answer, Terminal
from hybridvif.engine.any_host import AnyHost
from hybridvif.engine.locks import last_reconcile
from hybridvif.engine.watch import RETRY, Watch
from hybridvif.model.errors import HybridVifError
from hybridvif.model.orphans import find_orphans
from hybridvif.model.settings import Settings
from hybridvif.model.state import Observed

STATES = tuple(condition.value for condition in Condition)
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
Sample = tuple[Mapping[str, str], float]


def run(args: argparse.Namespace) -> Answer | int:
    """List the ports in the chosen states."""
    if args.state and args.format == "prometheus":
        raise UsageError("-f prometheus counts the ports of all states; leave --state out")
    with connected(args) as host:
        if args.watch:
            with suppress(KeyboardInterrupt):
                watch_list(Watch(host), args.terminal, lambda: list_of(host, args.state or STATES))
            return INTERRUPTED
        return list_of(host, args.state or STATES)


def watch_list(watch: Watch, terminal: Terminal, answer: Callable[[], Answer]) -> NoReturn:
    """Write the list again after each change. While the host cannot be observed, look again every second."""
    while True:
        until = float("inf")
        try:
            current = answer()
        except HybridVifError:
            until = time.monotonic() + RETRY
        else:
            terminal.write_event(current, clear=True)
        for event in watch.wait(until):
            if not event.key:
                terminal.write_note(f"warning: {event.after or 'the host is observed again'}", "yellow")


def list_of(host: AnyHost, states: Collection[str] = STATES) -> Answer:
    """Return the answer of `hybridvif list` for the ports in these states."""
    seen, plugged, warnings = look_at_ports(host)
    shown = [port for port in plugged if port.condition.value in states]
    ports = [port.document for port in shown]
    warnings += [warning.text for port in shown for warning in port.warnings]
    return Answer(
        document={"command": "list", "simulated": seen.facts.simulated, "ports": ports, "warnings": warnings},
        rows=[{**port, "port": port["port"] or f"{port['key']}..."} for port in ports],
        drawings={"prometheus": lambda: metrics_of(shown, seen, host.settings)},
        warnings=warnings,
    )


# -- metrics, in the text format of Prometheus, for the textfile collector of node_exporter ----------------------------


def metrics_of(ports: Sequence[PluggedPort], seen: Observed, settings: Settings) -> str:
    """Return the metrics. A time of a reconcile that never was is left out."""
    states = Counter(port.condition.value for port in ports)
    drift = Counter((item.part.kind, item.difference.attribute) for port in ports for item in port.drift)
    orphans = Counter(orphan.is_tagged for orphan in find_orphans(seen, settings.integration_bridges))
    versions = {"version": __version__, "switch": seen.facts.switch_version or "", "host": os.uname().nodename}
    last = last_reconcile(settings.lock_path)
    families = [
        _family("info", "The version of hybridvif and of the switch.", [(versions, 1)]),
        _family("ports", "Plugged ports by state.", [({"state": state}, states[state]) for state in STATES]),
        _family(
            "drift",
            "Ports with a wrong attribute, or without a part (attribute part), by kind of the part.",
            [({"kind": kind, "attribute": name or "part"}, drift[kind, name]) for kind, name in sorted(drift)],
        ),
        _family(
            "orphans",
            "Leftover ports without a VM; tagged: that hybridvif created for certain.",
            [({"tagged": str(tagged).lower()}, orphans[tagged]) for tagged in (True, False)],
        ),
        _family("warnings", "Warnings of hybridvif list.", [({}, sum(len(port.warnings) for port in ports))]),
        _family(
            "last_reconcile_timestamp_seconds",
            "When hybridvif reconcile last put all ports in order.",
            [] if last is None else [({}, last)],
        ),
    ]
    return "".join(families)


def _family(name: str, text: str, samples: Sequence[Sample]) -> str:
    lines = [f"# HELP hybridvif_{name} {text}", f"# TYPE hybridvif_{name} gauge"]
    for labels, value in samples:
        pairs = ",".join(f'{label}="{content.translate(_ESCAPES)}"' for label, content in labels.items())
        lines.append(f"hybridvif_{name}{{{pairs}}} {value:.17g}" if pairs else f"hybridvif_{name} {value:.17g}")
    return "\n".join([*lines, ""])


_STATE = "only ports in this state; may be repeated"
COMMANDS = {
    "list": Command(
        run,
        ("table", "json", "yaml", "value", "prometheus"),
        (
            argument("--state", choices=STATES, action="append", text=_STATE),
            flag("--watch", "print the list again after each change, until SIGINT"),
        ),
        columns=("port", "bridge", "ofport", "mac", "mtu", "state"),
        narrow=("port", "bridge", "ofport", "mtu", "state"),
    )
}
