"""Plans as a script for `sh -e`, run as root: what `hybridvif plan -f shell` prints. Pure.

What the executors ask Open vSwitch as they go, the script asks as it runs: which QoS row goes with a port, and whether
a trunk bridge may go.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence

from hybridvif.executors.bridgerows import PATCH, PATCH_PREFIXES, bridges_to_make, trunks_left
from hybridvif.executors.qosrows import ports_with_qos, qos_id_of
from hybridvif.executors.recipes import (
    Command,
    Line,
    bridge_words,
    bridges_that_go_up_later,
    ivs_line,
    link_lines,
    switch_words,
)
from hybridvif.model.parts import IvsPort, Role
from hybridvif.model.settings import Settings
from hybridvif.model.steps import Delete, Step, role_of

_DEFAULTS = Settings()


def script_lines(
    plans: Iterable[Sequence[Step]], bridges: Iterable[str] = (), settings: Settings = _DEFAULTS
) -> Iterator[str]:
    """The plans as lines for a shell, in their order. bridges: those that Open vSwitch has."""
    there = set(bridges)
    for steps in plans:
        later = bridges_that_go_up_later(steps)
        for batch in _switch_batches(steps):
            if role_of(batch[0]) is Role.LINK:
                for step in batch:
                    yield from (_in_shell(line) for line in link_lines(step, later))
            elif isinstance(batch[0].part, IvsPort):
                yield from (str(ivs_line(step)) for step in batch)
            else:
                yield from _ovs_lines(batch, there, settings)
                there |= bridges_to_make(batch, there, settings.creates).keys()


def _ovs_lines(batch: Sequence[Step], there: Collection[str], settings: Settings) -> Iterator[str]:
    """The transaction of a batch, and what comes and goes with the rows of its ports."""
    leaving = {step.part.name: step.part for step in batch if isinstance(step, Delete)}
    qos = ports_with_qos(batch)
    yield from (_qos_line(name) for name in qos if name not in leaving)
    made = bridges_to_make(batch, there, settings.creates)
    words = [word for name, kind in sorted(made.items()) for word in bridge_words(name, kind)]
    words += [word for step in batch for word in switch_words(step, socket_dir=settings.vhost_socket_dir)]
    yield shlex.join(["ovs-vsctl", *words[1:]])
    yield from (_qos_line(name) for name in qos if name in leaving)
    trunks = trunks_left(batch, {name: getattr(part, "bridge", None) for name, part in leaving.items()}, settings)
    yield from map(_trunk_line, map(shlex.quote, trunks))


def _qos_line(name: str) -> str:
    """Removes the QoS row that goes with a port which is not there; one that another port holds stays."""
    rows = f"ovs-vsctl --bare --columns=_uuid find QoS external_ids:id={qos_id_of(name)}"
    holders = "ovs-vsctl --bare --columns=name find Port qos=$row"
    return f'for row in $({rows}); do [ "$({holders})" ] || ovs-vsctl --if-exists destroy QoS $row; done'


def _trunk_line(bridge: str) -> str:
    """Return the line that removes a trunk bridge in which nothing is left but Neutron's patch ports."""
    patterns = "|".join(f"{prefix}*" for prefix in PATCH_PREFIXES)
    is_patch = f'[ "$(ovs-vsctl get Interface $port type)" = {PATCH} ]'
    others = f"case $port in {patterns}) {is_patch} || echo $port;; *) echo $port;; esac"
    return (
        f'[ "$(for port in $(ovs-vsctl list-ports {bridge}); do {others}; done)" ] || '
        f"ovs-vsctl --if-exists del-br {bridge}"
    )


def _in_shell(line: Line) -> str:
    """A line that ends a shell's `set -e` only where the executor would call it a failure."""
    harmless = isinstance(line, Command) and (line.absent or line.without_ipv6)
    return f"{line} || true" if harmless else str(line)


def _switch_batches(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """Runs of one role; no two steps about one part in a transaction, since what cancels out is no change to OVS."""
    batch: list[Step] = []
    for step in steps:
        again = role_of(step) is Role.SWITCH and any(step.part.name == one.part.name for one in batch)
        if batch and (role_of(step) is not role_of(batch[0]) or again):
            yield batch
            batch = []
        batch.append(step)
    if batch:
        yield batch
