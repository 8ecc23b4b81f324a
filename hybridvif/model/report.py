"""Outcomes of steps and reports of ports.

Failed, rolled back, incomplete, unknown and not yet accepted are different words, because each needs another reaction.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hybridvif.model.errors import (
    REFUSALS,
    BridgeMissing,
    HybridVifError,
    NotReady,
    PlugFailed,
    UnplugFailed,
    escaped,
)

if TYPE_CHECKING:
    from hybridvif.model.state import Observed, Step


class Result(enum.Enum):
    """Result of one step."""

    DONE = "done"
    FAILED = "failed"
    """It was not done, or not completely."""
    SKIPPED = "skipped"
    """It was not tried, because an earlier step of the same port failed."""
    REFUSED = "refused"
    """It was not tried, because it is not permitted or a foreign object blocks it."""
    CONFIGURED = "configured"
    """It is committed in OVSDB. ovs-vswitchd did not acknowledge it by the deadline."""
    UNKNOWN = "unknown"
    """It was sent, and the response was lost."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one step, with the reason."""

    step: Step
    result: Result
    reason: str = ""
    """One complete sentence. Empty when done."""
    retry: bool = False
    """True if the same call may succeed now, because the host changed after it was observed."""
    simulated: bool = False
    """True if no real host was changed."""
    code: str = ""
    """The `code` of the error, if it is more than a failure: precondition, bridge-missing."""
    retries: int = 0
    """Retries of the executor, because others wrote at the same time."""


class Outcomes(list[tuple[Outcome, ...]]):
    """Outcomes of plans, one tuple per port, with the observation made right after them."""

    observed: Observed | None = None
    """None: the host has not been observed since then."""


class Status(enum.Enum):
    """State of one port after a call."""

    DONE = "done"
    """In sync (plug) or gone (unplug), as read back."""
    ROLLED_BACK = "rolled-back"
    """Failed, and no change remains. Each was rolled back, or none was made."""
    INCOMPLETE = "incomplete"
    """Failed, and something remains: `leftovers`."""
    REFUSED = "refused"
    """Refused before any change."""
    PRECONDITION = "precondition"
    """The host lacks something. Nothing was changed."""
    CONFIGURED = "configured"
    """Committed in OVSDB. ovs-vswitchd has not accepted it yet, and needs no help to do so."""
    UNKNOWN = "unknown"
    """A response was lost, and nothing was rolled back. Observe again."""

    @property
    def exit_code(self) -> int:
        """Return the exit code of the command for this status."""
        return _EXIT_CODES[self]


_EXIT_CODES = {
    Status.INCOMPLETE: 4,
    Status.UNKNOWN: 7,
    Status.ROLLED_BACK: 1,
    Status.CONFIGURED: 65,
    Status.REFUSED: 6,
    Status.PRECONDITION: 5,
    Status.DONE: 0,
}
"""Exit codes, with the worst status first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Result of a plug or unplug of one port."""

    port_id: str
    status: Status
    changed: bool = False
    """True if the port changed during the call, with any status."""
    simulated: bool = False
    """True if the host was simulated. No real host was changed."""
    retries: int = 0
    """Retries of plans and transactions, because the host changed after it was observed."""
    outcomes: tuple[Outcome, ...] = ()
    leftovers: tuple[str, ...] = ()
    """Remaining parts and attributes that were not restored: names, or "name: attribute"."""
    unchecked: tuple[str, ...] = ()
    """Attributes that this host cannot report: "name: attribute"."""
    code: str = ""
    """The `code` of the error, for machines. Empty when done."""
    reason: str = ""
    """One complete sentence. Empty when done."""
    duration: float = field(default=0.0, compare=False)
    """Seconds from the start of the batch of this port to the report."""

    @property
    def ok(self) -> bool:
        """True if the status is done."""
        return self.status is Status.DONE

    def __str__(self) -> str:
        flags = [flag for flag in ("changed", "simulated") if getattr(self, flag)]
        words = ", ".join([f"port {self.port_id}: {self.status.value}", *flags, f"{1000 * self.duration:.1f} ms"])
        return escaped(f"{words}: {self.reason}" if self.reason else words)

    @property
    def document(self) -> dict[str, object]:
        """The report as one of the `ports` in the JSON document of `hybridvif plug`."""
        from hybridvif.model.changes import change_of

        names = ("changed", "simulated", "retries", "code", "reason", "duration")
        return {
            "port": self.port_id,
            "status": self.status.value,
            "ok": self.ok,
            **{name: getattr(self, name) for name in names},
            "leftovers": list(self.leftovers),
            "unchecked": list(self.unchecked),
            "steps": [
                {**change_of(outcome.step).document, "result": outcome.result.value, "reason": outcome.reason}
                for outcome in self.outcomes
            ],
        }

    def to_json(self) -> str:
        """Return the document as JSON, on one line."""
        return json.dumps(self.document)


def error_of(report: Report, default: type[PlugFailed | UnplugFailed]) -> HybridVifError:
    """Return the exception of a failed call, with the report. default: if the report has no code of its own."""
    known: dict[str, type[HybridVifError]] = {BridgeMissing.code: BridgeMissing, **REFUSALS}
    cls = known.get(report.code, NotReady if report.status is Status.PRECONDITION else default)
    return cls(report.reason, report)


def worst_exit_code(reports: list[Report]) -> int:
    """Return the exit code of a bulk call: the one of the worst status. 0 without ports."""
    statuses = {report.status for report in reports}
    return next((code for status, code in _EXIT_CODES.items() if status in statuses), 0)
