"""The receiver through its doors: webhooks, labels, reports, counters."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.receiver.flow_runs import RunRefusedError, RunsUnavailable, StartedRun
from infra.receiver.late_labels import LabelLog
from infra.receiver.receiver import MAX_WEBHOOK_BYTES, create_app
from infra.receiver.releases import ReleaseRow
from infra.receiver.webhooks import PATH, sign
from infra.stores.folder import FolderStore

NOW = 1_700_000_000


class MemoryRuns:
    """Runs in memory, one per model and version; ``trouble`` is raised while it is set."""

    def __init__(self) -> None:
        self.started: dict[tuple[str, str], StartedRun] = {}
        self.calls = 0
        self.trouble: Exception | None = None

    async def start(self, model: str, version: str, asked_at: float) -> StartedRun:
        assert abs(asked_at - NOW) <= 300
        self.calls += 1
        if self.trouble is not None:
            raise self.trouble
        before = self.started.get((model, version))
        run = StartedRun(f"run-{len(self.started)}", created=True)
        self.started.setdefault((model, version), run)
        return StartedRun(before.id, created=False) if before else run


class NoReleases:
    """An empty ledger."""

    def newest(self, limit: int, model: str | None = None) -> list[ReleaseRow]:
        return []


class Door:
    """The receiver's app, asked without a socket."""

    def __init__(self, folder: Path) -> None:
        self.runs = MemoryRuns()
        self.reports = folder / "reports"
        self.labels = folder / "labels"
        self.now = float(NOW)
        self.app = create_app(
            runs=self.runs,
            secret="s",
            reports=FolderStore(self.reports),
            releases=NoReleases(),
            labels=LabelLog(self.labels),
            clock=lambda: self.now,
        )

    def ask(self, method: str, path: str, **values: Any) -> httpx.Response:
        async def go() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
                return await client.request(method, path, **values)

        return asyncio.run(go())

    def deliver(self, event: Any, *, delivery: str = "d1", timestamp: int = NOW, secret: str = "s") -> httpx.Response:
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        headers = {
            "X-MLflow-Delivery-Id": delivery,
            "X-MLflow-Timestamp": str(timestamp),
            "X-MLflow-Signature": sign(secret, delivery, str(timestamp), body),
        }
        return self.ask("POST", PATH, content=body, headers=headers)

    def count(self, kind: str = "webhooks") -> dict[str, int]:
        return dict(self.ask("GET", "/stats").json()[kind])


def alias(name: str = "challenger", model: Any = "flights", version: Any = "2") -> dict[str, Any]:
    data = {"name": model, "alias": name, "version": version}
    return {"entity": "model_version_alias", "action": "created", "timestamp": "t", "data": data}


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


def test_the_alias_challenger_starts_one_release(door):
    answer = door.deliver(alias())
    assert answer.status_code == 200
    assert answer.json() == {"outcome": "started", "run": "run-0", "model": "flights", "version": "2"}
    assert door.count() == {"started": 1}


def test_a_repeated_delivery_is_collapsed_without_asking_again(door):
    door.deliver(alias())
    again = door.deliver(alias())
    assert (again.status_code, again.json()["outcome"], again.json()["run"]) == (200, "collapsed", "run-0")
    assert door.runs.calls == 1


def test_another_delivery_of_the_same_release_is_collapsed_by_its_key(door):
    door.deliver(alias())
    assert door.deliver(alias(), delivery="d2").json()["outcome"] == "collapsed"
    assert len(door.runs.started) == 1
    assert door.count() == {"started": 1, "collapsed": 1}


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (alias("champion"), "champion"),
        ({**alias(), "action": "deleted"}, "model_version_alias.deleted"),
        (
            {"entity": "model_version", "action": "created", "data": {"name": "m", "version": "1"}},
            "model_version.created",
        ),
    ],
)
def test_any_other_event_is_ignored_with_a_reason(door, event, reason):
    answer = door.deliver(event)
    assert answer.status_code == 200
    assert answer.json()["outcome"] == "ignored"
    assert reason in answer.json()["reason"]
    assert door.runs.calls == 0


def test_forged_and_stale_deliveries_are_refused_and_counted(door):
    assert door.deliver(alias(), secret="guess").status_code == 401
    assert door.ask("POST", PATH, json=alias()).status_code == 401
    assert door.deliver(alias(), timestamp=NOW - 301).status_code == 401
    assert door.count() == {"forged": 2, "stale": 1}
    assert door.runs.calls == 0


def test_a_retry_after_trouble_is_not_taken_for_a_repeat(door):
    door.runs.trouble = RunsUnavailable("Prefect is away")
    answer = door.deliver(alias())
    assert answer.status_code == 503
    assert "Prefect is away" in answer.json()["error"]
    door.runs.trouble = None
    assert door.deliver(alias()).json()["outcome"] == "started"
    assert door.count() == {"unavailable": 1, "started": 1}


def test_a_run_that_prefect_refuses_is_a_conflict_that_is_not_retried(door):
    door.runs.trouble = RunRefusedError("no such parameter")
    assert door.deliver(alias()).status_code == 409
    assert door.count() == {"refused": 1}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'"text"',
        b"[" * 30_000,
        b'{"data": 3}',
        json.dumps(alias(model=None)).encode(),
        json.dumps(alias(version=2)).encode(),
        json.dumps(alias(model="")).encode(),
    ],
)
def test_a_signed_body_that_is_no_event_is_malformed(door, body):
    answer = door.deliver(body)
    assert answer.status_code == 400
    assert answer.json()["outcome"] == "malformed"
    assert door.runs.calls == 0


def test_a_body_too_long_is_refused_before_it_is_read(door):
    answer = door.deliver(b"x" * (MAX_WEBHOOK_BYTES + 1))
    assert answer.status_code == 413
    assert str(MAX_WEBHOOK_BYTES) in answer.json()["error"]


def test_the_memory_of_deliveries_is_bounded_and_forgets_the_oldest(tmp_path, monkeypatch):
    monkeypatch.setattr("infra.receiver.receiver._REMEMBERED", 2)
    door = Door(tmp_path)
    for delivery in ("d1", "d2", "d3", "d1", "d3"):
        door.deliver(alias(), delivery=delivery)
    # d1 was forgotten when d3 came, so the second d1 asked again and met the run's own key; the second d3 did not ask
    assert door.runs.calls == 4
    assert len(door.runs.started) == 1


def test_labels_are_kept_before_they_are_acknowledged(door):
    assert door.ask("POST", "/labels", json={"request_id": "a", "value": 1}).json() == {"taken": 1}
    many = {"labels": [{"request_id": "b", "value": 0}, {"request_id": "c", "value": 1}]}
    assert door.ask("POST", "/labels", json=many).status_code == 202
    (path,) = door.labels.iterdir()
    assert [json.loads(line)["request_id"] for line in path.read_text().splitlines()] == ["a", "b", "c"]
    assert door.count("labels") == {"taken": 3}


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b'{"labels": 3}', b'{"request_id": "a", "value": NaN}', b"[" * 9999]
)
def test_what_is_no_label_is_a_client_error(door, body):
    answer = door.ask("POST", "/labels", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert door.count("labels") == {"refused": 1}
    assert not door.labels.exists()


def test_labels_that_cannot_be_written_are_to_be_sent_again(door):
    door.labels.write_text("a file where the folder should be")
    answer = door.ask("POST", "/labels", json={"request_id": "a", "value": 1})
    assert answer.status_code == 503
    assert "send them again" in answer.json()["error"]


def test_reports_are_served_read_only(door):
    (door.reports / "flights").mkdir(parents=True)
    (door.reports / "flights" / "index.html").write_text("<h1>v2</h1>")
    assert "v2" in door.ask("GET", "/reports/flights/index.html").text
    assert "v2" in door.ask("GET", "/reports/flights/").text
    assert door.ask("GET", "/reports/flights/none.html").status_code == 404
    for method in ("PUT", "POST", "DELETE"):
        assert door.ask(method, "/reports/flights/index.html").status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        "/reports/../secret",
        "/reports/%2e%2e/secret",
        "/reports/..%2fsecret",
        "/reports//etc/passwd",
        "/reports/flights",
        "/reports/%2fetc%2fpasswd",
        "/reports/link",
        "/reports/flights%00",
    ],
)
def test_nothing_outside_the_reports_is_served(door, path):
    door.reports.mkdir()
    secret = door.reports.parent / "secret"
    secret.write_text("hidden")
    (door.reports / "link").symlink_to(secret)
    answer = door.ask("GET", path)
    assert 400 <= answer.status_code < 500
    assert "hidden" not in answer.text
    assert "root:" not in answer.text


def test_every_answer_carries_the_headers_that_shut_it_in(door):
    door.reports.mkdir()
    (door.reports / "report.html").write_text("<h1>a release")
    (door.reports / "drift.html").write_text('<script>"charts" && 1</script>')
    (door.reports / "page.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    paths = {
        path: door.ask("GET", path)
        for path in (
            "/reports",
            "/reports/report.html",
            "/reports/drift.html",
            "/reports/page.svg",
            "/stats",
            "/nothing",
        )
    }
    for path, answer in paths.items():
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"), (
            path
        )
        assert "sandbox" in policy and "allow-same-origin" not in policy, path
        assert ("script" in policy) == (path == "/reports/drift.html"), path
        assert answer.headers["x-content-type-options"] == "nosniff", path
    assert paths["/reports/report.html"].text == "<h1>a release"
    framed = paths["/reports/drift.html"].text
    assert '<iframe sandbox="allow-scripts"' in framed
    assert 'srcdoc="<script>&quot;charts&quot; &amp;&amp; 1</script>"' in framed


def test_health_and_counters(door):
    door.deliver(alias())
    assert door.ask("GET", "/healthz").status_code == 200
    assert 'shipway_webhooks_total{outcome="started"} 1.0' in door.ask("GET", "/metrics").text
    assert door.ask("GET", "/nothing").json() == {"error": "Not Found"}
