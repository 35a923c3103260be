"""What a demo came to: the table on the console, ``report.json`` and a self-contained ``report.html``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

HEADINGS = ("version", "verdict", "why", "requests", "failed", "candidate failed", "seconds to last bad answer")


@dataclass(frozen=True)
class ReleaseRow:
    """One release as ledger and client saw it.

    ``requests`` and ``failed`` are the client's own counts from the release's start to the next one's;
    ``candidate_failed`` are answers the baseline gave in the candidate's place. ``seconds_to_last_bad_answer``: from the
    decision to the last answer that the losing arm gave a client, 0 where it gave none after it.
    """

    version: int
    verdict: str
    reason: str
    requests: int
    failed: int
    candidate_failed: int
    seconds_to_last_bad_answer: float
    mlflow_run_id: str
    mlflow_page: str = ""


@dataclass(frozen=True)
class DemoReport:
    """The whole demo. ``problems``: what is not as it must be, in words; none means success."""

    releases: tuple[ReleaseRow, ...]
    requests: int
    failed: int
    seconds: float
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    urls: Mapping[str, str] | None = None

    @property
    def ok(self) -> bool:
        """Whether every verdict was the expected one and no request failed."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """The keys of ``report.json``."""
        rows = [asdict(row) for row in self.releases]
        return {"releases": rows, "requests": self.requests, "failed": self.failed, "seconds": round(self.seconds, 1)}


def _cells(row: ReleaseRow) -> tuple[str, ...]:
    counts = (f"{row.requests:,}", f"{row.failed:,}", f"{row.candidate_failed:,}")
    return (str(row.version), row.verdict, row.reason, *counts, f"{row.seconds_to_last_bad_answer:.2f}")


def _total(report: DemoReport) -> str:
    return f"{report.requests:,} requests, {report.failed:,} failed, {report.seconds:.0f} s"


def table(report: DemoReport) -> Table:
    """The table that ends the demo, readable at 80 columns: of each reason the first clause; the report has all."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    found = Table(title="flights", caption=_total(report), box=SIMPLE_HEAD, padding=(0, 1, 0, 0), expand=True)
    for heading in HEADINGS:
        longest = max(map(len, (heading, "ROLLBACK")[heading == "verdict"].split()))
        if heading == "why":
            found.add_column(heading, ratio=1)
        else:
            found.add_column(heading, justify="left" if heading == "verdict" else "right", width=longest)
    for row in report.releases:
        number, verdict, why, *counts = _cells(row)
        first, more, _ = why.partition("; ")
        style = "green" if row.verdict == "PROMOTE" else "yellow"
        found.add_row(number, verdict, f"{first}; …" if more else first, *counts, style=style)
    return found


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Shipway demo: flights</title><style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430; }
table { border-collapse: collapse; width: 100%; } th, td { padding: .45rem .6rem; border-bottom: 1px solid #d7dce3; }
th { text-align: left; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
.PROMOTE { color: #0a6b35; font-weight: 600; } .ROLLBACK { color: #9a4b00; font-weight: 600; } .bad { color: #b00020; }
</style></head><body><h1>Flights: every version to its verdict</h1>
<p>{{ total }}{% if not report.ok %} <span class="bad">— not as expected</span>{% endif %}</p>
<table><thead><tr>{% for heading in headings %}<th>{{ heading }}</th>{% endfor %}</tr></thead><tbody>
{% for row, cells in rows %}<tr><td class="n">{{ cells[0] }}</td><td class="{{ row.verdict }}">{{ cells[1] }}</td>
<td>{{ cells[2] }}</td>{% for cell in cells[3:] %}<td class="n">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table>
<p>Failed is what the client saw. Candidate failed is what the candidate failed or answered too late and the baseline
answered in its place. The last column is the time from the decision to the last answer of the losing arm.</p>
{% if report.problems %}<h2>Problems</h2><ul>{% for one in report.problems %}<li class="bad">{{ one }}</li>{% endfor %}</ul>{% endif %}
<ul>{% for one in report.notes %}<li>{{ one }}</li>{% endfor %}
{% for row in report.releases %}<li>version {{ row.version }}: MLflow run
{% if row.mlflow_page %}<a href="{{ row.mlflow_page }}">{{ row.mlflow_run_id }}</a>{% else %}{{ row.mlflow_run_id }}{% endif %}</li>{% endfor %}
{% for name, url in (report.urls or {}).items() %}<li>{{ name }}: <a href="{{ url }}">{{ url }}</a></li>{% endfor %}</ul>
</body></html>
"""


def write_report(report: DemoReport, folder: Path) -> None:
    """Writes ``report.json`` and ``report.html`` (no outside resource) into *folder*."""
    from jinja2 import Environment, StrictUndefined

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report.to_json(), indent=2) + "\n")
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(PAGE)
    rows = [(row, _cells(row)) for row in report.releases]
    html = page.render(report=report, rows=rows, headings=HEADINGS, total=_total(report))
    (folder / "report.html").write_text(html)
