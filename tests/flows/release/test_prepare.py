"""A prepared version: what a release's record says of it, and where its batches are scored."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bentos.policy.release import ReleasePolicy
from bentos.sealing.bento import SealedBento
from bentos.versions.model_version import ModelVersion
from flows.release.line import Line
from flows.release.prepare import Prepared, bulk_python

SERVING = Path("serving/python")
OWN = Path("own/python")


def prepared(folder: Path, **profile: Any) -> Prepared:
    made = folder / "src" / "runtime"
    made.mkdir(parents=True)
    (made / "runtime.json").write_text(json.dumps(profile))
    bento = SealedBento(folder, "sha256:0", "m:0", {"runtime": profile["runtime"]})
    version = ModelVersion("m", "1", None, "models:/m", "sklearn", "sha256:1", (), None)
    return Prepared(version, folder, SERVING, bento)


def test_the_record_says_which_runtime_answers_and_why(tmp_path: Path) -> None:
    reason = "native: onnx: rows at thresholds: answer of row 7: expected 1, found 0 for a=0.5"
    found = prepared(tmp_path, runtime="native", reason=reason)
    assert found.runtime_facts() == {"runtime": "native", "runtime_reason": reason}


@pytest.mark.parametrize(("bulk", "wanted"), [(True, OWN), (False, SERVING)])
def test_batches_are_scored_where_the_profile_says_that_they_are_sooner_done(
    tmp_path: Path, bulk: bool, wanted: Path
) -> None:
    found = prepared(tmp_path, runtime="native", reason="", bulk=bulk)
    environments = SimpleNamespace(
        lock=lambda lines, *, flavor, hashed, **_: (lines, flavor, hashed), ensure={((), "sklearn", False): OWN}.get
    )
    line = cast("Line", SimpleNamespace(environments=environments, images=None))
    assert bulk_python(line, found, ReleasePolicy()) == wanted
