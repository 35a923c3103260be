"""What is known when a flight departs: the inputs that every version of the model takes, raw and in one order.

Whatever a version derives from them it derives inside its own pipeline, so that all versions share one signature. Units
are those of the source: minutes of delay, miles, degrees Fahrenheit, percent, miles per hour, inches, hectopascal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

WORDS = ("carrier", "origin", "dest")
SCHEDULE = ("distance", "sched_dep_time", "sched_arr_time", "weekday", "dep_delay")
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib")
PLANE = ("plane_year", "seats")
NUMBERS = SCHEDULE + WEATHER + PLANE
OPTIONAL = WEATHER + PLANE  # a station that did not report, a plane that is in no register
INPUTS = WORDS + NUMBERS


def signature() -> Any:
    """The MLflow signature of every version: INPUTS by name and type, one class (0 on time, 1 late) out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    inputs = [ColSpec("string", name) for name in WORDS]
    inputs += [ColSpec("double", name, required=name not in OPTIONAL) for name in NUMBERS]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema([ColSpec("long", "late")]))


def bodies(flights: pd.DataFrame) -> Iterator[bytes]:
    """One ``/invocations`` body (dataframe_split, one row) per flight, in order. Missing values are null."""
    import orjson

    head = b'{"dataframe_split":{"columns":' + orjson.dumps(list(INPUTS)) + b',"data":['
    for row in flights[list(INPUTS)].itertuples(index=False, name=None):
        yield head + orjson.dumps(row) + b"]}}"  # orjson writes NaN as null
