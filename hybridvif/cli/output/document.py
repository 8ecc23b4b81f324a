"""Steps, reports and drift as documents for machines: the pieces of which every command's JSON is made.

A change of an attribute:

    attribute   as in hybridvif.model.parts: mtu, master, attached_mac, ...
    before      its value; null if the part is not there
    after       its value to be; "?" if it ought to have one and nobody knows which
    why         why it is what it is, in one line
    bugs        the Launchpad bugs that taught it

A step:

    verb        create, update or delete
    role        link or switch
    kind        bridge, veth, tap, made-tap, ovs-port, vhost-user-port or ivs-port
    name        of the device or port; of a veth pair its end on the Linux bridge
    changes     what is written, attribute by attribute; empty for delete

A report (of plug and unplug):

    port        the port id
    status      done, rolled-back, incomplete, refused, precondition, configured or unknown
    ok          true only for done
    changed     whether anything was written
    simulated   true: nothing was done on any real host
    retries     how often a plan was made, or a transaction sent, anew, because the host moved on
    code        "" or the word for machines: name-collision, conflict, ...
    reason      "" or one finished sentence
    leftovers   what is there and should not be, or is not as it was found
    unchecked   what could not be judged: "name: attribute"
    steps       those carried out or tried, each with its `result` (done, failed, skipped, refused, configured, unknown)
                and `reason`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hybridvif.cli.output.changes import Change, change_of
from hybridvif.model.parts import Difference, Part
from hybridvif.model.reasons import reason_of
from hybridvif.model.report import Report
from hybridvif.model.steps import Step

Document = Mapping[str, object]


def attribute_document(part: Part, difference: Difference) -> Document:
    """The change of one attribute."""
    reason = reason_of(part, difference.attribute)
    return {
        "attribute": difference.attribute,
        "before": difference.before,
        "after": difference.after,
        "why": reason.text,
        "bugs": list(reason.bugs),
    }


def change_document(change: Change) -> Document:
    """One change of one part."""
    part = change.part
    return {
        "verb": change.verb,
        "role": part.role.value,
        "kind": part.kind,
        "name": part.name,
        "changes": [attribute_document(part, difference) for difference in change.attributes],
    }


def step_documents(steps: Sequence[Step]) -> list[Document]:
    """The steps of a plan."""
    return [change_document(change_of(step)) for step in steps]


def report_document(report: Report) -> Document:
    """What was done to one port, and how it ended."""
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
