"""The vet through its door: a child process, fail-closed, the finding named."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import cloudpickle
import numpy
import pytest
import yaml

from bentos.policy.gates import VetPolicy
from bentos.vet.files import scan_files
from bentos.vet.vet import vet

SKLEARN = {"sklearn": {"pickled_model": "model.pkl", "serialization_format": "cloudpickle"}}


class Writes:
    """Writes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return open, (self.path, "w")


def tree(folder: Path, files: dict[str, bytes], flavors: dict[str, Any] | None = None) -> Path:
    for name, content in {**files, "MLmodel": yaml.safe_dump({"flavors": flavors or {}}).encode()}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def model() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression().fit([[0.0], [1.0]], [0, 1])


def refusals(folder: Path, policy: VetPolicy | None = None) -> dict[str, str]:
    """The refusals of the file scan alone, without the child process."""
    files = [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    found = scan_files(folder, files, policy or VetPolicy())
    return {finding.file: finding.what for finding in found if finding.severity == "refuse"}


def test_an_honest_pickle_passes_and_source_is_noted(tmp_path: Path) -> None:
    files = {"model.pkl": cloudpickle.dumps(model()), "code/mine.py": b"x = 1\n", "requirements.txt": b"numpy\n"}
    report = vet(tree(tmp_path, files, SKLEARN), VetPolicy())
    assert report.passed, report.reason
    assert [(finding.file, finding.severity) for finding in report.findings] == [("code/mine.py", "notice")]
    assert report.files == 4 and report.reason == ""
    assert {name.split()[0] for name in report.scanners} == {"modelscan", "skops", "pickle_walk"}


def test_a_pickle_that_would_write_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "written"
    report = vet(tree(tmp_path / "tree", {"model.pkl": pickle.dumps(Writes(target))}, SKLEARN), VetPolicy())
    assert not report.passed
    assert "model.pkl" in report.reason and "io.open" in report.reason
    assert not target.exists()


def test_skops_types_are_held_against_the_allow_list(tmp_path: Path) -> None:
    import skops.io
    from sklearn.tree import DecisionTreeClassifier

    class Mine:
        pass

    flavors = {"sklearn": {"pickled_model": "model.skops", "serialization_format": "skops"}}
    known = skops.io.dumps(DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1]))
    assert refusals(tree(tmp_path / "known", {"model.skops": known}, flavors)) == {}
    unknown = skops.io.dumps({"os": os.path.join, "mine": Mine()})
    found = refusals(tree(tmp_path / "unknown", {"model.skops": unknown}, flavors))["model.skops"]
    assert "Mine" in found and "vet.trusted_types" in found
    policy = VetPolicy(trusted_types=(f"{Mine.__module__}.*", "posixpath.join"))
    assert refusals(tmp_path / "unknown", policy) == {}
    assert (
        "cannot be scanned" in refusals(tree(tmp_path / "torn", {"model.skops": known[:-40]}, flavors))["model.skops"]
    )


def test_what_mlmodel_loads_as_a_pickle_is_walked_whatever_its_name(tmp_path: Path) -> None:
    evil = b"cos\nsystem\n(S'true'\ntR."  # protocol 0: it has no magic number
    for name, flavors in {
        "model.onnx": {"sklearn": {"pickled_model": "model.onnx", "serialization_format": "pickle"}},
        "model.statsmodels": {"statsmodels": {"data": "model.statsmodels"}},
        "thing.txt": {"python_function": {"python_model": "thing.txt"}},
        "some.bin": {"prophet": {"data": "some.bin"}},
        "inner/x": {"unheard": {"data": "inner"}},
    }.items():
        found = refusals(tree(tmp_path / name.replace("/", "-"), {name: evil}, flavors))
        assert "os.system" in found[name], (name, found)


def test_two_loaders_of_one_file_are_both_served(tmp_path: Path) -> None:
    """A file that one flavor reads safely is still walked when another flavor would unpickle it."""
    evil = b"cos\nsystem\n(S'true'\ntR."
    both = {
        "onnx": {"data": "m"},
        "statsmodels": {"data": "m"},
        "python_function": {"loader_module": "mlflow.onnx", "data": "m"},
    }
    assert "os.system" in refusals(tree(tmp_path / "a", {"m": evil}, both))["m"]
    alone = {"onnx": {"data": "m"}, "python_function": {"loader_module": "mlflow.onnx", "data": "m"}}
    assert refusals(tree(tmp_path / "b", {"m": b"\x08\x07onnx"}, alone)) == {}


def test_files_that_can_run_are_refused_and_data_is_not(tmp_path: Path) -> None:
    objects = tmp_path / "objects.npy"
    numpy.save(objects, numpy.array([Writes(tmp_path / "written")], dtype=object), allow_pickle=True)
    plain = tmp_path / "plain.npy"
    numpy.save(plain, numpy.zeros(3))
    archive = tmp_path / "inner.zip"
    with zipfile.ZipFile(archive, "w") as inside:
        inside.writestr("deep/model.pkl", pickle.dumps(Writes(tmp_path / "written")))
    folder = tree(
        tmp_path / "tree",
        {
            "lib.so": b"\x7fELF...", "hidden": b"\x7fELF...", "cached.pyc": b"x", "weights.keras": b"x",
            "objects.npy": objects.read_bytes(), "archive.bin": archive.read_bytes(),
            "misnamed.json": pickle.dumps(Writes(tmp_path / "written")),
            "plain.npy": plain.read_bytes(), "vocabulary.bin": bytes(range(128, 256)), "names.csv": b"a,b\n",
        },
    )  # fmt: skip
    (folder / "link").symlink_to("/etc/passwd")
    found = refusals(folder)
    assert set(found) == {
        "lib.so", "hidden", "cached.pyc", "weights.keras", "objects.npy", "archive.bin", "misnamed.json", "link"
    }  # fmt: skip
    assert "deep/model.pkl" in found["archive.bin"] or "open" in found["archive.bin"]
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("mlmodel", [b"", b"flavors: [", b"flavors: 3", b"\xff\xfe"])
def test_an_unreadable_mlmodel_is_a_refusal(tmp_path: Path, mlmodel: bytes) -> None:
    (tmp_path / "MLmodel").write_bytes(mlmodel)
    assert "what loads which file is unknown" in refusals(tmp_path)["MLmodel"]


def test_a_scan_that_fails_or_hangs_is_a_refusal(tmp_path: Path) -> None:
    slow = vet(tree(tmp_path / "slow", {}), VetPolicy(), timeout=0.01)
    assert not slow.passed and "took longer" in slow.reason
    empty = tmp_path / "empty"
    empty.mkdir()
    assert not vet(empty, VetPolicy()).passed
    (tmp_path / "torn").mkdir()
    torn = vet(tree(tmp_path / "torn", {"model.pkl": pickle.dumps([1, 2, 3])[:-4]}, SKLEARN), VetPolicy())
    assert not torn.passed and "cannot be read to its end" in torn.reason
