"""What a run found, as text and as the serving part of docs/benchmarks.md: ``python -m benchmarks.report``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.plot import bars
from benchmarks.ratios import found, models_of, over_peers

RESULT = Path(".shipway/bench/serving.json")
PAGE = Path("docs/benchmarks.md")
PLOT = Path("docs/assets/serving.svg")
BEGIN, END = "<!-- serving: python -m benchmarks.report -->", "<!-- /serving -->"
RATIOS = {
    "mlflow": "`mlflow models serve`",
    "peer": "best peer",
    "tuned": "best peer, tuned ones too",
    "bare": "bare server (uvicorn)",
    "bare-shipway": "bare server, Shipway's protocol",
}
Run = Mapping[str, Any]


class PageError(Exception):
    """A page without the place for the report."""


def main() -> None:
    """Renders the last run into PAGE and PLOT."""
    run = json.loads(RESULT.read_text())
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    PLOT.write_text(bars(run["results"]))
    PAGE.write_text(placed(PAGE.read_text(), markdown(run)))
    print(f"written to {PAGE} and {PLOT}")


def placed(page: str, report: str) -> str:
    """*page* with *report* between its two markers. Raises PageError where it has not exactly one pair."""
    before, begin, rest = page.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in after:
        raise PageError(f"expected one {BEGIN} and one {END} after it")
    return f"{before}{BEGIN}\n{report}\n{END}{after}"


def table(run: Run) -> str:
    """The run for a terminal."""
    lines = [_line(one) for one in run["results"]]
    for rows in (1, 100):
        for model, ratios in over_peers(run["results"], rows).items():
            said = ", ".join(f"{one} x {RATIOS[name]} ({one.to})" for name, one in ratios.items())
            lines.append(f"{model}, {rows} rows: shipway {said}")
    lines += [f"{one['server']} at {one['rate']:.0f}/s: p50 {one['p50_ms']:.3f} ms" for one in run["light"]]
    for model, cost in run["costs"].items():
        lines.append(
            f"{model}: decode and check {cost['decode_and_check_us']:.1f} us, of it check {cost['check_us']:.1f}"
        )
    lines += [
        f"{one['model']} ({one['runtime']}): ready after {one['ready_seconds']['median']:.2f} s, {one['memory_mb']:.0f} MB"
        for one in run["start"]
    ]
    lines += [
        f"{one['model']}: batch {one['way']} {one['rows_per_second']:,.0f} rows/s of {one['rows']:,}, {one['peak_mb']:.0f} MB"
        for one in run["batch"]
    ]
    lines += [f"LEFT OUT {one['server']}: {one['reason']}" for one in run["left_out"]]
    return "\n".join(lines)


def _line(one: Run) -> str:
    rate = one["requests_per_second"]
    text = (
        f"{one['model']:30} {one['server']:25} {one['rows']:3} {rate['median']:8.0f}/s ({rate['min']:.0f} to {rate['max']:.0f})"
        f"  p50 {one['p50_ms']:.2f}  p99 {one['p99_ms']:.2f} ms  {one['requests_per_cpu_second']:8.0f} per CPU second"
        f"  CPUs {one['server_cpus']:.2f} + {one['client_cpus']:.2f} client"
    )
    if loop := one.get("open_loop"):
        text += f"  at 70 %: p50 {loop['p50_ms']:.2f}  p99 {loop['p99_ms']:.2f} (late {loop['late_p99_ms']:.2f}) ms"
    return text


def markdown(run: Run) -> str:
    """The run as the section of docs/benchmarks.md between the markers."""
    machine = run["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in run["versions"].items() if "==" not in number)
    peers = "; ".join(f"{name}: {pins}" for name, pins in run["versions"].items() if "==" in pins)
    out = [
        f"{run['date']}, `{run['command']}`, {run['seconds']} s; {machine['processor']}, {machine['processors']} processors,"
        f" Python {machine['python']}, load {machine['load_before']:.1f} before it began. Load by {run['load']}.",
        f"On the servers' core nothing ran for {run['stalls']['share_percent']:.1f} % of the time before, whatever wanted to:"
        f" one of a hundred would have waited {run['stalls']['wait_p99_ms']:.2f} ms or more for the machine alone.",
        "",
        f"{packages}. Peers: {peers or 'none'}.",
    ]
    out += [f"**Left out:** {one['server']}: {one['reason']}" for one in run["left_out"]]
    out += ["", "![Requests a second](assets/serving.svg)", "", "### Ratios", "", *_ratios(run)]
    for rows in (1, 100):
        if any(one["rows"] == rows for one in run["results"]):
            out += ["", f"### {rows} row{'s' if rows > 1 else ''} a request", "", *_rates(run, rows)]
    out += _light(run) + _costs(run) + _start(run) + _batch(run)
    return "\n".join(out)


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


def _ratios(run: Run) -> list[str]:
    """Shipway over the others: median (slowest round over the other's fastest to fastest over slowest)."""
    rows = []
    for size in (1, 100):
        for model, ratios in over_peers(run["results"], size).items():
            cells = [f"{ratios[name]} x {ratios[name].to}" if name in ratios else "" for name in RATIOS]
            runtime = run["runtimes"].get(model, {}).get("runtime", "")
            rows.append([model, runtime, str(size), *cells])
    return _grid(["model", "runtime", "rows", *RATIOS.values()], rows)


def _rates(run: Run, rows: int) -> list[str]:
    head = [
        "model",
        "server",
        "requests/s (min to max)",
        "p50 ms",
        "p99 ms",
        "per CPU second",
        "CPUs: server, client",
        "MB",
    ]
    open_loop = rows == 1
    cells = []
    for model in models_of(run["results"]):
        for one in (one for one in run["results"] if one["model"] == model and one["rows"] == rows):
            rate, loop = one["requests_per_second"], one.get("open_loop")
            row = [model, one["server"], f"{rate['median']:,.0f} ({rate['min']:,.0f} to {rate['max']:,.0f})"]
            row += [f"{one['p50_ms']:.2f}", f"{one['p99_ms']:.2f}", f"{one['requests_per_cpu_second']:,.0f}"]
            row += [f"{one['server_cpus']:.2f}, {one['client_cpus']:.2f}", f"{one['memory_mb']:.0f}"]
            if open_loop:
                row.append(f"{loop['p50_ms']:.2f}, {loop['p99_ms']:.2f}" if loop else "")
            cells.append(row)
    return _grid([*head, *(["at 70 %: p50, p99 ms"] if open_loop else [])], cells)


def _light(run: Run) -> list[str]:
    if not run["light"]:
        return []
    first = run["light"][0]["server"]
    alone = {one["rate"]: one["p50_ms"] for one in run["light"] if one["server"] == first}
    rows = [
        [
            f"{one['rate']:,.0f}",
            one["server"],
            f"{one['p50_ms']:.3f}",
            f"{one['p50_ms'] - alone[one['rate']]:+.3f}",
            f"{one['p99_ms']:.2f}",
        ]
        for one in run["light"]
    ]
    head = ["requests/s", "server", "p50 ms", f"beside {first}", "p99 ms"]
    return ["", "### What the gateway adds, far from capacity", "", *_grid(head, rows)]


def _costs(run: Run) -> list[str]:
    out = []
    for model, cost in run["costs"].items():
        on, off = (found(run["results"], model, name, 1) for name in ("shipway", "shipway-no-log"))
        if on is None:
            continue
        each = 1e6 / on["requests_per_cpu_second"]
        text = (
            f"- {model}: decoding and checking a request takes {cost['decode_and_check_us']:.1f} µs in-process, parsing the same"
            f" bytes into one array {cost['parse_us']:.1f} µs; the difference is {100 * cost['check_us'] / each:.1f} %"
            f" of the {each:.0f} µs of processor time that the server takes for a request"
        )
        if off is not None:
            share = 1 - on["requests_per_second"]["median"] / off["requests_per_second"]["median"]
            text += f". The prediction log costs {100 * share:.1f} % of throughput (beside a server without it)"
        out.append(f"{text}.")
    return ["", "### What schema check and prediction log cost", "", *out] if out else []


def _start(run: Run) -> list[str]:
    rows = [
        [one["model"], one["runtime"], "{median:.2f} ({min:.2f} to {max:.2f})".format(**one["ready_seconds"]), f"{one['memory_mb']:.0f}", f"{one['proportional_mb']:.0f}"]
        for one in run["start"]
    ]  # fmt: skip
    head = ["model", "runtime", "exec → ready, s", "MB resident", "MB proportional"]
    return ["", "### Start and memory of a worker", "", *_grid(head, rows)] if rows else []


def _batch(run: Run) -> list[str]:
    raw = {(one["model"], one["rows"]): one["rows_per_second"] for one in run["batch"] if one["way"] == "raw"}
    rows = []
    for one in run["batch"]:
        base = raw.get((one["model"], one["rows"]))
        over = f"{one['rows_per_second'] / base:.2f}" if base else ""
        memory = f"{one['peak_mb']:.0f}"
        rows.append([one["model"], one["way"], f"{one['rows']:,}", f"{one['rows_per_second']:,.0f}", over, memory])
    return ["", "### Batch", "", *_grid(["model", "way", "rows", "rows/s", "of raw", "peak MB"], rows)] if rows else []


if __name__ == "__main__":
    main()
