"""How long bodies pass the gateway: what it holds of them, and its answer to longer ones. Pure: plain values out.

A request of a model's split waits in the gateway until its body is whole, so that it can be asked again of the baseline,
and so that a client's slow upload is not the candidate's time. Everything else is passed on as it comes.
"""

from __future__ import annotations

import json
from typing import Any

from infra.gateways.clusters import TYPE

WHOLE = "shipway.whole"  # the filter that waits for a whole body
CONNECTION_BYTES = 16 << 20  # what one connection may hold, but for the bodies that its route allows
FULL = 0.9  # the share of the memory from which on requests are refused, and those that are still coming cut off
_BUFFER = TYPE + "extensions.filters.http.buffer.v3."


def whole_filter() -> dict[str, Any]:
    """The HTTP filter WHOLE, off but on the routes that switch it on."""
    config = {"@type": _BUFFER + "Buffer", "max_request_bytes": CONNECTION_BYTES}
    return {"name": WHOLE, "disabled": True, "typed_config": config}


def body_limit(most: int) -> dict[str, Any]:
    """A route's configuration of a filter that waits for a whole body: at most *most* bytes, longer ones get 413."""
    return {"@type": _BUFFER + "BufferPerRoute", "buffer": {"max_request_bytes": most}}


def too_long() -> dict[str, Any]:
    """The words of the gateway's own 413."""
    message = "expected a shorter body; send fewer rows at once, or allow more (serving.largest_body_mb)"
    equal = {"comparison": {"op": "EQ", "value": {"default_value": 413, "runtime_key": "shipway.none"}}}
    return {
        "filter": {"status_code_filter": equal},
        "body_format_override": {
            "text_format_source": {"inline_string": json.dumps({"error": message}) + "\n"},
            "content_type": "application/json",
        },
    }


def overload(memory_mb: int) -> dict[str, Any]:
    """What keeps the gateway below *memory_mb*, as parts of its overload manager.

    From FULL on new requests get 503. Of those whose bodies still come, each read may be the last, the likelier the fuller:
    a long body takes many reads, so that it goes first.
    """
    heap = "envoy.resource_monitors.fixed_heap"
    growing = {"scaled": {"scaling_threshold": FULL, "saturation_threshold": 1.0}}

    def at(name: str, trigger: dict[str, Any]) -> dict[str, Any]:
        return {"name": f"envoy.{name}", "triggers": [{"name": heap, **trigger}]}

    return {
        "monitor": {
            "name": heap,
            "typed_config": {
                "@type": TYPE + "extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                "max_heap_size_bytes": memory_mb << 20,
            },
        },
        "actions": [
            at("overload_actions.shrink_heap", {"threshold": {"value": FULL - 0.1}}),
            at("overload_actions.stop_accepting_requests", {"threshold": {"value": FULL}}),
        ],
        "shed": [
            at("load_shed_points.http1_server_abort_dispatch", growing),
            at("load_shed_points.http2_server_go_away_and_close_on_dispatch", growing),
        ],
    }
