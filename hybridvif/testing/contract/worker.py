"""Run an executor inside a sandbox for bench.py: one JSON line per request and per response."""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any

from hybridvif.executors.base import Executor, ExecutorError
from hybridvif.model.settings import Settings
from hybridvif.privileged import codec


def main() -> None:
    """Create the executor of the arguments and serve requests until the input ends."""
    place, home, name, settings = sys.argv[1:]
    # Last in the path, because this directory must not shadow installed modules.
    sys.path.append(place)
    make: Any = importlib.import_module(home)
    for part in name.split("."):
        make = getattr(make, part)
    values = json.loads(settings)
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    executor: Executor = make(Settings(**values | lists))
    for line in sys.stdin:
        print(json.dumps(_answer(executor, json.loads(line))), flush=True)


def _answer(executor: Executor, question: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + question["patience"]
    try:
        if question["call"] == "observe":
            return {"seen": codec.encode_observed(executor.observe(codec.decode_names(question["names"]), deadline))}
        (steps,) = codec.decode_plans([question["steps"]])
        return {"outcomes": codec.encode_outcomes([tuple(executor.apply(steps, deadline))])}
    except ExecutorError as error:
        return {"error": str(error), "precondition": error.precondition}
    except Exception as error:  # noqa: BLE001  # the contract: nothing but ExecutorError is raised
        return {"raised": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main()
