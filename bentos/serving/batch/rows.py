"""One chunk of a batch: which of its rows are answered, and why the others are not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from bentos.serving.batch.source import BatchError
from bentos.serving.batch.tables import answers, from_arrow, from_text, together, typed
from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.rows import InputRows
from bentos.serving.inputs.signature import InputError
from bentos.serving.model.interface import PredictError, Prediction
from bentos.serving.model.runner import ModelRunner

ROW, REASON = "_row", "_reason"
JUDGED = 32  # rows judged one by one, where the whole is refused


def score_chunk(
    runner: ModelRunner, table: pa.Table, *, text: bool, probabilities: bool
) -> tuple[pa.Table | None, dict[int, str]]:
    """The rows of ``table`` that could be predicted, with their predictions, and the reason for each of the others.

    All rows are checked and predicted at once; only where that is refused are the rows at fault looked for.
    """
    values = (from_text if text else from_arrow)(table, runner.plan)
    try:
        data = runner.plan.coerce(values)
        prediction = answer(runner, data, probabilities)
    except (PredictError, InputError):
        return score_parts(runner, table, values, text=text, probabilities=probabilities)
    return beside(typed(table, runner.plan, data) if text else table, answers(prediction)), {}


def score_parts(
    runner: ModelRunner, table: pa.Table, values: Mapping[str, Any], *, text: bool, probabilities: bool
) -> tuple[pa.Table | None, dict[int, str]]:
    """``score_chunk`` of rows of which some do not fit, or fail."""
    reasons: dict[int, str] = {}
    if runner.plan.columns:
        reasons = unfit(runner.plan, values, 0, table.num_rows)
    fit = np.delete(np.arange(table.num_rows), sorted(reasons))
    picked = {name: column[fit] if isinstance(column, np.ndarray) else [column[i] for i in fit] for name, column in values.items()}  # fmt: skip
    done: list[pa.Table] = []
    taken: list[np.ndarray] = []
    for start, stop, found in bisect(runner, picked, 0, len(fit), probabilities, failed=not reasons):
        if isinstance(found, str):
            reasons[int(fit[start])] = found
        else:
            done.append(answers(found))
            taken.append(fit[start:stop])
    if not done:
        return None, reasons
    kept = table.take(pa.array(np.concatenate(taken)))
    predicted = together(done)
    return beside(typed(kept, runner.plan) if text else kept, predicted), reasons


def answer(runner: ModelRunner, data: InputRows, probabilities: bool) -> Prediction:
    """What the model answers, one answer a row. Raises what the runner does, and BatchError for another number."""
    prediction = runner.answer(data, runner.plan.coerce_params(None), probabilities=probabilities)
    for name, array in prediction.outputs().items():
        if len(array) != data.rows:
            found = f"{len(array)} rows to {data.rows}" + ("" if name == "prediction" else f" in {name!r}")
            raise BatchError(f"the model answered {found}: batch needs one answer a row")
    return prediction


def unfit(plan: InputPlan, values: Mapping[str, Any], start: int, stop: int) -> dict[int, str]:
    """The rows from ``start`` up to ``stop`` that do not fit by themselves, with the reason: halves that fit as a whole
    are passed over. Raises InputError where no row can fit.
    """
    piece = cut(values, start, stop)
    try:
        plan.coerce(piece)
        return {}
    except InputError:
        if stop - start <= JUDGED:
            return {start + row: reason for row, reason in plan.bad_rows(piece)[1].items()}
    middle = (start + stop) // 2
    return unfit(plan, values, start, middle) | unfit(plan, values, middle, stop)


def bisect(
    runner: ModelRunner, values: Mapping[str, Any], start: int, stop: int, probabilities: bool, *, failed: bool = False
) -> Iterator[tuple[int, int, Prediction | str]]:
    """Predict rows ``start`` to ``stop``; where the model raises, halve until only the failing rows are left.

    ``failed`` says that they have raised as a whole. Yields (start, stop, prediction), and (row, row + 1, reason) for
    each failing row, in order.
    """
    if start == stop:
        return
    if not failed or stop - start == 1:
        try:
            yield start, stop, answer(runner, runner.plan.coerce(cut(values, start, stop)), probabilities)
            return
        except (PredictError, InputError) as error:
            if stop - start == 1:
                yield start, stop, str(error)
                return
    middle = (start + stop) // 2
    yield from bisect(runner, values, start, middle, probabilities)
    yield from bisect(runner, values, middle, stop, probabilities)


def cut(values: Mapping[str, Any], start: int, stop: int) -> dict[str, Any]:
    """Rows from ``start`` up to ``stop`` of a column table."""
    return {name: column[start:stop] for name, column in values.items()}


def beside(table: pa.Table, predicted: pa.Table) -> pa.Table:
    """The input's columns with the predictions after them."""
    if clash := sorted(set(predicted.column_names) & set(table.column_names)):
        raise BatchError(f"input columns {clash} have the names of the predictions: rename them in the input")
    for name in predicted.column_names:
        table = table.append_column(name, predicted[name])
    return table


def with_reasons(table: pa.Table, rows: Any, reasons: list[str]) -> pa.Table:
    """``table`` with the columns that rejects have beside their own."""
    if clash := sorted({ROW, REASON} & set(table.column_names)):
        raise BatchError(f"input columns {clash} have the names of the rejects' own: rename them in the input")
    return table.append_column(ROW, pa.array(rows, pa.int64())).append_column(REASON, pa.array(reasons, pa.string()))
