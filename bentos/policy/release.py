"""ReleasePolicy: what a release must show before it is promoted, as plain frozen values.

Every duration is in seconds, every share in [0, 1], every weight a percentage.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, Field

from bentos.policy.build import BuildPolicy, ImagePolicy
from bentos.policy.gates import CheckPolicy, ReferencePolicy, ShadowPolicy, SignaturePolicy, SplitPolicy, VetPolicy
from bentos.policy.metrics import Metrics
from bentos.policy.serving import Limits, ServingPolicy
from bentos.policy.values import Frozen, Seconds


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
