"""Hybrid ports on two hosts of OVN: ovn-northd, and on each host ovn-controller with Geneve."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cloud.hosts import LINK, Machine, Service, Watch, host_of, join, note, passes, until
from tests.functional.conftest import make_port

PORTS = [make_port(number, mtu=1442) for number in (1, 2)]
SCHEMAS = Path("/usr/share/ovn")


class Ovn:
    """The databases and ovn-northd on the first host, and ovn-controller on both. All meet on Unix sockets."""

    def __init__(self, hosts: list[Machine], directory: Path) -> None:
        self.hosts, self.directory = hosts, directory
        for name in ("nb", "sb"):
            database, schema = directory / f"{name}.db", SCHEMAS / f"ovn-{name}.ovsschema"
            hosts[0].box.run(["ovsdb-tool", "create", str(database), str(schema)])
            server = Service(
                hosts[0], ["ovsdb-server", str(database), f"--remote=punix:{self._socket(name)}"], self._log(name)
            )
            server.await_(self._socket(name).exists, 20)
        remotes = [f"--ovn{name}-db=unix:{self._socket(name)}" for name in ("nb", "sb")]
        Service(hosts[0], ["ovn-northd", *remotes, f"--unixctl={directory}/northd.ctl"], self._log("northd"))
        for number, host in enumerate(hosts, 1):
            ids = {
                "system-id": f"host{number}",
                "ovn-remote": f"unix:{self._socket('sb')}",
                "ovn-encap-type": "geneve",
                "ovn-encap-ip": LINK.format(number),
                "ovn-bridge-datapath-type": "netdev",
            }
            host.sh("ovs-vsctl set Open_vSwitch . " + " ".join(f"external_ids:{key}={ids[key]}" for key in ids))
            # As ovn-ctl starts it: ovn-controller 23.03 can die at its start, and its monitor starts it again.
            command = ["ovn-controller", "--monitor", "unix:/run/openvswitch/db.sock"]
            Service(host, command, self._log(f"host{number}"), {"OVN_RUNDIR": "/run/openvswitch"})

    def nb(self, *words: str) -> str:
        """Run ovn-nbctl."""
        return self._ctl("nb", words)

    def sb(self, *words: str) -> str:
        """Run ovn-sbctl."""
        return self._ctl("sb", words)

    def is_up(self, port_id: str) -> bool:
        """Return True if a chassis has the port and reports it as up."""
        return self.sb("--bare", "--columns=up", "find", "Port_Binding", f"logical_port={port_id}") == "true"

    def chassis(self, port_id: str) -> str:
        """Return the host that has a port; "" if none has."""
        found = self.sb("--bare", "--columns=chassis", "find", "Port_Binding", f"logical_port={port_id}")
        return self.sb("get", "Chassis", found, "name").strip('"') if found else ""

    def _ctl(self, name: str, words: tuple[str, ...]) -> str:
        command = [f"ovn-{name}ctl", "--timeout=20", f"--db=unix:{self._socket(name)}", *words]
        return self.hosts[0].box.run(command).stdout.strip()

    def _socket(self, name: str) -> Path:
        return self.directory / f"{name}.sock"

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"


@pytest.fixture(scope="module")
def ovn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ovn]:
    """Two hosts, with a logical switch that has both ports."""
    directory = tmp_path_factory.mktemp("ovn")
    with ExitStack() as stack:
        hosts = [stack.enter_context(host_of(directory / f"lab{n}", n, is_connected=False)) for n in (1, 2)]
        join(hosts[0], hosts[1])
        ovn = Ovn(hosts, directory)
        ovn.nb("ls-add", "net")
        for number, port in enumerate(PORTS, 1):
            ovn.nb("lsp-add", "net", port.id, "--", "lsp-set-addresses", port.id, f"{port.mac} 10.0.0.{number}")
        assert until(lambda: len(ovn.sb("--bare", "--columns=name", "list", "Chassis").split()) == 2, 20)
        yield ovn


@pytest.mark.sample
def test_ports_of_two_hosts_are_up_and_meet_over_geneve(ovn: Ovn) -> None:
    plugged = Watch()
    for host, port in zip(ovn.hosts, PORTS, strict=True):
        host.plug(port)
    for number, port in enumerate(PORTS, 1):
        assert until(lambda port=port: ovn.is_up(port.id), 20)  # type: ignore[misc]
        assert ovn.chassis(port.id) == f"host{number}"
    note("ovn-plug-to-up", ports=2, seconds=plugged.seconds)
    with ovn.hosts[0].vm(PORTS[0], 1) as vm, ovn.hosts[1].vm(PORTS[1], 2) as peer:
        assert until(lambda: vm.ping("10.0.0.2", timeout=1).returncode == 0, 20)
        assert passes(vm, "10.0.0.2") == passes(peer, "10.0.0.1") == {"icmp": True, "tcp": True}
        full = ["ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", str(PORTS[0].mtu - 28), "10.0.0.2"]
        assert vm.run(full, check=False).returncode == 0

        # An ACL to the second port.
        denied = f'outport == "{PORTS[1].id}" && icmp4'
        ovn.nb("--wait=hv", "acl-add", "net", "to-lport", "1000", denied, "drop")
        assert passes(vm, "10.0.0.2") == {"icmp": False, "tcp": True}
        ovn.nb("--wait=hv", "acl-del", "net")
        assert passes(vm, "10.0.0.2") == {"icmp": True, "tcp": True}

        # A second plug is no event for OVN. A lost row is bound again.
        held = ovn.sb("list", "Port_Binding")
        ovn.hosts[1].plug(PORTS[1])
        assert ovn.sb("list", "Port_Binding") == held
        assert peer.ping("10.0.0.1").returncode == 0
        ovn.hosts[1].sh(f"ovs-vsctl del-port {PORTS[1].names.switch_end}")
        assert until(lambda: not ovn.chassis(PORTS[1].id), 20)
        ovn.hosts[1].plug(PORTS[1])
        assert until(lambda: ovn.is_up(PORTS[1].id), 20)
        assert until(lambda: vm.ping("10.0.0.2", timeout=1).returncode == 0, 10)
    for host, port in zip(ovn.hosts, PORTS, strict=True):
        host.unplug(port)
        assert until(lambda port=port: not ovn.chassis(port.id), 20)  # type: ignore[misc]
        assert not [name for name in host.links() if port.id[:11] in name]


def test_port_moves_to_the_other_host(ovn: Ovn) -> None:
    """The order of a live migration: plug at the destination, move the VM, unplug at the source."""
    source, destination = ovn.hosts
    port, peer_port = PORTS
    source.plug(port)
    destination.plug(peer_port)
    assert until(lambda: ovn.is_up(port.id) and ovn.is_up(peer_port.id), 20)
    with destination.vm(peer_port, 2) as peer:
        with source.vm(port, 1):
            assert until(lambda: peer.ping("10.0.0.1", timeout=1).returncode == 0, 10)
            # Nova sets both options with Neutron's ML2/OVN driver.
            ovn.nb("lsp-set-options", port.id, "requested-chassis=host1,host2", "activation-strategy=rarp")
            destination.plug(port)
            assert peer.ping("10.0.0.1").returncode == 0
        ovn.nb("lsp-set-options", port.id, "requested-chassis=host2")
        assert until(lambda: ovn.chassis(port.id) == "host2" and ovn.is_up(port.id), 20)
        with destination.vm(port, 1):
            source.unplug(port)
            assert until(lambda: peer.ping("10.0.0.1", timeout=1).returncode == 0, 10)
    for plugged in PORTS:
        destination.unplug(plugged)
    assert until(lambda: not ovn.chassis(port.id) and not ovn.chassis(peer_port.id), 20)
