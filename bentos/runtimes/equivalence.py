"""Equivalence: whether a converted model answers what the native one answers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bentos.runtimes.rows import Maker
from bentos.serving.inputs.rows import InputRows
from bentos.serving.model.interface import Prediction
from bentos.serving.model.latency_profile import answered, bits_equal
from bentos.serving.model.runner import ModelRunner

SIZES = (1, 2, 3, 8, 32)
SHOWN = 6  # columns of a differing row that a reason names
SEGMENTS = 200
HALVINGS = 80
BESIDE = 1e-9  # how far beside a boundary a row is put, relative to the segment that crosses it


@dataclass(frozen=True)
class Group:
    """Rows of one kind with what the native model answers to them, or the words it refuses them with."""

    name: str
    data: InputRows
    native: Prediction | str


def group(name: str, native: ModelRunner, data: InputRows) -> Group:
    """A group of ``data``; what the native model warns of is no answer and is not heard."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Group(name, data, answered(native, data))


def refusal(candidate: ModelRunner, groups: Sequence[Group], tolerance: float, *, exact: bool) -> str:
    """Why ``candidate`` is not equal to the native model on ``groups``; "" where it is.

    ``exact``: the answers are classes, which must be equal; scores may differ by ``tolerance``, times the score where it
    is above 1. A warning is a refusal too.
    """
    for one in groups:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = answered(candidate, one.data)
        if reason := difference(one.native, found, one.data, tolerance, exact=exact):
            return f"{one.name}: {reason}"
    return ""


def difference(
    native: Prediction | str, found: Prediction | str, data: InputRows, tolerance: float, *, exact: bool
) -> str:
    """The first difference of two answers to ``data``, in words; "" without one."""
    if isinstance(native, str) or isinstance(found, str):
        return "" if native == found else f"expected {_brief(native)}, found {_brief(found)} for {shown(data, 0)}"
    if native.classes != found.classes:
        return f"expected the classes {native.classes}, found {found.classes}"
    pairs = [("answer", np.asarray(native.values), np.asarray(found.values), 0.0 if exact else tolerance)]
    if native.probabilities is not None and found.probabilities is not None:
        pairs.append(("probability", native.probabilities, found.probabilities, tolerance))
    elif native.probabilities is not None or found.probabilities is not None:
        return "one has probabilities, the other none"
    for what, wanted, had, within in pairs:
        if (wanted.dtype, wanted.shape) != (had.dtype, had.shape):
            return f"{what}: expected {wanted.dtype} {wanted.shape}, found {had.dtype} {had.shape}"
        bad = ~_equal(wanted, had, within)
        if bad.any():
            row = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
            return (
                f"{what} of row {row}: expected {_plain(wanted[row])}, found {_plain(had[row])} for {shown(data, row)}"
            )
    return ""


def _equal(wanted: np.ndarray, had: np.ndarray, within: float) -> np.ndarray:
    if not within or wanted.dtype.kind != "f":
        return np.asarray(wanted == had)
    with np.errstate(invalid="ignore"):  # infinities of one sign have no difference
        near = np.abs(wanted - had) <= within * np.maximum(1.0, np.abs(wanted))
    return np.asarray(near | (wanted == had) | (np.isnan(wanted) & np.isnan(had)))


def by_size(candidate: ModelRunner, native: ModelRunner, data: InputRows, tolerance: float, *, exact: bool) -> str:
    """As ``refusal``, with the rows of ``data`` asked in batches of SIZES: alone, and joined."""
    for size in SIZES:
        parts = [data.slice(start, start + size) for start in range(0, min(data.rows, 4 * size), size)]
        groups = [group(f"batches of {size}", native, part) for part in parts]
        joined = group(f"batches of {size}, joined", native, InputRows.join(parts))
        if reason := refusal(candidate, [*groups, joined], tolerance, exact=exact):
            return reason
    return ""


def same_bits(other: ModelRunner, groups: Sequence[Group]) -> str:
    """Why ``other`` does not answer ``groups`` to the bit as the native model; "" where it does. A warning is a difference."""
    for one in groups:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what numpy says of overflows it says either way
            warnings.simplefilter("error", UserWarning)
            found = answered(other, one.data)
        native = one.native
        if isinstance(native, str) or isinstance(found, str):
            if native != found:
                return f"{one.name}: expected {_brief(native)}, found {_brief(found)}"
        elif not bits_equal(native, found):
            return f"{one.name}: not equal to the bit"
    return ""


def boundaries(native: ModelRunner, maker: Maker, matrix: np.ndarray, *, exact: bool) -> np.ndarray:
    """Rows [n x columns] beside the model's boundaries: where it changes its class between two rows of ``matrix``.

    The segment between two rows of different classes is halved until neighbouring doubles are left. The rows lie BESIDE
    the boundary on either side; with ``exact`` also on the two sides themselves.
    """
    classes = _classes(native, maker)
    first, second = matrix[0::2][: len(matrix) // 2], matrix[1::2][: len(matrix) // 2]
    if not len(first) or (labels := classes(first)) is None or (others := classes(second)) is None:
        return matrix[:0]
    crossing = np.flatnonzero(labels != others)[:SEGMENTS]
    if not len(crossing):
        return matrix[:0]
    start, step, here = first[crossing], second[crossing] - first[crossing], labels[crossing]
    low, high = np.zeros((len(crossing), 1)), np.ones((len(crossing), 1))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found = classes(start + middle * step)
        if found is None:
            return matrix[:0]
        same = (found == here)[:, None]
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    at = [low - BESIDE, high + BESIDE, low - 1e-6, high + 1e-6, *((low, high) if exact else ())]
    return np.concatenate([start + share * step for share in at])


def _classes(native: ModelRunner, maker: Maker) -> Callable[[np.ndarray], np.ndarray | None]:
    def ask(matrix: np.ndarray) -> np.ndarray | None:
        found = group("", native, maker.rows(matrix)).native
        if isinstance(found, str):
            return None
        values = found.probabilities if found.probabilities is not None else np.asarray(found.values)
        return values.argmax(axis=1) if values.ndim == 2 else values

    return ask


def with_predictor(runner: ModelRunner, predictor: object) -> ModelRunner:
    """``runner`` with another predictor."""
    return replace(runner, predictor=predictor)  # type: ignore[arg-type] # a Predictor of some loader


def shown(data: InputRows, row: int) -> str:
    """A row in a reason's words: its first SHOWN values."""
    given = data.columns if data.columns is not None else {}
    cells = [f"{name}={_plain(array[row])}" for name, array in [*given.items()][:SHOWN]]
    if data.tensors is not None:
        cells = [str(_plain(value)) for value in next(iter(data.tensors.values()))[row].ravel()[:SHOWN]]
    return ", ".join(cells) + (" …" if len(given) > SHOWN else "")


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _brief(answer: Prediction | str) -> str:
    return f"a refusal ({answer[:160]})" if isinstance(answer, str) else "an answer"
