"""A bar chart of rates as SVG, on a logarithmic scale: one group a model, one bar a server."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.ratios import found, models_of

SERVERS = {
    "shipway": "#0b6e4f",
    "shipway-gateway": "#6bbf9c",
    "mlserver-batching": "#c9a227",
    "mlserver": "#e0c46c",
    "kserve": "#3b6ea8",
    "litserve": "#8a5fb0",
    "bentoml": "#c8553d",
    "mlflow": "#7a7a7a",
    "bare": "#222222",
}
LEFT, RIGHT, BAR, GAP, TOP, BOTTOM = 215, 90, 13, 20, 34, 40
WIDTH = 860


def bars(results: Sequence[Mapping[str, Any]], rows: int = 1) -> str:
    """The chart of requests a second with *rows* rows; whiskers are slowest and fastest round."""
    groups = [
        (model, [(name, one) for name in SERVERS if (one := found(results, model, name, rows)) is not None])
        for model in models_of(results)
    ]
    groups = [(model, servers) for model, servers in groups if servers]
    rates = [one["requests_per_second"][key] for _, servers in groups for _, one in servers for key in ("min", "max")]
    low = 10 ** math.floor(math.log10(min(rates, default=1.0)))
    high = 10 ** math.ceil(math.log10(max(rates, default=10.0) * 1.0001))
    height = TOP + BOTTOM + sum(BAR * len(servers) + GAP for _, servers in groups)

    def x(rate: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(rate / low) / math.log(high / low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' font-family="system-ui, sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-size="13">Requests a second, one worker, {rows} row{"s" if rows > 1 else ""} a request'
        " (logarithmic)</text>",
    ]
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        at = x(10.0**power)
        parts.append(f'<path d="M{at:.1f} {TOP}V{height - BOTTOM}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{height - BOTTOM + 16}" text-anchor="middle" fill="#555">{10**power:,}</text>'
        )
    y = TOP
    for model, servers in groups:
        y += GAP
        parts.append(f'<text x="{LEFT - 8}" y="{y - 5}" text-anchor="end" font-weight="bold">{escape(model)}</text>')
        for name, one in servers:
            parts += _bar(name, one["requests_per_second"], x, y)
            y += BAR
    return "\n".join([*parts, "</svg>\n"])


def _bar(name: str, rate: Mapping[str, float], x: Any, y: int) -> list[str]:
    start, end, middle = x(rate["min"]), x(rate["max"]), y + BAR / 2 - 1
    width = max(1.0, x(rate["median"]) - LEFT)
    return [
        f'<text x="{LEFT - 8}" y="{y + BAR - 3}" text-anchor="end">{escape(name)}</text>',
        f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 2}" fill="{SERVERS[name]}"/>',
        f'<path d="M{start:.1f} {middle}H{end:.1f}" stroke="black"/>',
        f'<text x="{max(end, LEFT + width) + 4:.1f}" y="{y + BAR - 3}">{rate["median"]:,.0f}</text>',
    ]
