"""What went wrong, as an answer in the form of each protocol."""

from __future__ import annotations

import logging
from collections.abc import Callable

from bentos.serving.inputs.signature import InputError
from bentos.serving.model.interface import PredictError, RefusedError
from bentos.serving.server.messages import Answer
from bentos.serving.server.served_model import ServedModel
from bentos.serving.wire.interface import Body, MediaTypeError, NotAcceptableError, TooLargeError, WireError
from bentos.serving.wire.scoring import invocations
from bentos.serving.wire.v2 import grpc as v2_grpc
from bentos.serving.wire.v2 import rest as v2
from bentos.serving.wire.v2.grpc_status import error_headers

logger = logging.getLogger("shipway.server")

REFUSED = (b"x-shipway-refused", b"model")  # the gateway asks the baseline then: it may know better

_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (v2_grpc.UnknownModelError, 404),
    (MediaTypeError, 415),
    (NotAcceptableError, 406),
    (TooLargeError, 413),
    (WireError, 400),
    (InputError, 400),
    (PredictError, 500),
)
_MLFLOW_CODES = {
    404: "ENDPOINT_NOT_FOUND",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def failed(live: ServedModel, kind: str, error: Exception) -> Answer:
    """The answer to a *kind* request that ended in *error*.

    What the client got wrong is 400, 404, 406, 413 or 415; what the model's own code raised is 500.
    """
    status = next((code for form, code in _STATUS if isinstance(error, form)), 0)
    if status:
        if status == 500:
            logger.warning("%s", error)
        found = refused(kind, status, str(error))
        return found._replace(headers=(*found.headers, REFUSED)) if isinstance(error, RefusedError) else found
    logger.error("%s/%s could not answer a %s request", live.model, live.version, kind, exc_info=error)
    return refused(kind, 500, "the server failed on this request; its log says why")


def refused(kind: str, status: int, reason: str) -> Answer:
    """An error in the form of the protocol *kind*."""
    headers = error_headers(status, reason) if kind == "grpc" else ()
    return Answer(status, ERROR_FORMS[kind](status, reason), reason, headers)


def mlflow_error(status: int, message: str) -> Body:
    """An error as MLflow's scoring server writes it: plain text for 415, else a code and a message."""
    if status == 415:
        return Body(message.encode(), "text/plain; charset=utf-8")
    return invocations.encode_error(_MLFLOW_CODES.get(status, "BAD_REQUEST"), message)


def v2_error(status: int, message: str) -> Body:
    """An error as the Open Inference Protocol writes it."""
    return v2.encode_error(message)


def grpc_error(status: int, message: str) -> Body:
    """gRPC carries its errors beside the message, which stays empty."""
    return Body(b"", v2_grpc.CONTENT_TYPE)


ERROR_FORMS: dict[str, Callable[[int, str], Body]] = {
    "invocations": mlflow_error,
    "v2": v2_error,
    "grpc": grpc_error,
}
