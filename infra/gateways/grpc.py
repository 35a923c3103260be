"""What the gateway needs to take gRPC on the listener of everything else. Pure: plain values out.

A call of a model, POST /inference.GRPCInferenceService/ModelInfer, names its model inside the message. Its way:

    buffer         the whole message, up to the longest that any model takes
    lua "model"    reads the name and makes the path /models/<name>/inference.GRPCInferenceService/…, which is a route of
                   the model like its others: weights, mirror, retries, limits and counters are the same; a version
                   that the message names comes before the service, /versions/<version>
    reverse bridge takes gRPC's frame off: the model server is posted the bare message over HTTP/1.1
    lua "local"    brings what Envoy itself answers (a time-out, no such model) through the bridge

and on the way back the bridge puts the frame on, and lua "model" makes the code and the words of an error, which come in
two headers, gRPC's own. The calls that name no model are answered by a listener inside Envoy, through the same bridge.
None of these filters is in the way of another request.
"""

from __future__ import annotations

import base64
import re
from typing import Any

from bentos.serving.wire.v2.grpc import CONTENT_TYPE, new
from bentos.serving.wire.v2.grpc_status import NOT_FOUND, SERVICE, STATUS_HEADER, status_of
from infra.gateways.bodies import body_limit
from infra.gateways.clusters import TYPE
from infra.gateways.grpc_scripts import FRAME, local_script, model_script

LARGEST_MESSAGE = (
    64 << 20
)  # bytes, where no model says otherwise; a model server refuses what is too long for it itself
INSIDE = "gateway-itself"  # the cluster and the listener that answer for the gateway
BUFFER, MODEL, BRIDGE, LOCAL = "shipway.grpc.buffer", "shipway.grpc.model", "shipway.grpc.bridge", "shipway.grpc.local"

_MODEL_CALLS = "ModelInfer|ModelReady|ModelMetadata"
_SERVER_CALLS = "ServerLive|ServerReady|ServerMetadata"
_FILTERS = TYPE + "extensions.filters.http."


def filters() -> list[dict[str, Any]]:
    """The HTTP filters, in order; each is off but on the routes that switch it on."""
    bridge = {
        "@type": _FILTERS + "grpc_http1_reverse_bridge.v3.FilterConfig",
        "content_type": CONTENT_TYPE,
        "withhold_grpc_frames": True,
    }
    buffer = {"@type": _FILTERS + "buffer.v3.Buffer", "max_request_bytes": LARGEST_MESSAGE + FRAME}
    configs = {BUFFER: buffer, MODEL: _lua(model_script()), BRIDGE: bridge, LOCAL: _lua(local_script())}
    return [{"name": name, "disabled": True, "typed_config": config} for name, config in configs.items()]


def _lua(script: str) -> dict[str, Any]:
    return {"@type": _FILTERS + "lua.v3.Lua", "default_source_code": {"inline_string": script}}


def local_replies() -> list[dict[str, Any]]:
    """gRPC's codes for what Envoy itself answers, where Envoy's own choice is another. Its words stay."""
    speaks = {
        "header_filter": {
            "header": {
                "name": "content-type",
                "string_match": {"safe_regex": {"regex": "application/(grpc|x-protobuf).*"}},
            }
        }
    }
    mappers = []
    for code in (404, 413, 429, 504):
        equal = {"comparison": {"op": "EQ", "value": {"default_value": code, "runtime_key": "shipway.none"}}}
        of_gateway = {"and_filter": {"filters": [speaks, {"status_code_filter": equal}]}}
        mappers.append({"filter": of_gateway, "headers_to_add": [_header(STATUS_HEADER, str(status_of(code)))]})
    return mappers


def routes(largest: int) -> list[dict[str, Any]]:
    """The ways of the calls before it is known which model they are for, and of those that are for none; *largest* is the
    longest message in bytes that any model takes."""
    on = {"@type": TYPE + "config.route.v3.FilterConfig", "config": {}}
    escaped = re.escape(SERVICE)
    return [
        {
            "match": {"safe_regex": {"regex": f"{escaped}({_MODEL_CALLS})"}, "grpc": {}},
            "direct_response": {"status": 404},  # never reached: the path is another once the name is known
            "request_body_buffer_limit": largest + FRAME,
            "typed_per_filter_config": {
                BUFFER: body_limit(largest + FRAME),
                **dict.fromkeys((MODEL, BRIDGE, LOCAL), on),
            },
        },
        {
            "match": {"safe_regex": {"regex": f"{escaped}({_SERVER_CALLS})"}},
            "route": {"cluster": INSIDE, "timeout": "5s"},
            "typed_per_filter_config": {BRIDGE: on},
        },
    ]


def unknown_model(served: str) -> list[dict[str, Any]]:
    """What follows the models' routes: a call that none of them took names a model that is not *served*, in words."""
    message = f"no model of this name is served here; served: {served}."
    return [
        {
            "match": {"safe_regex": {"regex": f"/models/[^/]*(/versions/[^/]*)?{re.escape(SERVICE)}.*"}},
            "direct_response": {"status": 404, "body": {"inline_string": message}},
            "response_headers_to_add": [_header(STATUS_HEADER, str(NOT_FOUND))],
        },
        {
            "match": {"prefix": "/", "grpc": {}},
            "direct_response": {
                "status": 501,
                "body": {"inline_string": f"no such call here; expected {SERVICE}({_MODEL_CALLS}|{_SERVER_CALLS})"},
            },
            "response_headers_to_add": [_header("grpc-status", str(status_of(501)))],
        },
    ]


def inside_listener(version: str) -> dict[str, Any]:
    """The listener that nobody reaches from outside: it answers ServerLive, ServerReady and ServerMetadata."""
    answers = {
        "ServerLive": new("ServerLiveResponse", live=True),
        "ServerReady": new("ServerReadyResponse", ready=True),
        "ServerMetadata": new(
            "ServerMetadataResponse", name="shipway", version=version, extensions=["binary_tensor_data"]
        ),
    }
    answering = [
        {
            "match": {"path": SERVICE + call},
            "direct_response": {
                "status": 200,
                "body": {"inline_bytes": base64.b64encode(message.SerializeToString()).decode()},
            },
            "response_headers_to_add": [_header("content-type", CONTENT_TYPE)],
        }
        for call, message in answers.items()
    ]
    manager = {
        "@type": TYPE + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": INSIDE,
        "server_name": "shipway",
        "route_config": {"name": INSIDE, "virtual_hosts": [{"name": INSIDE, "domains": ["*"], "routes": answering}]},
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": _FILTERS + "router.v3.Router"}}
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": INSIDE, "internal_listener": {}, "filter_chains": [chain]}


def inside_cluster() -> dict[str, Any]:
    """The cluster that leads to ``inside_listener``."""
    endpoint = {"endpoint": {"address": {"envoy_internal_address": {"server_listener_name": INSIDE}}}}
    plain = {"@type": TYPE + "extensions.transport_sockets.raw_buffer.v3.RawBuffer"}
    return {
        "name": INSIDE,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": INSIDE, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "transport_socket": {
            "name": "envoy.transport_sockets.internal_upstream",
            "typed_config": {
                "@type": TYPE + "extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
                "transport_socket": {"name": "envoy.transport_sockets.raw_buffer", "typed_config": plain},
            },
        },
    }


def bootstrap_extensions() -> list[dict[str, Any]]:
    """What lets Envoy listen inside itself."""
    config = {"@type": TYPE + "extensions.bootstrap.internal_listener.v3.InternalListener"}
    return [{"name": "envoy.bootstrap.internal_listener", "typed_config": config}]


def _header(name: str, value: str) -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
