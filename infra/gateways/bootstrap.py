"""Renders Envoy's bootstrap: the listener, the admin port and where the xDS files lie."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.gateways import bodies, grpc
from infra.gateways.clusters import TYPE
from infra.gateways.interface import PermanentGatewayError
from infra.gateways.routes import ROUTES_NAME

MAX_DOWNSTREAM_CONNECTIONS = 8192
MAX_REGEX_SIZE = 10_000  # RE2 instructions
FORGED = ("x-shipway-", "x-envoy-")  # headers that only the gateway may set; a client's are removed


@dataclass(frozen=True)
class Listen:
    """Addresses and files of one gateway. ``tracing`` is ``host:port`` of an OTLP/gRPC collector, None: no tracing.

    ``admin_host`` may be a name of this machine: in a container the one that only the stack's own network knows, so that
    model servers in another network do not reach the admin port.
    """

    host: str
    port: int
    admin_port: int
    clusters_file: Path
    routes_file: Path
    tracing: str | None = None
    admin_host: str = "127.0.0.1"
    version: str = ""  # of Shipway, which the gateway tells as its own
    memory_mb: int = 2048  # that Envoy may hold


def bootstrap(listen: Listen) -> dict[str, Any]:
    """The bootstrap file as plain values."""
    clusters = [grpc.inside_cluster()] + ([_collector(listen.tracing)] if listen.tracing else [])
    memory = bodies.overload(listen.memory_mb)
    return {
        "node": {"id": "shipway", "cluster": "shipway"},
        "admin": {"address": _socket(address_of(listen.admin_host), listen.admin_port)},
        "dynamic_resources": {"cds_config": _from_file(listen.clusters_file)},
        "static_resources": {
            "listeners": [_listener(listen), grpc.inside_listener(listen.version)],
            "clusters": clusters,
        },
        "bootstrap_extensions": grpc.bootstrap_extensions(),
        "layered_runtime": {
            "layers": [
                # Envoy's default of 100 refuses the route of a model whose name is longer than some 40 characters.
                {"name": "static", "static_layer": {"re2.max_program_size.error_level": MAX_REGEX_SIZE}}
            ]
        },
        "overload_manager": {
            "refresh_interval": "0.020s",
            "resource_monitors": [
                memory["monitor"],
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": TYPE
                        + "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": MAX_DOWNSTREAM_CONNECTIONS,
                    },
                },
            ],
            "actions": memory["actions"],
            "loadshed_points": memory["shed"],
        },
    }


def address_of(host: str) -> str:
    """The IPv4 address of *host*: Envoy listens on addresses alone. Raises PermanentGatewayError for an unknown name."""
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        raise PermanentGatewayError(
            f"the gateway's admin host {host!r} is not known here: {error}. Expected a name or an address of this machine."
        ) from error


def _listener(listen: Listen) -> dict[str, Any]:
    return {
        "name": "gateway",
        "address": _socket(listen.host, listen.port),
        "per_connection_buffer_limit_bytes": bodies.CONNECTION_BYTES,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": _manager(listen)}]}
        ],
    }


def _manager(listen: Listen) -> dict[str, Any]:
    manager: dict[str, Any] = {
        "@type": TYPE + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "server_name": "shipway",
        "rds": {"route_config_name": ROUTES_NAME, "config_source": _from_file(listen.routes_file)},
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "request_headers_timeout": "10s",
        "common_http_protocol_options": {"idle_timeout": "300s"},
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "request_id_extension": {
            "typed_config": {
                "@type": TYPE + "extensions.request_id.uuid.v3.UuidRequestIdConfig",
                "pack_trace_reason": False,  # otherwise one character of the client's own id is changed
            }
        },
        "early_header_mutation_extensions": [
            {
                "name": "envoy.http.early_header_mutation.header_mutation",
                "typed_config": {
                    "@type": TYPE + "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                    "mutations": [{"remove_on_match": {"key_matcher": {"prefix": prefix}}} for prefix in FORGED],
                },
            }
        ],
        "local_reply_config": {"mappers": [*grpc.local_replies(), bodies.too_long()]},
        "http_filters": [
            *grpc.filters(),  # first: the rate limit is that of the model's route
            {
                "name": "envoy.filters.http.local_ratelimit",
                "typed_config": {
                    "@type": TYPE + "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
                    "stat_prefix": "rate_limit",
                },
            },
            bodies.whole_filter(),  # after the rate limit: what is refused is not waited for
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": TYPE + "extensions.filters.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                },
            },
        ],
    }
    if listen.tracing:
        manager["tracing"] = _tracing()
    return manager


def _tracing() -> dict[str, Any]:
    return {
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": TYPE + "config.trace.v3.OpenTelemetryConfig",
                "service_name": "shipway-gateway",
                "grpc_service": {"envoy_grpc": {"cluster_name": "tracing"}, "timeout": "1s"},
            },
        }
    }


def _collector(endpoint: str) -> dict[str, Any]:
    host, _, port = endpoint.rpartition(":")
    return {
        "name": "tracing",
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": TYPE + "extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": "tracing",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(host, int(port))}}]}],
        },
    }


def _from_file(path: Path) -> dict[str, Any]:
    return {
        "resource_api_version": "V3",
        "path_config_source": {"path": str(path), "watched_directory": {"path": str(path.parent)}},
    }


def _socket(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
