"""Metrics: what candidate and baseline are compared on, and how much worse the candidate may be."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bentos.policy.values import Frozen, Share


class ErrorRateMetric(Frozen):
    """Share of requests assigned to the candidate that it failed, against the baseline's own."""

    max_increase: Share = Field(0.01, description="Largest tolerated increase over the baseline's error rate.")


class LatencyMetric(Frozen):
    """A latency quantile of the candidate against the baseline's."""

    quantile: Share = Field(0.95, description="The quantile that is compared, in (0, 1).")
    max_ratio: float = Field(2.0, gt=0, description="Candidate quantile / baseline quantile above this is a ROLLBACK.")
    slack_ms: float = Field(
        10.0, ge=0, description="Milliseconds added to the bound, so that noise on fast models does not decide."
    )


class DisagreementMetric(Frozen):
    """How often (classes) or how much (numbers) joined answers differ."""

    max_rate: Share = Field(0.2, description="Largest tolerated share of joined answers with another class.")
    max_mean_difference: float | None = Field(
        None,
        gt=0,
        description="Numeric answers: largest tolerated |mean difference| in units of the baseline's standard deviation. None: reported, no gate.",
    )


class LabelMetric(Frozen):
    """Loss on labels that came back, paired by request id."""

    loss: Literal["auto", "zero_one", "absolute", "squared"] = Field(
        "auto", description="auto: zero_one for classes, absolute for numbers."
    )
    margin: float = Field(
        0.02, gt=0, description="Non-inferiority margin: the candidate's mean loss may be this much higher."
    )
    scale: float = Field(1.0, gt=0, description="Numeric losses are divided by this and clipped to [0, 1].")
    required: bool = Field(
        False, description="True: no promotion before labels have decided. False: labels decide only where they came."
    )
    min_pairs: int = Field(
        100, ge=1, description="Labelled pairs below which labels stay INCONCLUSIVE (when required) or silent."
    )


class DriftMetric(Frozen):
    """Evidently drift of inputs and predictions; a gate only on windows large enough for it."""

    threshold: float = Field(
        0.25, gt=0, description="Evidently 'psi' score per column above which the column has drifted."
    )
    max_share: Share = Field(
        1.0,
        description="Largest tolerated share of drifted input columns against the training reference; 1 reports only.",
    )
    max_prediction_drift: float | None = Field(
        0.25,
        gt=0,
        description="PSI of the candidate's predictions against the baseline's on the same requests. None: reports only.",
    )
    min_rows: int = Field(300, ge=1, description="Windows smaller than this are INCONCLUSIVE for drift.")


class SchemaMetric(Frozen):
    """Live inputs against the schema of the reference (types, nulls, ranges, categories)."""

    max_invalid: Share = Field(
        0.05, description="Largest tolerated share of rows that break the signature's types or nullability."
    )


class Metrics(Frozen):
    """One entry per metric; null switches a metric off."""

    output: str | None = Field(
        None,
        description="Of an answer with several outputs, the one that disagreement, drift and labels are about, by its name. None: label, output_label or prediction where there is one, else all of them.",
    )
    error_rate: ErrorRateMetric | None = ErrorRateMetric()
    latency: LatencyMetric | None = LatencyMetric()
    disagreement: DisagreementMetric | None = DisagreementMetric()
    labels: LabelMetric | None = LabelMetric()
    drift: DriftMetric | None = DriftMetric()
    input_schema: SchemaMetric | None = SchemaMetric()
