"""The bench of an executor: a host that it serves, the checks of a contract, and the host's own tools as a judge."""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from subprocess import PIPE
from typing import Any, Self

import msgpack

from hybridvif.executors.base import NOT_REALIZED, Executor, ExecutorError
from hybridvif.model.parts import ForeignObject, OvsPort, Part, Role, attributes_of, differences
from hybridvif.model.planner import plan
from hybridvif.model.port import Port
from hybridvif.model.report import Outcome, Result
from hybridvif.model.settings import Settings
from hybridvif.model.state import NOTHING, Create, Delete, HostState, Observed, Step, simulate
from hybridvif.privileged import codec, privileges
from hybridvif.privileged.channel import UNPACKING, pack
from hybridvif.testing.sandbox.box import Sandbox

Make = Callable[[Settings], Executor]
PATIENCE = 15.0
"""Timeout of a call of the executor in seconds."""
SETTLING_TIME = 2.0
"""Seconds after which the kernel has updated the carrier, and ovs-vswitchd the columns of a row."""
PORT = Port(
    id="c0117ac7-0000-4000-8000-000000000001",
    mac="fa:16:3e:c0:17:ac",
    instance_id="c0117ac7-0000-4000-8000-000000000002",
    call_iptables=True,
)
NAMES = PORT.names
STRANGER = "c0117ac7-0000-4000-8000-00000000beef"
"""Another port with the same device names."""
BAD_NAMES = ("-x", "--help", "eth0", "lo", "qbr;reboot", "qvo$(id)", "../../etc", "q" * 40, "qbrc0117ac7-0\n")
DONE = frozenset({Result.DONE})
REFUSED = frozenset({Result.REFUSED})
FAILED = frozenset({Result.FAILED})
NOT_DONE = frozenset({Result.FAILED, Result.REFUSED, Result.SKIPPED})
SNAPSHOT = {
    Role.LINK: "ip -d -j link; cd /proc/sys/net; grep -s . "
    + " ".join(f"ipv4/conf/*/{key}" for key in ("arp_ignore", "arp_announce", "forwarding", "proxy_arp", "rp_filter"))
    + " ipv6/conf/*/disable_ipv6 /dev/null || true",
    Role.SWITCH: "ip -d -j link; ovs-vsctl --no-wait --format=json "
    "--columns=name,datapath_type,fail_mode,external_ids,other_config list Bridge "
    "-- --columns=name,tag,trunks,vlan_mode,external_ids,other_config list Port "
    "-- --columns=name,type,options,external_ids,other_config,mac list Interface "
    "-- --columns=external_ids,other_config,_uuid list Open_vSwitch 2>/dev/null || true",
}
"""The links with the settings of the host's IP stack; or with the configured columns of all rows, if there are some."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of a contract. The executor brings an empty host into the start state, then takes the steps."""

    name: str
    start: HostState = NOTHING
    script: str = ""
    """Shell commands of others, run after the start state is reached."""
    drift: str | None = None
    """The attribute that the script changes, to be observed and repaired. "": none may change."""
    foreign: bool = False
    """True if the script leaves a foreign object under a name of the port."""
    steps: tuple[Step, ...] = ()
    is_one_plan: bool = False
    """True to apply the steps together, False to apply and compare each."""
    results: frozenset[Result] = DONE
    """The permitted results of each step. A step that is not done must not change the host."""
    retry: bool = False
    """True if a step that is not done must be worth a retry."""
    reason: str = ""
    """A part of the reason of a step that is not done."""
    code: str = ""
    """The code of a step that is not done."""
    patience: float = PATIENCE
    query: str = ""
    """A shell command, run at the end."""
    output: str = ""
    """The words that the query must print."""


class Bench:
    """A host in a sandbox: its links or the ports of its switch are judged.

    sweep: a shell script that restores an empty host. beside: parts of the other role that are always there. changing:
    objects that may change with the port. facts: yields a sentence for each wrong fact.
    """

    def __init__(
        self,
        host: Worker,
        role: Role = Role.LINK,
        *,
        sweep: str = "",
        beside: Iterable[Part] = (),
        changing: Iterable[str] = (),
        facts: Callable[[Bench, Observed], Iterable[str]] = lambda _bench, _observed: (),
    ) -> None:
        self.box, self.host, self.role = host.box, host, role
        self._changing = (*NAMES, *changing)
        self._sweep, self._beside, self._facts = sweep, HostState().with_parts(*beside), facts

    def sh(self, script: str, *, check: bool = True) -> str:
        """Run a shell script on the host and return its output."""
        return self.box.run(["sh", "-ec", script], check=check).stdout

    def see(self) -> HostState:
        """Return the parts of the port."""
        return self._side(self.observe(NAMES).state)

    def observe(self, names: Collection[str] | None) -> Observed:
        """Return the parts and the facts that the executor observes."""
        return self.host.observe(names, time.monotonic() + PATIENCE)

    def do(self, *steps: Step, patience: float = PATIENCE) -> Sequence[Outcome]:
        """Apply the steps of one plan and return the outcomes."""
        return self.host.apply(steps, time.monotonic() + patience)

    def run(self, checks: Iterable[Check]) -> None:
        """Run the checks. Raises AssertionError with one sentence."""
        self.sh(self._sweep)
        try:
            for check in checks:
                self._run(check)
                if check.script:
                    self.sh(self._sweep)
        finally:
            self.sh(self._sweep)

    def _run(self, check: Check) -> None:
        self._reach(check.start)
        before = self.snapshot() if check.drift or check.steps else {}
        if check.script:
            self._run_script(check, check.script)
        if check.drift is not None:
            self._repair(check, before)
        found = [part for part in self.see() if isinstance(part, ForeignObject)]
        assert bool(found) is check.foreign, f"{check.name}: foreign objects are observed as {found}"
        self._require_facts(check.name)
        before = self.snapshot() if check.script else before
        for steps in [check.steps] if check.is_one_plan else [(step,) for step in check.steps]:
            before = self._apply(check, steps, before)
        if check.query:
            output = " ".join(self._run_script(check, check.query).split())
            assert output == check.output, f"{check.name}: {check.query} prints {output}, not {check.output}"

    def _run_script(self, check: Check, script: str) -> str:
        ran = self.box.run(["sh", "-ec", script], check=False)
        assert ran.returncode == 0, f"{check.name}: {script} failed: {ran.stderr.strip()}"
        return ran.stdout

    def _reach(self, start: HostState) -> None:
        """Bring the host into a state. Some attributes are never written at a creation, so updates follow."""
        for _ in range(2):
            seen = self.see()
            steps = [*plan(HostState(seen.links), HostState(start.links))]
            # A row may change its owner, so it is not updated.
            steps += [Delete(port) for name, port in seen.ports.items() if start.ports.get(name) != port]
            steps += [Create(port) for name, port in start.ports.items() if seen.ports.get(name) != port]
            failed = [outcome for outcome in (self.do(*steps) if steps else ()) if outcome.result is not Result.DONE]
            assert not failed, f"cannot reach {start}: {failed}"
            if not steps:
                break
        require_equal(self.see(), start, "in a start state")

    def _repair(self, check: Check, before: Mapping[str, str]) -> None:
        """Check that the attribute alone has changed, and that an update brings it and the host back."""
        seen = self.see()
        for part in check.start:
            found = seen.get(part)
            assert type(found) is type(part), f"{check.name}: {part.name} is observed as {found}"
            assert found is not None
            changed = {change.attribute for change in differences(found, part)}
            assert changed <= {check.drift}, f"{check.name}: {part.name} has changed in {sorted(changed)}"
        steps = plan(seen, check.start)
        assert bool(steps) is bool(check.drift), f"{check.name}: {check.drift} is not observed as changed"
        if steps:
            host = self.snapshot()
            for step in steps:
                host = self._apply(check, [step], host)
            require_equal(self.see(), check.start, f"after the repair of {check.name}")
            # The script may have replaced a device.
            first, last = (
                {key: re.sub(r'"ifindex": \d+', "", text) for key, text in host.items()} for host in (before, host)
            )
            changed = {key for key in {*first, *last} if first.get(key) != last.get(key)}
            assert not changed, f"after the repair of {check.name}, the host has changed: {sorted(changed)}"

    def _apply(self, check: Check, steps: Sequence[Step], host: Mapping[str, str]) -> dict[str, str]:
        """Apply steps on a host of which this is the snapshot, and return the next one."""
        before = self.see()
        state = self._beside.with_parts(*before)
        outcomes = self.do(*steps, patience=check.patience)
        for step, outcome in zip(steps, outcomes, strict=True):
            where = f"{check.name}: {describe(step)}: {outcome.result.value}, {outcome.reason}"
            permitted = " or ".join(sorted(result.value for result in check.results))
            is_written = outcome.result is Result.DONE or outcome.code == NOT_REALIZED
            assert outcome.result in check.results, f"{where}; it must be {permitted}"
            assert outcome.retry or is_written or not check.retry, f"{where}; it must be worth a retry"
            assert outcome.reason or outcome.result is Result.DONE, f"{where}; a reason is missing"
            if outcome.result is not Result.DONE:
                assert check.reason in outcome.reason, f"{where}; without {check.reason!r}"
                assert outcome.code == (check.code or outcome.code), f"{where}; its code must be {check.code!r}"
            if is_written:
                state = simulate(state, step)
                port = state.ports.get(step.part.name)
                if isinstance(port, OvsPort) and outcome.code == NOT_REALIZED:
                    state = state.with_parts(replace(port, realized=False))
        where = f"{check.name}: after {', '.join(map(describe, steps))}"
        after, written = self.snapshot(), self._side(state) != before
        changed = [
            key
            for key in sorted({*host, *after})
            if host.get(key) != after.get(key) and not (written and any(name in key for name in self._changing))
        ]
        assert not changed, f"{where}, something beside the port was written: {changed}"
        require_equal(self.see(), self._side(state), where)
        self._require_facts(where)
        return after

    def _require_facts(self, where: str) -> None:
        """Check the facts, and that an observation of all names has the same parts."""
        end = time.monotonic() + SETTLING_TIME
        while True:
            observed, everything = self.observe(NAMES), self.observe(None)
            sentences = [text for seen in (observed, everything) for text in self._facts(self, seen)]
            if self._side(everything.state) != self._side(observed.state):
                sentences.append(f"observed without names are {self._side(everything.state)}")
            if not sentences:
                return
            assert time.monotonic() < end, f"{where}: {'; '.join(sentences)}"

    def _side(self, state: HostState) -> HostState:
        return HostState(state.links) if self.role is Role.LINK else HostState({}, state.ports)

    def snapshot(self) -> dict[str, str]:
        """Return each object of the host by its kind and name, without what changes by itself."""
        links, *lines = self.sh(SNAPSHOT[self.role]).splitlines()
        found = {}
        for link in json.loads(links):
            info = link.get("linkinfo", {})
            for options in (info.get("info_data", {}), info.get("info_slave_data", {})):
                for key in [key for key in options if key.endswith("timer") or key == "state"]:
                    del options[key]
            # The kernel updates the carrier with a delay. ovs-vswitchd sets the promiscuity of its devices.
            link["flags"] = sorted({*link["flags"]} - {"NO-CARRIER", "LOWER_UP", "PROMISC"})
            found[f"link {link['ifname']}"] = json.dumps({**link, "operstate": "", "promiscuity": 0}, sort_keys=True)
        tables = [json.loads(line) for line in lines if line.startswith("{")]
        for number, table in enumerate(tables):
            found |= {f"row {number} {row[0]}": str(row[1:]) for row in table["data"]}
        return found | dict(line.split(":", 1) for line in lines if not line.startswith("{"))


class Worker:
    """An executor in a process inside a sandbox."""

    def __init__(self, make: Make, box: Sandbox, settings: Mapping[str, Any]) -> None:
        file = Path(sys.modules[make.__module__].__file__ or "")
        place = file.parents[make.__module__.count(".") + (file.name == "__init__.py")]
        code = "from hybridvif.testing.contract.bench import serve; serve()"
        arguments = [str(place), make.__module__, make.__qualname__, json.dumps(settings)]
        self.box, self._name = box, make.__qualname__
        self._process = box.popen([sys.executable, "-P", "-c", code, *arguments], stdin=PIPE, stdout=PIPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process as process:
            process.kill()

    def observe(self, names: Collection[str] | None, deadline: float) -> Observed:
        """Return the parts and the facts that the executor observes."""
        response = self._request({"names": None if names is None else sorted(names), "deadline": deadline})
        assert "observed" in response, f"observe() failed: {response}"
        return codec.decode_observed(response["observed"])

    def apply(self, steps: Sequence[Step], deadline: float) -> Sequence[Outcome]:
        """Apply one plan. If apply() can do nothing, each step has failed."""
        response = self._request({"steps": codec.encode_plans([steps])[0], "deadline": deadline})
        assert "raised" not in response, f"apply() must not raise for a step that fails, but: {response['raised']}"
        if "error" in response:
            return [Outcome(step, Result.FAILED, response["error"]) for step in steps]
        assert response["are_whole"], "apply() must return one outcome per step, in their order"
        return codec.decode_outcomes(response["outcomes"], [steps])[0]

    def _request(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, f"the executor {self._name} ended its process"
        # As the client of the daemon receives it: with tuples for lists.
        response: dict[str, Any] = msgpack.unpackb(pack(json.loads(line)), **UNPACKING)
        return response


def serve() -> None:
    """Create the executor of the arguments and serve requests until the input ends. Runs inside the sandbox."""
    place, module, name, settings = sys.argv[1:]
    # Last in the path, because this directory must not shadow installed modules.
    sys.path.append(place)
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(settings).items()
    }
    executor = _in_posture_of_daemon(attrgetter(name)(importlib.import_module(module)), Settings(**values))
    for line in sys.stdin:
        print(json.dumps(_response(executor, json.loads(line))), flush=True)


def _in_posture_of_daemon(make: Any, settings: Settings) -> Executor:
    """Drop the privileges of this process as the daemon does, and create the executor."""
    privileges.narrow()
    privileges.become(None, None)
    privileges.seal()
    privileges.restrict_files_to([make], settings)
    executor: Executor = make(settings)
    privileges.restrict_imports()
    if make.programs:
        privileges.pass_on()
    return executor


def _response(executor: Executor, request: dict[str, Any]) -> dict[str, Any]:
    deadline = request["deadline"]
    try:
        if "steps" in request:
            (steps,) = codec.decode_plans([request["steps"]])
            outcomes = tuple(executor.apply(steps, deadline))
            given = [outcome.step for outcome in outcomes]
            return {"outcomes": codec.encode_outcomes([outcomes]), "are_whole": given == list(steps)}
        names = codec.decode_names(request["names"])
        return {"observed": codec.encode_observed(executor.observe(names, deadline))}
    except ExecutorError as error:
        return {"error": str(error)}
    except Exception as error:  # noqa: BLE001  # the contract: nothing but ExecutorError is raised
        return {"raised": f"{type(error).__name__}: {error}"}


def wrong(seen: HostState, expected: HostState, *, but: str = "") -> list[str]:
    """Return the differences between observed and expected parts, as sentences. One attribute can be ignored."""
    sentences = [f"{part.name} is not there" for part in expected if seen.get(part) is None]
    for found in seen:
        wanted = expected.get(found)
        if wanted is None:
            sentences.append(f"{found.name} is there")
        elif type(found) is not type(wanted):
            sentences.append(f"{found.name} is a {found.kind}, not a {wanted.kind}")
        else:
            changes = [change for change in differences(found, wanted) if change.attribute != but]
            sentences += [f"{found.name}: {item.attribute} is {item.before!r}, not {item.after!r}" for item in changes]
    return sentences


def require_equal(seen: HostState, expected: HostState, when: str) -> None:
    """Compare the observed with the specified state. Raises AssertionError with each difference."""
    sentences = "; ".join(wrong(seen, expected))
    assert not sentences, f"{when}, what is observed is not what simulate() says: {sentences}"


def require_declared(make: Any, role: Role) -> None:
    """Check that an executor declares role, serves and the other attributes of the protocol.

    Raises RuntimeError if Python removes the checks of the contract, so that every executor would keep it.
    """
    if not __debug__:
        raise RuntimeError("the contract is made of assertions; run it without -O and PYTHONOPTIMIZE")
    for member in ("role", "serves", "programs", "atomic", "observe", "apply"):
        assert hasattr(make, member), f"{make.__qualname__} lacks {member} (executors.base.Executor)"
    assert make.role is role, f"{make.__qualname__}.role is {make.role}, not {role}"
    assert make.serves, f"{make.__qualname__}.serves nothing"
    assert isinstance(make.atomic, bool), f"{make.__qualname__}.atomic is neither True nor False"


def describe(step: Step) -> str:
    """Format a step."""
    return f"{type(step).__name__.lower()} of {step.part.kind} {step.part.name}"


def variants(part: Part, others: Mapping[str, tuple[Any, ...]]) -> Iterator[Part]:
    """Yield copies of the part, each with one attribute changed."""
    for name in attributes_of(type(part)):
        for value in others.get(name, ()):
            if value != getattr(part, name):
                yield replace(part, **{name: value})


def bad_names(part: Part) -> Iterator[Check]:
    """Yield checks that a name outside of the grammar is refused, such as an option or shell syntax."""
    for name in BAD_NAMES:
        bad = replace(part, name=name)
        yield Check(name=f"the name {name!r}", steps=(Create(bad), Delete(bad)), results=NOT_DONE)
