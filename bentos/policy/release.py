"""ReleasePolicy: what a release must show before it is promoted, as plain frozen values.

Kept as YAML (one file per model, ``default.yaml`` for the rest), checked against the JSON schema these classes give.
Unknown keys are refused. Every duration is in seconds, every share in [0, 1], every weight a percentage.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bentos.serving.errors import PermanentError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Percent = Annotated[float, Field(ge=0.0, le=100.0)]
Seconds = Annotated[float, Field(gt=0.0)]


class PolicyError(PermanentError):
    """A policy file or value that cannot be used; the message names the key."""


class Frozen(BaseModel):
    """A frozen value that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BuildPolicy(Frozen):
    """What changes the build. Only this part enters a bento's digest."""

    runtime: Literal["auto", "native", "pyfunc"] = Field(
        "auto",
        description="auto: the fastest runtime that was proven to give the same answers (the model as it is, ONNX, or for trees treelite's GTIL); native: the model as it is, without mlflow where the flavor allows; pyfunc: always through mlflow.pyfunc.",
    )
    requirements: tuple[str, ...] = Field(
        (), description="Extra pip requirements for the model's environment, added to the model's own pins."
    )


class ImagePolicy(Frozen):
    """What a version's container holds and what it fetches when it starts. Only targets that run containers ask."""

    model: Literal["included", "pulled"] = Field(
        "included",
        description="included: the model's files are in the image; pulled: the container fetches them from the registry at its start and checks their digest.",
    )
    dependencies: Literal["included", "resolved"] = Field(
        "included",
        description="included: the model's environment is in the image; resolved: the container makes it at its start from the hashed lock, and keeps it in a cache.",
    )
    builder: Literal["shipway", "bentoml"] = Field(
        "shipway",
        description="shipway: the two-layer build; bentoml: `bentoml containerize` of the sealed bento, with model and dependencies included.",
    )

    @model_validator(mode="after")
    def _bentoml_includes_all(self) -> Self:
        if self.builder == "bentoml" and (self.model, self.dependencies) != ("included", "included"):
            raise ValueError(
                "image.builder bentoml puts model and dependencies into the image; expected both 'included'"
            )
        return self


class ServingPolicy(Frozen):
    """How a version's server answers. It changes the deployment, never the bento."""

    workers: int = Field(1, ge=1, le=256, description="Processes that answer on the same socket.")
    batching: Literal["auto", "inline", "batched", "off"] = Field(
        "auto",
        description="Which requests share a predict. auto: as the model's measured latency profile says; inline: each by itself, at once; batched: whatever waited meanwhile is the next predict; off: one by one.",
    )
    queue: int = Field(512, ge=1, description="Requests that may wait in one worker; more are answered 429.")
    deadline_seconds: Seconds = Field(
        30.0, description="A request that is not answered in this time gets 504; a client may ask for less."
    )
    largest_body_mb: float = Field(64.0, gt=0, description="Longest body of a request in MiB; longer ones get 413.")
    log_sample: Share = Field(
        1.0, description="Share of requests in the prediction log, chosen by request id; evidence rests on these alone."
    )

    def arguments(self) -> tuple[str, ...]:
        """The launcher's options that differ from its own defaults."""
        given: list[str] = []
        for name in type(self).model_fields:
            if (value := getattr(self, name)) != type(self).model_fields[name].default:
                option = "sample" if name == "log_sample" else name.replace("_", "-")
                given += [f"--{option}", str(value)]
        return tuple(given)


class SignaturePolicy(Frozen):
    """Whose OpenSSF signature a version's files must carry before anything loads them."""

    method: Literal["none", "key", "certificate"] = Field(
        "none", description="none: no signature is asked for; key: by a public key; certificate: by a chain of trust."
    )
    public_key: Path | None = Field(None, description="PEM file of the signer's public key, for method key.")
    certificate_chain: tuple[Path, ...] = Field(
        (), description="PEM files of the certificates that are trusted, for method certificate."
    )

    @model_validator(mode="after")
    def _has_what_it_checks_with(self) -> Self:
        if self.method == "key" and self.public_key is None:
            raise ValueError("signature.method key needs signature.public_key")
        if self.method == "certificate" and not self.certificate_chain:
            raise ValueError("signature.method certificate needs signature.certificate_chain, found an empty list")
        return self


class VetPolicy(Frozen):
    """What the model's files may contain. Anything the scanners cannot read is a refusal."""

    trusted_types: tuple[str, ...] = Field(
        (), description="Fully qualified type names that skops and the pickle scan may accept besides their own lists."
    )


class ReferencePolicy(Frozen):
    """Where the training reference of a version comes from."""

    artifact: str | None = Field(
        None,
        description="Artifact path (Parquet or CSV) in the version's run. None: 'shipway/reference.parquet', then 'shipway/reference.csv', then the model's input example.",
    )


class CheckPolicy(Frozen):
    """Answers over the wire against in-process predictions, before any traffic."""

    rows: int = Field(200, ge=1, description="Rows of the reference sent over the wire.")
    tolerance: float = Field(
        1e-9, ge=0, description="Largest absolute difference of numeric answers that counts as equal."
    )


class ShadowPolicy(Frozen):
    """Mirrored traffic: the candidate answers copies, nobody sees its answers."""

    percent: Percent = Field(100.0, description="Share of live requests mirrored, in percent; 0 skips the shadow.")
    min_pairs: int = Field(300, ge=1, description="Joined answers needed before the shadow can end well.")
    max_seconds: Seconds = Field(180.0, description="After this long without a verdict the shadow is INCONCLUSIVE.")


class StickyKey(Frozen):
    """What keeps one user on one arm while traffic is split."""

    kind: Literal["header", "cookie"] = Field("header", description="Where the key is read from.")
    name: str = Field("x-user-id", min_length=1, description="Name of the header or cookie.")


class SplitPolicy(Frozen):
    """Live traffic moved to the candidate in steps."""

    steps: tuple[Annotated[int, Field(ge=1, le=99)], ...] = Field(
        (10, 50), description="Candidate weights in percent, ascending; empty promotes straight from the shadow."
    )
    min_requests: int = Field(
        150, ge=1, description="Requests assigned to the candidate needed before a step can end well."
    )
    max_seconds: Seconds = Field(180.0, description="After this long without a verdict a step is INCONCLUSIVE.")
    sticky: StickyKey | None = Field(StickyKey(), description="None assigns every request by itself.")

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"split.steps must ascend without repeats, found {list(self.steps)}")
        return self


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

    error_rate: ErrorRateMetric | None = ErrorRateMetric()
    latency: LatencyMetric | None = LatencyMetric()
    disagreement: DisagreementMetric | None = DisagreementMetric()
    labels: LabelMetric | None = LabelMetric()
    drift: DriftMetric | None = DriftMetric()
    input_schema: SchemaMetric | None = SchemaMetric()


class Limits(Frozen):
    """How hard one model may be pressed, and how long a candidate may take before the baseline answers instead."""

    timeout_seconds: Seconds = Field(10.0, description="A request that no arm answered in this time ends with 504.")
    candidate_timeout_seconds: Seconds = Field(
        0.5, description="After this long without the candidate's answer the baseline is asked too."
    )
    max_connections: int = Field(1024, ge=1, description="Connections that the gateway keeps to one version at most.")
    max_pending: int = Field(1024, ge=1, description="Requests that wait for a connection at most; more get 503.")
    requests_per_second: int | None = Field(None, ge=1, description="Local rate limit for the model; None: no limit.")


class ReleasePolicy(Frozen):
    """Everything a release needs to know besides the model version."""

    build: BuildPolicy = BuildPolicy()
    image: ImagePolicy = ImagePolicy()
    serving: ServingPolicy = ServingPolicy()
    signature: SignaturePolicy = SignaturePolicy()
    vet: VetPolicy = VetPolicy()
    reference: ReferencePolicy = ReferencePolicy()
    check: CheckPolicy = CheckPolicy()
    shadow: ShadowPolicy = ShadowPolicy()
    split: SplitPolicy = SplitPolicy()
    metrics: Metrics = Metrics()
    limits: Limits = Limits()
    alpha: float = Field(0.05, gt=0, lt=0.5, description="Chance of a wrong decision per direction, over all looks.")
    look_seconds: Seconds = Field(2.0, description="How often the evidence is looked at.")
    lease_seconds: Seconds = Field(
        30.0, description="Evaluation traffic returns to the baseline when nobody renewed it for this long."
    )
    bake_seconds: float = Field(10.0, ge=0, description="How long the previous version stays warm after promotion.")
    approval: bool = Field(False, description="True: a person decides in the Prefect UI before promotion.")
    approval_seconds: Seconds = Field(
        86400.0, description="An approval not given in this time returns to the baseline."
    )
    on_inconclusive: Literal["rollback", "approval"] = Field("rollback", description="What INCONCLUSIVE leads to.")
    on_manual_champion: Literal["follow", "restore"] = Field(
        "follow", description="A champion alias moved by hand: follow it through the same doors, or put it back."
    )
    tolerate_busy: Literal["wait", "refuse"] = Field(
        "refuse", description="What a second release of the model does while one is open."
    )

    def digest(self) -> str:
        """``sha256:…`` of the canonical JSON of the whole policy."""
        return _digest(self)

    def build_digest(self) -> str:
        """``sha256:…`` of the part that changes the build; editing a split step leaves it alone."""
        return _digest(self.build)


def _digest(value: BaseModel) -> str:
    text = json.dumps(value.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def parse_policy(values: dict[str, Any], *, where: str) -> ReleasePolicy:
    """Checks *values* (as read from YAML) into a policy.

    Raises PolicyError naming *where*, the key, what was found and what was expected.
    """
    try:
        return ReleasePolicy.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'policy'}: {problem['msg']} (found {problem['input']!r})"
            for problem in error.errors()
        )
        raise PolicyError(f"policy {where}: {problems}. The keys and their meaning are in docs/policy.md.") from error


def load_policy(folder: Path | None, model: str) -> tuple[ReleasePolicy, str]:
    """The policy of *model* and where it came from.

    Looks for ``<folder>/<model>.yaml``, then ``<folder>/default.yaml``, then the documented defaults. Raises PolicyError
    for a file that cannot be read, is not a mapping, or has unknown keys.
    """
    for path in [folder / f"{model}.yaml", folder / "default.yaml"] if folder is not None else []:
        if path.exists():
            try:
                values = yaml.safe_load(path.read_text())
            except (OSError, yaml.YAMLError) as error:
                raise PolicyError(
                    f"policy {path}: cannot be read as YAML: {error}. Mend the file and run again."
                ) from error
            if values is None:
                values = {}
            if not isinstance(values, dict):
                raise PolicyError(f"policy {path}: expected a mapping of keys, found {type(values).__name__}.")
            return parse_policy(values, where=str(path)), str(path)
    return ReleasePolicy(), "built-in defaults"
