"""The report says outcome and reason first, loads nothing from elsewhere, and escapes what strangers wrote."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest

from monitoring.evidence.evidence import ColumnDrift, Drift, Evidence
from monitoring.interface import MetricVerdict, Outcome, Verdict
from monitoring.ledger.release import Release
from monitoring.log.tables import ANSWERS, REQUESTS
from monitoring.report.report import Moment, markdown, render, timeline
from monitoring.report.summary import Summary, summarise

SECOND = 1_000_000_000
RELEASE = Release(
    run_id="f" * 32,
    model="flights",
    candidate="4",
    baseline="2",
    attempt=1,
    opened_at=1_700_000_000.0,
    facts={"began.shadow": "1700000002.5", "began.split-10": "1700000060"},
    open=False,
    outcome="ROLLED_BACK",
    reason="error rate 0.084 > 0.000 + 0.010 (n=412) <script>",
    closed_at=1_700_000_090.0,
    policy_source="policies/default.yaml",
    record_hash="sha256:abc",
    sequence=4,
)
WHY = "error rate 0.084 > 0.010 | n=412"
VERDICT = {
    **Verdict("split", Outcome.ROLLBACK, (MetricVerdict("error_rate", Outcome.ROLLBACK, WHY),), "2", "4").to_json(),
    "evidence": "evidence/split-10",
}


def evidence(n: int = 200) -> Evidence:
    """A split where every tenth request to the candidate (a half of all) failed and fell back."""
    ids = [f"r{number}" for number in range(n)]
    mine = np.arange(n) % 2 == 1
    fell = mine & (np.arange(n) % 20 == 1)
    requests: pd.DataFrame = pd.DataFrame(
        {
            "seq": range(n), "request_id": ids, "time_ns": [number * SECOND for number in range(n)], "stage": "split",
            "assigned": np.where(mine, "candidate", "baseline"), "fallback": fell, "mirrored": False, "rows": 1,
            "baseline_status": [200 if one else None for one in ~mine | fell],
            "candidate_status": [(500 if bad else 200) if one else None for one, bad in zip(mine, fell, strict=True)],
            "baseline_ms": np.where(mine, np.nan, 5.0), "candidate_ms": np.where(mine, 10.0, np.nan), "error": None,
        }
    ).astype(REQUESTS)  # fmt: skip
    values: dict[str, Any] = dict.fromkeys(ANSWERS)
    answers = pd.DataFrame({**values, "seq": range(n), "request_id": ids, "row": 0, "baseline": 1, "candidate": 1})
    answers.loc[:4, "candidate"] = 0
    answers.loc[:2, "label"] = 1
    drift = Drift(inputs=(ColumnDrift("distance", "psi", 0.4, 0.25, n),), rows=n, note="no reference predictions")
    counters = {"candidate": {"requests": 100}}
    return Evidence(
        "flights", "split", "2", "4", 0, n * SECOND, requests, answers, pd.DataFrame(), drift, 3, counters, 2, ("note one",)
    )  # fmt: skip


class Outside(HTMLParser):
    """Collects what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.opened: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append(tag)
        self.loads += [f"{tag} {value}" for name, value in attrs if name in ("src", "srcset") or (tag == "link")]


def test_summary_counts_by_assignment() -> None:
    summary = summarise(evidence(), "split-10")
    assert summary.counts == {
        "requests": 200,
        "assigned to the candidate": 100,
        "mirrored to the candidate": 0,
        "failed by the candidate": 10,
        "of those, answered by the baseline": 10,
        "failed by the baseline": 0,
        "joined answers": 200,
        "joined answers that differ": 5,
        "labelled answers": 3,
        "rows outside the signature": 3,
        "records that servers could not log": 2,
    }
    assert summary.latency == {"baseline": (5.0, 5.0, 5.0), "candidate": (10.0, 10.0, 10.0)}
    assert summary.drifted == (("distance", 0.4, 0.25),)
    assert summary.series["answers that differ"][:2] == pytest.approx((1.0, 0.0))
    assert sum(summary.series["failed by the candidate"]) * 5 == pytest.approx(10)


def test_summary_of_nothing() -> None:
    empty = evidence(20)
    empty = replace(empty, requests=empty.requests[:0], answers=empty.answers[:0])
    summary = summarise(empty)
    assert summary.counts["requests"] == 0 and summary.latency["candidate"] is None
    assert "no answers" in render(RELEASE, [], [summary])


@pytest.fixture
def summary() -> Summary:
    return summarise(evidence(), "split-10")


def test_html_says_outcome_and_reason_first(summary: Summary) -> None:
    page = render(RELEASE, [VERDICT], [summary], {"MLflow": "http://127.0.0.1:1/r", "bad": "javascript:alert(1)"})
    body = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page[page.index("<body>") :])).strip()
    assert body.startswith("ROLLED_BACK flights version 4 error rate 0.084 &gt; 0.000 + 0.010 (n=412) &lt;script&gt;")
    assert "error rate 0.084 &gt; 0.010 | n=412" in body
    assert "2023-11-14 22:13:22 UTC +2.5 s shadow began" in body
    assert 'href="http://127.0.0.1:1/r"' in page and 'href="javascript' not in page
    outside = Outside()
    outside.feed(page)
    assert outside.loads == [] and "script" not in outside.opened and "@import" not in page and "url(" not in page
    assert page.count("<svg") == 2 and "<rect" in page


def test_markdown_says_the_same(summary: Summary) -> None:
    text = markdown(
        RELEASE, [VERDICT], [summary], {"MLflow": "http://127.0.0.1:1/r"}, [Moment(1_700_000_070.0, "killed")]
    )
    lines = text.splitlines()
    assert lines[0] == "# ROLLED_BACK: flights version 4"
    assert lines[2].startswith("**error rate 0.084 ")
    assert "- [MLflow](http://127.0.0.1:1/r)" in lines
    assert "## split-10: ROLLBACK" in lines
    assert "| error\\_rate | ROLLBACK | error rate 0.084 \\> 0.010 \\| n=412 |" in lines
    assert lines[-2].endswith("(+70.0 s) killed")


def test_it_says_where_the_time_went_and_how_long_the_candidate_had() -> None:
    facts = {"seconds.check": "3.250", "seconds.vet": "12.04", "candidate_timeout.split-10": "1.5 s: 3 x the 0.5 s"}
    release = replace(RELEASE, facts={**RELEASE.facts, **facts})
    text, page = markdown(release, []), render(release, [])
    assert text.index("| vet | 12.0 |") < text.index("| check | 3.2 |")
    assert re.search(r"<td>vet</td><td class=.n.>12\.0</td>.*<td>check</td><td class=.n.>3\.2</td>", page, re.DOTALL)
    for said in (text, page):
        assert "split-10 began; the candidate's time-out is 1.5 s: 3 x the 0.5 s" in said.replace("&#39;", "'")
    assert "Where the time went" not in markdown(RELEASE, []) + render(RELEASE, [])


def test_an_open_first_version() -> None:
    release = replace(RELEASE, baseline=None, open=True, outcome="", reason="", closed_at=None, record_hash="")
    assert "none: a first version" in render(release, []) and "not decided yet" in render(release, [])
    assert markdown(release, []).startswith("# OPEN: flights version 4")
    assert [moment.what for moment in timeline(release)] == ["opened", "shadow began", "split-10 began"]
