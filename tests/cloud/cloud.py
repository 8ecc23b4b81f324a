"""A cloud of Neutron with two hosts, and the calls that the tests make to it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hybridvif import Port
from tests.cloud.hosts import LINK, Machine, Service, Watch, note, until
from tests.cloud.networking import RELAY, Agent, Neutron

DEAD_VLAN = 4095
TRUNKS: dict[str, object] = {
    "integration_bridges": "br-int,tbr-*",
    "create_bridges": "br-int,tbr-*",
    "remove_trunk_bridges": "true",
}


class Cloud:
    """A Neutron with two hosts, a network and a security group that allows only what allow() allows.

    The server runs on the first host. The other one reaches its broker by a relay, and the first one by VXLAN.
    """

    def __init__(self, lab: Machine, second: Machine, directory: Path) -> None:
        self.lab, self.second = lab, second
        started = Watch()
        self.neutron = Neutron(lab, directory)
        server = started.seconds
        relay = [sys.executable, str(RELAY), "127.0.0.1:5672", str(self.neutron.broker)]
        Service(second, relay, directory / "log" / "relay2.log")
        agents = [Agent(self.neutron, host, f"compute{n}", LINK.format(n)) for n, host in enumerate((lab, second), 1)]
        for agent in agents:
            agent.await_start()
            assert until(lambda agent=agent: self.neutron.is_alive(agent.host), 60)  # type: ignore[misc]
        self.agent = agents[0]
        note("neutron-start", server=server, agents=round(started.seconds - server, 2))
        self.network = self.create_network("vlan", "10.0.0.0/24")
        self.group = self.create_group()
        self._numbers = iter(range(1, 250))

    def create_network(self, kind: str, cidr: str) -> dict[str, Any]:
        """Create a network with a subnet."""
        network = self.neutron.create("network", name=cidr, **{"provider:network_type": kind})
        subnet = {"cidr": cidr, "ip_version": 4, "enable_dhcp": False, "gateway_ip": None}
        self.neutron.create("subnet", network_id=network["id"], **subnet)
        return network

    def create_group(self) -> str:
        """Create a security group that allows all packets from its ports, and none to them."""
        return str(self.neutron.create("security-group", name="group")["id"])

    def allow(self, protocol: str, group: str = "") -> str:
        """Allow a protocol to the ports of a group. Return the id of the rule."""
        rule = {"security_group_id": group or self.group, "direction": "ingress", "ethertype": "IPv4"}
        return str(self.neutron.create("security-group-rule", protocol=protocol, **rule)["id"])

    def forbid(self, rule: str) -> None:
        """Delete a rule."""
        self.neutron.call("DELETE", f"security-group-rules/{rule}")

    def create_port(
        self, network: dict[str, Any] | None = None, number: int = 0, host: str = "compute1", **fields: Any
    ) -> tuple[Port, int]:
        """Create a port. Return it with the last number of its address."""
        number = number or next(self._numbers)
        fields = {"security_groups": [self.group], **fields}
        return self.neutron.create_port(network or self.network, f"10.0.0.{number}", host, **fields), number

    def delete(self, port: Port) -> None:
        """Delete a port from Neutron."""
        self.neutron.call("DELETE", f"ports/{port.id}")

    def tag(self, port: Port) -> Any:
        """Return the VLAN tag of a port; None without a row."""
        return self.lab.row(port.names.switch_end, "Port").get("tag")

    def is_wired(self, port: Port) -> bool:
        """Return True if the agent has wired a port and Neutron reports it as ACTIVE."""
        tag = self.tag(port)
        return isinstance(tag, int) and tag != DEAD_VLAN and self.neutron.status(port.id) == "ACTIVE"

    def await_wired(self, *ports: Port, seconds: float = 40) -> None:
        """Wait until all ports are wired."""
        for port in ports:
            state = (self.tag(port), self.neutron.status(port.id))
            assert until(lambda port=port: self.is_wired(port), seconds), (port.id, state)  # type: ignore[misc]

    def chains(self, port: Port) -> list[str]:
        """Return the lines of iptables for a port, of all tables."""
        return [line for line in self.lab.sh("iptables-save").splitlines() if port.id[:10] in line]

    def zones(self, port: Port) -> list[str]:
        """Return the rules that give the packets of a port a conntrack zone."""
        rules = self.lab.sh("iptables-save -t raw").splitlines()
        return [line for line in rules if port.id[:11] in line and "--zone" in line]
