"""``python -m benchmarks.images``: sizes and times of model images on this machine's engine.

A logistic regression over 20 columns, as scikit-learn (skops) and as ONNX. Images are built as SHIPWAY_IMAGE_… says. Prints
a table and writes ``.shipway/bench/images.json``; sizes in MB (10^6 bytes), times in seconds. Nothing of it stays on the
engine but the environment images, which the next release of such a model would use.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bentos.policy.build import BuildPolicy, ImagePolicy
from bentos.sealing.lock import lock_for
from bentos.serving.fetch.artifact_tree import tree_digest
from bentos.versions.model_version import ModelVersion
from infra.targets.interface import DeploymentSpec

COLUMNS, STARTS = 20, 5
RESULT = Path(".shipway/bench/images.json")


def main() -> None:
    """Measures, prints, writes."""
    from flows.release.line import default_targets
    from infra.images.engine import connected
    from infra.settings import load_settings

    with tempfile.TemporaryDirectory(prefix="shipway-bench-") as name:
        settings = load_settings(os.environ).model_copy(update={"home": Path(name)})
        block = default_targets(settings)["docker"]
        images, target = block.builder(settings.images), block.client()
        assert images is not None
        results = []
        with connected() as client:
            base = client.images.get(settings.image_base).attrs["Size"]
            for kind, save in {"sklearn": save_sklearn, "onnx": save_onnx}.items():
                results.append(measure(kind, save, settings, images, target, base))
                for image in client.images.list(name=f"shipway/bench-{kind}"):
                    with suppress(Exception):  # a container of somebody else's uses it
                        client.images.remove(image.id, force=True)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"command": "python -m benchmarks.images", "at": time.time(), "results": results}))
    for result in results:
        print("  ".join(f"{key} {value}" for key, value in result.items()))
    print(f"written to {RESULT}")


def measure(
    kind: str, save: Callable[[Path, int], None], settings: Any, images: Any, target: Any, base: int
) -> dict[str, Any]:
    """First version, next version and the same again; then starts of the image until ready, the middle one of STARTS."""
    from bentos.sealing.bento import build
    from bentos.serving.environments.environment import Environments

    environments, took, specs = Environments(settings.envs), [], []
    for version in ("1", "2", "2"):
        tree = settings.models / kind / version
        if not tree.exists():
            save(tree, int(version))
        lines = (tree / "requirements.txt").read_text().splitlines()
        minor = f"{sys.version_info.major}.{sys.version_info.minor}"
        found = ModelVersion(f"bench-{kind}", version, None, str(tree), kind, tree_digest(tree), tuple(lines), minor)
        lock = lock_for(environments, found, BuildPolicy(), hashed=True)
        bento = build(found, tree, BuildPolicy(), lock, settings.bentos)
        began = time.perf_counter()
        image = images.ensure(bento, found, ImagePolicy())
        took.append(round(time.perf_counter() - began, 2))
        specs.append(
            DeploymentSpec(found.model, version, str(bento.path), bento.digest, sys.executable, image=image.reference)
        )
    starts = []
    for _ in range(STARTS):
        began = time.perf_counter()
        deployment = target.ensure(specs[-1])
        target.ready(deployment.name, 60)
        starts.append(round(time.perf_counter() - began, 2))
        target.remove(deployment.name)
    target.stop_all()
    return {
        "model": kind,
        "image_mb": round(image.size / 1e6),
        "over_base_mb": round((image.size - base) / 1e6),
        "first_seconds": took[0],
        "next_seconds": took[1],
        "again_seconds": took[2],
        "ready_seconds": sorted(starts)[STARTS // 2],
    }


def save_sklearn(folder: Path, seed: int) -> None:
    """The model as MLflow saves scikit-learn by default."""
    import mlflow.sklearn
    from mlflow.models import infer_signature

    model, rows = fitted(seed)
    mlflow.sklearn.save_model(model, folder, signature=infer_signature(rows, model.predict(rows)))


def save_onnx(folder: Path, seed: int) -> None:
    """The same model through skl2onnx."""
    import mlflow.onnx
    from mlflow.models import infer_signature
    from skl2onnx import to_onnx

    model, rows = fitted(seed)
    values = rows.to_numpy("float32")
    converted = to_onnx(model, values[:1], options={"zipmap": False})
    mlflow.onnx.save_model(converted, folder, signature=infer_signature(values, model.predict(rows)))


def fitted(seed: int) -> tuple[Any, Any]:
    """A logistic regression and its 2,000 training rows."""
    import numpy as np
    import pandas as pd
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(seed)
    rows = pd.DataFrame(generator.normal(size=(2000, COLUMNS)), columns=[f"c{column}" for column in range(COLUMNS)])
    return LogisticRegression().fit(rows, (rows.sum(axis=1) > 0).astype(int)), rows


if __name__ == "__main__":
    main()
