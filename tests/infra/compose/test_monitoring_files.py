"""Rules and dashboard before a real Prometheus (Debian's), with nothing scraped: every expression is one."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest
import yaml

from tests.conftest import free_port

INFRA = Path(__file__).resolve().parents[3] / "infra"


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (Debian: prometheus)")
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    shutil.copy(INFRA / "prometheus" / "rules.yml", folder / "rules.yml")
    (folder / "prometheus.yml").write_text(f"rule_files: [{folder}/rules.yml]\n")
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=10) as client:
            deadline = time.monotonic() + 30
            while not _ready(client):
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
                time.sleep(0.1)
            yield client
    finally:
        process.terminate()
        process.wait(timeout=20)


def _ready(client):
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def expressions():
    for panel in json.loads((INFRA / "dashboards" / "shipway.json").read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$model", ".*")


def test_every_expression_of_the_dashboard_is_one(prometheus):
    asked = list(expressions())
    assert len(asked) > 15
    refused = {
        f"{title}: {expression}": answer
        for title, expression in asked
        if (answer := prometheus.get("/api/v1/query", params={"query": expression}).json())["status"] != "success"
    }
    assert refused == {}


def test_every_rule_is_loaded_and_every_alert_says_what_to_do(prometheus):
    groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    alerts = [rule for group in groups for rule in group["rules"] if rule["type"] == "alerting"]
    assert len(alerts) >= 10
    for alert in alerts:
        assert alert["annotations"].keys() == {"summary", "what_to_do"}, alert["name"]
        assert alert["labels"]["severity"] in {"page", "ticket"}, alert["name"]


@pytest.mark.parametrize(
    ("counter", "alert"),
    [
        ("shipway_log_dropped_total", "PredictionLogLosesRecords"),
        ("shipway_rejected_total", "RequestsRejected"),
        ("shipway_late_total", "RequestsLate"),
    ],
)
def test_a_server_that_loses_or_refuses_is_told_of(tmp_path, counter, alert):
    """A counter that rises once, at 3 min: silent before, told after, and no more once 5 min are over."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    rules = yaml.safe_load((INFRA / "prometheus" / "rules.yml").read_text())
    told = next(rule for group in rules["groups"] for rule in group["rules"] if rule.get("alert") == alert)
    series = f'{counter}{{deployment="flights-1", job="models"}}'
    labels = {"severity": told["labels"]["severity"], "deployment": "flights-1", "job": "models"}
    summary = (
        told["annotations"]["summary"].replace("{{ $labels.deployment }}", "flights-1").replace("{{ $value }}", "4")
    )
    expected = {"exp_labels": labels, "exp_annotations": {**told["annotations"], "summary": summary}}
    cases = [("2m", []), ("5m", [expected]), ("12m", [])]
    unit = {
        "rule_files": [str(INFRA / "prometheus" / "rules.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": series, "values": "0 0 0 4x12"}],
                "alert_rule_test": [
                    {"eval_time": at, "alertname": alert, "exp_alerts": alerts} for at, alerts in cases
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(json.dumps(unit))
    done = subprocess.run(["promtool", "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_scrape_configuration_is_accepted():
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    command = ["promtool", "check", "config", "--syntax-only", INFRA / "prometheus" / "prometheus.yml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
