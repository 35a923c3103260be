"""Batch scoring of files: nothing dropped, everything beside its reason, equal to online answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bentos.serving.batch.score import score_file
from bentos.serving.batch.sink import Sink, rejects_of
from bentos.serving.batch.source import BatchError
from bentos.serving.model.runner import ModelRunner
from tests.bentos.saved import IGNORED, logistic, numbers, save

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return logistic(tmp_path_factory.mktemp("batch") / "m")


def scored(folder, source, **options):
    """Counts, output and rejects of a file beside it."""
    output, rejects = source.with_name("out.parquet"), source.with_name("rejects.parquet")
    counts = score_file(folder, source, output, rejects, **options)
    assert sorted(p.name for p in source.parent.iterdir()) == sorted([source.name, "out.parquet", "rejects.parquet"])
    return counts, pd.read_parquet(output), pd.read_parquet(rejects)


def test_parquet_in_chunks_equals_one_prediction(folder, tmp_path):
    frame = numbers(1000, seed=7).assign(id=[f"r{i}" for i in range(1000)])
    frame.to_parquet(tmp_path / "in.parquet")
    counts, output, rejects = scored(folder, tmp_path / "in.parquet", chunk=300, probabilities=True)
    wanted = ModelRunner.load(folder).predict(frame, probabilities=True)
    assert (counts.rows, counts.predicted, counts.rejected) == (1000, 1000, 0)
    assert counts.seconds > 0
    assert np.array_equal(output["prediction"], wanted.values)
    np.testing.assert_allclose(output["probability_1"], wanted.probabilities[:, 1], rtol=1e-12)
    pd.testing.assert_frame_equal(output[["a", "b", "c", "id"]], frame)
    assert rejects.empty
    assert list(rejects.columns) == ["a", "b", "c", "id", "_row", "_reason"]


def test_probabilities_only_where_they_are_asked_for(folder, tmp_path):
    frame = numbers(20, seed=3)
    frame.to_parquet(tmp_path / "in.parquet")
    _, output, _ = scored(folder, tmp_path / "in.parquet")
    assert list(output.columns) == ["a", "b", "c", "prediction"]


def test_csv_rows_that_do_not_fit_are_set_aside_with_reason_and_number(folder, tmp_path):
    lines = [
        "id,a,b,c",
        "p,0.1,0.2,0.3",
        "torn,0.1",
        'q,0.4,"0.5",0.6',
        "text,abc,0.2,0.3",
        "null,,0.2,0.3",
        "wide,1,2,3,4",
        "r,1,0,0",
    ]
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    for chunk in (1, 2, 100):
        counts, output, rejects = scored(folder, tmp_path / "in.csv", chunk=chunk)
        assert (counts.rows, counts.predicted, counts.rejected) == (7, 3, 4)
        assert output["id"].tolist() == ["p", "q", "r"]
        assert output["a"].tolist() == [0.1, 0.4, 1.0]
        reasons = dict(zip(rejects["_row"], rejects["_reason"], strict=True))
        assert sorted(reasons) == [1, 3, 4, 5]
        assert reasons[1] == "found 2 cells, expected 4: torn,0.1"
        assert reasons[3] == "column 'a': found string 'abc', expected double"
        assert "Input X contains NaN" in reasons[4]
        assert rejects.set_index("_row").loc[3, "a"] == "abc"
        for path in ("out.parquet", "rejects.parquet"):
            (tmp_path / path).unlink()


def test_a_folder_is_new_or_empty_and_a_file_is_replaced(folder, tmp_path):
    numbers(30, seed=4).to_parquet(tmp_path / "in.parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("not a batch's")
    (tmp_path / "old.parquet").write_text("replaced")

    def score(output, rejects="r.parquet"):
        return score_file(folder, tmp_path / "in.parquet", f"{tmp_path}/{output}", f"{tmp_path}/{rejects}")

    for output in ("empty", "old.parquet", "new.parquet/"):
        assert score(output).predicted == 30
        assert len(pd.read_parquet(tmp_path / output)) == 30
    for output, words in (
        ("mine", "mine is there already: delete it"),
        ("empty/", "empty is there already"),
        ("old.parquet/", "old.parquet is there already"),
        ("new.parquet", "is a folder: expected a file"),
        ("out.csv", "written as Parquet; name the file .parquet"),
        ("june.2026", "or end a folder with a slash"),
        ("r.parquet", "lie in each other"),
    ):
        with pytest.raises(BatchError, match=words):
            score(output)
    with pytest.raises(BatchError, match="lie in each other"):
        score("new", "new/rejects.parquet")
    left = ["empty", "in.parquet", "mine", "new.parquet", "old.parquet", "r.parquet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    assert (tmp_path / "mine" / "notes.txt").read_text() == "not a batch's"


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("output", "rejects"),
    [
        ("o.parquet", "./o.parquet"),
        ("o.parquet", "sub/../o.parquet"),
        ("o.parquet", "{here}/o.parquet"),
        ("o.parquet", "by-link/o.parquet"),
        ("old.parquet", "link-to-old.parquet"),
        ("parts/", "by-link/parts"),
        ("parts/", "by-link/parts/rejects.parquet"),
        ("in.parquet", "r.parquet"),
        ("./sub/../in.parquet", "r.parquet"),
        ("link-to-in.parquet", "r.parquet"),
        ("o.parquet", "by-link/in.parquet"),
    ],
)
def test_paths_that_are_one_place_are_refused_before_anything_is_written(
    folder, tmp_path, monkeypatch, output, rejects, processes
):
    monkeypatch.chdir(tmp_path)
    numbers(50, seed=4).to_parquet("in.parquet")
    (tmp_path / "old.parquet").write_text("of yesterday")
    (tmp_path / "sub").mkdir()
    (tmp_path / "by-link").symlink_to(tmp_path)
    (tmp_path / "link-to-old.parquet").symlink_to("old.parquet")
    (tmp_path / "link-to-in.parquet").symlink_to("in.parquet")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    listed = sorted(tmp_path.iterdir())
    with pytest.raises(BatchError, match=r"lie in each other, at .*: name places apart"):
        score_file(folder, Path("in.parquet"), output, rejects.format(here=tmp_path), chunk=10, processes=processes)
    assert sorted(tmp_path.iterdir()) == listed
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("output", "rejects"),
    [
        ("/data/june.scored.parquet", "/data/june.scored.rejects.parquet"),
        ("/data/june", "/data/june.rejects/"),
        ("june.scored/", "june.scored.rejects/"),
    ],
)
def test_rejects_lie_beside_the_output(output, rejects):
    assert rejects_of(output) == rejects


def test_a_folder_that_came_meanwhile_stays(tmp_path):
    with Sink(tmp_path / "june") as sink:
        sink.write(pa.table({"n": [1]}))
        sink.finish(pa.table({"n": []}))
        (tmp_path / "june").mkdir()
        (tmp_path / "june" / "another.parquet").touch()
        with pytest.raises(BatchError, match="june cannot be put in its place"):
            sink.commit()
    assert [path.name for path in tmp_path.rglob("*")] == ["june", "another.parquet"]


def test_one_process_begins_another_part_after_256_mb(tmp_path):
    with Sink(tmp_path / "june") as sink:
        for start in range(0, 40 * 10**6, 4 * 10**6):
            sink.write(pa.table({"n": np.arange(start, start + 4 * 10**6) // 1000}))
        sink.finish(pa.table({"n": []}))
        sink.commit()
    sizes = [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "june").iterdir())]
    assert sizes == [36 * 10**6, 4 * 10**6]
    assert pq.read_table(tmp_path / "june")["n"].to_numpy()[::1000].tolist() == list(range(40_000))


def test_rows_on_which_the_model_raises_are_found_by_halving(tmp_path):
    from sklearn.base import BaseEstimator

    class Fussy(BaseEstimator):
        calls = 0

        def predict(self, frame):
            type(self).calls += 1
            if (frame["a"] > 0.99).any():
                raise ValueError("a is over 0.99")
            return frame["a"].to_numpy() * 2

    frame = numbers(500, seed=1)
    frame["a"] = frame["a"].clip(upper=0.9)
    frame.loc[[17, 18, 333], "a"] = 1.0
    model = save("sklearn", Fussy(), tmp_path / "m", frame, frame["a"], serialization_format="cloudpickle")
    (tmp_path / "d").mkdir()
    frame.to_parquet(tmp_path / "d" / "in.parquet")
    counts, output, rejects = scored(model, tmp_path / "d" / "in.parquet", chunk=250)
    assert (counts.predicted, counts.rejected) == (497, 3)
    assert rejects["_row"].tolist() == [17, 18, 333]
    assert rejects["_reason"].str.contains("ValueError: a is over 0.99").all()
    assert np.array_equal(output["prediction"], frame.drop([17, 18, 333])["a"] * 2)


def test_no_row_left_still_gives_both_files(folder, tmp_path):
    pd.DataFrame({"a": ["x"], "b": ["y"], "c": ["z"]}).to_parquet(tmp_path / "in.parquet")
    counts, output, rejects = scored(folder, tmp_path / "in.parquet")
    assert (counts.rows, counts.rejected) == (1, 1)
    assert output.empty
    assert "prediction" in output
    assert rejects["_reason"][0].count("found string") == 3


def test_parquet_types_that_widen_or_carry_nulls(tmp_path):
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from sklearn.base import BaseEstimator

    class Show(BaseEstimator):
        def predict(self, frame):
            return np.array([f"{n}|{s}|{d.year}" for n, s, d in zip(frame["n"], frame["s"], frame["d"], strict=True)])

    signature = ModelSignature(
        Schema([ColSpec("long", "n"), ColSpec("string", "s", required=False), ColSpec("datetime", "d")])
    )
    model = save("sklearn", Show(), tmp_path / "m", None, None, signature=signature, serialization_format="cloudpickle")
    table = pa.table(
        {
            "n": pa.array([2**60 + 1, None, 3], pa.int64()),
            "s": pa.array(["a", "b", None]).dictionary_encode(),
            "d": pa.array([0, 1, 2], pa.int32()).cast(pa.date32()),
        }
    )
    (tmp_path / "d").mkdir()
    pq.write_table(table, tmp_path / "d" / "in.parquet")
    counts, output, rejects = scored(model, tmp_path / "d" / "in.parquet")
    assert output["prediction"].tolist() == [f"{2**60 + 1}|a|1970", "3|None|1970"]
    assert rejects["_reason"].tolist() == ["column 'n': found null, expected long"]
    assert counts.rejected == 1


def test_tensor_models_take_files_too(tmp_path):
    from sklearn.linear_model import LinearRegression

    frame = numbers()
    model = LinearRegression().fit(frame.to_numpy(), frame["a"])
    saved = save("sklearn", model, tmp_path / "m", frame.to_numpy(), model.predict(frame.to_numpy()))
    (tmp_path / "d").mkdir()
    frame.to_csv(tmp_path / "d" / "in.csv", index=False)
    _, output, _ = scored(saved, tmp_path / "d" / "in.csv")
    np.testing.assert_allclose(output["prediction"], model.predict(frame.to_numpy()), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("in.parquet", b"not parquet", "cannot be read as Parquet"),
        ("in.csv", b"", "expected a header"),
        ("in.csv", b"a,a\n1,2\n", "distinct column names"),
        ("in.csv", b"\xff\xfe\x00", "cannot be read as CSV"),
        ("in.csv", b"a,b,c,prediction\n1,2,3,4\n", r"\['prediction'\] have the names of the predictions"),
        ("in.csv", b"a,b,c,_row\n1,2,3,4\n", r"\['_row'\] have the names of the rejects"),
        ("in.csv", b"a,b\n1,2\n", "column 'c': missing"),
    ],
)
def test_files_that_cannot_be_scored_say_why_and_leave_nothing(folder, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Exception, match=words) as caught:
        score_file(folder, tmp_path / name, tmp_path / "out.parquet", tmp_path / "rejects.parquet")
    assert caught.type.__name__ in (BatchError.__name__, "InputError")
    assert [p.name for p in tmp_path.iterdir()] == [name]
