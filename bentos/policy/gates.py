"""Gates: what a version passes, one after the other, before it answers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from bentos.policy.values import Frozen, Percent, Seconds


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
