"""The interface of a host for programs that use the library: the annotation for a Host or a RecordingHost."""

from __future__ import annotations

from typing import Protocol

from hybridvif.engine.convert import FilteringHost
from hybridvif.engine.host_wide import NotingHost


class HostProtocol(FilteringHost, NotingHost, Protocol):
    """The interface that Host and RecordingHost share. Every call of the library takes it.

    Annotate a host by it in a program that gets a Host, and a RecordingHost in its tests. It is a context manager.
    """

    def close(self) -> None:
        """Close the host."""

    def __enter__(self) -> HostProtocol: ...

    def __exit__(self, *_: object) -> None: ...
