"""Neutron in a sandbox: MariaDB, RabbitMQ, neutron-rpc-server, the API, and one Open vSwitch agent per host.

Every service listens on the loopback of a sandbox or on a Unix socket. A service ends with its sandbox.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hybridvif import Port
from hybridvif.testing.sandbox.box import Sandbox
from tests.cloud.hosts import BIN, IS_SAMPLE, KEPT, Machine, Service, until
from tests.functional.conftest import INSTANCE

RELAY = Path(__file__).with_name("relay.py")
ROUND = "completed. Processed"
"""End of a round in the agent's log."""
PRIVSEP = ("", "_conntrack", "_namespace", "_link", "_ovs_vsctl", "_dhcp_release", "_dhcp")
"""Privileged contexts of Neutron, as suffixes of their sections."""

NEUTRON = """
[DEFAULT]
core_plugin = ml2
service_plugins = trunk
auth_strategy = noauth
pagination_max_limit = 20
state_path = {directory}/state
api_paste_config = {etc}/api-paste.ini
transport_url = rabbit://guest:guest@127.0.0.1:5672/
host = {host}
rpc_workers = 1
api_workers = 1
rpc_state_report_workers = 0
rpc_response_timeout = 30
notify_nova_on_port_status_changes = false
notify_nova_on_port_data_changes = false
dhcp_agent_notification = false
agent_down_time = 30
debug = true
[agent]
report_interval = 5
root_helper =
root_helper_daemon =
[database]
connection = {database}
[oslo_policy]
policy_file = {directory}/policy.yaml
[oslo_concurrency]
lock_path = {directory}/lock
[ml2]
type_drivers = flat,vlan,vxlan
tenant_network_types = vlan
mechanism_drivers = openvswitch
extension_drivers = port_security
[ml2_type_vlan]
network_vlan_ranges = physnet1:100:200
[ml2_type_vxlan]
vni_ranges = 1000:2000
[securitygroup]
firewall_driver = iptables_hybrid
"""
AGENT = """
[ovs]
integration_bridge = br-int
bridge_mappings = physnet1:br-phys
datapath_type = netdev
ovsdb_connection = unix:/run/openvswitch/db.sock
local_ip = {address}
of_listen_port = 6633
[agent]
polling_interval = {interval}
tunnel_types = vxlan
[securitygroup]
firewall_driver = {firewall}
enable_security_group = true
"""
RABBIT = r"""
ip link set lo up
mkdir -p /run/rabbit/log /run/rabbit/mnesia
echo '[].' > /run/rabbit/plugins; : > /run/rabbit/env.conf; : > /run/rabbit/rabbitmq.conf
server=$(ls -d /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin | tail -n 1)
exec "$server/rabbitmq-server"
"""
RABBIT_ENVIRONMENT = {
    "HOME": "/run/rabbit",
    "RABBITMQ_LOG_BASE": "/run/rabbit/log",
    "RABBITMQ_MNESIA_BASE": "/run/rabbit/mnesia",
    "RABBITMQ_NODENAME": "rabbit@localhost",
    "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
    "RABBITMQ_PID_FILE": "/run/rabbit/pid",
    "RABBITMQ_ENABLED_PLUGINS_FILE": "/run/rabbit/plugins",
    "RABBITMQ_CONF_ENV_FILE": "/run/rabbit/env.conf",
    "RABBITMQ_CONFIG_FILE": "/run/rabbit/rabbitmq.conf",
    "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}",
    "ERL_EPMD_ADDRESS": "127.0.0.1",
}
DATABASE = "mysql+pymysql://root@localhost/neutron?unix_socket={}"
MARIADB = [
    "mariadbd",
    "--no-defaults",
    "--user=root",
    "--skip-networking",
    "--skip-grant-tables",
    "--skip-log-bin",
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=8M",
    "--innodb-flush-log-at-trx-commit=0",
]
CREATE_DATABASE = """
import sys, pymysql
connection = pymysql.connect(unix_socket=sys.argv[1], user="root")
connection.cursor().execute("CREATE DATABASE neutron CHARACTER SET utf8mb3")
"""


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a Unix socket, which is reached from every network namespace."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Neutron:
    """A Neutron server with its database and its message broker. The API listens on a Unix socket."""

    def __init__(self, lab: Machine, directory: Path) -> None:
        self.directory = directory
        self._api, self._socket = directory / "api.sock", directory / "mariadb.sock"
        self.broker = directory / "broker.sock"
        for name in ("state", "lock", "log"):
            (directory / name).mkdir()
        self.config = self.write_config("server")
        shutil.copytree(_empty_database(lab, directory), directory / "mariadb")
        database = _start_database(lab, directory / "mariadb", self._socket)
        rabbit = Service(lab, ["sh", "-ec", RABBIT], self._log("rabbit"), RABBIT_ENVIRONMENT)
        uwsgi = ["--master", "--need-app", "--processes", "1", "--threads", "2", "--enable-threads", "--die-on-term"]
        module = ["--module", "neutron.wsgi.api:application", "--lazy-apps", "--venv", sys.prefix]
        api = Service(
            lab,
            [str(BIN / "uwsgi"), "--http-socket", str(self._api), *uwsgi, *module],
            self._log("api"),
            {"OS_NEUTRON_CONFIG_DIR": str(directory), "OS_NEUTRON_CONFIG_FILES": self.config.name},
        )
        rabbit.await_(lambda: _answers(lab.box, 5672), 90)
        database.await_(self._socket.exists, 30)
        Service(lab, [sys.executable, str(RELAY), str(self.broker), "127.0.0.1:5672"], self._log("relay"))
        api.await_(self._responds, 120)
        # Not earlier: both fill the tables of VLANs and VNIs when they start.
        command = [str(BIN / "neutron-rpc-server"), "--config-file", str(self.config)]
        self.rpc = Service(lab, command, self._log("rpc"))

    def write_config(self, host: str) -> Path:
        """Write the configuration of a host's services."""
        path = self.directory / f"{host}.conf"
        helper = f"{BIN / 'privsep-helper'} --config-file {path}"
        sections = "".join(f"[privsep{suffix}]\nhelper_command = {helper}\n" for suffix in PRIVSEP)
        etc = Path(sys.prefix) / "etc" / "neutron"
        path.write_text(
            NEUTRON.format(directory=self.directory, etc=etc, host=host, database=DATABASE.format(self._socket))
            + sections
        )
        return path

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a request to the API. Fail unless the response has a status below 300."""
        connection = _UnixConnection(self._api)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request(method, f"/v2.0/{path}", json.dumps(body) if body else None, headers)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        assert response.status < 300, f"{method} {path}: {response.status} {text}"
        return dict(json.loads(text)) if text else {}

    def create(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Create an object of the API: kind "network", "security-group-rule" and so on."""
        word = kind.replace("-", "_")
        return dict(self.call("POST", f"{kind}s", {word: fields})[word])

    def status(self, port_id: str) -> str:
        """Return the status of a port."""
        return str(self.call("GET", f"ports/{port_id}?fields=status")["port"]["status"])

    def is_alive(self, host: str) -> bool:
        """Return True if the agent of a host reports to the server."""
        return any(agent["alive"] for agent in self.call("GET", f"agents?host={host}")["agents"])

    def create_port(self, network: Mapping[str, Any], address: str, host: str, **fields: Any) -> Port:
        """Create a port that is bound to a host."""
        bound = {"binding:host_id": host, "device_id": INSTANCE, "device_owner": "compute:nova"}
        ips = [{"ip_address": address}]
        created = self.create("port", network_id=network["id"], fixed_ips=ips, **bound, **fields)
        assert created["binding:vif_type"] == "ovs", created
        assert created["binding:vif_details"]["ovs_hybrid_plug"], created
        return Port(id=created["id"], mac=created["mac_address"], instance_id=INSTANCE, mtu=network["mtu"])

    def _responds(self) -> bool:
        try:
            return "agents" in self.call("GET", "agents")
        except (OSError, http.client.HTTPException, AssertionError):
            return False

    def _log(self, name: str) -> Path:
        return self.directory / "log" / f"{name}.log"


class Agent:
    """neutron-openvswitch-agent of one host. It is started, and await_start() waits for it."""

    def __init__(self, neutron: Neutron, lab: Machine, host: str, address: str) -> None:
        self.neutron, self.lab, self.host = neutron, lab, host
        config = neutron.write_config(host)
        self._own, self._address = config.with_suffix(".agent.conf"), address
        self.files = ["--config-file", str(config), "--config-file", str(self._own)]
        self.log = neutron.directory / "log" / f"{host}.log"
        lab.sh("ovs-vsctl --may-exist add-br br-phys -- set Bridge br-phys datapath_type=netdev")
        self.launch()

    def launch(self, firewall: str = "iptables_hybrid") -> None:
        """Start it."""
        self._own.write_text(AGENT.format(address=self._address, firewall=firewall, interval=1 if IS_SAMPLE else 2))
        self._start = self.mark()
        command = [str(BIN / "neutron-openvswitch-agent"), *self.files]
        self.service = Service(self.lab, command, self.log)

    def await_start(self) -> None:
        """Wait for its first complete round."""
        self.service.await_(lambda: "completed" in "".join(self.since(self._start, "rpc_loop")), 90)

    def start(self, firewall: str = "iptables_hybrid") -> None:
        """Start it, and wait for its first complete round."""
        self.launch(firewall)
        self.await_start()

    def kill(self) -> None:
        """Kill it with SIGKILL. Its OpenFlow rules and iptables stay."""
        self.lab.box.send_signal(self.service.process, signal.SIGKILL)
        self.service.process.wait(20)

    def mark(self) -> int:
        """Return the current length of its log."""
        return self.log.stat().st_size if self.log.exists() else 0

    def since(self, mark: int, *words: str) -> list[str]:
        """Return the later lines of its log with one of the words."""
        with self.log.open(errors="replace") as log:
            log.seek(mark)
            return [line for line in log if any(word in line for word in words)]

    def has_configured(self, mark: int, *ports: Port) -> bool:
        """Return True if it has reported all of these ports as configured since a mark.

        After a restart of Open vSwitch this counts, because Neutron's status stays ACTIVE.
        """
        lines = "".join(self.since(mark, "Configuration for devices up"))
        return all(port.id in lines for port in ports)

    def await_quiet(self, *ports: Port) -> int:
        """Wait until two rounds mention none of the ports. Return the length of its log at that moment.

        After a port is ACTIVE, the agent handles the notification about that.
        """
        start = self.mark()
        for _ in range(10):
            mark = self.mark()
            self.await_rounds(mark)
            if not self.since(mark, *(port.id for port in ports)):
                return self.mark()
        raise AssertionError(self.since(start, *(port.id for port in ports)))

    def await_rounds(self, mark: int) -> None:
        """Wait until two rounds have ended since a mark."""
        assert until(lambda: len(self.since(mark, ROUND)) >= 2, 30), self.log


def _answers(box: Sandbox, number: int) -> bool:
    probe = f"exec 3<>/dev/tcp/127.0.0.1/{number}"
    return box.run(["bash", "-c", probe], check=False, timeout=10).returncode == 0


def _empty_database(lab: Machine, directory: Path) -> Path:
    """Return the data directory of a MariaDB with the tables of this Neutron. It is created once."""
    path = KEPT / f"neutron-{version('neutron')}"
    if not path.exists():
        part, unix_socket = path.with_suffix(f".{os.getpid()}"), directory / "new.sock"
        (part / "mysql").mkdir(parents=True)
        server = _start_database(lab, part, unix_socket)
        server.await_(unix_socket.exists, 30)
        lab.box.run([sys.executable, "-P", "-c", CREATE_DATABASE, str(unix_socket)])
        config = directory / "new.conf"
        config.write_text(f"[database]\nconnection = {DATABASE.format(unix_socket)}\n")
        lab.box.run([str(BIN / "neutron-db-manage"), "--config-file", str(config), "upgrade", "head"], timeout=300)
        lab.box.send_signal(server.process, signal.SIGTERM)
        server.process.wait(30)
        part.rename(path)
    return path


def _start_database(lab: Machine, path: Path, unix_socket: Path) -> Service:
    command = [*MARIADB, f"--datadir={path}", f"--socket={unix_socket}", f"--pid-file={unix_socket}.pid"]
    return Service(lab, command, unix_socket.with_suffix(".log"))
