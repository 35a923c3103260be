"""The data plane: every endpoint of a model server, whatever protocol carries it.

``resolve`` says what a method and a path ask for, once and before the body is read: a page, or a prediction by the version
that answers then. The modules http1, grpc_server and asgi bring both to a wire.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from itertools import count
from random import getrandbits
from typing import NamedTuple, TypeAlias

from bentos.serving.log.segments import Record
from bentos.serving.log.writer import SegmentWriter
from bentos.serving.server.batcher import Item
from bentos.serving.server.errors import refused
from bentos.serving.server.formats import LARGEST_BODY
from bentos.serving.server.heads import is_length
from bentos.serving.server.messages import Answer, Request
from bentos.serving.server.metrics import ServerMetrics
from bentos.serving.server.pages import show, wrong_method
from bentos.serving.server.predictions import Predictions
from bentos.serving.server.served_model import ServedModel
from bentos.serving.server.server_state import ServerState
from bentos.serving.wire.v2.grpc_status import SERVICE

Done = Callable[[Answer], None]

INFER = SERVICE + "ModelInfer"
_BASELINE = (b"x-shipway-arm", b"baseline")
_ASSIGNED = re.compile(r"(baseline|candidate)/[\w.+-]{1,64}")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Page(NamedTuple):
    """What is no prediction: ``answer`` gives it, from the request's body."""

    answer: Callable[[bytes], Answer]


class Prediction(NamedTuple):
    """What asks ``served`` for a prediction in the protocol ``kind``: "invocations", "v2" or "grpc"."""

    kind: str
    served: ServedModel


Route: TypeAlias = Page | Prediction


class DataPlane:
    """Answers for the version *live*, as long as the server lives.

    *largest_body* in bytes: longer ones get 413. *queue*: requests that may wait; more get 429. *deadline* in seconds:
    what is not answered by then gets 504. *batching* is that of Predictions.
    """

    def __init__(
        self,
        live: ServedModel,
        *,
        writer: SegmentWriter | None = None,
        deployment: str = "",
        largest_body: int = LARGEST_BODY,
        queue: int = 512,
        deadline: float = 30.0,
        batching: str = "auto",
    ) -> None:
        metrics = ServerMetrics(writer, live.model, live.version)
        self._metrics = metrics
        self._predictions = Predictions(
            self._account, metrics, limit=queue, deadline=deadline, batching=batching, largest=largest_body
        )
        metrics.queue = lambda: self._predictions.waiting
        self.state = ServerState(live, metrics, deployment, deadline=deadline, predicting=self._predictions.seconds)
        self.largest_body = largest_body
        self.deadline = deadline
        self._writer = writer
        self._ours = f"{getrandbits(64):016x}"  # with a number behind it, the id of a request that came without one
        self._unnamed = count()
        v2 = Prediction("v2", live)
        self._taken = {
            "/invocations": Prediction("invocations", live),
            INFER: Prediction("grpc", live),
            f"/v2/models/{live.model}/infer": v2,
            f"/v2/models/{live.model}/versions/{live.version}/infer": v2,
        }

    def drain(self) -> None:
        """Not ready any more, and every connection closes after its answer."""
        self.state.draining = True

    def close(self) -> None:
        """Waits for predictions in flight and writes the log out."""
        self._predictions.close()
        if self._writer is not None:
            self._writer.close()

    def abandon(self) -> None:
        """Answers what waits behind a predict that hangs, and writes the log out: the process ends, and the predict with it."""
        self._predictions.abandon()
        if self._writer is not None:
            self._writer.close()

    def resolve(self, method: str, path: str) -> Route:
        """What *method* and *path* ask for."""
        found = self._taken.get(path)
        if found is None:
            return Page(functools.partial(show, self.state, method, path))
        if method != "POST":
            return Page(lambda _: wrong_method(self.state, method, path))
        return found

    def predict(self, served: ServedModel, request: Request, done: Done) -> None:
        """Answers a prediction request: *done* is called once, on the loop that this is called on, now or later."""
        seconds = self.deadline if request.seconds is None else min(request.seconds, self.deadline)
        self._predictions.submit(Item(served, request, done, seconds))

    def too_large(self, served: ServedModel, request: Request) -> Answer:
        """The answer to a request whose body is longer than allowed and was not read to its end."""
        limit = f"expected a body of at most {self.largest_body} bytes; send fewer rows at once, or allow more (serving.largest_body_mb)"
        return self._account(Item(served, request, _nobody, 0), refused(request.kind, 413, limit), cut=True)

    def _account(self, item: Item, found: Answer, *, cut: bool = False) -> Answer:
        """Counts and logs an answer, and says in its headers who gave it."""
        live, request = item.live, item.request
        latency = int((time.perf_counter() - item.started) * 1e9)
        request_id, assigned = request.request_id, request.assigned
        if not request_id or not _REQUEST_ID.fullmatch(request_id):
            request_id = f"{self._ours}{next(self._unnamed):016x}"
        if assigned and not _ASSIGNED.fullmatch(assigned):
            assigned = ""
        self._metrics.observe(request.kind, found.status, latency)
        if self._writer is not None:
            seen = item, found, request_id, assigned, latency, cut
            self._writer.defer(_record, seen, len(request.body) + len(found.body.data))
        headers = (*_arm(live.version, assigned, request_id), *found.headers)
        return Answer(found.status, found.body, found.reason, headers, live.headers)


def _record(seen: tuple[Item, Answer, str, str, int, bool]) -> Record:
    """What the prediction log keeps of an answered request."""
    item, found, request_id, assigned, latency, cut = seen
    kind, content_type, _, length, request, _, _, _, mirrored, attempt, _ = item.request
    response, response_type, response_header = found.body
    fields = (
        request_id,
        item.arrived,
        assigned,
        mirrored,
        attempt,
        item.live.version,
        found.status,
        latency,
        kind,
        content_type,
        int(length) if length and is_length(length) else 0,
        response_type,
        response_header,
        request,
        response,
        cut,
        False,
    )
    return Record._make(fields)


def _nobody(_: Answer) -> None:
    """Whoever asked is answered by the caller."""


def _arm(version: str, assigned: str, request_id: str) -> tuple[tuple[bytes, bytes], ...]:
    """Who answered and for whom: the assigned arm where this is its version, else the baseline in its place."""
    known = (b"x-request-id", request_id.encode())
    if not assigned:
        return known, _BASELINE
    arm, _, wanted = assigned.partition("/")
    if wanted == version:
        return known, (b"x-shipway-arm", arm.encode())
    return known, _BASELINE, (b"x-shipway-fallback", assigned.encode())
