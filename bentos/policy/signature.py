"""SignaturePolicy: who must vouch for a version's files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from bentos.policy.values import Frozen


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
