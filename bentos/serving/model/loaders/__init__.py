"""Loaders: one file a flavor; each gives a Predictor from an MLflow model folder, importing only that flavor's library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from bentos.serving.fetch.artifact_tree import NATIVE, flavor_of
from bentos.serving.model.interface import LoadError, Predictor


def choose_flavor(mlmodel: Mapping[str, Any]) -> str:
    """The ``flavor_of`` *mlmodel*. Raises LoadError if the model has neither a native flavor nor ``python_function``."""
    flavors, flavor = mlmodel["flavors"], flavor_of(mlmodel)
    if flavor not in flavors:
        raise LoadError(f"flavors {sorted(flavors)}: expected {sorted(NATIVE)} or python_function, which mlflow writes")
    return flavor


def load_predictor(folder: Path, mlmodel: Mapping[str, Any], flavor: str, *, array: bool = False) -> Predictor:
    """Load the model in ``folder`` by its ``flavor``. Loading runs the model's code: it must have been vetted.

    ``array``: given an array of numbers in place of a frame, as the build proved to be the same for this model.
    Raises LoadError with the cause, whatever the flavor's library raised.
    """
    if flavor not in {*NATIVE, "python_function"}:
        raise LoadError(f"{folder}: unknown flavor {flavor!r}, expected one of {sorted(NATIVE)} or python_function")
    module = import_module(f"bentos.serving.model.loaders.{'pyfunc' if flavor == 'python_function' else flavor}")
    load = cast("Callable[[Path, Mapping[str, Any]], Predictor]", module.load)
    try:
        predictor = load(folder, mlmodel)
        return cast("Predictor", predictor.on_array()) if array else predictor  # type: ignore[attr-defined] # by the flavors that can
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(
            f"the {flavor} model in {folder} cannot be loaded: {type(error).__name__}: {error}. Its files are damaged, or"
            " its requirements are not those that it was saved with: log the model again, with its pip_requirements"
        ) from error
