"""What came of it: an Outcome a step, a Report a port.

Failed, rolled back, incomplete, unknown and
not-yet-realized are different words, because they ask for different things to be done next.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from hybridvif.errors import (
    REFUSALS,
    BridgeMissing,
    HybridVifError,
    NotReady,
    PlugFailed,
    UnplugFailed,
)
from hybridvif.steps import Step


class Result(enum.Enum):
    """What became of one step."""

    DONE = "done"
    FAILED = "failed"
    """Nothing, or not all, of it was done."""
    SKIPPED = "skipped"
    """Not tried, since an earlier step of the same port failed."""
    REFUSED = "refused"
    """Not permitted, or something foreign is in the way; not tried."""
    CONFIGURED = "configured"
    """Committed in OVSDB, not acknowledged by ovs-vswitchd within the deadline."""
    UNKNOWN = "unknown"
    """Sent, and the answer was lost."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one step, and why."""

    step: Step
    result: Result
    reason: str = ""
    """One finished sentence; empty when done."""
    retry: bool = False
    """Whether the same call may well succeed now: the host had merely moved on."""
    simulated: bool = False
    """Nothing was done on any real host."""
    code: str = ""
    """The `code` of the error it amounts to, where that is more than a failure: precondition, bridge-missing."""
    retries: int = 0
    """How often the executor tried anew before this came of it, because others wrote at the same time."""


class Status(enum.Enum):
    """How it stands with one port after a call."""

    DONE = "done"
    """In order (plug) or gone (unplug), as read back."""
    ROLLED_BACK = "rolled-back"
    """Failed; all that was done has been undone."""
    INCOMPLETE = "incomplete"
    """Failed, and something was left behind: `leftovers`."""
    REFUSED = "refused"
    """Nothing was changed, on purpose."""
    PRECONDITION = "precondition"
    """Nothing was changed; the host lacks something."""
    CONFIGURED = "configured"
    """Committed in OVSDB; ovs-vswitchd has not taken it yet, and will unaided."""
    UNKNOWN = "unknown"
    """An answer was lost; nothing was rolled back. Observe again."""

    @property
    def exit_code(self) -> int:
        """The exit code of the command for a port that ended so."""
        return _EXIT_CODES[self]


_EXIT_CODES = {
    Status.DONE: 0,
    Status.ROLLED_BACK: 1,
    Status.INCOMPLETE: 4,
    Status.PRECONDITION: 5,
    Status.REFUSED: 6,
    Status.UNKNOWN: 7,
    Status.CONFIGURED: 65,
}

_WORST_FIRST = (
    Status.INCOMPLETE,
    Status.UNKNOWN,
    Status.ROLLED_BACK,
    Status.CONFIGURED,
    Status.REFUSED,
    Status.PRECONDITION,
    Status.DONE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a plug or unplug did to one port, and how it ended."""

    port_id: str
    status: Status
    changed: bool = False
    """Whether anything was written on the way, whatever the end."""
    simulated: bool = False
    """Whether it was the recording executor that "did" it: nothing was done on any real host."""
    retries: int = 0
    """How often a plan was made anew, or a transaction sent anew, because the host moved on."""
    outcomes: tuple[Outcome, ...] = ()
    leftovers: tuple[str, ...] = ()
    """What is there and should not be, or is not as it was found: names, or "name: attribute"."""
    unchecked: tuple[str, ...] = ()
    """What could not be judged: "name: attribute"."""
    code: str = ""
    """The `code` of the error, for machines; empty when done."""
    reason: str = ""
    """One finished sentence; empty when done."""

    @property
    def ok(self) -> bool:
        """True only when the status is done."""
        return self.status is Status.DONE


def plug_error_of(report: Report) -> HybridVifError:
    """The exception a failed plug raises; it carries the report."""
    return _error_of(report, PlugFailed)


def unplug_error_of(report: Report) -> HybridVifError:
    """The exception a failed unplug raises; it carries the report."""
    return _error_of(report, UnplugFailed)


def _error_of(report: Report, otherwise: type[HybridVifError]) -> HybridVifError:
    known: dict[str, type[HybridVifError]] = {BridgeMissing.code: BridgeMissing, **REFUSALS}
    cls = known.get(report.code, NotReady if report.status is Status.PRECONDITION else otherwise)
    return cls(report.reason, report)


def worst_exit_code(reports: list[Report]) -> int:
    """The exit code of a bulk call: that of the port that ended worst; 0 without ports."""
    worst = min((report.status for report in reports), key=_WORST_FIRST.index, default=Status.DONE)
    return worst.exit_code
