"""Renders the clusters of a traffic plan as Envoy's v3 JSON. Pure: plan in, plain values out.

The baseline has one cluster, named as its deployment. A candidate has three beside it:

    <candidate>~mirror        mirrored requests, and those that name its version
    <candidate>~live          its live share, its answers cut off after limits.candidate_timeout_seconds
    <candidate>~<baseline>    an aggregate of ~live and the baseline, through which the candidate's live share goes

In the aggregate, what the candidate fails, resets or answers too late is asked again of the baseline. Retry policies sit
on clusters, not on routes: the baseline's own share must not be retried or cut off by the candidate's rules, and a
mirrored request is never asked again. (A per-try timeout can only sit on a route, where it would hedge the baseline too;
hence the stream duration of ~live.) Routes and clusters of one arm never change the other's.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from infra.targets.interface import Address
from infra.traffic import Arm, TrafficPlan

TYPE = "type.googleapis.com/envoy."
CLUSTER_TYPE = TYPE + "config.cluster.v3.Cluster"
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
RETRIES_IN_FLIGHT = 1_000_000  # Envoy's default of 3 gave 4 to 14 failed answers when a busy candidate was killed
NO_PANIC = {"common_lb_config": {"healthy_panic_threshold": {"value": 0}}}
PROBE_SECONDS = 0.2  # a new candidate is unhealthy until its first probe; Envoy's default while idle is 60 s


def live_name(candidate: Arm) -> str:
    """The cluster of the candidate's own live share."""
    return f"{candidate.deployment}~live"


def mirror_name(candidate: Arm) -> str:
    """The cluster of what is mirrored to the candidate."""
    return f"{candidate.deployment}~mirror"


def guarded_name(candidate: Arm, baseline: Arm) -> str:
    """The aggregate's name: the candidate, and the baseline that answers for it."""
    return f"{candidate.deployment}~{baseline.deployment}"


def clusters_of(plan: TrafficPlan) -> dict[str, dict[str, Any]]:
    """Every cluster that *plan* needs, by name."""
    clusters = {plan.baseline.deployment: baseline_cluster(plan)}
    if plan.candidate is not None:
        clusters[mirror_name(plan.candidate)] = mirror_cluster(plan.candidate, plan)
        clusters[live_name(plan.candidate)] = live_cluster(plan.candidate, plan)
        clusters[guarded_name(plan.candidate, plan.baseline)] = guarded_cluster(plan)
    return clusters


def seconds(value: float) -> str:
    """A duration in Envoy's JSON form."""
    return f"{value:.3f}s"


def baseline_cluster(plan: TrafficPlan) -> dict[str, Any]:
    """The cluster of the baseline.

    Alone and unhealthy it still gets its requests (panic routing): a busy server that misses a probe must not become an
    outage. Only requests that never reached the model are asked again: its server is restarting.
    """
    retry = {
        "retry_on": "connect-failure,refused-stream,reset-before-request",
        "num_retries": 6,
        "retry_back_off": {"base_interval": "0.100s", "max_interval": "0.500s"},
    }
    return _server(plan.baseline.deployment, plan.baseline.address, plan, _http_options(retry))


def mirror_cluster(candidate: Arm, plan: TrafficPlan) -> dict[str, Any]:
    """What the candidate alone is asked. While it is unhealthy, mirrored requests are counted and dropped."""
    cluster = _server(mirror_name(candidate), candidate.address, plan, _http_options(None))
    return cluster | NO_PANIC


def live_cluster(candidate: Arm, plan: TrafficPlan) -> dict[str, Any]:
    """The candidate's live share: a late answer is reset, which the aggregate turns into a question to the baseline."""
    options = _http_options(None)
    options["common_http_protocol_options"]["max_stream_duration"] = seconds(plan.candidate_timeout)
    return _server(live_name(candidate), candidate.address, plan, options)


def _server(name: str, address: Address, plan: TrafficPlan, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "@type": CLUSTER_TYPE,
        "name": name,
        **_discovery(address),
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(address)}}]}],
        },
        "health_checks": [
            {
                "timeout": "1s",
                "interval": seconds(PROBE_SECONDS),
                "no_traffic_interval": seconds(PROBE_SECONDS),
                "no_traffic_healthy_interval": seconds(PROBE_SECONDS),
                "unhealthy_interval": seconds(PROBE_SECONDS),
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/readyz", "host": "shipway"},
            }
        ],
        # Only what happened on the way (refused, reset, timed out) ejects: an answer of 500 is the model's own and must
        # stay visible in the evidence.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 5,
            "enforcing_consecutive_local_origin_failure": 100,
            "enforcing_local_origin_success_rate": 0,
            "enforcing_success_rate": 0,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "interval": "1s",
            "base_ejection_time": "1s",
            "max_ejection_time": "5s",
            "max_ejection_percent": 100,
        },
        "circuit_breakers": _breakers(plan),
        "typed_extension_protocol_options": {HTTP_OPTIONS: options},
    }


def guarded_cluster(plan: TrafficPlan) -> dict[str, Any]:
    """The aggregate [candidate, baseline] through which a candidate's live share goes."""
    candidate = plan.candidate
    assert candidate is not None
    return {
        "@type": CLUSTER_TYPE,
        "name": guarded_name(candidate, plan.baseline),
        "connect_timeout": "1s",
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {
            "name": "envoy.clusters.aggregate",
            "typed_config": {
                "@type": TYPE + "extensions.clusters.aggregate.v3.ClusterConfig",
                "clusters": [live_name(candidate), plan.baseline.deployment],
            },
        },
        "circuit_breakers": _breakers(plan),
        "typed_extension_protocol_options": {
            HTTP_OPTIONS: _http_options(
                {
                    "retry_on": "5xx,reset,connect-failure,refused-stream,retriable-status-codes,retriable-headers",
                    "retriable_status_codes": [429],  # the candidate's queue is full
                    # … or it refuses a value that the baseline may take; see bentos/serving/server/errors.py
                    "retriable_headers": [{"name": "x-shipway-refused", "present_match": True}],
                    "num_retries": 1,
                    "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.002s"},
                    "retry_priority": {
                        "name": "envoy.retry_priorities.previous_priorities",
                        "typed_config": {
                            "@type": TYPE + "extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                            "update_frequency": 1,
                        },
                    },
                }
            )
        },
    }


def _http_options(retry_policy: dict[str, Any] | None) -> dict[str, Any]:
    options: dict[str, Any] = {
        "@type": "type.googleapis.com/" + HTTP_OPTIONS,
        "explicit_http_config": {"http_protocol_options": {}},
        # Below every server's keep-alive (bentos.serving.server.http1: 75 s), so that no request meets a connection just being closed.
        "common_http_protocol_options": {"idle_timeout": "3s"},
    }
    if retry_policy is not None:
        options["retry_policy"] = retry_policy
    return options


def _breakers(plan: TrafficPlan) -> dict[str, Any]:
    return {
        "thresholds": [
            {
                "priority": "DEFAULT",
                "max_connections": plan.limits.max_connections,
                "max_pending_requests": plan.limits.max_pending,
                "max_requests": plan.limits.max_connections + plan.limits.max_pending,
                "max_retries": RETRIES_IN_FLIGHT,
            }
        ]
    }


def _discovery(address: Address) -> dict[str, Any]:
    """How Envoy finds the server: a socket or an address as it stands; a name is asked for again every second, because a
    container that was started again may have another address."""
    if address.host is None or _is_ip(address.host):
        return {"type": "STATIC"}
    return {
        "cluster_type": {
            "name": "envoy.cluster.dns",
            "typed_config": {
                "@type": TYPE + "extensions.clusters.dns.v3.DnsCluster",
                "dns_lookup_family": "V4_PREFERRED",
                "dns_refresh_rate": "1s",
                "dns_failure_refresh_rate": {"base_interval": "0.200s", "max_interval": "1s"},
            },
        }
    }


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _address(address: Address) -> dict[str, Any]:
    if address.uds is not None:
        return {"pipe": {"path": address.uds}}
    return {"socket_address": {"address": address.host, "port_value": address.port}}
