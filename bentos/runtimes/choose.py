"""Chooses the runtime of a model, in a process of the model's own environment with the converters beside it:

    python -m bentos.runtimes.choose --model DIR --output DIR --runtime auto|native|pyfunc [--reference FILE.parquet]

Writes runtime.json, and the converted model where one is chosen, into the output folder. Loading runs the model's code.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bentos.runtimes import equivalence, refusals, rows, trees
from bentos.runtimes.candidate import Candidate, NotConvertedError
from bentos.runtimes.converted import Subject, candidates
from bentos.runtimes.graphs import has_trees
from bentos.runtimes.rows import Maker, Spread
from bentos.serving.environments.requirements import SERVED_BY
from bentos.serving.errors import ShipwayError, brief
from bentos.serving.inputs.rows import InputRows
from bentos.serving.inputs.signature import InputError, read_mlmodel
from bentos.serving.model import latency_profile
from bentos.serving.model.interface import LoadError, PredictError
from bentos.serving.model.loaders import load_predictor
from bentos.serving.model.profile import FILE
from bentos.serving.model.runner import ModelRunner, for_bulk

SEED = 20_240_701
MOST_SEEN = 2_000  # rows of the reference that are used
NOTHING: Mapping[str, Any] = {"latency": None, "rowwise": False, "rowwise_probabilities": False}
USUAL = 2_000  # random rows that batches and rowwise are tried on
SECONDS = 60.0  # that the native model may take for rows at thresholds …
LEAST_THRESHOLDS = 500  # … but this many are tried
TRIED = 96  # of them, rows that are asked in batches
BULK = 8_192  # rows at once, as in a batch
BULK_SECONDS = 3.0  # models that would take longer for them are not tried with so many
BULK_GAIN = 1.1  # times as fast the model itself must be to answer batches in place of the converted one


@dataclass(frozen=True)
class Trial:
    """The native model and everything it is compared on."""

    native: ModelRunner
    subject: Subject
    groups: tuple[equivalence.Group, ...]
    usual: InputRows  # random rows, for batches

    @property
    def compared(self) -> int:
        """The number of rows."""
        return sum(one.data.rows for one in self.groups)


def choose(model: Path, output: Path, runtime: str, reference: Path | None) -> dict[str, Any]:
    """The content of runtime.json for the artifact folder *model*; a converted model is written into *output*.

    *runtime* is the policy's. Raises what loading and warming raise.
    """
    native = ModelRunner.load(model)
    if runtime == "pyfunc":
        native = replace(
            native, flavor="python_function", predictor=load_predictor(model, read_mlmodel(model), "python_function")
        )
    native.warm()
    own = "pyfunc" if native.flavor == "python_function" else "native"
    maker = Maker.of(native.plan)
    seen = _seen(native, reference)
    if own == "pyfunc" or maker is None:
        why = "the policy asks for pyfunc" if runtime == "pyfunc" else _why_not(native, maker)
        return {"runtime": own, "reason": why, "candidates": [], **_measured(native, seen, distinct=True)}
    usual = _usual(native, maker, seen)
    odd = refusals.odd(native, maker, _row(usual, maker), np.random.default_rng(SEED))
    array = _array_form(native, usual, odd)
    if runtime == "native":
        return _native(array or native, usual, "the policy asks for native", [], array=array is not None)
    try:
        trial = _trial(native, maker, seen, _row(usual, maker), odd)
    except NotConvertedError as error:
        return _native(array or native, usual, f"native: {error}", [], array=array is not None)
    tried, passed = _try_all(trial)
    base = array or native
    tried.insert(0, {"runtime": "native", "refused": None, "seconds": latency_profile.measure(base, usual, (1, 100))})
    best = min(
        (one for one in tried if one["refused"] is None), key=lambda one: (one["seconds"]["1"], one["seconds"]["100"])
    )
    if best["runtime"] == "native":
        refused = "; ".join(f"{one['runtime']}: {one['refused']}" for one in tried if one["refused"])
        why = f"native: {refused}" if refused else "native is the fastest"
        found = _native(base, usual, why, tried, array=array is not None)
        return {**found, "rows_compared": trial.compared}
    chosen, runner = passed[best["runtime"]]
    (output / chosen.converted.file).write_bytes(chosen.model)
    times = tried[0]["seconds"]["1"] / best["seconds"]["1"]
    return {
        "runtime": chosen.runtime,
        "reason": f"{chosen.runtime} answers {trial.compared} rows as native does and one row {times:.1f} times as fast",
        "candidates": tried,
        "tolerance": chosen.tolerance,
        "rows_compared": trial.compared,
        "converted": chosen.converted.to_json(),
        "pins": {name: version(name) for name in SERVED_BY[chosen.runtime]},
        "array": array is not None,
        "bulk": _bulk(trial, equivalence.with_predictor(base, for_bulk(base.predictor)), runner),
        **_measured(runner, usual, distinct=False),
    }


def _bulk(trial: Trial, native: ModelRunner, chosen: ModelRunner) -> bool:
    """Whether the model itself, loaded for many rows, answers them sooner than the chosen runtime, and every row that was
    compared the same to the bit."""
    last = getattr(trial.subject.estimator, "steps", [("", trial.subject.estimator)])[-1][1]
    if getattr(last, "n_jobs", None) not in (None, 1):  # threads add up in whatever order they come
        return False
    if equivalence.same_bits(chosen, trial.groups) or equivalence.same_bits(native, trial.groups):
        return False
    if any(
        latency_profile.measure(one, trial.usual, (100,))["100"] * BULK / 100 > BULK_SECONDS for one in (native, chosen)
    ):
        return False
    own, other = (latency_profile.measure(one, trial.usual, (BULK,))[str(BULK)] for one in (native, chosen))
    return own * BULK_GAIN < other


def _why_not(native: ModelRunner, maker: Maker | None) -> str:
    if native.flavor == "python_function":
        return "a python_function can be anything: it is not converted"
    return f"native: {native.flavor} with inputs that are not all columns of numbers, or with params, is not converted"


def _native(runner: ModelRunner, usual: InputRows, why: str, tried: list[Any], *, array: bool) -> dict[str, Any]:
    found = {"runtime": "native", "reason": why, "candidates": tried, "array": array}
    return {**found, **_measured(runner, usual, distinct=False)}


def _measured(runner: ModelRunner, data: InputRows | None, *, distinct: bool) -> dict[str, Any]:
    """The latency profile and rowwise on *data*; nothing where the model refuses it. *distinct*: only rows somebody logged can show
    that joined rows do not change one another, and at least eight of them."""
    if data is None:
        return dict(NOTHING)
    try:
        found = latency_profile.measure(runner, data)
    except (InputError, PredictError):
        return dict(NOTHING)
    if distinct and data.rows < 8:
        return {**NOTHING, "latency": found}
    both = latency_profile.rowwise(runner, data, probabilities=True)
    return {
        "latency": found,
        "rowwise": both or latency_profile.rowwise(runner, data, probabilities=False),
        "rowwise_probabilities": both,
    }


def _seen(native: ModelRunner, reference: Path | None) -> InputRows | None:
    """Rows that somebody logged: the reference, else the input example, else one synthetic row; None where none fits."""
    if reference is not None:
        import pyarrow.parquet as pq

        from bentos.serving.batch.tables import from_arrow

        try:
            table = pq.read_table(reference)
            spread = np.linspace(0, table.num_rows - 1, min(table.num_rows, MOST_SEEN)).astype(int)
            found = native.plan.coerce(from_arrow(table.take(spread), native.plan))
            native.answer(found, {})
            return found
        except (ShipwayError, ValueError, KeyError):  # a reference that does not fit is the wire check's to name
            pass
    try:
        return native.sample()
    except InputError:
        return None


def _matrix(seen: InputRows | None, maker: Maker) -> np.ndarray | None:
    return None if seen is None or not seen.numeric else np.asarray(seen.matrix(np.float64)).reshape(-1, maker.width)


def _usual(native: ModelRunner, maker: Maker, seen: InputRows | None) -> InputRows:
    """Random rows around those that were seen."""
    spread = Spread.find(maker.width, _matrix(seen, maker), np.empty((0, 2)), _estimator(native))
    return maker.rows(rows.at_random(spread, np.random.default_rng(SEED), USUAL))


def _array_form(native: ModelRunner, usual: InputRows, odd: Sequence[equivalence.Group]) -> ModelRunner | None:
    """The native model over arrays, where that answers the same bits without a warning; else None."""
    on_array = getattr(native.predictor, "on_array", None)
    if on_array is None:
        return None
    try:
        other = equivalence.with_predictor(native, on_array())
    except LoadError:
        return None
    tried = [equivalence.group("usual rows", native, usual)]
    tried += [equivalence.group("one row", native, usual.slice(row, row + 1)) for row in range(16)]
    why = equivalence.same_bits(other, [*tried, *odd])
    return other if not why else None


def _row(usual: InputRows, maker: Maker) -> np.ndarray:
    return np.asarray(usual.slice(0, 1).matrix(np.float64)).reshape(maker.width)


def _estimator(native: ModelRunner) -> Any:
    predictor = native.predictor
    return getattr(predictor, "estimator", None) or getattr(predictor, "model", None)


def _trial(
    native: ModelRunner, maker: Maker, seen: InputRows | None, row: np.ndarray, odd: Sequence[equivalence.Group]
) -> Trial:
    """The rows that a conversion is compared on. Raises NotConvertedError for a model that none can stand for."""
    estimator = _estimator(native)
    if estimator is None:
        raise NotConvertedError(f"the flavor {native.flavor} is not converted")
    method = getattr(native.predictor, "method", "predict")
    if method not in ("predict", "predict_proba"):
        raise NotConvertedError(f"its predict_fn is {method}: only predict and predict_proba are converted")
    rng = np.random.default_rng(SEED)
    ensemble = trees.read(estimator)
    thresholds = np.empty((0, 2)) if ensemble is None else ensemble.thresholds()
    matrix = _matrix(seen, maker)
    spread = Spread.find(maker.width, matrix, thresholds, estimator)
    drawn = rows.at_random(spread, rng)
    usual = maker.rows(drawn)
    began = time.perf_counter()
    groups = [equivalence.group("random rows", native, usual)]
    a_row = (time.perf_counter() - began) / usual.rows
    sample = groups[0].native
    if isinstance(sample, str):
        raise NotConvertedError(f"it refuses random rows: {sample[:300]}")
    single = ensemble is not None and ensemble.single
    refused = refusals.find(native, maker, row, odd, single=single)
    groups += [*odd, *refusals.at_limits(native, maker, row, refused.limits)]
    if matrix is not None and seen is not None:
        groups.append(equivalence.group("reference rows", native, seen))
    if ensemble is not None and len(thresholds):
        most = min(rows.most_splits(maker.width), max(LEAST_THRESHOLDS, int(SECONDS / (6 * a_row))))
        chosen = rows.at_splits(ensemble.splits(rng, most), spread, rng)
        groups.append(equivalence.group("rows at thresholds", native, maker.rows(chosen)))
    inside = ensemble is None and has_trees(estimator)
    beside = equivalence.boundaries(native, maker, rng.permutation(drawn), exact=inside)
    if len(beside):
        groups.append(equivalence.group("rows beside boundaries", native, maker.rows(beside)))
    mixed = len(set(maker.kinds)) > 1
    subject = Subject(estimator, maker.width, sample, ensemble, mixed, refused)
    return Trial(native, subject, tuple(groups), usual)


def _try_all(trial: Trial) -> tuple[list[dict[str, Any]], dict[str, tuple[Candidate, ModelRunner]]]:
    tried: list[dict[str, Any]] = []
    passed: dict[str, tuple[Candidate, ModelRunner]] = {}
    for runtime, make in candidates(trial.subject):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the converters; those of answers are errors in the gate
                candidate = make()
                runner = equivalence.with_predictor(trial.native, candidate.predictor())
            refused = judge(trial, candidate, runner)
        except NotConvertedError as error:
            refused = str(error)
        except Exception as error:  # whatever a converter or its runtime raises is a doubt
            refused = brief(error)
        seconds = None
        if not refused:
            passed[runtime] = candidate, runner
            seconds = latency_profile.measure(runner, trial.usual, (1, 100))
        tried.append({"runtime": runtime, "refused": refused or None, "seconds": seconds})
    return tried, passed


def judge(trial: Trial, candidate: Candidate, runner: ModelRunner) -> str:
    """Why *candidate* may not answer in the native model's place; "" where it may."""
    exact = bool(trial.subject.labels)
    return equivalence.refusal(runner, trial.groups, candidate.tolerance, exact=exact) or equivalence.by_size(
        runner, trial.native, trial.usual.slice(0, TRIED), candidate.tolerance, exact=exact
    )


def main(arguments: Sequence[str]) -> int:
    """The child: 0 done, 2 refused with one line on stderr that says why."""
    parser = argparse.ArgumentParser(prog="python -m bentos.runtimes.choose")
    for option in ("--model", "--output"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--runtime", choices=("auto", "native", "pyfunc"), default="auto")
    parser.add_argument("--reference", type=Path)
    given = parser.parse_args(arguments)
    try:
        found = choose(given.model, given.output, given.runtime, given.reference)
    except ShipwayError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    (given.output / FILE).write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
