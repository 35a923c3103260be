"""The MLflow signature of a model, compiled once into a plan that checks and coerces inputs. No mlflow import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bentos.errors import PermanentError


class InputError(PermanentError):
    """Input that does not fit the signature; the message names the column, what was found and what was expected."""


class SignatureError(PermanentError):
    """A model whose signature is missing or cannot be read."""


@dataclass(frozen=True)
class Column:
    """A named column. ``type`` is MLflow's: boolean, integer, long, float, double, string, binary, datetime (or a JSON text of array/object/map)."""

    name: str
    type: str
    required: bool = True


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
