"""How long a split's candidate has, of what the shadow measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bentos.policy.release import ReleasePolicy
from flows.release.candidate_timeout import candidate_timeout, shadow_of
from tests.monitoring.conftest import build_evidence


def policy(**values: Any) -> ReleasePolicy:
    return ReleasePolicy.model_validate(values)


def shadow(baseline_ms: float, candidate_ms: float | None = None, n: int = 200) -> Any:
    took = baseline_ms if candidate_ms is None else candidate_ms
    return build_evidence(n=n, baseline_ms=np.full(n, baseline_ms), candidate_ms=np.full(n, took))


@pytest.mark.parametrize(
    ("values", "evidence", "seconds", "why"),
    [
        ({"limits": {"candidate_timeout_seconds": 0.2}}, shadow(900), 0.2, "of the policy"),
        ({}, shadow(5), 0.5, "at least 0.5 s"),
        ({}, shadow(400), 2.43, "the 0.810 s that metrics.latency allows beside the baseline's p99 of 0.400 s"),
        ({"metrics": {"latency": {"max_ratio": 1.0, "slack_ms": 0}}}, shadow(400), 1.2, "n=200"),
        ({}, shadow(1500), 5.5, "at most 5.500 s of the request's 10 s"),
        ({}, shadow(9000), 5.0, "at most 5.000 s"),
        ({"serving": {"deadline_seconds": 2}}, shadow(900), 1.0, "the request's 2 s"),
        ({"metrics": {"latency": None}}, shadow(20, 1300), 3.9, "the 1.300 s that the candidate took"),
        ({}, None, 5.0, "the shadow has 0 answers"),
        ({}, shadow(400, n=19), 5.0, "19 answers of the baseline, expected at least 20"),
    ],
)
def test_the_time_out_and_its_reason(values: Any, evidence: Any, seconds: float, why: str) -> None:
    found = candidate_timeout(policy(**values), evidence)
    assert found.seconds == pytest.approx(seconds)
    assert why in found.why


def test_what_failed_in_the_shadow_is_no_measure() -> None:
    status = np.where(np.arange(200) % 10 == 0, 504.0, 200.0)
    slow = np.where(status == 504, 9000.0, 100.0)
    evidence = build_evidence(n=200, baseline_ms=slow, baseline_status=status)
    assert candidate_timeout(policy(), evidence).seconds == pytest.approx(3 * 0.21)


def test_the_shadow_is_read_from_where_the_release_left_it(tmp_path: Path) -> None:
    assert shadow_of(tmp_path) is None
    shadow(700).save(tmp_path / "evidence" / "shadow")
    kept = shadow_of(tmp_path)
    assert candidate_timeout(policy(), kept) == candidate_timeout(policy(), shadow(700))
