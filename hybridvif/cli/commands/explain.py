"""hybridvif explain: the meaning of an attribute, a code, a status, a state or an exit code."""

from __future__ import annotations

import argparse
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hybridvif.cli import EXIT_CODES
from hybridvif.cli.options import DOCUMENT, Command, UsageError, argument
from hybridvif.cli.output.report import failure_of
from hybridvif.cli.terminal import Answer, Paint
from hybridvif.model.errors import HybridVifError, InvalidInput, did_you_mean
from hybridvif.model.parts import DECLARATIONS
from hybridvif.model.report import Status

BUG = "https://bugs.launchpad.net/bugs/"
_MODULES = (
    *("cli.commands.ports", "cli.options", "cli.stdio", "engine.locks", "model.orphans", "privileged.channel"),
    "testing.sandbox.missing",
)
"""The modules that define errors, beside model/errors.py."""
CODES: Mapping[str, str] = {
    "changed-meanwhile": "Another program keeps changing the port. Stop that program, or call again.",
    "drift": "The port is complete, but attributes differ from its own row. `hybridvif repair` writes them.",
    "failed": "A step was not done, or not completely. The reason is that of the kernel or of Open vSwitch.",
    "half": "The Linux bridge, the veth pair or the row is missing. `hybridvif repair` creates it, or asks for values.",
    "interrupted": "The command received SIGINT or SIGTERM. The same command completes the work.",
    "in-order": "The port is in sync with its own row. A value that is wrong everywhere is not detected.",
    "internal": "An error of hybridvif itself. -vv prints the traceback.",
    "not-realized": "ovs-vswitchd rejected the port. The reason quotes its error, if it gives one.",
    "orphan": "The port is incomplete and ours, and no VM uses it. `hybridvif gc` deletes it after some time.",
    "runs-natively": "A plug left a converted port as it is, because its VM runs. This is a success.",
    "skipped": "A step was not tried, because an earlier step of the same port failed.",
    # Warnings of `hybridvif list`. A warning itself has the command that mends the port.
    "dead-vlan": "A VM runs, and its port has tag 4095: Neutron's agent has not wired it.",
    "duplicate-iface-id": "Another row of Open vSwitch has the iface-id of the port. One of them is wrong.",
    "flows-drop": "A VM runs, and the first table of its bridge drops every packet from its port.",
    "tap-down": "A VM runs, and its tap is down, so no packet passes.",
    "tap-outside": "A VM runs, and its tap is not in the Linux bridge of its port.",
    # Reasons of `hybridvif trace`.
    "apart": "The tap or qvb is not in the Linux bridge of its port.",
    "blocked": "The Linux bridge holds its port back: a state other than forwarding, or a flag such as isolated.",
    "down": "The device is down, so it forwards nothing.",
    "duplicate": "Another row of Open vSwitch has the same iface-id.",
    "filtered": "Most packets do not leave the Linux bridge, and a rule of iptables counts them.",
    "flow-drop": "The flows of the switch drop a frame of the VM, as ofproto/trace computes. The flow follows.",
    "foreign": "An object of another shape has the name of the device or row.",
    "guest-stuck": "The VM does not take its packets.",
    "lost": "Most packets do not leave the Linux bridge, and no rule of iptables counts them.",
    "mac": "In a trace: the VM sends from another MAC address than the port has.",
    "mac-elsewhere": "Another device sends from the MAC address of the VM.",
    "mac-taken": "The Linux bridge sends frames for the VM elsewhere, or a device has the MAC address of the VM.",
    "missing": "The device does not exist. A missing tap means that no VM runs.",
    "mtu": "In a trace: the MTUs along the port differ, so large packets stop.",
    "no-carrier": "No running VM holds the tap.",
    "not-accepted": "ovs-vswitchd has no OpenFlow port for the port, or keeps an earlier device. Its error follows.",
    "not-in-switch": "The port has no row in Open vSwitch. Plug it again.",
    "switch-dead": "ovs-vswitchd does not run, so no packet passes.",
    "no-bridge": "ovs-vswitchd could not create the bridge, so no packet passes.",
    "switch-hung": "ovs-vswitchd does not respond.",
    "no-traffic": "No packet was seen, and the chain is in order.",
    "not-counted": "A vhost-user port has no device with counters, and its bridge is in order.",
    "silent": "Packets reach the VM, and none leaves it. Look inside the guest.",
}
"""The codes and states without an exception or a status."""


def run(args: argparse.Namespace) -> Answer:
    """Explain a word. The host is not observed."""
    if not args.word:
        raise UsageError("name an attribute, an error code, a status or an exit code")
    return answer_of(" ".join(args.word))


def answer_of(word: str) -> Answer:
    """Return the meanings of a word. Raises InvalidInput if it has none."""
    meanings = _codes()
    attributes, codes = list(_attributes(word)), [meanings[word]] if word in meanings else []
    if not attributes and not codes:
        known = {name for document in _all_attributes() for name in (document["attribute"], document["label"])}
        known |= meanings.keys()
        raise InvalidInput(f"{word!r} is neither an attribute nor a code{did_you_mean(word, sorted(known))}")
    return Answer(
        document={"command": "explain", "word": word, "attributes": attributes, "codes": codes},
        lines=lambda paint: _lines(attributes, codes, paint),
    )


def _all_attributes() -> Iterator[dict[str, Any]]:
    """Yield each declared attribute; the same attribute of several kinds once, if nothing differs."""
    found: dict[tuple[object, ...], dict[str, Any]] = {}
    for kind, declared in DECLARATIONS.items():
        for name, of in declared.items():
            key = (name, of.reason, of.is_legal.words)
            document = found.setdefault(
                key,
                {
                    "attribute": name,
                    "label": name.replace("_", "-") if of.label is None else of.label,
                    "kinds": [],
                    "legal": of.is_legal.words,
                    "create_only": of.is_create_only,
                    "why": of.reason.text,
                    "bugs": list(of.reason.bugs),
                },
            )
            document["kinds"].append(kind.kind)
    yield from found.values()


def _attributes(word: str) -> Iterator[dict[str, Any]]:
    """Yield the attributes of this name or label, also with the kind of part before it or "qvo" for a peer."""
    *before, name = word.replace(".", " ").split()
    peer = f"peer_{name}" if before == ["qvo"] else name
    wanted = peer.replace("-", "_")
    for document in _all_attributes():
        names = {document["attribute"], document["label"].replace("-", "_")}
        if wanted in names and (not before or before == ["qvo"] or " ".join(before) in document["kinds"]):
            yield document


def _codes() -> dict[str, Mapping[str, object]]:
    """Return the meanings of exit codes, statuses, exceptions and other codes."""
    for name in _MODULES:
        importlib.import_module(f"hybridvif.{name}")
    meanings: dict[str, tuple[str, int | None]] = {str(code): (text, code) for code, text in EXIT_CODES.items()}
    meanings |= {status.value: (EXIT_CODES[status.exit_code], status.exit_code) for status in Status}
    errors: list[type[HybridVifError]] = [HybridVifError]
    for error in errors:
        errors += error.__subclasses__()
        text = " ".join((inspect.getdoc(error) or "").split())
        meanings.setdefault(error.code, (text, failure_of(error()).exit_code))
    meanings |= {code: (text, None) for code, text in CODES.items()}
    text, number = meanings["no-answer"]
    meanings["no-answer"] = f"{text} In a trace: packets reach the switch, and none comes back.", number
    return {code: {"code": code, "text": text, "exit_code": number} for code, (text, number) in meanings.items()}


def _lines(
    attributes: Sequence[Mapping[str, Any]], codes: Sequence[Mapping[str, object]], paint: Paint
) -> Iterator[str]:
    for of in attributes:
        yield paint(f"{of['attribute']} of {', '.join(of['kinds'])}", "bold")
        yield f"  legal: {of['legal']}"
        yield f"  why: {of['why']}"
        if of["create_only"]:
            yield "  It is written when its part is created, and never compared or changed afterwards."
        yield from (f"  {BUG}{bug}" for bug in of["bugs"])
    for code in codes:
        name, number = code["code"], code["exit_code"]
        suffix = "" if number is None else f" (exit code {number})"
        yield paint(f"exit code {number}" if name == str(number) else f"{name}{suffix}", "bold")
        yield f"  {code['text']}"


_WORD = "an attribute (mtu, ageing, attached-mac, ...), a code of an error, warning or trace, a state or an exit code"
COMMANDS = {"explain": Command(run, DOCUMENT, (argument("word", nargs="*", metavar="WORD", text=_WORD),))}
