"""Where the reference of a version comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas
import pytest

from bentos.policy.gates import ReferencePolicy
from bentos.versions.reference import ReferenceDataError, find_reference
from bentos.versions.registry import Registry

pytestmark = [
    # mlflow's own imports, met when the first artifact is downloaded
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:mlflow"),
]


@pytest.fixture
def registry(mlflow_server: str, registered: dict[str, str], tmp_path: Path) -> Registry:
    return Registry(mlflow_server, tmp_path / "models")


def test_the_policy_comes_first_then_the_run_then_the_example(registry: Registry, tmp_path: Path) -> None:
    mv = registry.resolve("with-reference", version="1")
    folder = registry.fetch(mv)
    named = find_reference(registry, mv, folder, ReferencePolicy(artifact="shipway/mine.csv"), tmp_path / "out")
    assert (named.source, named.rows) == ("policy: shipway/mine.csv", 3)
    found = find_reference(registry, mv, folder, ReferencePolicy(), tmp_path / "out")
    assert (found.source, found.rows) == ("run: shipway/reference.parquet", 4)
    assert found.path is not None
    assert list(pandas.read_parquet(found.path).columns) == ["a", "b"]
    example = find_reference(registry, replace(mv, run_id=None), folder, ReferencePolicy(), tmp_path / "out")
    assert (example.source, example.rows) == ("input example", 2)
    assert example.path is not None
    assert pandas.read_parquet(example.path)["a"].tolist() == [0.0, 1.0]


def test_without_any_reference_there_is_a_note(registry: Registry, tmp_path: Path) -> None:
    mv = registry.resolve("with-example", version="2")
    none = find_reference(registry, mv, registry.fetch(mv), ReferencePolicy(), tmp_path / "out")
    assert (none.path, none.source, none.rows) == (None, "none", 0)
    assert "shipway/reference.parquet" in none.note and "INCONCLUSIVE" in none.note


def test_a_tensor_example_keeps_its_rows(registry: Registry, tmp_path: Path) -> None:
    mv = registry.resolve("tensor", version="1")
    found = find_reference(registry, mv, registry.fetch(mv), ReferencePolicy(), tmp_path / "out")
    assert found.path is not None
    assert [list(row) for row in pandas.read_parquet(found.path)["input"]] == [[0.0, 1.0], [1.0, 0.0], [2.0, 1.0]]


@pytest.mark.parametrize(
    ("artifact", "found"), [("shipway/missing.parquet", "has no such artifact"), ("model/MLmodel", "no such artifact|expected .parquet")]
)  # fmt: skip
def test_what_the_policy_names_is_never_replaced(registry: Registry, tmp_path: Path, artifact: str, found: str) -> None:
    mv = registry.resolve("with-reference", version="1")
    with pytest.raises(ReferenceDataError, match=found):
        find_reference(registry, mv, registry.fetch(mv), ReferencePolicy(artifact=artifact), tmp_path)


def test_a_broken_example_is_an_error_that_says_so(registry: Registry, tmp_path: Path) -> None:
    mv = registry.resolve("with-example", version="1")
    folder = registry.fetch(mv)
    (folder / "input_example.json").write_text("{")
    with pytest.raises(ReferenceDataError, match=r"with-example/1: the input example input_example\.json"):
        find_reference(registry, mv, folder, ReferencePolicy(), tmp_path)
