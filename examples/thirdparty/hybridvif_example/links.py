"""example-batch: a link executor with one `ip -batch` per step, and files in /proc/sys and /sys."""

from hybridvif.executors.base import StepFailed, one_by_one
from hybridvif.executors.command import Program
from hybridvif.executors.netlink import sysctl
from hybridvif.executors.netlink.connection import Connection
from hybridvif.executors.netlink.devices import opening_of, random_mac
from hybridvif.executors.netlink.executor import observe_links
from hybridvif.model.names import key_of, names_of_key
from hybridvif.model.parts import Bridge, Role, Tap, Veth
from hybridvif.model.state import Create, Delete, Update, changes_of

FILES = ("arp_ignore", "arp_announce", "disable_ipv6")
OFF = {"forwarding": 0, "proxy_arp": 0, "rp_filter": 1}  # the host's IPv4, beside ARP
OPTIONS = {
    "forward_delay": "forward_delay",
    "ageing": "ageing_time",
    "multicast_snooping": "mcast_snooping",
    "nf_call_iptables": "nf_call_iptables",
    "nf_call_ip6tables": "nf_call_ip6tables",
}


class BatchLinks:
    """Links by ip -batch."""

    role = Role.LINK
    serves = frozenset({Bridge, Veth, Tap})
    programs = ("ip",)
    atomic = False

    def __init__(self, settings):
        self._ip = Program("ip", settings.program_path)

    def observe(self, names, deadline):
        with Connection(deadline) as connection:
            return observe_links(connection, names)

    def apply(self, steps, deadline):
        # Observe again, because the plan may be outdated. one_by_one() calls state.objection() before each step.
        names = {name for step in steps for name in names_of_key(key_of(step.part.name) or "")}
        state = self.observe(names, deadline).state
        return one_by_one(steps, state, lambda step: self._do(step, deadline), deadline)

    def _do(self, step, deadline):
        match step:
            case Create(Bridge() as bridge):
                # Another MTU first: only a change marks the MTU as explicit, and the kernel resets any other.
                mac = random_mac()  # so that no VM can guess it
                self._batch([f"link add {bridge.name} address {mac} mtu {bridge.mtu ^ 1} type bridge"], deadline)
                self._set_bridge(bridge, {name: getattr(bridge, name) for name in _of_bridge()}, deadline)
            case Update(_, Bridge() as after):
                self._set_bridge(after, _with_ipv6(step), deadline)
            case Create(Veth() as veth):
                self._batch([f"link add {veth.name} type veth peer name {veth.peer}"], deadline)
                near = {name: getattr(veth, name) for name in ("mtu", "alias", "promisc", "up", "master")}
                far = {name: getattr(veth, f"peer_{name}") for name in ("mtu", "alias", "promisc", "up")}
                self._set_end(veth.name, near, veth.mtu, deadline)
                self._set_end(veth.peer, far, veth.peer_mtu, deadline)
            case Update(before, Veth() as veth):
                changes = changes_of(step)
                near = {name: value for name, value in changes.items() if not name.startswith("peer_")}
                far = {name[5:]: value for name, value in changes.items() if name.startswith("peer_")}
                self._set_end(veth.name, near, veth.mtu, deadline)
                self._set_end(veth.peer, far, veth.peer_mtu, deadline)
                if "bridge_port" in changes and "master" not in changes:
                    flags = " ".join(f"{flag} {value}" for flag, value in _flags(before))
                    self._batch([f"link set {veth.name} type bridge_slave {flags}"], deadline)
            case Update(_, Tap() as tap):
                self._batch(_lines(tap.name, {"master": tap.master}), deadline)
            case Delete(part):
                self._batch([f"link delete {part.name}"], deadline)

    def _set_bridge(self, bridge, changes, deadline):
        if "stp" in changes:  # first: STP raises forward_delay to 2 s
            self._batch([f"link set {bridge.name} type bridge stp_state {changes['stp']:d}"], deadline)
        options = " ".join(
            f"{word} {changes[name]:d}" for name, word in OPTIONS.items() if changes.get(name) is not None
        )
        lines = [f"link set {bridge.name} type bridge {options}"] if options else []
        early = {name: value for name, value in changes.items() if name != "up"}
        self._batch([*lines, *_lines(bridge.name, early)], deadline)
        mode = changes.get("addr_gen_mode")
        if mode is not None and bridge.mtu >= 1280:  # a smaller device has no IPv6
            self._batch([f"link set {bridge.name} addrgenmode {mode}"], deadline)
        if "host_ip" in changes:
            self._batch([f"link set {bridge.name} arp off"], deadline)
        files = {name: changes.get(name) for name in FILES} | (OFF if "host_ip" in changes else {})
        for name, value in files.items():
            if value is not None:
                sysctl.write(bridge.name, name, int(value))
        if "up" in changes:  # last, when IPv6 is off
            self._batch(_lines(bridge.name, {"up": changes["up"]}), deadline)

    def _set_end(self, name, changes, mtu, deadline):
        up = {key: changes[key] for key in changes if key == "up"}
        early = _lines(name, {key: changes[key] for key in changes if key != "up"})
        if {"mtu", "host_ip"} & changes.keys():  # a device whose MTU grows to 1280 gets IPv6 again
            mode = [f"link set {name} addrgenmode none"] if mtu >= 1280 else []
            self._batch([*early, f"link set {name} arp off", *mode], deadline)
            for key, value in {**OFF, "disable_ipv6": 1}.items():
                sysctl.write(name, key, value)
            early = []
        self._batch([*early, *_lines(name, up)], deadline)

    def _batch(self, lines, deadline):
        if not lines:
            return
        done = self._ip.run(["-batch", "-"], deadline, stdin="\n".join(lines) + "\n")
        if done.expired:
            raise StepFailed(f"ip did not end before the deadline: {lines[0]}", retry=True)
        if done.code:
            retry = any(text in done.stderr for text in ("File exists", "Cannot find device", "No such device"))
            raise StepFailed(f"ip failed at {lines[0]}: {done.stderr.splitlines()[0]}", retry=retry)


def _of_bridge():
    return ("stp", *OPTIONS, "mtu", "group", "alias", "addr_gen_mode", *FILES, "host_ip", "up")


def _flags(before):
    """Return the flags that open a bridge port. For ip, only the state is a number."""
    return [(flag, value if flag == "state" else ("off", "on")[value]) for flag, value in opening_of(before).items()]


def _with_ipv6(step):
    """Return the changes of a step. A bridge whose MTU grows to 1280 gets IPv6 again, so disable it again."""
    changes = changes_of(step)
    return changes | {"disable_ipv6": True, "addr_gen_mode": "none"} if "mtu" in changes else changes


def _lines(name, changes):
    words = {
        "mtu": lambda value: f"mtu {value}",
        "group": lambda value: f"group {value}",
        "alias": lambda value: f'alias "{value}"',
        "promisc": lambda value: f"promisc {'on' if value else 'off'}",
        "master": lambda value: f"master {value}" if value else "nomaster",
        "up": lambda value: "up" if value else "down",
    }
    return [f"link set {name} {words[key](value)}" for key, value in changes.items() if key in words]
