"""subprocess-brctl: links, by brctl (bridge-utils) and ip. The recipe that OpenStack's hybrid plug began with.

    brctl addbr qbr; brctl setfd qbr 0; brctl stp qbr off; multicast_snooping 0; disable_ipv6 1
    ip link add qvb type veth peer name qvo; each end: up, promisc on, mtu
    ip link set qbr up; brctl addif qbr qvb

Where it differs, and why: the bridge has a MAC, an MTU, an ageing time of 0, an alias and its ARP switches set
(docs/host.md says why); an end is set up by one command instead of three; multicast_snooping goes through `ip`, since
/sys/class/net shows the devices of whichever namespace it was mounted in; disable_ipv6 is written to /proc/sys by this
process; a failed command is an outcome, never a log line.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from hybridvif.errors import PreconditionError
from hybridvif.executors import iplinks, procfs
from hybridvif.executors.base import StepFailed, one_by_one
from hybridvif.executors.command import Program
from hybridvif.facts import Observed
from hybridvif.names import key_of, names_of_key
from hybridvif.parts import Bridge, Part, Role, Tap, Veth
from hybridvif.report import Outcome
from hybridvif.settings import Settings
from hybridvif.steps import Create, Delete, Step, Update, changes_of

_SAID: tuple[tuple[str, bool, bool], ...] = (
    # what brctl or ip says (C locale); whether to try again; whether the host lacks something
    ("already exists", True, False),
    ("File exists", True, False),
    ("does not exist", True, False),
    ("doesn't exist", True, False),
    ("Cannot find device", True, False),
    ("No such device", True, False),
    ("Device or resource busy", True, False),
    ("already a member of a bridge", False, False),
    ("Operation not permitted", False, True),
    ("Permission denied", False, True),
    ("Operation not supported", False, True),
    ("Unknown device type", False, True),
    ("Read-only file system", False, True),
)
"""stderr -> outcome, first match; anything else is a plain failure."""

_ABSENT = ("does not exist", "doesn't exist", "Cannot find device", "No such device")


class BrctlExecutor:
    """Links by brctl and ip."""

    role: ClassVar[Role] = Role.LINK
    serves: ClassVar[frozenset[type[Part]]] = frozenset({Bridge, Veth, Tap})
    programs: ClassVar[tuple[str, ...]] = ("brctl", "ip")
    atomic: ClassVar[bool] = False

    def __init__(self, settings: Settings) -> None:
        self._brctl, self._ip = (Program(name, settings.program_path) for name in self.programs)

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """The links under these names, or all of our grammar."""
        self._brctl.require()
        return iplinks.observe(self._ip, names, deadline)

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Carry the steps out one by one."""
        names = {name for step in steps for name in names_of_key(key_of(step.part.name) or "")}
        state = self.observe(names, deadline).state
        worker = _Worker(self._brctl, self._ip, deadline)
        # As in the recipe: a bridge that gets its veth in the same batch goes up just before that joins it.
        worker.up_later = {
            step.part.master for step in steps if isinstance(step, Create) and isinstance(step.part, Veth)
        }
        return one_by_one(steps, state, worker.do, deadline)


class _Worker:
    """Carries single steps out."""

    def __init__(self, brctl: Program, ip: Program, deadline: float) -> None:
        self._brctl_program, self._ip_program, self._deadline = brctl, ip, deadline
        self.up_later: set[str] = set()
        self._to_go_up: set[str] = set()

    def do(self, step: Step) -> None:
        match step:
            case Create(Bridge() as bridge):
                self._create_bridge(bridge)
            case Create(Veth() as veth):
                self._create_veth(veth)
            case Update(_, Bridge() as bridge):
                self._set_bridge(bridge.name, changes_of(step))
            case Update(Veth() as before, Veth() as after):
                self._set_veth(before, after, changes_of(step))
            case Update(Tap() as before, Tap() as after):
                self._set_master(after.name, before.master, after.master)
            case Delete(Bridge() as bridge):
                self._delete_bridge(bridge.name)
            case Delete(part):
                self._ip("link", "delete", part.name, absent=True)
            case _:
                raise StepFailed(f"subprocess-brctl does not serve {step.part.kind} {step.part.name}")

    def _create_bridge(self, bridge: Bridge) -> None:
        self._brctl("addbr", bridge.name)
        first = ("forward_delay", "stp", "multicast_snooping", "disable_ipv6", "ageing", "mac", "addr_gen_mode")
        last = ("arp_ignore", "arp_announce", "alias", "mtu", "up")
        options = {name: getattr(bridge, name) for name in (*first, *last)}
        if bridge.up and bridge.name in self.up_later:
            self._to_go_up.add(bridge.name)
            del options["up"]
        self._set_bridge(bridge.name, options, created=True)

    def _set_bridge(self, name: str, changes: Mapping[str, object], *, created: bool = False) -> None:
        if "stp" in changes and not created:
            # First: turning it on lifts forward_delay to 2 s.
            self._brctl("stp", name, _on_off(changes["stp"]))
        if "forward_delay" in changes:
            self._brctl("setfd", name, _seconds(changes["forward_delay"]))
        if "stp" in changes and created:
            self._brctl("stp", name, _on_off(changes["stp"]))
            if changes["stp"]:
                self._brctl("setfd", name, _seconds(changes["forward_delay"]))
        if "multicast_snooping" in changes:
            snooping = str(int(bool(changes["multicast_snooping"])))
            self._ip("link", "set", "dev", name, "type", "bridge", "mcast_snooping", snooping)
        if "ageing" in changes:
            self._brctl("setageing", name, _seconds(changes["ageing"]))
        # The MTU before IPv6 is switched off, since a device whose MTU rises to 1280 gets its IPv6 back.
        if "mtu" in changes and created:
            # Only a change marks an MTU as chosen; the kernel resets any other when members come and go.
            self._ip("link", "set", "dev", name, "mtu", str(int(str(changes["mtu"])) ^ 1))
        self._set(
            name, {key: changes[key] for key in ("mac", "mtu", "group", "alias", "addr_gen_mode") if key in changes}
        )
        for attribute in sorted(procfs.ATTRIBUTES & changes.keys()):
            value = changes[attribute]
            if value is not None:
                self._write(name, attribute, int(value))  # type: ignore[call-overload]
        self._set(name, {key: value for key, value in changes.items() if key == "up"})

    def _create_veth(self, veth: Veth) -> None:
        self._ip("link", "add", veth.name, "type", "veth", "peer", "name", veth.peer)
        self._set(veth.name, {key: getattr(veth, key) for key in ("up", "promisc", "mtu", "alias")})
        self._set(veth.peer, {"up": veth.peer_up, "promisc": veth.peer_promisc, "mtu": veth.peer_mtu})
        self._set(veth.peer, {"alias": veth.peer_alias})
        if veth.master in self._to_go_up:
            self._set(veth.master, {"up": True})
        if veth.master:
            self._brctl("addif", veth.master, veth.name)

    def _set_veth(self, before: Veth, after: Veth, changes: Mapping[str, object]) -> None:
        self._set(after.name, {key: value for key, value in changes.items() if key != "master" and key[:5] != "peer_"})
        self._set(after.peer, {key[5:]: value for key, value in changes.items() if key.startswith("peer_")})
        if "master" in changes:
            self._set_master(after.name, before.master, after.master)

    def _set_master(self, name: str, before: str, after: str) -> None:
        if after:
            self._brctl("addif", after, name)
        else:
            self._brctl("delif", before, name)

    def _delete_bridge(self, name: str) -> None:
        # brctl deletes no bridge that is up.
        self._ip("link", "set", "dev", name, "down", absent=True)
        self._brctl("delbr", name, absent=True)

    def _set(self, name: str, changes: Mapping[str, object]) -> None:
        spelled = {
            "up": lambda value: ["up" if value else "down"],
            "promisc": lambda value: ["promisc", _on_off(value)],
            "mtu": lambda value: ["mtu", str(value)],
            "mac": lambda value: ["address", str(value)],
            "group": lambda value: ["group", str(value)],
            "alias": lambda value: ["alias", str(value)],
            "addr_gen_mode": lambda value: [] if value is None else ["addrgenmode", str(value)],
        }
        words = [word for key, value in changes.items() for word in spelled[key](value)]
        if words:
            self._ip("link", "set", "dev", name, *words)

    def _write(self, name: str, attribute: str, value: int) -> None:
        try:
            procfs.write(name, attribute, value)
        except OSError as error:
            raise _failure(f"cannot set {attribute} of {name}", error.strerror or str(error)) from error

    def _brctl(self, *arguments: str, absent: bool = False) -> None:
        self._run(self._brctl_program, arguments, absent=absent)

    def _ip(self, *arguments: str, absent: bool = False) -> None:
        self._run(self._ip_program, arguments, absent=absent)

    def _run(self, program: Program, arguments: Sequence[str], *, absent: bool) -> None:
        """Run a command; absent: that the device is gone already is success."""
        done = program.run(arguments, self._deadline)
        command = " ".join((program.name, *arguments))
        if done.expired:
            raise StepFailed(f"{command} did not end before the deadline and was killed", retry=True)
        if done.code and not (absent and any(said in done.stderr for said in _ABSENT)):
            raise _failure(f"{command} failed", done.said)


def _failure(attempt: str, said: str) -> StepFailed:
    retry, lacking = next(((again, lacks) for text, again, lacks in _SAID if text in said), (False, False))
    return StepFailed(f"{attempt}: {said.rstrip('.')}", retry=retry, code=PreconditionError.code if lacking else "")


def _on_off(value: object) -> str:
    return "on" if value else "off"


def _seconds(hundredths: object) -> str:
    return f"{int(str(hundredths)) / 100:g}"
