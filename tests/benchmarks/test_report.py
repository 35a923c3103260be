"""A run as the page shows it."""

import json
from xml.etree import ElementTree

import pytest

from benchmarks.load import Load
from benchmarks.measure import Round, result
from benchmarks.plot import bars
from benchmarks.protocols import SCORING
from benchmarks.report import BEGIN, END, PageError, markdown, placed, table
from benchmarks.servers import Server


def server(name):
    return Server(name, 1, "/invocations", SCORING, ())


def rounds(*requests, cpu=0.5):
    return [Round(Load(number, 2.0, 1.0, 3.0, 0, 0.25), cpu) for number in requests]


def run():
    results = [
        {**result("logistic_regression", server("shipway"), 1, rounds(20_000, 24_000, 22_000)),
         "open_loop": {"p50_ms": 0.2, "p99_ms": 0.7, "late_p99_ms": 0.1}},
        result("logistic_regression", server("shipway-no-log"), 1, rounds(24_000, 24_000, 26_000)),
        result("logistic_regression", server("kserve"), 1, rounds(2_000, 2_400, 2_200)),
        result("logistic_regression", server("mlflow"), 1, rounds(200, 220, 240)),
    ]  # fmt: skip
    return {
        "command": "python -m benchmarks",
        "date": "2026-11-22",
        "seconds": 60,
        "machine": {"processor": "one", "processors": 2, "python": "3.11", "load_before": 0.1},
        "load": "wrk 4",
        "stalls": {"share_percent": 1.5, "wait_p99_ms": 0.7},
        "versions": {"shipway": "0.1", "kserve": "kserve==1 numpy==2"},
        "left_out": [{"server": "litserve", "reason": "no network"}],
        "runtimes": {"logistic_regression": {"runtime": "onnx"}},
        "results": results,
        "light": [
            {"server": "shipway", "rate": 200.0, "p50_ms": 0.2, "p99_ms": 1.0},
            {"server": "shipway-gateway", "rate": 200.0, "p50_ms": 0.45, "p99_ms": 1.0},
        ],
        "costs": {"logistic_regression": {"decode_and_check_us": 7.0, "parse_us": 2.0, "check_us": 5.0}},
        "start": [
            {"model": "logistic_regression", "runtime": "onnx", "memory_mb": 90.0, "proportional_mb": 80.0,
             "ready_seconds": {"min": 0.3, "median": 0.4, "max": 0.5}}
        ],
        "batch": [
            {"model": "logistic_regression", "way": "raw", "rows": 10, "rows_per_second": 200.0, "peak_mb": 5.0},
            {"model": "logistic_regression", "way": "shipway-loop", "rows": 10, "rows_per_second": 190.0, "peak_mb": 6.0},
        ],
    }  # fmt: skip


def test_a_result_has_the_keys_that_its_readers_rely_on_and_counts_over_all_rounds():
    found = json.loads(json.dumps(run()["results"][0]))
    assert {"model", "server", "rows", "requests_per_second", "p50_ms", "p99_ms", "requests_per_cpu_second"} <= set(
        found
    )
    assert found["requests_per_second"] == {"min": 10_000.0, "median": 11_000.0, "max": 12_000.0}
    assert found["requests_per_cpu_second"] == 66_000 / 1.5
    assert (found["server_cpus"], found["client_cpus"]) == (0.25, 0.125)


def test_the_page_says_ratios_rates_costs_and_what_was_left_out():
    page = markdown(run())
    assert "| logistic_regression | onnx | 1 | 100.0 (83.3 to 120.0) x mlflow | 10.0 (8.3 to 12.0) x kserve |" in page
    assert "| logistic_regression | shipway | 11,000 (10,000 to 12,000) | 1.00 | 3.00 | 44,000 |" in page
    assert "0.20, 0.70" in page
    assert "one of a hundred would have waited 0.70 ms or more" in page
    assert "| shipway-gateway | 0.450 | +0.250 | 1.00 |" in page
    assert "the difference is 22.0 % of the 23 µs" in page
    assert "The prediction log costs 8.3 % of throughput" in page
    assert "**Left out:** litserve: no network" in page
    assert "| logistic_regression | shipway-loop | 10 | 190 | 0.95 | 6 |" in page


def test_the_terminal_says_the_same_ratio_and_what_was_left_out():
    text = table(run())
    assert "10.0 (8.3 to 12.0) x best peer (kserve)" in text
    assert "LEFT OUT litserve: no network" in text


def test_a_report_replaces_what_is_between_the_markers_and_nothing_else():
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert placed(page, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    for broken in ("no markers", f"{END} {BEGIN}", page + page):
        with pytest.raises(PageError):
            placed(broken, "new")


def test_the_plot_has_a_bar_for_each_server_as_long_as_its_rate():
    drawn = ElementTree.fromstring(bars(run()["results"]))
    space = "{http://www.w3.org/2000/svg}"
    widths = [float(rect.get("width")) for rect in drawn.iter(f"{space}rect")][1:]  # the first is the background
    assert len(widths) == 3  # without the log is none of the plot's servers
    shipway, kserve, mlflow = widths
    assert shipway - kserve == pytest.approx(kserve - mlflow, abs=0.2)  # ten times each, on a logarithmic scale
