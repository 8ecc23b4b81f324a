"""Steps, reports and drift as documents: the building blocks of the JSON of every command.

The change of an attribute:

    attribute   the name in hybridvif.model.parts: mtu, master, attached_mac, ...
    before      the observed value; null if the part does not exist
    after       the desired value; "?" if it is unknown
    why         the reason for the value, in one line
    bugs        the Launchpad bugs behind the reason

A step:

    verb        create, update or delete
    role        link or switch
    kind        bridge, veth, tap, made-tap, ovs-port, vhost-user-port or ivs-port
    name        the device or port; for a veth pair its end on the Linux bridge
    changes     the written attributes; empty for delete

A report (of plug and unplug):

    port        the port id
    status      done, rolled-back, incomplete, refused, precondition, configured or unknown
    ok          true only for done
    changed     true if anything was written
    simulated   true if no real host was changed
    retries     the number of repeated plans and transactions, because the host had changed meanwhile
    code        "" or the error code: name-collision, conflict, ...
    reason      "" or one sentence
    leftovers   objects that an incomplete rollback left, or left changed
    unchecked   attributes that could not be checked: "name: attribute"
    steps       the steps of the run, each with its `result` (done, failed, skipped, refused, configured, unknown)
                and `reason`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hybridvif.cli.output.changes import Change, change_of
from hybridvif.model.parts import Difference, Part, reason_of
from hybridvif.model.report import Report
from hybridvif.model.steps import Step

Document = Mapping[str, object]


def attribute_document(part: Part, difference: Difference) -> Document:
    """Convert the change of one attribute."""
    reason = reason_of(part, difference.attribute)
    return {
        "attribute": difference.attribute,
        "before": difference.before,
        "after": difference.after,
        "why": reason.text,
        "bugs": list(reason.bugs),
    }


def change_document(change: Change) -> Document:
    """Convert the change of one part."""
    part = change.part
    return {
        "verb": change.verb,
        "role": part.role.value,
        "kind": part.kind,
        "name": part.name,
        "changes": [attribute_document(part, difference) for difference in change.attributes],
    }


def step_documents(steps: Sequence[Step]) -> list[Document]:
    """Convert the steps of a plan."""
    return [change_document(change_of(step)) for step in steps]


def report_document(report: Report) -> Document:
    """Convert the report of one port."""
    return {
        "port": report.port_id,
        "status": report.status.value,
        "ok": report.ok,
        "changed": report.changed,
        "simulated": report.simulated,
        "retries": report.retries,
        "code": report.code,
        "reason": report.reason,
        "leftovers": list(report.leftovers),
        "unchecked": list(report.unchecked),
        "steps": [
            {**change_document(change_of(outcome.step)), "result": outcome.result.value, "reason": outcome.reason}
            for outcome in report.outcomes
        ],
    }
