"""Renders the routes of every model as one Envoy v3 route configuration. Pure: plans in, plain values out.

Each model's routes carry its plan as metadata, so that the plan can be read back from Envoy's own memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from infra.gateways import grpc
from infra.gateways.clusters import TYPE, guarded_name, mirror_name, seconds
from infra.traffic import Arm, TrafficPlan

ROUTES_TYPE = TYPE + "config.route.v3.RouteConfiguration"
ROUTES_NAME = "shipway"
ASSIGNED = "x-shipway-assigned"
MIRROR_TO = "x-shipway-mirror-to"
REVISION = "x-shipway-revision"
METADATA = "shipway"


def route_configuration(plans: Mapping[str, TrafficPlan], revision: int, version: str) -> dict[str, Any]:
    """The whole route table: the gateway's own answers, one route a model, and a 404 that says what to ask for."""
    routes = [_own(path, body, revision) for path, body in _own_answers(version).items()]
    routes += grpc.routes()
    routes += [_model_route(plans[model]) for model in sorted(plans)]
    served = _served(sorted(plans))
    routes += [*grpc.unknown_model(served), _not_found(served)]
    return {
        "@type": ROUTES_TYPE,
        "name": ROUTES_NAME,
        "max_direct_response_body_size_bytes": 65536,
        "virtual_hosts": [
            {"name": "models", "domains": ["*"], "routes": routes, "include_request_attempt_count": True},
        ],
    }


def plans_in(configuration: Mapping[str, Any]) -> dict[str, TrafficPlan]:
    """The plans that a route configuration, as Envoy dumps it, was rendered from."""
    plans: dict[str, TrafficPlan] = {}
    for host in configuration.get("virtual_hosts", []):
        for route in host.get("routes", []):
            text = route.get("metadata", {}).get("filter_metadata", {}).get(METADATA, {}).get("plan")
            if text is not None:
                plan = TrafficPlan.from_json(json.loads(text))
                plans[plan.model] = plan
    return plans


def _own_answers(version: str) -> dict[str, dict[str, Any]]:
    # Open Inference Protocol, REST: server metadata, server live, server ready.
    metadata = {"name": "shipway", "version": version, "extensions": ["binary_tensor_data"]}
    return {"/v2": metadata, "/v2/health/live": {"live": True}, "/v2/health/ready": {"ready": True}}


def _own(path: str, body: Mapping[str, Any], revision: int) -> dict[str, Any]:
    return {
        "match": {"path": path},
        "direct_response": {"status": 200, "body": {"inline_string": json.dumps(body)}},
        "response_headers_to_add": [_header("content-type", "application/json"), _header(REVISION, str(revision))],
    }


def _served(models: list[str]) -> str:
    names = ", ".join(models[:20]) + (f" and {len(models) - 20} more" if len(models) > 20 else "")
    return names or "none yet"


def _not_found(served: str) -> dict[str, Any]:
    message = (
        "no model answers at this path. Expected /models/<name>/invocations or /v2/models/<name>/infer with one of "
        f"the served models: {served}."
    )
    return {
        "match": {"prefix": "/"},
        "direct_response": {"status": 404, "body": {"inline_string": json.dumps({"error": message})}},
        "response_headers_to_add": [_header("content-type", "application/json")],
    }


def _model_route(plan: TrafficPlan) -> dict[str, Any]:
    name = quote(plan.model, safe="")
    metadata = {"filter_metadata": {METADATA: {"plan": json.dumps(plan.to_json(), sort_keys=True)}}}
    # One route for both path forms, so that they share one rate limit.
    pattern = re.escape(name)
    action = {**_action(plan), "regex_rewrite": {"pattern": {"regex": f"^/models/{pattern}/"}, "substitution": "/"}}
    route: dict[str, Any] = {
        "match": {"safe_regex": {"regex": f"/models/{pattern}/.*|/v2/models/{pattern}(/.*)?"}},
        "metadata": metadata,
        "route": action,
    }
    if plan.limits.requests_per_second is not None:
        route["typed_per_filter_config"] = {"envoy.filters.http.local_ratelimit": _rate_limit(plan)}
    return route


def _action(plan: TrafficPlan) -> dict[str, Any]:
    candidate = plan.candidate
    entries = [_weighted(plan.baseline, plan.baseline.deployment, plan)]
    if candidate is not None and candidate.weight:
        entries.append(_weighted(candidate, guarded_name(candidate, plan.baseline), plan))
    weighted: dict[str, Any] = {"clusters": entries}
    action: dict[str, Any] = {
        "weighted_clusters": weighted,
        "timeout": seconds(plan.limits.timeout_seconds),
    }
    if plan.sticky is not None:
        weighted["use_hash_policy"] = True
        key = {"header_name": plan.sticky.name} if plan.sticky.kind == "header" else {"name": plan.sticky.name}
        action["hash_policy"] = [{plan.sticky.kind: key}]
    if candidate is not None and candidate.mirror_percent:
        share = {"numerator": round(candidate.mirror_percent * 10_000), "denominator": "MILLION"}
        # By header, so that what is assigned to the candidate is not sent to it twice.
        action["request_mirror_policies"] = [
            {"cluster_header": MIRROR_TO, "runtime_fraction": {"default_value": share}}
        ]
    return action


def _weighted(arm: Arm, cluster: str, plan: TrafficPlan) -> dict[str, Any]:
    headers = [_header(ASSIGNED, f"{arm.name}/{arm.version}")]
    candidate = plan.candidate
    if candidate is not None and candidate.mirror_percent and arm.name == "baseline":
        headers.append(_header(MIRROR_TO, mirror_name(candidate)))
    return {"name": cluster, "weight": arm.weight, "request_headers_to_add": headers}


def _rate_limit(plan: TrafficPlan) -> dict[str, Any]:
    rate = plan.limits.requests_per_second
    everything = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return {
        "@type": TYPE + "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "rate_limit",
        "token_bucket": {"max_tokens": rate, "tokens_per_fill": rate, "fill_interval": "1s"},
        "filter_enabled": everything,
        "filter_enforced": everything,
    }


def _header(name: str, value: str) -> dict[str, Any]:
    # Header values are format strings: a percent sign is written twice.
    return {
        "header": {"key": name, "value": value.replace("%", "%%")},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }
