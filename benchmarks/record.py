"""The record of a run of the benchmark, as JSON. Several records can be merged."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Turn:
    """The time of one contender for one operation."""

    contender: str
    measure: str
    ports: int
    """The size of the contest: ports on the host, or ports per call."""
    seconds: float
    cpu: dict[str, float] = field(default_factory=dict)
    """The CPU seconds, by process."""


@dataclass(slots=True)
class Record:
    """The record of a run."""

    on: dict[str, str]
    rounds: int
    turns: list[Turn] = field(default_factory=list)
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    """The maximum memory of client and daemon in kilobytes, by contender and size."""
    endurance: list[tuple[int, int]] = field(default_factory=list)
    """(operations, kilobytes of client and daemon)."""

    def as_json(self) -> str:
        """Encode as JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def of_json(cls, text: str) -> Record:
        """Decode from JSON."""
        read = json.loads(text)
        endurance = [(operations, held) for operations, held in read.get("endurance", [])]
        return cls(read["on"], read["rounds"], [Turn(**turn) for turn in read["turns"]], read["memory"], endurance)

    def note_memory(self, contender: str, ports: int, held: int) -> None:
        """Record the memory of a contender. The maximum is kept."""
        by_size = self.memory.setdefault(contender, {})
        by_size[str(ports)] = max(by_size.get(str(ports), 0), held)


def merge_observed(records: Iterable[Record]) -> Record:
    """Merge several runs. Differing conditions are all listed."""
    first, *others = records
    whole = Record(dict(first.on), first.rounds)
    for record in others:
        for key, value in record.on.items():
            known = whole.on.get(key, value)
            whole.on[key] = known if known == value else f"{known} and {value}"
        whole.rounds = min(whole.rounds, record.rounds)
    for record in (first, *others):
        whole.turns += record.turns
        whole.endurance += record.endurance
        for contender, by_size in record.memory.items():
            for ports, held in by_size.items():
                whole.note_memory(contender, int(ports), held)
    return whole
