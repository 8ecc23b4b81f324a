"""The path of one fresh plug: the modules of hybridvif that it runs through, and the depth of its stack.

Run it in a sandbox: `hybridvif sandbox -- .venv/bin/python -P -m benchmarks.path`. Both sides run in this process,
without a daemon between them. So the figures contain neither the start of the daemon nor the channel to it. A depth is
that of the frames of hybridvif: of the client to its request, of the daemon from its request on, and of both together.
"""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

import hybridvif
from hybridvif import Port, connect, plug, unplug

ROOT = str(Path(hybridvif.__file__).parent)
BOUNDARY = f"{ROOT}/privileged/requests.py"
PORT = Port(
    id="5f2c0e1a-7b00-4c00-8000-000000000001",
    mac="fa:16:3e:aa:bb:cc",
    instance_id="0b1c2d3e-0000-4000-8000-000000000002",
)


class CallPath:
    """The calls of one plug: the modules of each side, and the deepest stack of each side and of both."""

    def __init__(self) -> None:
        self.modules: defaultdict[str, set[str]] = defaultdict(set)
        self.deepest: dict[str, list[str]] = {"client": [], "daemon": [], "both": []}

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        """Record a call of a function of hybridvif."""
        if event != "call" or not frame.f_code.co_filename.startswith(ROOT) or frame.f_code.co_name == "<module>":
            return
        stack: list[str] = []
        caller: FrameType | None = frame
        sides = {"client": 0}
        while caller is not None:
            name = caller.f_code.co_filename
            if name.startswith(ROOT):
                stack.append(f"{name[len(ROOT) + 1 :]}:{caller.f_code.co_name}")
                if name == BOUNDARY and caller.f_code.co_name == "call":
                    sides = {"daemon": len(stack)}
            caller = caller.f_back
        ((side, depth),) = sides.items()
        self.modules[side].add(stack[0].partition(":")[0])
        for name, frames in ((side, stack[: depth or None]), ("both", stack)):
            if len(frames) > len(self.deepest[name]):
                self.deepest[name] = frames


def main() -> None:
    """Plug a port once to load all modules, then plug it again under the profiler. Print the figures."""
    from hybridvif.privileged import execute
    from hybridvif.privileged.context import daemon_context

    daemon_context.set_client_mode(False)
    seen = CallPath()
    with connect() as host:
        # A daemon reads its configuration once, at its start.
        execute.keep(lambda: host.settings)
        plug(PORT, host)
        unplug(PORT.id, host)
        threading.setprofile(seen.profile)
        sys.setprofile(seen.profile)
        plug(PORT, host)
        sys.setprofile(None)
        threading.setprofile(None)
        unplug(PORT.id, host)
    both = seen.modules["client"] | seen.modules["daemon"]
    print(f"modules: {len(both)} (client {len(seen.modules['client'])}, daemon {len(seen.modules['daemon'])})")
    for side, stack in seen.deepest.items():
        print(f"depth of {side}: {len(stack)}")
        print("".join(f"    {name}\n" for name in reversed(stack)), end="")
    print("\n".join(sorted(both)))


if __name__ == "__main__":
    main()
