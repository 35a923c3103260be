"""Rules and dashboard before a real Prometheus (Debian's), with nothing scraped: every expression is one."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest

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


def test_scrape_configuration_is_accepted():
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    command = ["promtool", "check", "config", "--syntax-only", INFRA / "prometheus" / "prometheus.yml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
