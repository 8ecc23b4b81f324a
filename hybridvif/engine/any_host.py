"""The interfaces of a host: each call of the engine names the one that it needs. Host and RecordingHost have all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from hybridvif.model.report import Outcome
from hybridvif.model.settings import Settings
from hybridvif.model.state import Observed, Step


class AnyHost(Protocol):
    """A host that can be observed and changed. A deadline is an instant of time.monotonic()."""

    settings: Settings

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the parts and facts under these names. None: all names of the grammar."""

    def apply(self, plans: Sequence[Sequence[Step]], deadline: float) -> list[tuple[Outcome, ...]]:
        """Carry out plans, one per port. Return one outcome per step; as Outcomes, also the observation after them."""

    def locked(self, keys: Collection[str], deadline: float) -> AbstractContextManager[None]:
        """Hold the locks of these ports, named by the first 11 characters of their ids."""


class FilteringHost(AnyHost, Protocol):
    """The interface of a host for convert(), which Host and RecordingHost implement."""

    def filtered_ofports(self, bridge: str, deadline: float) -> Collection[int]:
        """Return the OpenFlow port numbers that the OpenFlow firewall of Neutron's agent knows on a bridge."""

    def calls_iptables(self) -> bool:
        """Return whether every Linux bridge of the host calls iptables."""


class NotingHost(AnyHost, Protocol):
    """The interface of a host for gc(), which Host and RecordingHost implement."""

    def seconds_since_first_seen(self, signs: Collection[str], deadline: float) -> dict[str, float]: ...  # noqa: D102


class WatchableHost(Protocol):
    """The interface of a host for Watch, which Host implements."""

    settings: Settings

    def next_observation(  # noqa: D102
        self, names: Collection[str] | None, digest: str, deadline: float
    ) -> tuple[str, Observed] | None: ...


class HostProtocol(FilteringHost, NotingHost, Protocol):
    """The interface that Host and RecordingHost share. Every call of the library takes it.

    Annotate a host by it in a program that gets a Host, and a RecordingHost in its tests. It is a context manager.
    """

    def close(self) -> None:
        """Close the host."""

    def __enter__(self) -> HostProtocol: ...

    def __exit__(self, *_: object) -> None: ...
