"""The receiver: MLflow's webhooks in, releases started; labels in; reports out. A small Starlette app."""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from infra.page_policy import Protected
from infra.receiver.flow_runs import FlowRuns, RunRefusedError, RunsUnavailable
from infra.receiver.index import Index
from infra.receiver.late_labels import LabelError, LabelLog, LabelLogError, parse_labels
from infra.receiver.releases import Releases
from infra.receiver.webhooks import PATH, ForgedWebhookError, StaleWebhookError, verify
from infra.stores.interface import Store
from infra.stores.serve import StoredFiles

log = logging.getLogger(__name__)

ALIAS = "challenger"  # the alias that asks for a release
MAX_WEBHOOK_BYTES = 64 * 1024
MAX_LABEL_BYTES = 4 * 1024 * 1024
_REMEMBERED = 4096  # delivery ids


class Outcomes:
    """What became of every delivery and label; counters only grow."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._webhooks = Counter(
            "shipway_webhooks", "Webhook deliveries by what became of them.", ["outcome"], registry=self.registry
        )
        self._labels = Counter("shipway_labels", "Labels by what became of them.", ["outcome"], registry=self.registry)
        self._counts: dict[str, dict[str, int]] = {"webhooks": {}, "labels": {}}

    def webhook(self, outcome: str) -> None:
        """One delivery: started, collapsed, ignored, forged, stale, malformed, unavailable or refused."""
        self._webhooks.labels(outcome).inc()
        self._count("webhooks", outcome, 1)

    def labels(self, outcome: str, count: int = 1) -> None:
        """Labels taken, or requests refused or failed."""
        self._labels.labels(outcome).inc(count)
        self._count("labels", outcome, count)

    def to_json(self) -> dict[str, dict[str, int]]:
        """Counts per kind and outcome."""
        return {kind: dict(counts) for kind, counts in self._counts.items()}

    def _count(self, kind: str, outcome: str, count: int) -> None:
        self._counts[kind][outcome] = self._counts[kind].get(outcome, 0) + count


@dataclass
class _Seen:
    """The answers to the deliveries of late; bounded, because the run's own key is what makes a repeat harmless."""

    limit: int
    _answers: OrderedDict[str, dict[str, Any]] = field(default_factory=OrderedDict)

    def get(self, delivery: str) -> dict[str, Any] | None:
        return self._answers.get(delivery)

    def put(self, delivery: str, answer: dict[str, Any]) -> None:
        self._answers[delivery] = answer
        while len(self._answers) > self.limit:
            self._answers.popitem(last=False)


def create_app(
    *,
    runs: FlowRuns,
    secret: str,
    reports: Store,
    releases: Releases,
    labels: LabelLog,
    clock: Callable[[], float] = time.time,
) -> Starlette:
    """The receiver's app. *secret* signs the webhooks, *reports* is served read-only under an index of *releases*, *clock*
    gives unix seconds."""
    outcomes, index = Outcomes(), Index(releases, reports)
    webhooks = _Webhooks(runs, secret, clock, outcomes)
    return Starlette(
        routes=[
            Route(PATH, webhooks.take, methods=["POST"]),
            Route("/labels", _labels_endpoint(labels, outcomes), methods=["POST"]),
            Route("/healthz", _healthz),
            Route("/stats", _stats(outcomes)),
            Route("/metrics", _metrics(outcomes)),
            Route("/", index.elsewhere),
            Route("/reports", index.answer),
            Route("/reports/", index.elsewhere),
            Route("/reports/{key:path}", StoredFiles(reports).answer),
        ],
        middleware=[Middleware(Protected)],
        exception_handlers={HTTPException: _http_error},
    )


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body; HTTP 413 as soon as it is longer than *limit* bytes."""
    parts, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise HTTPException(413, f"the body is longer than {limit} bytes; send less at once")
        parts.append(chunk)
    return b"".join(parts)


class _Webhooks:
    """Verifies a delivery and starts what it asks for, once."""

    def __init__(self, runs: FlowRuns, secret: str, clock: Callable[[], float], outcomes: Outcomes) -> None:
        self._runs = runs
        self._secret = secret
        self._clock = clock
        self._outcomes = outcomes
        self._seen = _Seen(_REMEMBERED)

    async def take(self, request: Request) -> Response:
        body = await read_body(request, MAX_WEBHOOK_BYTES)
        try:
            delivery = verify(request.headers, body, secret=self._secret, now=self._clock())
        except ForgedWebhookError as error:
            return self._refuse("forged", 401, error)
        except StaleWebhookError as error:
            return self._refuse("stale", 401, error)
        before = self._seen.get(delivery)
        if before is not None:
            self._outcomes.webhook("collapsed")
            return JSONResponse({**before, "outcome": "collapsed"})
        try:
            event = json.loads(body)
            asked = challenger(event)
        except (ValueError, RecursionError) as error:
            return self._refuse("malformed", 400, error)
        if isinstance(asked, str):
            return self._done(delivery, {"outcome": "ignored", "reason": asked})
        return await self._start(delivery, *asked, float(request.headers["x-mlflow-timestamp"]))

    async def _start(self, delivery: str, model: str, version: str, asked_at: float) -> Response:
        try:
            run = await self._runs.start(model, version, asked_at)
        except RunsUnavailable as error:  # MLflow sends it again
            return self._refuse("unavailable", 503, error)
        except RunRefusedError as error:
            return self._refuse("refused", 409, error)
        outcome = "started" if run.created else "collapsed"
        return self._done(delivery, {"outcome": outcome, "run": run.id, "model": model, "version": version})

    def _done(self, delivery: str, answer: dict[str, Any]) -> Response:
        self._seen.put(delivery, answer)
        self._outcomes.webhook(answer["outcome"])
        log.info("webhook %s: %s", delivery[:64], answer)
        return JSONResponse(answer)

    def _refuse(self, outcome: str, status: int, error: Exception) -> Response:
        self._outcomes.webhook(outcome)
        log.warning("webhook %s: %s", outcome, error)
        return JSONResponse({"outcome": outcome, "error": str(error)}, status)


def challenger(event: Any) -> tuple[str, str] | str:
    """The model and version a genuine event asks to release, or why it asks for nothing.

    Raises ValueError for an event that is not of MLflow's form.
    """
    if not isinstance(event, dict) or not isinstance(event.get("data"), dict):
        raise ValueError("expected an object with entity, action and data, as MLflow sends it")
    kind = f"{event.get('entity')}.{event.get('action')}"
    if kind != "model_version_alias.created":
        return f"event {kind[:80]} starts nothing"
    data = event["data"]
    alias, model, version = data.get("alias"), data.get("name"), data.get("version")
    if alias != ALIAS:
        return f"alias {str(alias)[:80]!r} starts nothing, only {ALIAS!r} does"
    if not isinstance(model, str) or not model or not isinstance(version, str) or not version:
        raise ValueError(f"expected data.name and data.version as text, found {model!r:.80} and {version!r:.80}")
    return model, version


def _labels_endpoint(labels: LabelLog, outcomes: Outcomes) -> Callable[[Request], Awaitable[Response]]:
    async def take(request: Request) -> Response:
        body = await read_body(request, MAX_LABEL_BYTES)
        try:
            found = parse_labels(json.loads(body))
        except (LabelError, ValueError, RecursionError) as error:
            outcomes.labels("refused")
            return JSONResponse({"error": f"{error}"}, 400)
        try:
            labels.append(found)
        except LabelLogError as error:
            outcomes.labels("failed")
            log.error("%s", error)
            return JSONResponse({"error": str(error)}, 503)
        outcomes.labels("taken", len(found))
        return JSONResponse({"taken": len(found)}, 202)

    return take


async def _healthz(_: Request) -> Response:
    return PlainTextResponse("ok\n")


def _stats(outcomes: Outcomes) -> Callable[[Request], Awaitable[Response]]:
    async def stats(_: Request) -> Response:
        return JSONResponse(outcomes.to_json())

    return stats


def _metrics(outcomes: Outcomes) -> Callable[[Request], Awaitable[Response]]:
    async def metrics(_: Request) -> Response:
        return Response(generate_latest(outcomes.registry), media_type="text/plain; version=0.0.4")

    return metrics


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=dict(error.headers or {}))
