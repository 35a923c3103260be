"""Drift of a window, scored by Evidently: live inputs against the reference, the candidate's predictions against others.

Every column is binned first and scored by PSI as categories: deciles of the reference for numbers, its most frequent
values for everything else, "missing" for nulls. Evidently's own bins (equal widths over both samples) put a skewed column
into one bin, and its default tests raise false alarms on small windows; deciles score equal samples of n rows about 18/n.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bentos.policy.metrics import DriftMetric
from monitoring.evidence.evidence import BETWEEN_ARMS, ColumnDrift, Drift
from monitoring.evidence.evidently_page import sealed
from monitoring.evidence.harmless import harmless
from monitoring.evidence.values import as_classes, by_output, kind_of, numbers, several

if TYPE_CHECKING:
    import pandas as pd

METHOD = "psi"
BINS = 10
MOST_CATEGORIES = 20  # the rest are one category, as is whatever the reference never had
RARE = 0.01  # categories with a smaller share of the reference belong to the rest: the most frequent of many rare are chance
MOST_OUTPUTS = 20  # of an answer of several numbers
MOST_ROWS = 10_000  # evenly spaced rows of a larger sample are scored
TIE = 0.5 / BINS  # a value with this share of the reference is a bin of its own
MISSING, OTHER = "missing", "other"

Labels = npt.NDArray[np.str_]
Pair = tuple[Labels, Labels]  # current, reference


def compute_drift(
    inputs_live: pd.DataFrame,
    predictions: pd.DataFrame,
    reference: pd.DataFrame | None,
    policy: DriftMetric,
    html: Path | None = None,
    *,
    reference_predictions: pd.DataFrame | None = None,
) -> Drift:
    """Scores the columns that *inputs_live* and *reference* share, and the columns ``baseline`` and ``candidate`` of
    *predictions* (joined rows) against each other; with *reference_predictions* (same columns) each against its own too.

    *html*: where Evidently's report of all of it is written; it loads nothing from elsewhere. What could not be computed
    is in the note.
    """
    notes: list[str] = []
    inputs = _input_pairs(inputs_live, reference, notes)
    joined = predictions.dropna(subset=["baseline", "candidate"])
    scored: dict[str, Pair] = {}
    if len(joined):
        scored |= _prediction_pairs(BETWEEN_ARMS, joined["candidate"], joined["baseline"], notes)
        for arm in ("baseline", "candidate") if reference_predictions is not None else ():
            assert reference_predictions is not None
            scored |= _prediction_pairs(f"{arm}_vs_reference", joined[arm], reference_predictions[arm].dropna(), notes)
    else:
        notes.append("no joined predictions")
    pairs = {f"input: {name}": pair for name, pair in inputs.items()}
    pairs |= {f"prediction: {name}": pair for name, pair in scored.items()}
    pairs = {name: pair for name, pair in pairs.items() if pair[0].size and pair[1].size}
    scores = _evidently(pairs, policy.threshold, html) if pairs else {}

    def columns(kind: str, names: dict[str, Pair], threshold: float) -> tuple[ColumnDrift, ...]:
        return tuple(
            ColumnDrift(name, METHOD, scores[f"{kind}: {name}"], threshold, min(pair[0].size, pair[1].size))
            for name, pair in names.items()
            if f"{kind}: {name}" in scores
        )

    between = policy.max_prediction_drift if policy.max_prediction_drift is not None else policy.threshold
    return Drift(
        inputs=columns("input", inputs, policy.threshold),
        predictions=columns("prediction", scored, between),
        rows=len(inputs_live),
        note="; ".join(notes),
    )


def _input_pairs(live: pd.DataFrame, reference: pd.DataFrame | None, notes: list[str]) -> dict[str, Pair]:
    if reference is None or reference.empty:
        notes.append("no reference")
        return {}
    if live.empty:
        notes.append("no live inputs")
        return {}
    missing = [str(name) for name in reference.columns if name not in live.columns]
    if missing:
        notes.append(f"not in the live inputs: {', '.join(missing)}")
    return {str(name): binned(live[name], reference[name]) for name in reference.columns if name in live.columns}


def _prediction_pairs(
    name: str, current: pd.Series[Any], reference: pd.Series[Any], notes: list[str]
) -> dict[str, Pair]:
    """Classes are compared as texts, so that 1 and 1.0 are one class; numbers are binned, those of several outputs by output."""
    import pandas as pd

    if len(reference) and kind_of(current, reference) == "class":
        classes = [pd.Series(as_classes(column), dtype=object) for column in (current, reference)]
        return {name: binned(*classes)}
    outputs = [by_output(column) for column in (current, reference)]
    if not several(current, reference) or outputs[0].keys() != outputs[1].keys():
        return {name: binned(current, reference)}
    places = list(outputs[0])
    if len(places) > MOST_OUTPUTS:
        notes.append(f"{name}: {MOST_OUTPUTS} of {len(places)} outputs are scored, evenly spaced")
        places = [places[int(at)] for at in np.linspace(0, len(places) - 1, MOST_OUTPUTS)]
    return {f"{name}: {place}": binned(*(pd.Series(found[place][0]) for found in outputs)) for place in places}


def binned(current: pd.Series[Any], reference: pd.Series[Any]) -> Pair:
    """Both samples as category labels by the bins of *reference*; at most MOST_ROWS evenly spaced rows of each."""
    current, reference = _thinned(current), _thinned(reference)
    if _numeric(reference):
        values = np.asarray(reference, dtype=np.float64)
        edges = _edges(values[np.isfinite(values)])
        if edges.size:
            return _numbers_by_edges(current, edges), _by_edges(values, edges)
    known = _texts(reference)
    names, counts = np.unique(known[known != MISSING], return_counts=True)
    frequent = names[np.argsort(-counts, kind="stable")][
        : min(MOST_CATEGORIES, int((counts >= RARE * known.size).sum()))
    ]
    kept = set(frequent) | {MISSING}
    return _kept(_texts(current), kept), _kept(known, kept)


def _thinned(column: pd.Series[Any]) -> pd.Series[Any]:
    if len(column) <= MOST_ROWS:
        return column
    return column.iloc[np.linspace(0, len(column) - 1, MOST_ROWS).astype(int)]


def _numeric(column: pd.Series[Any]) -> bool:
    """Numbers, also where nulls made objects of them; booleans are categories."""
    import pandas as pd

    if column.dtype == object:
        return all(
            isinstance(value, int | float | np.number) and not isinstance(value, bool) for value in column.dropna()
        )
    return bool(pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column))


def _edges(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Inner edges of the deciles; a value that many rows share gets an edge on each of its sides."""
    if not values.size:
        return values
    edges = np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1])
    distinct, counts = np.unique(values, return_counts=True)
    ties = distinct[counts >= TIE * values.size]
    return np.unique(np.concatenate([edges, ties, np.nextafter(ties, np.inf)]))


def _by_edges(values: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> Labels:
    texts = ["-inf", *(f"{edge:.6g}" for edge in edges), "inf"]
    names = np.array([f"{i:02d}: {texts[i]} to {texts[i + 1]}" for i in range(edges.size + 1)])
    return np.where(np.isnan(values), MISSING, names[np.digitize(values, edges)])


def _numbers_by_edges(column: pd.Series[Any], edges: npt.NDArray[np.float64]) -> Labels:
    """As ``_by_edges``, of a column in which values that are no numbers are the rest."""
    labels = _by_edges(numbers(column), edges)
    if _numeric(column):
        return labels
    foreign = np.array(
        [not (isinstance(value, int | float | np.number) or value is None) for value in column], dtype=bool
    )
    return np.where(foreign, OTHER, labels)


def _texts(column: pd.Series[Any]) -> Labels:
    nulls = np.asarray([value is None or value != value for value in column], dtype=bool)
    return np.where(nulls, MISSING, np.array([str(value) for value in column], dtype=np.str_))


def _kept(labels: Labels, kept: set[str]) -> Labels:
    return np.where(np.isin(labels, sorted(kept)), labels, OTHER)


def _harmless_pair(pair: Pair) -> Pair:
    """Both samples with harmless texts for labels, the same one for the same label."""
    current, reference = pair
    texts = harmless(np.unique(np.concatenate(pair)).tolist())
    if all(text == label for label, text in texts.items()):
        return pair
    return np.array([texts[label] for label in current]), np.array([texts[label] for label in reference])


def _evidently(pairs: dict[str, Pair], threshold: float, html: Path | None) -> dict[str, float]:
    """Evidently's score of each pair in one report. Shorter columns are padded with nulls, which it leaves out.

    Names and categories are harmless texts in it: Evidently writes them into its pages as they are, where they would be
    markup.
    """
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    names = harmless(pairs)
    shown = {names[name]: _harmless_pair(pair) for name, pair in pairs.items()}
    definition = DataDefinition(categorical_columns=list(shown))

    def dataset(side: int) -> Any:
        columns = {name: pd.Series(pair[side], dtype=object) for name, pair in shown.items()}
        return Dataset.from_pandas(pd.DataFrame(columns), data_definition=definition)

    report = Report([ValueDrift(column=name, method=METHOD, threshold=threshold) for name in shown])
    snapshot = report.run(dataset(0), dataset(1))
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(sealed(snapshot.get_html_str(as_iframe=False)), encoding="utf-8")
    found = [float(metric["value"]) for metric in snapshot.dict()["metrics"]]
    return dict(zip(pairs, found, strict=True))
