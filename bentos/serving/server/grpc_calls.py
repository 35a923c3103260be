"""gRPC's calls beside ModelInfer: message in, message out, whether a gRPC server or a bridge to HTTP carries them."""

from __future__ import annotations

from typing import Any

from bentos.serving.server.errors import failed, refused
from bentos.serving.server.messages import Answer
from bentos.serving.server.served_model import ServedModel
from bentos.serving.wire.interface import Body, WireError
from bentos.serving.wire.v2 import grpc as v2_grpc
from bentos.serving.wire.v2 import rest as v2
from bentos.serving.wire.v2.grpc_status import SERVICE

METHODS = ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata")


def answer_unary(method: str, body: bytes, live: ServedModel, *, ready: bool) -> Answer:
    """Answers *method* (the last part of its path), whatever it is but ModelInfer. Never raises."""
    try:
        made = _answer(method, body, live, ready)
    except WireError as error:
        return _signed(live, failed(live, "grpc", error))
    if made is None:
        reason = f"{SERVICE}{method[:80]}: no such call here; the Open Inference Protocol's six are served"
        return _signed(live, refused("grpc", 501, reason))
    return _signed(live, Answer(200, Body(made.SerializeToString(), v2_grpc.CONTENT_TYPE)))


def _signed(live: ServedModel, found: Answer) -> Answer:
    return found._replace(headers=(*live.headers, *found.headers))


def _answer(method: str, body: bytes, live: ServedModel, ready: bool) -> Any:
    if method not in METHODS:
        return None
    asked, model = v2_grpc.parse(f"{method}Request", body), method.startswith("Model")
    if model:
        v2_grpc.check_model(asked.name, asked.version, live.model, live.version)
    found: dict[str, Any] = {"name": "shipway", "version": "1", "extensions": v2.EXTENSIONS}
    if method.endswith("Ready"):
        found = {"ready": ready}
    elif method.endswith("Live"):
        found = {"live": True}
    elif model:
        found = v2.metadata(live.runner.signature, live.model, live.version, probabilities=live.probabilities)
    return v2_grpc.new(f"{method}Response", **found)
