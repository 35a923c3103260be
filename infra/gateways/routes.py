"""Renders the routes of every model as one Envoy v3 route configuration. Pure: plans in, plain values out.

Each model's routes carry its plan as metadata, so that the plan can be read back from Envoy's own memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from bentos.serving.wire.v2.grpc_status import SERVICE
from infra.gateways import grpc
from infra.gateways.bodies import WHOLE, body_limit
from infra.gateways.clusters import TYPE, guarded_name, mirror_name, seconds
from infra.gateways.grpc_scripts import FRAME
from infra.traffic import Arm, TrafficPlan

ROUTES_TYPE = TYPE + "config.route.v3.RouteConfiguration"
ROUTES_NAME = "shipway"
ASSIGNED = "x-shipway-assigned"
MIRROR_TO = "x-shipway-mirror-to"
REVISION = "x-shipway-revision"
METADATA = "shipway"
MODEL = "model"  # the key of a model's rate limit
NO_LIMIT = 4_000_000_000  # requests a second


def route_configuration(plans: Mapping[str, TrafficPlan], revision: int, version: str) -> dict[str, Any]:
    """The whole route table: the gateway's own answers, one route a model, and a 404 that says what to ask for."""
    routes = [_own(path, body, revision) for path, body in _own_answers(version).items()]
    routes += grpc.routes(max((plan.largest_body for plan in plans.values()), default=grpc.LARGEST_MESSAGE))
    routes += [route for model in sorted(plans) for route in _model_routes(plans[model])]
    served = _served(sorted(plans))
    routes += [*grpc.unknown_model(served), _not_found(served)]
    return {
        "@type": ROUTES_TYPE,
        "name": ROUTES_NAME,
        "max_direct_response_body_size_bytes": 65536,
        "virtual_hosts": [
            {
                "name": "models",
                "domains": ["*"],
                "routes": routes,
                "include_request_attempt_count": True,
                "typed_per_filter_config": _rate_limits(plans.values()),
            },
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


def _model_routes(plan: TrafficPlan) -> list[dict[str, Any]]:
    """The routes of one model, the most special first.

    Beside a candidate, a request that names a version goes to the arm that has it, whatever the weights; one that no arm
    has is the baseline's to refuse. None of these is mirrored: the copy would name a version that is not the copy's.
    """
    name = f"/models/{re.escape(quote(plan.model, safe=''))}"
    metadata = {"filter_metadata": {METADATA: {"plan": json.dumps(plan.to_json(), sort_keys=True)}}}
    # One route for both path forms.
    routes = [{**_route(plan, f"{name}/.*|/v2{name}(/.*)?", _action(plan)), "metadata": metadata}]
    candidate = plan.candidate
    if candidate is None:
        return routes
    versions = f"(/v2)?{name}/versions/"
    action = _everything_to(plan.baseline.deployment, plan)
    routes.insert(0, _named(plan, plan.baseline, f"{versions}.*", action))
    if candidate.weight:
        # The baseline cannot answer in its place: it has another version.
        action = _everything_to(mirror_name(candidate), plan)
        routes.insert(0, _named(plan, candidate, f"{versions}{re.escape(candidate.version)}(/.*)?", action))
    return routes


def _route(plan: TrafficPlan, regex: str, action: dict[str, Any]) -> dict[str, Any]:
    pattern, service = re.escape(quote(plan.model, safe="")), re.escape(SERVICE.rstrip("/"))
    rewrite = {  # a call of gRPC may name a version, see infra/gateways/grpc.py
        "pattern": {"regex": f"^/models/{pattern}(/versions/[^/]*({service}))?/"},
        "substitution": "\\2/",
    }
    if plan.limits.requests_per_second is not None:
        entry = {"descriptor_key": MODEL, "descriptor_value": plan.model}
        action = {**action, "rate_limits": [{"actions": [{"generic_key": entry}]}]}
    return {
        "match": {"safe_regex": {"regex": regex}},
        "route": {**action, "regex_rewrite": rewrite},
        # What a request may hold of its body to be asked again elsewhere; gRPC's has its frame before it.
        "request_body_buffer_limit": plan.largest_body + FRAME,
        "typed_per_filter_config": _filters(plan),
    }


def _named(plan: TrafficPlan, arm: Arm, regex: str, action: dict[str, Any]) -> dict[str, Any]:
    assigned = [_header(ASSIGNED, f"{arm.name}/{arm.version}")]
    return {**_route(plan, regex, action), "request_headers_to_add": assigned}


def _filters(plan: TrafficPlan) -> dict[str, Any]:
    if plan.candidate is None or not plan.candidate.weight:
        return {}
    # The candidate's time begins when it is asked: with a whole request, however slowly that came.
    return {WHOLE: body_limit(plan.largest_body)}


def _everything_to(cluster: str, plan: TrafficPlan) -> dict[str, Any]:
    return {"cluster": cluster, "timeout": seconds(plan.limits.timeout_seconds)}


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


def _rate_limits(plans: Iterable[TrafficPlan]) -> dict[str, Any]:
    """The limit of each model that has one: all of its routes share it."""
    limits = {plan.model: plan.limits.requests_per_second for plan in plans}
    limited = [
        {"entries": [{"key": MODEL, "value": model}], "token_bucket": _bucket(rate)}
        for model, rate in sorted(limits.items())
        if rate is not None
    ]
    if not limited:
        return {}
    everything = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    config = {
        "@type": TYPE + "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "rate_limit",
        "token_bucket": _bucket(NO_LIMIT),  # of what has none of its own
        "descriptors": limited,
        "filter_enabled": everything,
        "filter_enforced": everything,
    }
    return {"envoy.filters.http.local_ratelimit": config}


def _bucket(rate: int) -> dict[str, Any]:
    return {"max_tokens": rate, "tokens_per_fill": rate, "fill_interval": "1s"}


def _header(name: str, value: str) -> dict[str, Any]:
    # Header values are format strings: a percent sign is written twice.
    return {
        "header": {"key": name, "value": value.replace("%", "%%")},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }
