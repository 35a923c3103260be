"""Every endpoint of a model server that is no prediction: health, metadata, metrics and documentation."""

from __future__ import annotations

import orjson

from bentos.serving.server.answer import ERROR_FORMS
from bentos.serving.server.metrics import CONTENT_TYPE
from bentos.serving.server.served_model import ServedModel
from bentos.serving.server.server_state import ServerState
from bentos.serving.wire.interface import Body
from bentos.serving.wire.v2 import rest as v2


def page(server: ServerState, path: str) -> tuple[int, Body]:
    """The status and body of what lies at *path*."""
    live = server.live
    if path.startswith("/v2"):
        return _page_v2(live, path, ready=not server.draining)
    if path in ("/ping", "/health"):
        return 200, Body(b"\n")
    if path == "/livez":
        return 200, Body(b"ok\n", "text/plain; charset=utf-8")
    if path == "/readyz":
        found = {
            "ready": not server.draining,
            "model": live.model,
            "version": live.version,
            "deployment": server.deployment,
            "refused": server.refused,
        }
        return 503 if server.draining else 200, Body(orjson.dumps(found))
    if path == "/version":
        return 200, Body(live.mlflow_version.encode(), "text/plain; charset=utf-8")
    if path == "/metrics":
        return 200, Body(server.metrics.render(), CONTENT_TYPE)
    if path == "/openapi.json":
        return 200, Body(live.openapi)
    if path == "/docs":
        return 200, Body(live.documentation, "text/html; charset=utf-8")
    return error_page(path, 404, f"{path}: no such page; /docs lists what there is")


def _page_v2(live: ServedModel, path: str, *, ready: bool) -> tuple[int, Body]:
    if path in ("/v2", "/v2/"):
        return 200, Body(orjson.dumps({"name": "shipway", "version": "1", "extensions": list(v2.EXTENSIONS)}))
    if path == "/v2/health/live":
        return 200, Body(b'{"live":true}')
    if path == "/v2/health/ready":
        return (200, Body(b'{"ready":true}')) if ready else (503, v2.encode_error("draining"))
    if not path.startswith("/v2/models/"):
        return error_page(path, 404, f"{path}: no such endpoint of the Open Inference Protocol")
    if unknown := unknown_model(live, path):
        return 404, v2.encode_error(unknown)
    if path.endswith("/ready"):
        return (200, Body(b'{"ready":true}')) if ready else (503, v2.encode_error("draining"))
    found = v2.metadata(live.runner.signature, live.model, live.version, probabilities=live.probabilities)
    return 200, Body(orjson.dumps(found))


def unknown_model(live: ServedModel, path: str) -> str:
    """Why ``/v2/models/<name>[/versions/<v>][/ready|/infer]`` is not about the live version; "" where it is."""
    rest = path.removeprefix("/v2/models/")
    for ending in ("/infer", "/ready"):
        rest = rest.removesuffix(ending)
    if rest in (live.model, f"{live.model}/versions/{live.version}"):
        return ""
    return f"expected the model {live.model!r}, version {live.version!r}, found {rest[:200]!r}"


def error_page(path: str, status: int, message: str) -> tuple[int, Body]:
    """An error in the form of the protocol that *path* belongs to."""
    return status, ERROR_FORMS["v2" if path.startswith("/v2") else "invocations"](status, message)
