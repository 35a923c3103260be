"""Addresses that people open in a browser: of a run in MLflow, of a release's report."""

from __future__ import annotations

from urllib.parse import quote, urlsplit


def without_login(url: str) -> str:
    """*url* without the user and password that it may carry: pages are written down for everybody."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")


def run_page(mlflow: str, experiment_id: str, run_id: str) -> str:
    """The page of a run in the MLflow at *mlflow*, whose single-page app names experiments by their ids."""
    return f"{without_login(mlflow)}/#/experiments/{quote(experiment_id, safe='')}/runs/{quote(run_id, safe='')}"


def report_path(model: str, run_id: str, page: str = "report.html") -> str:
    """The path of a page of the release *run_id* below the receiver, without a slash in front."""
    return f"reports/{quote(model, safe='')}/{quote(run_id, safe='')}/{quote(page, safe='')}"
