"""Ratios of measured rates."""

import pytest

from benchmarks.ratios import best_peer, over_peers, ratio


def one(server, low, middle, high, rows=1, model="m"):
    rate = {"min": low, "median": middle, "max": high}
    return {"model": model, "server": server, "rows": rows, "requests_per_second": rate}


RESULTS = [
    one("shipway", 900.0, 1000.0, 1200.0),
    one("mlflow", 9.0, 10.0, 12.0),
    one("kserve", 80.0, 100.0, 110.0),
    one("litserve", 70.0, 90.0, 400.0),
    one("mlserver-batching", 150.0, 200.0, 210.0),
    one("shipway", 50.0, 60.0, 70.0, rows=100),
    one("kserve", 20.0, 30.0, 31.0, rows=100),
]


def test_a_ratio_is_of_medians_and_its_range_of_the_worst_and_the_best_rounds():
    found = ratio(RESULTS, "m", 1, "shipway", "kserve")
    assert found is not None
    assert (found.median, found.low, found.high) == (10.0, pytest.approx(900 / 110), 15.0)
    assert str(found) == "10.0 (8.2 to 15.0)"


def test_the_best_peer_is_by_median_and_counts_tuned_ones_only_when_asked():
    assert best_peer(RESULTS, "m", 1, tuned=False) == "kserve"
    assert best_peer(RESULTS, "m", 1, tuned=True) == "mlserver-batching"
    assert best_peer(RESULTS, "other", 1, tuned=True) is None


def test_what_was_not_measured_has_no_ratio():
    assert ratio(RESULTS, "m", 1, "shipway", "bare") is None
    found = over_peers(RESULTS, 100)
    assert {name: (given.to, given.median) for name, given in found["m"].items()} == {
        "peer": ("kserve", 2.0),
        "tuned": ("kserve", 2.0),
    }
