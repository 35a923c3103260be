"""EnvoyAdmin: what Envoy says of itself over its admin port, and what its listener answers."""

from __future__ import annotations

import http.client
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from infra.gateways.interface import TransientGatewayError
from infra.gateways.routes import REVISION

LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to reach a listener bound to every address


@dataclass(frozen=True)
class ClusterState:
    """One cluster as Envoy runs it. ``errors`` counts every failed request: 5xx, resets, time-outs, refusals."""

    healthy: bool
    errors: int
    counters: dict[str, int] = field(default_factory=dict)


class EnvoyAdmin:
    """Reads Envoy's state. Every call raises TransientGatewayError while Envoy is away."""

    def __init__(self, host: str, port: int, admin_port: int, admin_host: str = "127.0.0.1") -> None:
        self._listener = (LOOPBACK.get(host, host), port)
        self._admin = (admin_host, admin_port)

    def alive(self) -> bool:
        """Whether Envoy answers and takes requests."""
        try:
            return self._call(self._admin, "GET", "/ready")[0] == 200
        except TransientGatewayError:
            return False

    def routes(self) -> tuple[int, dict[str, Any]]:
        """The revision and the route configuration that Envoy accepted last; 0 and nothing before the first."""
        configs = json.loads(self._get("/config_dump?resource=dynamic_route_configs")).get("configs", [])
        if not configs:
            return 0, {}
        return int(configs[0]["version_info"]), configs[0]["route_config"]

    def answered_revision(self) -> int:
        """The revision by which the listener answers a new connection."""
        _, headers, _ = self._call(self._listener, "GET", "/v2/health/live")
        return int(headers.get(REVISION, "0"))

    def rejected(self) -> int:
        """How many files Envoy has refused since it started."""
        text = self._get("/stats?filter=(cds|rds\\..*)\\.update_rejected$")
        return sum(int(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line)

    def clusters(self) -> dict[str, ClusterState]:
        """Health and failed requests of every cluster that has been warmed."""
        statuses = json.loads(self._get("/clusters?format=json")).get("cluster_statuses", [])
        return {status["name"]: _cluster_state(status) for status in statuses}

    def counters(self, clusters: Collection[str]) -> dict[str, dict[str, int]]:
        """Counters by cluster and short name, for the named clusters; those still at zero may be missing."""
        prefixes = {f"cluster.{name.replace(':', '_')}.": name for name in clusters}
        found: dict[str, dict[str, int]] = {name: {} for name in clusters}
        for line in self._get("/stats?usedonly&filter=" + quote("^cluster\\..*\\.upstream_")).splitlines():
            key, _, value = line.partition(": ")
            head, _, counter = key.rpartition(".")
            name = prefixes.get(head + ".")
            if name is not None and value.isdigit():
                found[name][counter] = int(value)
        return found

    def drain(self) -> None:
        """Asks Envoy to close listeners gracefully: connections end after their next answer."""
        self._call(self._admin, "POST", "/drain_listeners?graceful")

    def in_flight(self) -> tuple[int, int]:
        """Open connections of clients, and requests that are not answered yet."""
        text = self._get("/stats?filter=^http\\.gateway\\.downstream_(cx|rq)_active$")
        found = dict(line.rsplit(": ", 1) for line in text.splitlines() if line)
        connections, requests = (int(found.get(f"http.gateway.downstream_{what}_active", "0")) for what in ("cx", "rq"))
        return connections, requests

    def _get(self, path: str) -> str:
        status, _, body = self._call(self._admin, "GET", path)
        if status != 200:
            raise TransientGatewayError(f"Envoy's admin answered {status} to {path}: {body[:200]}. Try again.")
        return body

    def _call(self, address: tuple[str, int], method: str, path: str) -> tuple[int, http.client.HTTPMessage, str]:
        connection = http.client.HTTPConnection(*address, timeout=2.0)
        try:
            connection.request(method, path, headers={"connection": "close"})
            response = connection.getresponse()
            return response.status, response.headers, response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise TransientGatewayError(
                f"the gateway does not answer at {address[0]}:{address[1]}: {error!r}. Is the stack up (shipway status)?"
            ) from error
        finally:
            connection.close()


def _cluster_state(status: dict[str, Any]) -> ClusterState:
    hosts = status.get("host_statuses", [])
    stats = [stat for host in hosts for stat in host.get("stats", [])]
    healthy = bool(hosts) and all(  # none: a host name that no one answers for
        not any(
            host.get("health_status", {}).get(bad)
            for bad in ("failed_active_health_check", "failed_outlier_check", "pending_active_hc")
        )
        for host in hosts
    )
    return ClusterState(
        healthy=healthy,
        errors=sum(int(stat.get("value", 0)) for stat in stats if stat["name"] == "rq_error"),
    )
