"""hybridvif trace: the hop where the packets of a port stop, and the reason."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from textwrap import wrap

from hybridvif.cli.options import DOCUMENT, Command, argument, connected, flag
from hybridvif.cli.ports import PORT_HELP, found_ids, requested_ports
from hybridvif.cli.terminal import Answer, Paint
from hybridvif.model.parts import DEAD_VLAN
from hybridvif.model.trace import Diagnosis

WIDTH = 80
NONE = "none"
_ROW = "{:<2} {:<14}  {:<19} {:>5}  {:>8} {:>7}  {:>8} {:>7}"


def run(args: argparse.Namespace) -> Answer:
    """Watch the packets of the port."""
    from hybridvif.client.trace import trace

    requests = requested_ports(args)
    with connected(args) as host:
        (port_id,) = found_ids(requests, host, single=True)
        return answer_of(trace(port_id, host, seconds=args.seconds, to=args.to, generate=args.generate))


def answer_of(diagnosis: Diagnosis) -> Answer:
    """Return the answer for a diagnosis."""
    document = asdict(diagnosis)
    port_id = document.pop("port_id")
    return Answer(
        document={"command": "trace", "simulated": False, "port": port_id, **document},
        lines=lambda paint: _lines(diagnosis, paint),
        exit_code=3 if diagnosis.stops else 0,
    )


def _lines(diagnosis: Diagnosis, paint: Paint) -> Iterator[str]:
    rows: list[tuple[object, ...]] = [
        (hop.name, hop.state[:19], hop.mtu, hop.from_vm, hop.dropped_from_vm, hop.to_vm, hop.dropped_to_vm)
        for hop in diagnosis.hops
    ]
    if diagnosis.bridge:
        ofport, tag = (NONE if value is None else value for value in (diagnosis.ofport, diagnosis.tag))
        dead = " (dead VLAN)" if tag == DEAD_VLAN else ""
        rows.append((diagnosis.bridge, f"ofport {ofport}, tag {tag}{dead}", *[""] * 5))
    yield paint(_ROW.format("", "hop", "state", "mtu", "from VM", "dropped", "to VM", "dropped"), "bold")
    for row in rows:
        is_end = row[0] == diagnosis.hop
        cells = ("" if cell is None else cell for cell in row)
        yield paint(_ROW.format("->" if is_end else " |", *cells).rstrip(), "red" if is_end else "")
    for reason, verb in ((diagnosis.drops_from_vm, "from"), (diagnosis.drops_to_vm, "to")):
        if reason is not None:
            yield from _wrapped(f"a frame {verb} the VM is {f'dropped: {reason}' if reason else 'forwarded'}", paint)
    for entry in diagnosis.entries:
        if not entry.consumed:
            yield from _wrapped(f"frames for {entry.mac} go to {entry.device}", paint)
    for drop in diagnosis.drops:
        yield from _wrapped(f"iptables dropped {drop.packets}: {drop.rule}", paint)
    for finding in diagnosis.findings[1:]:
        yield from _wrapped(f"also: {finding.sentence}", paint, "yellow")
    for note in diagnosis.not_looked_at:
        yield from _wrapped(f"not looked at: {note}", paint, "dim")
    yield from _wrapped(diagnosis.sentence, paint, "red" if diagnosis.stops else "green", indent="")


def _wrapped(text: str, paint: Paint, colour: str = "", indent: str = "   ") -> Iterator[str]:
    yield from (paint(line, colour) for line in wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent))


_TO = "the IPv4 or MAC address of another machine, to which the switch computes the path"
COMMANDS = {
    "trace": Command(
        run,
        DOCUMENT,
        (
            argument("port", metavar="PORT", text=PORT_HELP),
            argument("--seconds", type=float, default=5.0, metavar="N", text="the time to watch (default: 5)"),
            argument("--to", default="", metavar="IP|MAC", text=_TO),
            flag("--generate", "send marked frames in at the VM's tap, and look for them at each hop; for root only"),
        ),
        "The last sentence is the hop where packets stop, and the reason. The exit code is 3 then.",
    )
}
