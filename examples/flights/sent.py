"""What the client saw: one ``Sent`` per request, and the counts of a period."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Sent:
    """One request as the client saw it. Times are unix seconds.

    ``failure`` is empty for an answer with status 2xx and a prediction, else late (not sent: its time had passed),
    refused, reset, timeout, malformed or ``http <status>``. ``flight`` is the row in the replayed flights.
    """

    period: str
    flight: int
    day: str
    due: float
    sent: float
    done: float
    failure: str
    status: int = 0
    version: str = ""
    arm: str = ""
    fallback: str = ""  # "candidate/<version>" where the baseline answered in the candidate's place
    request_id: str = ""
    prediction: int | None = None


@dataclass
class Tally:
    """Counts of one period, kept while it runs."""

    requests: int = 0
    failed: int = 0
    fallbacks: int = 0  # answered by the baseline in the candidate's place
    labels: int = 0  # posted
    labels_failed: int = 0  # could not be posted
    failures: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    latest_ms: float = 0.0  # how late the latest request was sent
    slowest_ms: float = 0.0

    def add(self, sent: Sent) -> None:
        """Counts one request."""
        self.requests += 1
        self.latest_ms = max(self.latest_ms, (sent.sent - sent.due) * 1000)
        if sent.failure:
            self.failed += 1
            self.failures[sent.failure] += 1
            return
        self.slowest_ms = max(self.slowest_ms, (sent.done - sent.sent) * 1000)
        self.fallbacks += bool(sent.fallback)
        self.versions[sent.version] += 1

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


def write_sent(rows: Iterable[Sent], path: Path) -> None:
    """Writes every request to a Parquet file, one column per field."""
    import pandas as pd

    names = [one.name for one in fields(Sent)]
    frame = pd.DataFrame([[getattr(row, name) for name in names] for row in rows], columns=names)
    frame["prediction"] = frame["prediction"].astype("Int64")
    frame.to_parquet(path, index=False)


def read_sent(path: Path) -> pd.DataFrame:
    """What ``write_sent`` wrote."""
    import pandas as pd

    return pd.read_parquet(path)


def last_answer(sent: pd.DataFrame, version: str, *, since: float, until: float) -> float | None:
    """When (unix seconds) *version* last answered a client within [since, until]; None if it did not."""
    rows = sent[(sent["version"] == version) & (sent["done"] >= since) & (sent["done"] <= until)]
    return float(rows["done"].max()) if len(rows) else None
