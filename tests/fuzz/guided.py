"""Coverage-guided fuzzing: python -m tests.fuzz.guided DIR [libFuzzer's options]; needs atheris.

DIR receives the messages that reach new code, after the kept corpus. libFuzzer ends the program: with 77 after a wrong
judgement, which leaves a file crash-... with the message.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["hybridvif"]):
    from tests.fuzz.mutation import messages, mutated, pack
    from tests.fuzz.run import judged, kept

LONGEST = 1 << 13


def one(sent: bytes) -> None:
    """Judge one message."""
    judged(sent)


def another(sent: bytes, longest: int, number: int) -> bytes:
    """Return a mutation of this message."""
    return mutated(bytes(sent), random.Random(number))[:longest]


def main() -> None:
    """Hand over to libFuzzer."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for number, message in enumerate([*map(pack, messages()), *kept()]):
        (directory / f"kept-{number:03}").write_bytes(message)
    atheris.Setup([sys.argv[0], f"-max_len={LONGEST}", *sys.argv[2:], str(directory)], one, custom_mutator=another)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
