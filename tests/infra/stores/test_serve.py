"""Reports in a bucket, read through the receiver's door."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from starlette.applications import Starlette

from infra.receiver.late_labels import LabelLog
from infra.receiver.receiver import create_app
from infra.stores.interface import Store
from infra.stores.s3 import S3Store


def receiver(store: Store, folder: Path) -> Starlette:
    none = cast(Any, None)
    return create_app(runs=none, secret="s", reports=store, releases=none, labels=LabelLog(folder / "labels"))


def ask(app: Starlette, method: str, path: str, **headers: str) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(go())


@pytest.fixture
def store(s3, tmp_path):
    made = s3.store(f"s3://bucket-{uuid.uuid4().hex}/reports")
    (tmp_path / "page").write_bytes(b"<h1>" + b"x" * 700_000)
    made.put("my model/run/report.html", tmp_path / "page")
    (tmp_path / "index").write_text("<h1>all")
    made.put("my model/index.html", tmp_path / "index")
    return made


def test_a_report_is_streamed_with_its_type_and_length(store, tmp_path):
    app = receiver(store, tmp_path)
    answer = ask(app, "GET", "/reports/my%20model/run/report.html")
    assert (answer.status_code, len(answer.content)) == (200, 700_004)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-length"] == "700004"
    again = ask(app, "GET", "/reports/my%20model/run/report.html", **{"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = ask(app, "HEAD", "/reports/my%20model/run/report.html")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "700004", b"")
    folder = ask(app, "GET", "/reports/my%20model/")
    assert 'srcdoc="<h1>all"' in folder.text and "content-length" not in folder.headers
    head = ask(app, "HEAD", "/reports/my%20model/")
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", folder.headers["etag"])


@pytest.mark.parametrize(
    "path", ["none.html", "../x", "%2e%2e/x", "..%2fx", "/etc/passwd", "a%00", "my%20model/run", "a%0ab"]
)
def test_what_is_not_there_is_404(store, tmp_path, path):
    assert ask(receiver(store, tmp_path), "GET", f"/reports/{path}").status_code == 404


def test_reports_are_read_only(store, tmp_path):
    for method in ("PUT", "POST", "DELETE"):
        assert ask(receiver(store, tmp_path), method, "/reports/my%20model/run/report.html").status_code == 405
    assert store.exists("my model/run/report.html")


def test_a_store_that_is_away_or_refuses_is_503_and_tells_no_secret(s3, store, tmp_path):
    away = S3Store(str(store), s3.access.model_copy(update={"endpoint": "http://127.0.0.1:1"}))
    answer = ask(receiver(away, tmp_path), "GET", "/reports/a")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    answer = ask(receiver(S3Store("s3://missing", s3.access), tmp_path), "GET", "/reports/a")
    assert (answer.status_code, answer.text) == (503, "the store refuses; the receiver's log says why\n")
