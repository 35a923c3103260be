"""Addresses that people open."""

from __future__ import annotations

import pytest

from infra.pages import report_path, run_page, without_login


def test_a_run_is_named_by_its_experiments_id_as_mlflows_pages_want_it():
    assert run_page("http://127.0.0.1:15500/", "7", "ab12") == "http://127.0.0.1:15500/#/experiments/7/runs/ab12"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@mlflow.example:8443/at/", "https://mlflow.example:8443/at"),
        ("http://[::1]:15500", "http://[::1]:15500"),
        ("http://me@host", "http://host"),
    ],
)
def test_a_login_is_never_part_of_a_link(url, shown):
    assert without_login(url) == shown
    assert run_page(url, "1", "r").startswith(f"{shown}/#/")


def test_a_models_name_is_one_part_of_a_reports_path_whatever_it_is():
    assert report_path('a b/"<x>?#(%)', "r") == "reports/a%20b%2F%22%3Cx%3E%3F%23%28%25%29/r/report.html"
