"""Stalls of the machine: what a gap means for who comes at a moment of its own."""

import pytest

from benchmarks.stalls import gaps, stalls, waited


def test_one_gap_delays_whoever_comes_within_it():
    # of ten seconds one is a gap: 10 % wait at all, half of those longer than half of it
    assert waited([1.0], 10, 5) == pytest.approx(0.5)
    assert waited([1.0], 10, 10) == 0
    assert waited([], 10, 1) == 0


def test_many_short_gaps_are_no_long_one():
    assert waited([0.01] * 100, 10, 5) == pytest.approx(0.005)


def test_a_machine_is_measured():
    assert all(0 < gap < 60 for gap in gaps(0.2))
    found = stalls()
    assert 0 <= found["share_percent"] <= 100
    assert found["wait_p99_ms"] >= 0
