"""Turns Envoy's counters of clusters into the counters of one deployment. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from infra.gateways.admin import ClusterState
from infra.gateways.interface import ArmStats


def arm_stats(deployment: str, clusters: Mapping[str, ClusterState]) -> ArmStats:
    """Adds up the clusters that lead to the deployment: as baseline, mirrored, and as a candidate's live share.

    Failures are counted at the server that failed, whoever answered the client in the end. Requests that an aggregate
    answered without asking its candidate at all (it was unhealthy) are the candidate's ``no_healthy``. What a baseline
    answered in a candidate's place is among the baseline's ``requests``.
    """
    own = (deployment, f"{deployment}~mirror", f"{deployment}~live")
    parts = [clusters[name] for name in own if name in clusters]
    timeouts = sum(_of(part, "upstream_rq_timeout", "upstream_rq_max_duration_reached") for part in parts)
    connect_failures = sum(_of(part, "upstream_cx_connect_fail") for part in parts)
    resets = sum(_of(part, "upstream_rq_rx_reset", "upstream_cx_destroy_remote_with_active_rq") for part in parts)
    errors = sum(part.errors for part in parts)
    asked = sum(_of(part, "upstream_rq_total", "upstream_rq_pending_failure_eject") for part in parts)
    return ArmStats(
        requests=asked - sum(_of(part, "upstream_rq_active") for part in parts),
        failures_5xx=max(0, errors - timeouts - connect_failures - resets),
        timeouts=timeouts,
        resets=resets,
        connect_failures=connect_failures,
        no_healthy=sum(_of(part, "upstream_cx_none_healthy") for part in parts) + _passed_over(deployment, clusters),
        healthy=bool(parts) and all(part.healthy for part in parts),
    )


def _passed_over(deployment: str, clusters: Mapping[str, ClusterState]) -> int:
    live = clusters.get(f"{deployment}~live")
    if live is None:
        return 0
    assigned = sum(
        _of(state, "upstream_rq_completed")
        for name, state in clusters.items()
        if name.startswith(f"{deployment}~") and name not in (f"{deployment}~live", f"{deployment}~mirror")
    )
    return max(0, assigned - _of(live, "upstream_rq_total", "upstream_rq_pending_failure_eject"))


def _of(state: ClusterState, *counters: str) -> int:
    return sum(state.counters.get(counter, 0) for counter in counters)
