"""Reference: the training data that a version's live inputs are compared with, as a Parquet file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bentos.policy.gates import ReferencePolicy
from bentos.serving.errors import PermanentError
from bentos.versions.model_version import ModelVersion
from bentos.versions.registry import Registry

if TYPE_CHECKING:
    import pandas

RUN_ARTIFACTS = ("shipway/reference.parquet", "shipway/reference.csv")


class ReferenceDataError(PermanentError):
    """Reference data that is named but missing, or that cannot be read."""


@dataclass(frozen=True)
class Reference:
    """Reference rows of a version: *path* is a Parquet file, or None where there are none and *note* says why.

    *source* says where the rows came from: ``policy: <artifact>``, ``run: <artifact>``, ``input example`` or ``none``.
    The columns are those of the file as they were logged: the inputs and, where the author kept them, target and
    prediction. A tensor example has one column ``input`` of nested lists, one row per example.
    """

    path: Path | None
    source: str
    rows: int
    note: str = ""


def find_reference(registry: Registry, mv: ModelVersion, folder: Path, policy: ReferencePolicy, out: Path) -> Reference:
    """The reference of *mv*, whose artifact tree is *folder*, written below the folder *out*.

    Looks for the artifact that *policy* names, then for RUN_ARTIFACTS in the version's run, then for the input example
    saved with the model. Raises ReferenceDataError when the policy names an artifact that is not there, or a file cannot be
    read: what somebody named is never silently replaced.
    """
    if policy.artifact is not None:
        return _from_policy(registry, mv, policy.artifact, out)
    if mv.run_id is not None:
        for artifact in RUN_ARTIFACTS:
            path = registry.run_artifact(mv.run_id, artifact)
            if path is not None:
                return _converted(path, f"run: {artifact}", mv, out)
    return _from_example(mv, folder, out)


def _from_policy(registry: Registry, mv: ModelVersion, artifact: str, out: Path) -> Reference:
    path = registry.run_artifact(mv.run_id, artifact) if mv.run_id is not None else None
    if path is None:
        where = f"its run {mv.run_id} has no such artifact" if mv.run_id else "it was registered without a run"
        raise ReferenceDataError(
            f"model {mv.name}: the policy's reference.artifact is {artifact!r}, but {where}. Log it with"
            f" `mlflow.log_artifact(…)` in that run, or remove reference.artifact from the policy."
        )
    return _converted(path, f"policy: {artifact}", mv, out)


def _converted(path: Path, source: str, mv: ModelVersion, out: Path) -> Reference:
    """A Parquet or CSV file as the Parquet file of the reference."""
    import pandas

    try:
        if path.suffix == ".parquet":
            frame = pandas.read_parquet(path)
        elif path.suffix == ".csv":
            frame = pandas.read_csv(path)
        else:
            raise ValueError(f"the suffix is {path.suffix!r}, expected .parquet or .csv")
    except (ValueError, OSError) as error:  # pyarrow's and pandas' parse errors are ValueErrors
        raise ReferenceDataError(
            f"model {mv.name}: reference {source}: cannot be read: {error}. Log it again as Parquet or CSV."
        ) from error
    return _written(frame, source, mv, out)


def _written(frame: pandas.DataFrame, source: str, mv: ModelVersion, out: Path) -> Reference:
    if frame.empty:
        return Reference(None, source, 0, f"the reference ({source}) of {mv.name} has no rows")
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"reference-{mv.model}-{mv.version}.parquet"
    temporary = target.with_suffix(".parquet.tmp")
    frame.to_parquet(temporary, index=False)
    temporary.replace(target)
    return Reference(target, source, len(frame))


def _from_example(mv: ModelVersion, folder: Path, out: Path) -> Reference:
    info = (yaml.safe_load((folder / "MLmodel").read_text()) or {}).get("saved_input_example_info")
    if not info:
        return Reference(
            None, "none", 0,
            f"{mv.name} has no reference: log {RUN_ARTIFACTS[0]} in its run, or an input_example with the model; until then"
            " checks against a reference are INCONCLUSIVE",
        )  # fmt: skip
    path = folder / str(info["artifact_path"])
    try:
        value = json.loads(path.read_text())
        if info.get("params") and isinstance(value, dict) and "inputs" in value:
            value = value["inputs"]
        frame = _example_frame(value, info)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReferenceDataError(
            f"model {mv.name}: the input example {path.name} (type {info.get('type')}) cannot be read: {error}. Log the"
            " model again with an input_example that MLflow can save, or name reference.artifact in the policy."
        ) from error
    if frame is None:
        return Reference(
            None, "none", 0,
            f"the input example of {mv.name} is of type {info.get('type')!r}, which has no rows to compare; log"
            f" {RUN_ARTIFACTS[0]} in its run instead",
        )  # fmt: skip
    return _written(frame, "input example", mv, out)


def _example_frame(value: Any, info: Mapping[str, Any]) -> pandas.DataFrame | None:
    """MLflow's saved input example as rows; None for a type that has none (sparse matrices)."""
    import pandas

    kind = info.get("type")
    if kind == "dataframe" or (kind == "json_object" and isinstance(value, dict) and {"columns", "data"} <= set(value)):
        if isinstance(value, dict) and "data" in value:
            frame = pandas.DataFrame(value["data"], columns=value.get("columns"))
        else:
            frame = pandas.DataFrame(value)
        frame.columns = frame.columns.map(str)
        return frame
    if kind == "ndarray":
        if isinstance(value, dict):  # a dict of named tensors
            inner = value.get("inputs", value)
            return pandas.DataFrame({str(name): list(rows) for name, rows in inner.items()})
        return pandas.DataFrame({"input": [row if isinstance(row, list) else [row] for row in value]})
    if kind == "json_object":
        return _object_frame(value)
    return None


def _object_frame(value: Any) -> pandas.DataFrame | None:
    import pandas

    if isinstance(value, dict):
        rows = all(isinstance(item, list) for item in value.values()) and len({len(v) for v in value.values()}) == 1
        return pandas.DataFrame(value) if rows else pandas.DataFrame([value])
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return pandas.DataFrame(value)
    if isinstance(value, list):
        return pandas.DataFrame({"input": value})
    return None
