"""Evidence made from columns, for the tests of what it comes to."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from monitoring.evidence.evidence import ColumnDrift, Drift, Evidence

MakeEvidence = Callable[..., Evidence]


def build_evidence(stage: str = "shadow", n: int = 400, **given: Any) -> Evidence:
    """*n* requests of *stage*, all well and fast, changed by the columns (scalars or arrays of n) in *given*.

    Keys: assigned, fallback, mirrored, baseline_status, candidate_status, baseline_ms, candidate_ms, baseline, candidate,
    label; and invalid, gateway, prediction_drift, input_drift.
    """
    ids = [f"r{i}" for i in range(n)]
    shadow = stage == "shadow"
    half = np.where(np.arange(n) % 2 == 0, "candidate", "baseline")
    assigned = np.asarray(given.get("assigned", np.repeat("baseline", n) if shadow else half))
    fallback = np.broadcast_to(given.get("fallback", False), n)
    by_candidate = np.full(n, True) if shadow else assigned == "candidate"
    by_baseline = np.full(n, True) if shadow else (assigned == "baseline") | fallback

    def column(name: str, default: Any, where: Any) -> Any:
        return np.where(where, np.broadcast_to(given.get(name, default), n), np.nan)

    requests = pd.DataFrame(
        {
            "seq": np.arange(n),
            "request_id": ids,
            "time_ns": np.arange(n),
            "stage": stage,
            "assigned": assigned,
            "fallback": fallback,
            "mirrored": np.broadcast_to(given.get("mirrored", shadow), n),
            "rows": 1,
            "baseline_status": column("baseline_status", 200.0, by_baseline),
            "candidate_status": column("candidate_status", 200.0, by_candidate),
            "baseline_ms": column("baseline_ms", np.linspace(2.0, 4.0, n), by_baseline),
            "candidate_ms": column("candidate_ms", np.linspace(2.0, 4.0, n), by_candidate),
            "error": None,
        }
    )
    inputs = pd.DataFrame(
        {"seq": np.arange(n), "request_id": ids, "assigned": assigned, "distance": np.arange(n) * 1.0}
    )
    between = ColumnDrift("candidate_vs_baseline", "psi", given.get("prediction_drift", 0.01), 0.25, n)
    drift = Drift(given.get("input_drift", ()), (between,) if shadow else (), n, "")
    return Evidence(
        "flights",
        stage,  # type: ignore[arg-type]
        "1",
        "2",
        100,
        200,
        requests,
        _answers(n, shadow, **given),
        inputs,
        drift,
        given.get("invalid", 0),
        given.get("gateway", {}),
    )


def _answers(n: int, shadow: bool, **given: Any) -> pd.DataFrame:
    labels = pd.Series(np.broadcast_to(given.get("label", np.nan), n))
    return pd.DataFrame(
        {
            "seq": np.arange(n),
            "request_id": [f"r{i}" for i in range(n)],
            "row": 0,
            "baseline": np.broadcast_to(given.get("baseline", 1.0), n) if shadow else np.full(n, np.nan),
            "candidate": np.broadcast_to(given.get("candidate", 1.0), n) if shadow else np.full(n, np.nan),
            "baseline_score": np.nan,
            "candidate_score": np.nan,
            "label": labels,
            "label_seq": np.where(labels.isna(), np.nan, np.arange(n)),
        }
    )


@pytest.fixture
def make_evidence() -> MakeEvidence:
    return build_evidence
