"""Keep the shortest messages that cover all branches: python -m tests.fuzz.distil DIR."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

from hybridvif.privileged import codec
from tests.fuzz.judge import judge
from tests.fuzz.run import CORPUS, kept

HEAD = "# Each took a branch that no shorter one took; in hex. tests/unit/privileged/test_fuzz.py judges them again.\n"
LONGEST = 1_024
OURS = Path(codec.__file__).parent
Steps = set[tuple[str, int, int, int]]


def steps_of(message: bytes) -> Steps:
    """Return the pairs of successive lines with approximate counts for a message, and its result."""
    counts: dict[tuple[str, int, int], int] = {}
    last: dict[int, int] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        if not Path(file).is_relative_to(OURS):
            return None
        if event == "call":
            last.pop(id(frame), None)
        step = file, last.get(id(frame), 0), frame.f_lineno
        counts[step] = counts.get(step, 0) + 1
        last[id(frame)] = frame.f_lineno
        return trace

    sys.settrace(trace)
    try:
        became = judge(message)
    finally:
        sys.settrace(None)
    return {(*step, count.bit_length()) for step, count in counts.items()} | {(result, 0, 0, 0) for result in became}


def main() -> None:
    """Write the corpus again, from DIR and from itself."""
    messages = {*kept(), *(path.read_bytes() for path in Path(sys.argv[1]).iterdir())}
    seen: Steps = set()
    lines = []
    for message in sorted(messages, key=lambda item: (len(item), item)):
        steps = steps_of(message) if len(message) <= LONGEST else seen
        if not steps <= seen:
            seen |= steps
            lines.append(f"{message.hex()}\n")
    CORPUS.write_text(HEAD + "".join(lines), encoding="ascii")
    print(f"{len(lines)} of {len(messages)} messages are kept")


if __name__ == "__main__":
    main()
