"""The release report for a person on call: outcome and reason first, then why, when, and the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monitoring.ledger.release import CANDIDATE_TIMEOUT, SECONDS, Release
from monitoring.report.summary import Summary

PARTS = ("start", "vet", "fetch", "environment", "conversion", "seal", "image", "build", "deploy", "check", "shadow")
BEGAN = "began."  # facts that say when a stage began, in unix seconds
WIDTH, BASE, HEIGHT = 640.0, 110.0, 90.0


@dataclass(frozen=True)
class Moment:
    """Something that happened, at a unix time in seconds."""

    at: float
    what: str


def render(
    release: Release,
    verdicts: Sequence[Mapping[str, Any]],
    summaries: Sequence[Summary] = (),
    links: Mapping[str, str] | None = None,
    moments: Sequence[Moment] = (),
) -> str:
    """One HTML page that loads nothing from elsewhere.

    *verdicts* are ``Verdict.to_json()`` values in the order they were reached, *links* names and URLs, *moments* what
    the timeline shows besides the release's opening, stages and end.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("release.html.j2").render(
        release=release,
        verdicts=[{**verdict, "title": _title(verdict)} for verdict in verdicts],
        links=dict(links or {}),
        timeline=[_row(release, moment) for moment in timeline(release, moments)],
        durations=durations(release),
        windows=[{"summary": summary, "charts": _charts(summary)} for summary in summaries],
    )


def markdown(
    release: Release,
    verdicts: Sequence[Mapping[str, Any]],
    summaries: Sequence[Summary] = (),
    links: Mapping[str, str] | None = None,
    moments: Sequence[Moment] = (),
) -> str:
    """The same, shorter, as Markdown; arguments as of ``render``."""
    against = f"version {release.baseline}" if release.baseline else "none (a first version)"
    lines = [
        f"# {release.outcome or 'OPEN'}: {markdown_text(release.model)} version {release.candidate}",
        "",
        f"**{markdown_text(release.reason) or 'not decided yet'}**",
        "",
        f"Baseline: {against}. Attempt {release.attempt}. Policy: {markdown_text(release.policy_source)}. Run `{release.run_id}`.",
        "",
    ]
    lines += [f"- [{markdown_text(name)}]({url})" for name, url in (links or {}).items()]
    for verdict in verdicts:
        lines += [
            "",
            f"## {markdown_text(_title(verdict))}: {verdict['outcome']}",
            "",
            "| metric | verdict | why |",
            "|---|---|---|",
        ]
        lines += [
            f"| {markdown_text(metric['metric'])} | {metric['outcome']} | {markdown_text(metric['why'])} |"
            for metric in verdict["metrics"]
        ]
    for summary in summaries:
        lines += ["", f"## Evidence: {markdown_text(summary.name)}", "", "| count | |", "|---|---:|"]
        lines += [f"| {markdown_text(name)} | {value} |" for name, value in summary.counts.items()]
    if parts := durations(release):
        lines += ["", "## Where the time went", "", "| part | seconds |", "|---|---:|"]
        lines += [f"| {markdown_text(name)} | {seconds:.1f} |" for name, seconds in parts.items()]
    lines += ["", "## What happened when", ""]
    for moment in timeline(release, moments):
        row = _row(release, moment)
        lines.append(f"- {row['clock']} ({row['after']}) {markdown_text(row['what'])}")
    return "\n".join(lines) + "\n"


def timeline(release: Release, moments: Sequence[Moment] = ()) -> list[Moment]:
    """What is known to have happened, in order: the opening, each stage's begin (facts ``began.<stage>``), the end."""
    known = [Moment(release.opened_at, "opened")]
    for name, value in release.facts.items():
        if name.startswith(BEGAN):
            stage = name.removeprefix(BEGAN)
            seconds = release.facts.get(f"{CANDIDATE_TIMEOUT}{stage}")
            had = f"; the candidate's time-out is {seconds}" if seconds else ""
            known.append(Moment(float(value), f"{stage} began{had}"))
    if release.closed_at is not None:
        known.append(Moment(release.closed_at, f"closed as {release.outcome}"))
    return sorted([*known, *moments], key=lambda moment: moment.at)


def durations(release: Release) -> dict[str, float]:
    """Seconds that each part of the way to the shadow took, in the order of that way; build is what its parts are in."""
    noted = {name: release.facts.get(f"{SECONDS}{name}") for name in PARTS}
    return {name: float(seconds) for name, seconds in noted.items() if seconds is not None}


def _row(release: Release, moment: Moment) -> dict[str, str]:
    clock = datetime.fromtimestamp(moment.at, UTC)
    after = moment.at - release.opened_at
    return {"clock": f"{clock:%Y-%m-%d %H:%M:%S} UTC", "after": f"{after:+.1f} s", "what": moment.what}


def _title(verdict: Mapping[str, Any]) -> str:
    """``split-10`` where the verdict names its evidence so, else its stage."""
    return str(verdict.get("evidence", verdict["stage"])).removeprefix("evidence/")


def _charts(summary: Summary) -> list[dict[str, Any]]:
    """Bars for each series, scaled to its own top."""
    charts = []
    whole = (summary.ended_ns - summary.started_ns) / 1e9
    for title, shares in summary.series.items():
        known = [share for share in shares if share == share]
        top = max(known, default=0.0)
        width = WIDTH / len(shares)
        bars = [
            {
                "x": f"{number * width:.1f}",
                "y": f"{BASE - share / top * HEIGHT:.1f}",
                "width": f"{width * 0.85:.1f}",
                "height": f"{share / top * HEIGHT:.1f}",
                "title": f"{second:.0f} s: {share:.1%}",
            }
            for number, (second, share) in enumerate(zip(summary.seconds, shares, strict=True))
            if share == share and share > 0
        ]
        charts.append({"title": f"Share {title}", "top": f"{top:.1%}", "bars": bars, "end": f"{whole:.0f}"})
    return charts


def markdown_text(value: str) -> str:
    """*value* on one line, with nothing that Markdown or a table would take for its own."""
    flat = " ".join(value.split())
    for mark in "\\`|<>[]*_":
        flat = flat.replace(mark, f"\\{mark}")
    return flat
