"""The MLflow signature of a model, read without mlflow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bentos.serving.errors import PermanentError

SCALARS = frozenset({"boolean", "integer", "long", "float", "double", "string", "binary", "datetime"})

Inputs = Any
"""A column table (mapping of name → values, one a row), an array, named tensors (mapping of name → array), or a pandas
DataFrame. What a mapping means is the signature's to say."""


class InputError(PermanentError):
    """Input that does not fit the signature; the message names the column, what was found and what was expected."""


class SignatureError(PermanentError):
    """A model whose signature is missing or cannot be read."""


@dataclass(frozen=True)
class Column:
    """A column. ``type`` is MLflow's: boolean, integer, long, float, double, string, binary, datetime, or the JSON text of
    an array, object, map or any. ``label`` is the name as the model knows it: a signature may name columns by whole
    numbers (``name`` is then its text), or not at all (``name`` is empty, and columns go by position).
    """

    name: str
    type: str
    required: bool = True
    label: str | int | None = None


@dataclass(frozen=True)
class Tensor:
    """A tensor input or output; ``shape`` has -1 where any length fits. ``dtype`` is numpy's name."""

    name: str | None
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Param:
    """An inference parameter with its default."""

    name: str
    type: str
    default: Any
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Signature:
    """Inputs, outputs and params of a model. All inputs are columns, or all are tensors."""

    inputs: tuple[Column, ...] | tuple[Tensor, ...]
    outputs: tuple[Column, ...] | tuple[Tensor, ...] = ()
    params: tuple[Param, ...] = ()

    @cached_property
    def columns(self) -> dict[str, Column]:
        """The columns in order by name, unnamed ones by position; empty for a model over tensors."""
        return {e.name or str(place): e for place, e in enumerate(self.inputs) if isinstance(e, Column)}

    @cached_property
    def kinds(self) -> dict[str, str]:
        """The types of ``columns``."""
        return {name: column.type for name, column in self.columns.items()}


def load_signature(folder: Path) -> Signature:
    """The signature in ``folder/MLmodel``. Raises SignatureError if there is none, or none for the inputs."""
    return parse_signature(read_mlmodel(folder).get("signature"), folder)


def read_mlmodel(folder: Path) -> dict[str, Any]:
    """The MLmodel file of a model folder as a dict. Raises SignatureError if it is missing or is not YAML."""
    import yaml

    path = folder / "MLmodel"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SignatureError(
            f"{folder} holds no MLmodel file: expected the artifact folder of an MLflow model"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SignatureError(f"{path} cannot be read: {error}. Log the model again") from error
    if not isinstance(found, dict) or not isinstance(found.get("flavors"), dict):
        raise SignatureError(
            f"{path} lists no flavors: expected an MLmodel file as mlflow writes it. Log the model again"
        )
    return found


def parse_signature(raw: Any, where: Path | str) -> Signature:
    """A signature from MLmodel's ``signature`` (three JSON texts). ``where`` names the model in errors."""
    if not isinstance(raw, dict) or not raw.get("inputs"):
        raise SignatureError(
            f"the model in {where} has no signature for its inputs. Log it again with one: "
            "mlflow.sklearn.log_model(model, name='model', signature=mlflow.models.infer_signature(X, model.predict(X)))"
        )
    try:
        inputs = tuple(_spec(item) for item in json.loads(raw["inputs"]))
        outputs = tuple(_spec(item) for item in json.loads(raw.get("outputs") or "[]"))
        params = tuple(_param(item) for item in json.loads(raw.get("params") or "[]"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SignatureError(
            f"the signature of the model in {where} cannot be read: {error!r}. Log it again"
        ) from error
    if not inputs or len({type(item) for item in inputs}) != 1:
        raise SignatureError(
            f"the signature in {where} mixes columns and tensors, or is empty: expected one kind of input"
        )
    return Signature(inputs, outputs, params)  # type: ignore[arg-type] # one kind, checked above


def _spec(item: dict[str, Any]) -> Column | Tensor:
    if item["type"] == "tensor":
        spec = item["tensor-spec"]
        return Tensor(item.get("name"), str(spec["dtype"]), tuple(int(n) for n in spec["shape"]))
    label = item.get("name")
    kind = item["type"]
    if kind not in SCALARS:
        if kind not in ("array", "object", "map", "any"):
            raise ValueError(f"unknown type {kind!r}")
        kind = json.dumps(
            {key: value for key, value in item.items() if key not in ("name", "required")}, sort_keys=True
        )
    return Column("" if label is None else str(label), kind, bool(item.get("required", True)), label)


def _param(item: dict[str, Any]) -> Param:
    shape = item.get("shape")
    kind = item["type"] if item["type"] in SCALARS else json.dumps(item, sort_keys=True)
    return Param(str(item["name"]), kind, item.get("default"), tuple(shape) if shape else None)
