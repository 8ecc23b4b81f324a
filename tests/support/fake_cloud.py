"""Stand-in for Keystone and Neutron: an HTTP server with ports, networks, agents and bindings.

    python fake_cloud.py FILE    serve the objects of a JSON file on 127.0.0.1; print the port number

GET /v2.0/ports is divided into pages, as by a Neutron with pagination_max_limit.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

HOST = "compute1"
PASSWORD, TOKEN = "secret-password", "secret-token"
PAGE = 100
ERRORS = {401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 503: "Service Unavailable"}


def number(index: int, kind: int = 0) -> str:
    """Return a UUID."""
    return f"{index:08x}-{kind:04x}-4000-8000-000000000001"


def port(index: int, **changes: Any) -> dict[str, Any]:
    """Return a bound hybrid port as Neutron describes it."""
    details = {"port_filter": True, "ovs_hybrid_plug": True, "bridge_name": "br-int", "datapath_type": "system"}
    return {
        "id": number(index),
        "mac_address": f"fa:16:3e:00:{index >> 8:02x}:{index & 255:02x}",
        "device_id": number(index, 1),
        "device_owner": "compute:nova",
        "network_id": number(index % 150, 2),
        "binding:host_id": HOST,
        "binding:vif_type": "ovs",
        "binding:vif_details": details | changes.pop("details", {}),
    } | changes


class FakeCloud(ThreadingHTTPServer):
    """The server. Its tests change the attributes."""

    daemon_threads = True

    def __init__(self, ports: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.ports, self.bindings = ports, dict[str, list[dict[str, Any]]]()
        self.networks = [{"id": number(index, 2), "mtu": 1450} for index in range(150)]
        self.agents = [{"id": number(1, 3), "host": HOST}]
        self.status = 200
        """Status of all responses of Neutron."""
        self.drops = 0
        """Number of requests for ports to which the connection is closed without a response."""
        self.with_token = False
        """True if Neutron demands Keystone's token."""
        self.requests = list[str]()

    def answer(self, method: str, target: str, token: str | None, body: Any) -> tuple[int, Any]:
        """Return the status and the document of a response."""
        url = urlsplit(target)
        path, query = url.path.rstrip("/"), parse_qs(url.query)
        self.requests.append(f"{method} {target}")
        if path.startswith("/identity"):
            return self._identity(method, body)
        if self.status != 200 or (self.with_token and token != TOKEN):
            return self._error(self.status if self.status != 200 else 401)
        links = [{"rel": "self", "href": f"{self.url}/v2.0/"}]
        match path.split("/")[1:]:
            case []:
                return 200, {"versions": [{"id": "v2.0", "status": "CURRENT", "links": links}]}
            case ["v2.0", "ports", port_id, "bindings"]:
                return 200, {"bindings": self.bindings[port_id]}
            case ["v2.0", "ports", port_id]:
                return 200, {"port": next(entry for entry in self.ports if entry["id"] == port_id)}
            case ["v2.0", "ports"]:
                return 200, self._page(query)
            case ["v2.0", "networks"]:
                return 200, {"networks": [entry for entry in self.networks if entry["id"] in query["id"]]}
            case ["v2.0", "agents"]:
                return 200, {"agents": [entry for entry in self.agents if entry["host"] in query["host"]]}
        return self._error(404)

    def _page(self, query: dict[str, list[str]]) -> dict[str, Any]:
        # Neutron also finds the ports with an inactive binding to the host.
        host, marker = query["binding:host_id"], query.get("marker", [""])[0]
        hosts = {key: {entry["host"] for entry in entries} for key, entries in self.bindings.items()}
        bound = [
            each for each in self.ports if {each.get("binding:host_id", HOST), *hosts.get(each["id"], ())} & {*host}
        ]
        start = next((index + 1 for index, entry in enumerate(bound) if entry["id"] == marker), 0)
        page = bound[start : start + PAGE]
        target = f"{self.url}/v2.0/ports?binding:host_id={host[0]}&marker={page[-1]['id'] if page else ''}"
        more = start + PAGE < len(bound)
        return {"ports": page, **({"ports_links": [{"rel": "next", "href": target}]} if more else {})}

    def _identity(self, method: str, body: Any) -> tuple[int, Any]:
        links = [{"rel": "self", "href": f"{self.url}/identity/v3/"}]
        if method == "GET":
            return 200, {"version": {"id": "v3.14", "status": "stable", "links": links}}
        if body["auth"]["identity"]["password"]["user"]["password"] != PASSWORD:
            return self._error(401)
        endpoint = {"interface": "public", "region": "R", "region_id": "R", "url": self.url, "id": number(1)}
        catalog = [{"type": "network", "name": "neutron", "id": number(2), "endpoints": [endpoint]}]
        token = {"methods": ["password"], "expires_at": "2099-01-01T00:00:00.000000Z", "catalog": catalog}
        return 201, {"token": {**token, "project": {"id": "p", "name": "p"}, "user": {"id": "u", "name": "u"}}}

    def _error(self, status: int) -> tuple[int, Any]:
        return status, {"error": {"code": status, "title": ERRORS[status], "message": ERRORS[status]}}


class _Handler(BaseHTTPRequestHandler):
    server: FakeCloud

    def do_GET(self) -> None:
        if self.server.drops and "/v2.0/ports" in self.path:
            self.server.drops -= 1
            self.close_connection = True
            return
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        status, document = self.server.answer(self.command, self.path, self.headers.get("X-Auth-Token"), body)
        text = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "X-Subject-Token": TOKEN}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET  # noqa: N815

    def log_request(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def served(ports: list[dict[str, Any]]) -> Iterator[FakeCloud]:
    """Yield a running server."""
    with FakeCloud(ports) as cloud:
        thread = Thread(target=cloud.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield cloud
        finally:
            cloud.shutdown()
            thread.join()


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        server = FakeCloud(json.load(file))
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()
