"""The schema of live inputs as pandera sees it: the signature's types and nulls gate, the reference's ranges only tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.signature import Column, Signature

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pa

MOST_CATEGORIES = 50  # text columns with more distinct values in the reference are not held to them


@dataclass(frozen=True)
class Finding:
    """What one check of one column found: how many rows, one of their values, and whether it makes rows invalid."""

    column: str
    check: str
    rows: int
    example: str
    gating: bool


def count_invalid(
    frame: pd.DataFrame, signature: Signature, reference: pd.DataFrame | None = None
) -> tuple[int, tuple[Finding, ...]]:
    """How many rows of *frame* (input columns as they came) break the signature's types or nullability, and why.

    What "breaks" means is the serving plan's own conversion, so that the count is of rows the server refuses. A missing
    required column makes every row invalid. With *reference* its categories and ranges are checked too: told, not
    counted. Models that take tensors have no columns to check: 0.
    """
    columns = [column for column in signature.inputs if isinstance(column, Column) and column.name]
    if frame.empty or not columns:
        return 0, ()
    bad, findings = _failures(frame, _signature_schema(columns), gating=True)
    if reference is not None and not reference.empty:
        findings += _failures(frame, _reference_schema(columns, reference), gating=False)[1]
    return int(bad.sum()), tuple(findings)


def _signature_schema(columns: list[Column]) -> pa.DataFrameSchema:
    import pandera.pandas as pa

    checks = {column.name: _fits(column) for column in columns}
    return pa.DataFrameSchema(
        {
            column.name: pa.Column(None, checks[column.name], nullable=True, required=column.required)
            for column in columns
        }
    )


def _fits(column: Column) -> pa.Check:
    """Each value by the plan that the server itself uses for this column."""
    import pandas as pd
    import pandera.pandas as pa

    plan = InputPlan.compile(Signature((column,)))

    def fits(values: pd.Series[Any]) -> pd.Series[Any]:
        return pd.Series(~plan.bad_rows({column.name: values})[0], index=values.index)

    nulls = "" if column.required else " or null"
    return pa.Check(fits, name=f"{column.type}{nulls}", ignore_na=False)


def _reference_schema(columns: list[Column], reference: pd.DataFrame) -> pa.DataFrameSchema:
    import pandera.pandas as pa

    checks = {}
    for column in columns:
        if column.name in reference.columns and (check := _seen(column, reference[column.name].dropna())) is not None:
            checks[column.name] = pa.Column(None, check, nullable=True, required=False)
    return pa.DataFrameSchema(checks)


def _seen(column: Column, values: pd.Series[Any]) -> pa.Check | None:
    """Numbers within the reference's range, texts and booleans among its values."""
    import pandas as pd
    import pandera.pandas as pa

    if values.empty:
        return None
    if column.type in ("integer", "long", "float", "double"):
        low, high = float(values.min()), float(values.max())

        def within(live: pd.Series[Any]) -> pd.Series[Any]:
            numbers = pd.to_numeric(live, errors="coerce")
            return numbers.isna() | numbers.between(low, high)

        return pa.Check(within, name=f"{low:g} to {high:g} in the reference", ignore_na=False)
    if column.type in ("string", "boolean") and values.nunique() <= MOST_CATEGORIES:
        known = set(values)
        return pa.Check(
            lambda live: live.isna() | live.map(lambda value: isinstance(value, list | dict) or value in known),
            name=f"one of the reference's {len(known)} values",
            ignore_na=False,
        )
    return None


def _failures(frame: pd.DataFrame, schema: pa.DataFrameSchema, *, gating: bool) -> tuple[np.ndarray, list[Finding]]:
    """A mask of the rows with a failure, shape (rows,), and one finding per column and check."""
    import pandera.pandas as pa

    frame = frame.reset_index(drop=True)
    bad = np.zeros(len(frame), dtype=bool)
    try:
        schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        findings = []
        for (name, check), cases in error.failure_cases.groupby(["column", "check"], dropna=False, sort=False):
            if check == "column_in_dataframe":
                bad[:] = True
                findings.append(Finding(str(cases["failure_case"].iloc[0]), "column missing", len(frame), "", gating))
                continue
            if cases["index"].isna().any():
                raise
            bad[cases["index"].astype(int)] = True
            findings.append(
                Finding(str(name), str(check), len(cases), repr(cases["failure_case"].iloc[0])[:80], gating)
            )
        return bad, findings
    return bad, []
