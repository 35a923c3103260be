"""Evidence comes back from its folder as it was, and one changed byte of any file is found."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bentos.policy.release import ReleasePolicy
from monitoring.evidence.evidence import FRAMES, ColumnDrift, Evidence, digest, load
from monitoring.interface import PermanentMonitoringError
from monitoring.verdict import examine


def assert_equal(left: Evidence, right: Evidence) -> None:
    for name in FRAMES:
        pd.testing.assert_frame_equal(getattr(left, name), getattr(right, name), check_exact=True)
    assert replace(left, **dict.fromkeys(FRAMES)) == replace(right, **dict.fromkeys(FRAMES))


def rich(make_evidence) -> Evidence:
    rng = np.random.default_rng(0)
    evidence = make_evidence(
        "shadow",
        500,
        candidate=np.where(rng.random(500) < 0.1, 0.0, 1.0),
        candidate_ms=rng.lognormal(size=500),
        label=np.where(rng.random(500) < 0.5, 1.0, np.nan),
        input_drift=(ColumnDrift("ä", "psi", 0.1 + 0.2, 0.25, 500),),
        gateway={"candidate": {"timeouts": 2}, "baseline": {"timeouts": 0}},
    )
    inputs = evidence.inputs.assign(
        text=["é", None] * 250,
        mixed=pd.Series([1, "a", None, 2.5, [1, 2]] * 100, dtype=object),
        nothing=None,
        flag=[True, None] * 250,
        when=pd.Timestamp("2013-01-01").as_unit("ns"),
        whole=pd.array([1, None] * 250, dtype="Int64"),
        raw=[b"\x00", None] * 250,
    )
    return replace(evidence, inputs=inputs, notes=("a note",), dropped=3, invalid_rows=7)


def test_round_trip_gives_equal_evidence_digest_and_verdict(make_evidence, tmp_path: Path) -> None:
    evidence = rich(make_evidence)
    found = evidence.save(tmp_path / "a")
    again = load(tmp_path / "a", digest=found)
    assert_equal(evidence, again)
    assert digest(tmp_path / "a") == found
    assert again.save(tmp_path / "b") == found
    policy = ReleasePolicy()
    before, after = examine(evidence, policy), examine(again, policy)
    assert before == after
    assert json.loads(json.dumps(before[0].to_json())) == after[0].to_json()


@pytest.mark.parametrize("stage", ["shadow", "split"])
def test_an_empty_window_comes_back(make_evidence, tmp_path: Path, stage) -> None:
    evidence = make_evidence(stage, 0)
    evidence.save(tmp_path)
    assert_equal(evidence, load(tmp_path))


@pytest.mark.parametrize("name", ["evidence.json", *(f"{frame}.parquet" for frame in FRAMES)])
def test_one_changed_byte_of_any_file_is_found(make_evidence, tmp_path: Path, name) -> None:
    found = rich(make_evidence).save(tmp_path)
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    for at in (0, len(content) // 2, len(content) - 1):
        changed = content.copy()
        changed[at] ^= 1
        path.write_bytes(changed)
        with pytest.raises(PermanentMonitoringError, match=rf"{name}.*(altered|not what)"):
            load(tmp_path, digest=found)
    path.write_bytes(content)
    load(tmp_path, digest=found)


def test_a_missing_file_is_named(make_evidence, tmp_path: Path) -> None:
    make_evidence().save(tmp_path)
    (tmp_path / "answers.parquet").unlink()
    with pytest.raises(PermanentMonitoringError, match=r"answers\.parquet: cannot be read"):
        load(tmp_path)
    with pytest.raises(PermanentMonitoringError, match=r"evidence\.json: cannot be read"):
        load(tmp_path / "nowhere")


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evidence.json").write_text("{}")
    with pytest.raises(PermanentMonitoringError, match="not what Shipway wrote"):
        load(tmp_path)
