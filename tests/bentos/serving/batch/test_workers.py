"""Batch over processes: the same files as one process writes, and one error where a process fails or dies."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from bentos.serving.batch.score import score_file
from bentos.serving.batch.source import BatchError
from bentos.serving.batch.workers import spans
from bentos.serving.inputs.signature import InputError, SignatureError
from tests.bentos.saved import IGNORED, logistic, numbers, save

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]


@pytest.fixture(scope="module")
def fussy(tmp_path_factory):
    """A model that prints, raises on a over 2, and is killed on a over 5; its answers are text where a is over 1."""
    from sklearn.base import BaseEstimator

    class Fussy(BaseEstimator):
        def predict(self, frame):
            import os
            import signal

            print("the model's own print")
            if (frame["a"] > 5).any():
                os.kill(os.getpid(), signal.SIGKILL)
            if (frame["a"] > 2).any():
                raise ValueError("a is over 2")
            return frame["a"].to_numpy() if (frame["a"] <= 1).all() else frame["a"].astype(str).to_numpy()

    folder = tmp_path_factory.mktemp("fussy") / "m"
    return save("sklearn", Fussy(), folder, numbers(), numbers()["a"], serialization_format="cloudpickle")


def scored(folder, source, name, **options):
    """Counts, output and rejects, in a folder of their own that holds nothing else."""
    where = source.parent / name
    counts = score_file(folder, source, where / "out.parquet", where / "rejects.parquet", **options)
    assert sorted(path.name for path in where.iterdir()) == ["out.parquet", "rejects.parquet"]
    return counts, pq.read_table(where / "out.parquet"), pq.read_table(where / "rejects.parquet")


@pytest.mark.parametrize("group", [70, 100, 1_000_000])
def test_three_processes_write_what_one_does(tmp_path, group):
    folder = logistic(tmp_path / "m")
    frame = numbers(2000, seed=5).assign(id=[f"r{i}" for i in range(2000)])
    frame.loc[[3, 777, 1999], "a"] = np.nan
    frame.to_parquet(tmp_path / "in.parquet", row_group_size=group)
    options = {"chunk": 100, "probabilities": True}
    one, output, rejects = scored(folder, tmp_path / "in.parquet", "one", **options)
    three, found, aside = scored(folder, tmp_path / "in.parquet", "three", processes=3, **options)
    assert (three.rows, three.predicted, three.rejected) == (one.rows, one.predicted, one.rejected) == (2000, 1997, 3)
    assert found.equals(output)  # to the bit
    assert found.schema.equals(output.schema, check_metadata=True)
    assert aside.equals(rejects)
    assert aside["_row"].to_pylist() == [3, 777, 1999]


def test_a_folder_has_the_rows_of_the_file_in_parts(tmp_path):
    folder = logistic(tmp_path / "m")
    frame = numbers(2000, seed=5).assign(id=[f"r{i}" for i in range(2000)])
    frame.loc[[3, *range(400, 1000)], "a"] = np.nan  # whole parts are set aside
    frame.to_parquet(tmp_path / "in.parquet", row_group_size=100)
    _, output, rejects = scored(folder, tmp_path / "in.parquet", "one", chunk=100)
    for processes, parts in ((1, 1), (3, 7)):
        where = tmp_path / f"by {processes}"
        counts = score_file(
            folder, tmp_path / "in.parquet", where / "june", f"{where}/june.rejects/", chunk=100, processes=processes
        )
        assert (counts.predicted, counts.rejected) == (1399, 601)
        assert sorted(path.name for path in where.iterdir()) == ["june", "june.rejects"]
        names = sorted(path.name for path in (where / "june").iterdir())
        assert names == [f"part-{i:05}.parquet" for i in range(parts)]
        assert pq.read_table(where / "june").equals(output)
        pd.testing.assert_frame_equal(pd.read_parquet(where / "june"), output.to_pandas())
        assert pq.read_table(where / "june.rejects").equals(rejects)


def test_nothing_set_aside_or_nothing_kept_still_gives_both_files(fussy, tmp_path):
    numbers(40).to_parquet(tmp_path / "in.parquet")
    counts, output, rejects = scored(fussy, tmp_path / "in.parquet", "good", chunk=10, processes=2)
    assert (counts.predicted, counts.rejected, rejects.num_rows) == (40, 0, 0)
    assert output["prediction"].to_pylist() == numbers(40)["a"].tolist()
    (numbers(40) + 3).clip(upper=4).to_parquet(tmp_path / "in.parquet")
    counts, output, rejects = scored(fussy, tmp_path / "in.parquet", "bad", chunk=10, processes=2)
    assert (counts.predicted, counts.rejected, output.num_rows) == (0, 40, 0)
    assert "prediction" in output.column_names
    assert set(rejects["_reason"].to_pylist()) == {
        "model / raised ValueError: a is over 2".replace("model /", f"model {fussy}")
    }


def test_a_killed_process_is_an_error_and_leaves_nothing(fussy, tmp_path):
    frame = numbers(40)
    frame.loc[25, "a"] = 6.0
    frame.to_parquet(tmp_path / "in.parquet")
    with pytest.raises(BatchError, match=r"was killed by signal 9 at rows 20 to 30: nothing was written\. Score again"):
        score_file(
            fussy, tmp_path / "in.parquet", tmp_path / "o.parquet", tmp_path / "r.parquet", chunk=10, processes=2
        )
    with pytest.raises(BatchError, match=r"was killed by signal 9"):
        score_file(fussy, tmp_path / "in.parquet", tmp_path / "o", tmp_path / "r", chunk=10, processes=2)
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_what_a_process_raises_is_raised_here_as_it_was(fussy, tmp_path):
    def fails(kind, words, folder, frame):
        frame.to_parquet(tmp_path / "in.parquet")
        with pytest.raises(kind, match=words):
            score_file(folder, tmp_path / "in.parquet", tmp_path / "o.parquet", tmp_path / "r.parquet", chunk=10, processes=2)  # fmt: skip
        assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]

    fails(InputError, "column 'c': missing", fussy, numbers(40)[["a", "b"]])
    fails(BatchError, r"\['prediction'\] have the names of the predictions", fussy, numbers(40).assign(prediction=1))
    fails(SignatureError, "holds no MLmodel", tmp_path / "nowhere", numbers(40))


def test_a_part_of_other_types_is_cast_to_the_first_or_refused(fussy, tmp_path):
    frame = pd.DataFrame(np.full((40, 3), 0.5), columns=["a", "b", "c"])
    frame.loc[:9, "a"] = 1.5  # the first part is text
    frame.to_parquet(tmp_path / "in.parquet")
    one, output, _ = scored(fussy, tmp_path / "in.parquet", "one", chunk=10)
    two, found, _ = scored(fussy, tmp_path / "in.parquet", "two", chunk=10, processes=2)
    assert found.equals(output)
    assert found["prediction"].to_pylist() == ["1.5"] * 10 + ["0.5"] * 30
    assert one.predicted == two.predicted == 40
    score_file(fussy, tmp_path / "in.parquet", tmp_path / "parts", tmp_path / "r.parquet", chunk=10, processes=2)
    assert len(list((tmp_path / "parts").iterdir())) == 4
    assert pq.read_table(tmp_path / "parts").equals(output)


@pytest.mark.parametrize(
    ("rows", "chunk", "processes"), [(0, 10, 4), (9, 10, 4), (1005, 10, 4), (10**6, 10, 3), (7, 1, 9)]
)
def test_spans_are_whole_chunks_that_cover_the_file(rows, chunk, processes):
    found = spans(rows, chunk, processes)
    assert [start for start, _ in found] == [0, *[stop for _, stop in found]][: len(found)]
    assert all(start % chunk == 0 and start < stop for start, stop in found)
    assert (found[-1][1] if found else 0) == rows
    assert len(spans(rows, chunk, 1)) == 1


@pytest.mark.parametrize("wrong", [{"chunk": -1}, {"processes": -2}])
def test_negative_numbers_are_refused(tmp_path, wrong):
    with pytest.raises(BatchError, match="expected 0 or more"):
        score_file(tmp_path, tmp_path / "in.parquet", tmp_path / "o.parquet", tmp_path / "r.parquet", **wrong)
