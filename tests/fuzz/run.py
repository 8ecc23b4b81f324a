"""Create messages and judge each: python -m tests.fuzz.run [--runs N] [--seed N]; tools/fuzz runs it.

The messages are random mutations of valid messages and of the kept corpus. tests/fuzz/guided.py uses coverage.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.judge import judge
from tests.fuzz.mutation import messages, mutated, pack

CORPUS = Path(__file__).parent / "corpus.txt"
POOL, SHORT = 4_000, 4_096
UNDERSTOOD = {"permitted", "asked", "refused by authorize", "refused by wire"}


def kept() -> list[bytes]:
    """Return the corpus: messages that covered a new branch, and messages once judged wrongly."""
    return [bytes.fromhex(line) for line in CORPUS.read_text(encoding="ascii").splitlines() if not line.startswith("#")]


def blindly(runs: int, seed: int) -> Counter[str]:
    """Count the results of this many messages. Raises as judge(), with the message as a note."""
    chance, became = random.Random(seed), Counter[str]()
    pool = [*map(pack, messages()), *kept()]
    firm = len(pool)
    for _ in range(runs):
        sent = mutated(chance.choice(pool), chance)
        result = judged(sent)
        became.update(result)
        # Mutations are mutated again, so that some are far from every valid message.
        if len(sent) < SHORT and chance.random() < 0.1 and UNDERSTOOD.intersection(result):
            if len(pool) < firm + POOL:
                pool.append(sent)
            else:
                pool[chance.randrange(firm, len(pool))] = sent
    return became


def judged(sent: bytes) -> list[str]:
    """Call judge(), and add the message to its exception."""
    try:
        return judge(sent)
    except Exception as error:
        error.add_note(f"the message: {sent.hex()}")
        raise


def main() -> None:
    """Judge the messages, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    wanted = parser.parse_args()
    print(f"seed {wanted.seed}", flush=True)
    began = time.monotonic()
    became = blindly(wanted.runs, wanted.seed)
    print(f"{wanted.runs:,} messages in {time.monotonic() - began:.0f} s: none was judged wrongly")
    for result, count in became.most_common():
        print(f"{count:>10,}  {result}")


if __name__ == "__main__":
    main()
