"""What a run of the benchmark keeps, and how it is written; runs can be told together."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Turn:
    """What one contender took for one thing, once."""

    contender: str
    measure: str
    ports: int
    """On the host, or of the call: the size of this contest."""
    seconds: float


@dataclass(slots=True)
class Record:
    """A whole run, as it is written to a file."""

    on: dict[str, str]
    rounds: int
    turns: list[Turn] = field(default_factory=list)
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    """Kilobytes of client and daemon together, by contender and size: the most that was seen."""
    endurance: list[tuple[int, int]] = field(default_factory=list)
    """What client and daemon held after so many operations: plugs, plugs again and unplugs."""

    def as_json(self) -> str:
        """The run as a document."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def of_json(cls, text: str) -> Record:
        """The run that was written."""
        read = json.loads(text)
        endurance = [(operations, held) for operations, held in read.get("endurance", [])]
        return cls(read["on"], read["rounds"], [Turn(**turn) for turn in read["turns"]], read["memory"], endurance)

    def note_memory(self, contender: str, ports: int, held: int) -> None:
        """Take note of what a contender held, of which the most is kept."""
        by_size = self.memory.setdefault(contender, {})
        by_size[str(ports)] = max(by_size.get(str(ports), 0), held)


def merge_observed(records: Iterable[Record]) -> Record:
    """Several runs as one. What they are not all figures of is told of each."""
    first, *others = records
    whole = Record(dict(first.on), first.rounds)
    for one in others:
        for key, value in one.on.items():
            told = whole.on.get(key, value)
            whole.on[key] = told if told == value else f"{told} and {value}"
        whole.rounds = min(whole.rounds, one.rounds)
    for one in (first, *others):
        whole.turns += one.turns
        whole.endurance += one.endurance
        for contender, by_size in one.memory.items():
            for ports, held in by_size.items():
                whole.note_memory(contender, int(ports), held)
    return whole
