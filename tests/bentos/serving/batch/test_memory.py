"""Memory of a batch is the same for ten times the rows."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from tests.bentos.saved import IGNORED, numbers, save, target

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]
CODE = """
import sys
from pathlib import Path
from bentos.serving.batch.score import score_file

folder, source = Path(sys.argv[1]), Path(sys.argv[2])
output, processes = f"{source.with_suffix('')}{sys.argv[3]}", int(sys.argv[4])
counts = score_file(folder, source, output, source.with_suffix(".rejects.parquet"), chunk=5_000, processes=processes)
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(counts.predicted, peak.split()[1])
"""


@pytest.mark.parametrize(
    ("kind", "few", "output", "processes"),
    [
        ("parquet", 50_000, ".out.parquet", 1),
        ("groups", 50_000, ".out.parquet", 1),
        ("groups", 50_000, ".out.parquet", 2),
        ("groups", 50_000, "/", 1),
        ("csv", 150_000, ".out.parquet", 1),
    ],
)
def test_ten_times_the_rows_take_no_more_memory(tmp_path, kind, few, output, processes):
    """Of 72 MB of doubles more, or 129 MB of text, none stays (Arrow reads CSV ahead, up to some 40 MB); nor in the process
    that puts other processes' parts into one file."""
    from sklearn.linear_model import LogisticRegression

    names = [f"f{i}" for i in range(20)]
    some = pd.DataFrame(np.random.default_rng(0).random((60, 20)), columns=names)
    folder = save("sklearn", LogisticRegression().fit(some, target(numbers())), tmp_path / "m", some, target(numbers()))
    peaks = []
    for rows in (few, 10 * few):
        source = tmp_path / f"{rows}.{'csv' if kind == 'csv' else 'parquet'}"
        if kind == "csv":
            source.write_text(",".join(names) + "\n" + (",".join(["0.25"] * 20) + "\n") * rows)
        else:
            frame = pd.DataFrame(np.random.default_rng(1).random((rows, 20)), columns=names)
            frame.to_parquet(source, row_group_size=20_000 if kind == "groups" else rows, use_dictionary=False)
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", CODE, folder, source, output, str(processes)], env=env, capture_output=True, text=True, check=True)  # fmt: skip
        predicted, peak = map(int, done.stdout.split())
        assert predicted == rows
        peaks.append(peak / 1024)
    added = 9 * few * 20 * (5 if kind == "csv" else 8) / 2**20
    assert peaks[1] - peaks[0] < added / 2, f"peaks of {peaks} MB, {added} MB of rows more"
