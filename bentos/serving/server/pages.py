"""Every endpoint of a model server that is no prediction: health, metadata, metrics and documentation."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from bentos.serving.server import grpc_calls
from bentos.serving.server.errors import ERROR_FORMS
from bentos.serving.server.messages import Answer, Headers
from bentos.serving.server.metrics import CONTENT_TYPE
from bentos.serving.server.server_state import ServerState
from bentos.serving.wire.interface import Body
from bentos.serving.wire.v2 import rest as v2
from bentos.serving.wire.v2.grpc_status import SERVICE

Shown = tuple[int, Body]
_TEXT = "text/plain; charset=utf-8"
_V2_MODELS = "/v2/models/"
# no script runs, nothing is fetched, and nobody puts the page into another: what a model calls itself stays text
_SAFE: Headers = (
    (b"x-content-type-options", b"nosniff"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)


def show(server: ServerState, method: str, path: str, body: bytes) -> Answer:
    """The answer to what asks for no prediction."""
    if path.startswith(SERVICE) and method == "POST":
        return grpc_calls.answer_unary(path.removeprefix(SERVICE), body, server.live, ready=not server.unready)
    found = _PAGES.get(path) or _other(server, path)
    if isinstance(found, tuple):
        status, shown = found
    elif method not in ("GET", "HEAD"):
        status, shown = error_page(path, 405, f"{path}: expected GET, found {method}")
    else:
        status, shown = found(server)
    return Answer(status, shown, headers=_SAFE, server=server.live.headers)


def wrong_method(server: ServerState, method: str, path: str) -> Answer:
    """The answer to another *method* than POST where predictions are asked for."""
    status, shown = error_page(path, 405, f"{path}: expected POST, found {method}")
    return Answer(status, shown, headers=_SAFE, server=server.live.headers)


def error_page(path: str, status: int, message: str) -> Shown:
    """An error in the form of the protocol that *path* belongs to."""
    return status, ERROR_FORMS["v2" if path.startswith("/v2") else "invocations"](status, message)


def _live(server: ServerState) -> Shown:
    return (503, Body(server.dead.encode() + b"\n", _TEXT)) if server.dead else (200, Body(b"ok\n", _TEXT))


def _ready(server: ServerState) -> Shown:
    found = {
        "ready": not server.unready,
        "model": server.live.model,
        "version": server.live.version,
        "deployment": server.deployment,
        "refused": server.refused,
    }
    if server.unready:
        found["reason"] = server.unready
    return 503 if server.unready else 200, Body(orjson.dumps(found))


def _v2_live(server: ServerState) -> Shown:
    return (503, v2.encode_error(server.dead)) if server.dead else (200, Body(b'{"live":true}'))


def _v2_ready(server: ServerState) -> Shown:
    return (503, v2.encode_error(server.unready)) if server.unready else (200, Body(b'{"ready":true}'))


def _v2_server(_: ServerState) -> Shown:
    return 200, Body(orjson.dumps({"name": "shipway", "version": "1", "extensions": list(v2.EXTENSIONS)}))


def _v2_metadata(server: ServerState) -> Shown:
    live = server.live
    found = v2.metadata(live.runner.signature, live.model, live.version, probabilities=live.probabilities)
    return 200, Body(orjson.dumps(found))


_PAGES: dict[str, Callable[[ServerState], Shown]] = {
    "/ping": lambda _: (200, Body(b"\n")),
    "/health": lambda _: (200, Body(b"\n")),
    "/livez": _live,
    "/readyz": _ready,
    "/version": lambda server: (200, Body(server.live.mlflow_version.encode(), _TEXT)),
    "/metrics": lambda server: (200, Body(server.metrics.render(), CONTENT_TYPE)),
    "/openapi.json": lambda server: (200, Body(server.live.openapi)),
    "/docs": lambda server: (200, Body(server.live.documentation, "text/html; charset=utf-8")),
    "/v2": _v2_server,
    "/v2/": _v2_server,
    "/v2/health/live": _v2_live,
    "/v2/health/ready": _v2_ready,
}


def _other(server: ServerState, path: str) -> Callable[[ServerState], Shown] | Shown:
    """The page of the model at a *path* that bears its name, or why there is none."""
    if not path.startswith("/v2"):
        return error_page(path, 404, f"{path[:200]}: no such page; /docs lists what there is")
    if not path.startswith(_V2_MODELS):
        return error_page(path, 404, f"{path[:200]}: no such endpoint of the Open Inference Protocol")
    rest, live = path.removeprefix(_V2_MODELS), server.live
    asked = rest.removesuffix("/infer").removesuffix("/ready")
    if asked not in (live.model, f"{live.model}/versions/{live.version}"):
        return error_page(
            path, 404, f"expected the model {live.model!r}, version {live.version!r}, found {asked[:200]!r}"
        )
    return _v2_ready if rest.endswith("/ready") else _v2_metadata
