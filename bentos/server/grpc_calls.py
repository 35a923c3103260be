"""gRPC's calls beside ModelInfer: message in, message out, whether a gRPC server or a bridge to HTTP carries them."""

from __future__ import annotations

from typing import Any

from bentos.server.answer import Answer, failed, refused
from bentos.server.live import Live
from bentos.wire import v2, v2_grpc
from bentos.wire.grpc_status import SERVICE
from bentos.wire.interface import Body, WireError


def answer_unary(method: str, body: bytes, live: Live, *, ready: bool) -> Answer:
    """Answers *method* (the last part of its path), whatever it is but ModelInfer. Never raises."""
    try:
        made = _answer(method, body, live, ready)
    except v2_grpc.UnknownModelError as error:
        return _signed(live, refused("grpc", 404, str(error)))
    except WireError as error:
        return _signed(live, failed(live, "grpc", error))
    if made is None:
        reason = f"{SERVICE}{method[:80]}: no such call here; the Open Inference Protocol's six are served"
        return _signed(live, refused("grpc", 501, reason))
    return _signed(live, Answer(200, Body(made.SerializeToString(), v2_grpc.CONTENT_TYPE)))


def _signed(live: Live, found: Answer) -> Answer:
    return found._replace(headers=(*live.headers, *found.headers))


def _answer(method: str, body: bytes, live: Live, ready: bool) -> Any:
    if method == "ServerLive":
        v2_grpc.parse("ServerLiveRequest", body)
        return v2_grpc.new("ServerLiveResponse", live=True)
    if method == "ServerReady":
        v2_grpc.parse("ServerReadyRequest", body)
        return v2_grpc.new("ServerReadyResponse", ready=ready)
    if method == "ServerMetadata":
        v2_grpc.parse("ServerMetadataRequest", body)
        return v2_grpc.new("ServerMetadataResponse", name="shipway", version="1", extensions=v2.EXTENSIONS)
    if method in ("ModelReady", "ModelMetadata"):
        asked = v2_grpc.parse(f"{method}Request", body)
        v2_grpc.check_model(asked.name, asked.version, live.model, live.version)
        if method == "ModelReady":
            return v2_grpc.new("ModelReadyResponse", ready=ready)
        found = v2.metadata(live.runner.signature, live.model, live.version, probabilities=live.probabilities)
        return v2_grpc.new("ModelMetadataResponse", **found)
    return None
