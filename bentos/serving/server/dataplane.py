"""The data plane: every endpoint of a model server, whatever protocol carries it.

``handle`` takes prediction requests and ``look_up`` everything else. The modules http1, grpc_server and asgi bring both
to a wire.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from itertools import count
from random import getrandbits

from bentos.serving.log.segments import Record
from bentos.serving.log.writer import SegmentWriter
from bentos.serving.server import grpc_calls
from bentos.serving.server.answer import LARGEST_BODY, Answer, Request, refused
from bentos.serving.server.exchange import is_length
from bentos.serving.server.metrics import ServerMetrics
from bentos.serving.server.pages import error_page, page, unknown_model
from bentos.serving.server.predictions import Item, Predictions
from bentos.serving.server.served_model import ServedModel
from bentos.serving.server.server_state import ServerState
from bentos.serving.wire.v2 import rest as v2
from bentos.serving.wire.v2.grpc_status import SERVICE

Done = Callable[[Answer], None]

INFER = SERVICE + "ModelInfer"
_BASELINE = (b"x-shipway-arm", b"baseline")
_ASSIGNED = re.compile(r"(baseline|candidate)/[\w.+-]{1,64}")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


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
        self._live = live
        self._metrics = ServerMetrics(writer, live.model, live.version)
        self.state = ServerState(live, self._metrics, deployment)
        self.largest_body = largest_body
        self.deadline = deadline
        self._writer = writer
        self._ours = f"{getrandbits(64):016x}"  # with a number behind it, the id of a request that came without one
        self._unnamed = count()
        self._predictions = Predictions(
            self._account, self._metrics, limit=queue, batching=batching, largest=largest_body
        )
        self._metrics.queue = lambda: self._predictions.waiting

    def drain(self) -> None:
        """Not ready any more, and every connection closes after its answer."""
        self.state.draining = True

    def close(self) -> None:
        """Waits for predictions in flight and writes the log out."""
        self._predictions.close()
        if self._writer is not None:
            self._writer.close()

    def handle(self, request: Request, done: Done) -> None:
        """Answers a prediction request: *done* is called once, on the loop that this is called on, now or later."""
        seconds = self.deadline if request.seconds is None else min(request.seconds, self.deadline)
        self._predictions.submit(Item(self._live, request, done, seconds))

    def too_large(self, request: Request) -> Answer:
        """The answer to a request whose body is longer than allowed and was not read to its end."""
        limit = f"expected a body of at most {self.largest_body} bytes; send fewer rows at once, or allow more (serving.largest_body_mb)"
        return self._account(Item(self._live, request, _nobody, 0), refused(request.kind, 413, limit), cut=True)

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

    def look_up(self, method: str, path: str, body: bytes = b"") -> Answer | None:
        """The answer to what is no prediction request; None for one, which is to be given to ``handle``."""
        kind = prediction_kind(path)
        if kind is None and path.startswith(SERVICE) and method == "POST":
            return grpc_calls.answer_unary(path.removeprefix(SERVICE), body, self._live, ready=not self.state.draining)
        if kind is None:
            status, shown = page(self.state, path)
            if status == 200 and method not in ("GET", "HEAD"):
                status, shown = error_page(path, 405, f"{path}: expected GET, found {method}")
        elif kind == "v2" and (unknown := unknown_model(self._live, path)):
            status, shown = 404, v2.encode_error(unknown)
        elif method != "POST":
            status, shown = error_page(path, 405, f"{path}: expected POST, found {method}")
        else:
            return None
        return Answer(status, shown, server=self._live.headers)


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


def prediction_kind(path: str) -> str | None:
    """The protocol that *path* takes predictions in; None where it takes none."""
    if path == "/invocations":
        return "invocations"
    if path == INFER:
        return "grpc"
    return "v2" if path.endswith("/infer") and path.startswith("/v2/models/") else None


def _arm(version: str, assigned: str, request_id: str) -> tuple[tuple[bytes, bytes], ...]:
    """Who answered and for whom: the assigned arm where this is its version, else the baseline in its place."""
    known = (b"x-request-id", request_id.encode())
    if not assigned:
        return known, _BASELINE
    arm, _, wanted = assigned.partition("/")
    if wanted == version:
        return known, (b"x-shipway-arm", arm.encode())
    return known, _BASELINE, (b"x-shipway-fallback", assigned.encode())
