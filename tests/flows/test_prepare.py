"""A prepared version: what a release's record says of it."""

from __future__ import annotations

import json
from pathlib import Path

from bentos.build import SealedBento
from bentos.environment import Environment
from bentos.model_version import ModelVersion
from flows.prepare import Prepared


def test_the_record_says_which_runtime_answers_and_why(tmp_path: Path) -> None:
    made = tmp_path / "src" / "runtime"
    made.mkdir(parents=True)
    reason = "native: onnx: rows at thresholds: answer of row 7: expected 1, found 0 for a=0.5"
    (made / "runtime.json").write_text(json.dumps({"runtime": "native", "reason": reason}))
    bento = SealedBento(tmp_path, "sha256:0", "m:0", {"runtime": "native"})
    version = ModelVersion("m", "1", None, "models:/m", "sklearn", "sha256:1", (), None)
    prepared = Prepared(version, tmp_path, Environment(Path("python"), "sha256:2", own=True), bento)
    assert prepared.runtime_facts() == {"runtime": "native", "runtime_reason": reason}
