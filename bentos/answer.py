"""From a request's bytes to an answer's, whatever goes wrong on the way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from bentos.live import Live
from bentos.loaders.interface import PredictError
from bentos.signature import InputError
from bentos.wire import invocations, v2
from bentos.wire.interface import Body, MediaTypeError, WireError

logger = logging.getLogger("shipway.server")


class Answer(NamedTuple):
    """A status of HTTP and the encoded body."""

    status: int
    body: Body


class Request(NamedTuple):
    """What a prediction endpoint reads of a request."""

    content_type: str
    encoding: str
    header_length: str  # Inference-Header-Content-Length as it came, "" without
    body: bytes


ErrorForm = Callable[[int, str], Body]


def answer(kind: str, live: Live, request: Request) -> Answer:
    """Answers *request* in the protocol *kind* ("invocations" or "v2"). Never raises.

    What the client got wrong is 400 or 415; what the model's own code raised is 500.
    """
    form = ERROR_FORMS[kind]
    try:
        if request.encoding not in ("", "identity"):
            raise MediaTypeError(f"expected a body without content-encoding, found {request.encoding[:40]!r}")
        return Answer(200, (_infer if kind == "v2" else _invoke)(live, request))
    except MediaTypeError as error:
        return Answer(415, form(415, str(error)))
    except (WireError, InputError) as error:
        return Answer(400, form(400, str(error)))
    except PredictError as error:
        logger.warning("%s", error)
        return Answer(500, form(500, str(error)))
    except Exception:
        logger.exception("%s/%s could not answer a %s request", live.model, live.version, kind)
        return Answer(500, form(500, "the server failed on this request; its log says why"))


def _invoke(live: Live, request: Request) -> Body:
    call = invocations.decode(request.content_type, request.body, live.runner.signature)
    prediction = live.runner.predict(call.inputs, call.params)
    return invocations.encode(prediction.values, table=prediction.table)


def _infer(live: Live, request: Request) -> Body:
    call = v2.decode(request.header_length, request.body, live.runner.signature)
    prediction = live.runner.predict(call.inputs, call.params, probabilities=call.probabilities)
    return v2.encode(call, prediction.values, prediction.probabilities, live.model, live.version)


def mlflow_error(status: int, message: str) -> Body:
    """An error as MLflow's scoring server writes it: plain text for 415, else a code and a message."""
    if status == 415:
        return Body(message.encode(), "text/plain; charset=utf-8")
    codes = {404: "ENDPOINT_NOT_FOUND", 413: "BAD_REQUEST", 500: "INTERNAL_ERROR", 503: "TEMPORARILY_UNAVAILABLE"}
    return invocations.encode_error(codes.get(status, "BAD_REQUEST"), message)


def v2_error(status: int, message: str) -> Body:
    """An error as the Open Inference Protocol writes it."""
    return v2.encode_error(message)


ERROR_FORMS: dict[str, ErrorForm] = {"invocations": mlflow_error, "v2": v2_error}
