"""The file of --trace-file: one call as trace events of Chrome, which Perfetto opens, with a track for each process.

The format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hybridvif.cli.terminal import enveloped
from hybridvif.model.errors import InvalidInput
from hybridvif.spans import OWN, Span, collecting, span

_CLIENT, _DAEMON = 1, 2
"""The numbers of the tracks. Their process ids may be equal, because the daemon may have its own pid namespace."""


@contextmanager
def traced(args: argparse.Namespace) -> Iterator[None]:
    """Write the trace of a command to the file of --trace-file, also if the command fails.

    Raises InvalidInput before the start if the file cannot be written. A full disk is a warning: the work is done.
    """
    path: str | None = args.trace_file
    if path is None:
        yield
        return
    try:
        file = open(path, "w", encoding="utf-8")  # noqa: SIM115  # closed below
    except OSError as error:
        raise InvalidInput(f"--trace-file {path}: {error.strerror}; name a file that can be written") from error
    with collecting() as spans:
        try:
            with span(args.command):
                yield
        finally:
            try:
                with file:
                    json.dump(document_of(args.command, spans), file)
            except OSError as error:
                args.terminal.write_note(f"warning: --trace-file {path}: {error.strerror}", "yellow")


def document_of(command: str, spans: Mapping[int, Sequence[Span]]) -> Mapping[str, object]:
    """Return the trace of these spans."""
    begin = min(start for own in spans.values() for _, start, _ in own)
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": process, "tid": 0, "args": {"name": f"hybridvif {name}"}}
        for process, name in ((_CLIENT, "client"), (_DAEMON, "daemon"))
    ]
    events += [
        {
            "name": name,
            "cat": "hybridvif",
            "ph": "X",
            "ts": round((start - begin) * 1e6, 1),
            "dur": round((end - start) * 1e6, 1),
            "pid": _CLIENT if thread == OWN else _DAEMON,
            "tid": thread or os.getpid(),
        }
        for thread, own in spans.items()
        for name, start, end in own
    ]
    # Perfetto ignores all that follows an unknown key, so the events come first.
    return {"traceEvents": events, "displayTimeUnit": "ms", **enveloped({}, command)}
