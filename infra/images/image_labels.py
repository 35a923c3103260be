"""The labels of an image, after the OCI image specification's annotations (github.com/opencontainers/image-spec,
annotations.md). Nothing that changes between two equal builds, so no time of creation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.images.template import Content

if TYPE_CHECKING:
    from bentos.sealing.bento import SealedBento
    from bentos.versions.model_version import ModelVersion

OCI = "org.opencontainers.image."
OWN = "io.shipway."

REVISION_TAG, REPOSITORY_TAG = "mlflow.source.git.commit", "mlflow.source.git.repoURL"
"""Tags of a model version that name the source it was trained from."""


def labels_of(bento: SealedBento, version: ModelVersion, content: Content) -> dict[str, str]:
    """What *bento*'s image says of itself. An image without a model names no version, since all share it."""
    labels = {OCI + "title": "shipway-serving", OWN + "code-digest": bento.facts["code_digest"]}
    if content.kind == "env" or content.model:
        labels[OWN + "lock-digest"] = bento.facts["lock_digest"]
    if not content.model:
        return labels
    known = {
        OCI + "title": version.model,
        OCI + "version": version.version,
        OCI + "revision": version.tags.get(REVISION_TAG),
        OCI + "source": version.tags.get(REPOSITORY_TAG),
        OWN + "model": version.model,
        OWN + "version": version.version,
        OWN + "model-digest": version.digest,
        OWN + "bento-digest": bento.digest,
        OWN + "run-id": version.run_id,
    }
    return labels | {name: value for name, value in known.items() if value}
