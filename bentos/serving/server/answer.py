"""From a request's bytes to work for the model, and from what came of it to an answer's bytes; whatever goes wrong."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import orjson

from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.rows import InputRows
from bentos.serving.inputs.signature import InputError
from bentos.serving.model.interface import PredictError, Prediction, RefusedError
from bentos.serving.server.served_model import ServedModel
from bentos.serving.wire import negotiation
from bentos.serving.wire.arrow import stream as arrow_stream
from bentos.serving.wire.compression import decompress
from bentos.serving.wire.interface import Body, MediaTypeError, NotAcceptableError, TooLargeError, WireError
from bentos.serving.wire.scoring import invocations, npy
from bentos.serving.wire.v2 import grpc as v2_grpc
from bentos.serving.wire.v2 import rest as v2
from bentos.serving.wire.v2.grpc_status import error_headers

logger = logging.getLogger("shipway.server")

REFUSED = (b"x-shipway-refused", b"model")  # the gateway asks the baseline then: it may know better
LARGEST_BODY = 64 << 20


class Request(NamedTuple):
    """What a server reads of one prediction request."""

    kind: str  # "invocations", "v2" or "grpc"
    content_type: str
    encoding: str  # Content-Encoding
    header_length: str  # Inference-Header-Content-Length as it came, "" without
    body: bytes
    accept: str = ""
    request_id: str = ""
    assigned: str = ""  # "baseline/3" or "candidate/4" as the gateway assigned it
    mirrored: bool = False
    attempt: int = 1
    seconds: float | None = None  # how long the client waits; None: it did not say


class Answer(NamedTuple):
    """A status of HTTP, the encoded body, and why it is an error."""

    status: int
    body: Body
    reason: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = ()  # beside content type and length
    server: tuple[tuple[bytes, bytes], ...] = ()  # the headers of ServedModel: which version answered


class Work(NamedTuple):
    """A decoded and checked request: what the model is asked, and how its prediction becomes a body."""

    data: InputRows
    params: Mapping[str, Any]
    probabilities: bool
    encode: Callable[[Prediction], Body]

    def joins(self, other: Work) -> bool:
        """Whether the rows of *other* may be answered by the same predict, one behind the other."""
        return self.probabilities == other.probabilities and self.params == other.params and self.data.joins(other.data)


def opened(request: Request, largest: int) -> Request:
    """*request* with its body decompressed, at most *largest* bytes. Raises WireError."""
    if request.encoding in ("", "identity"):
        return request
    return request._replace(body=decompress(request.body, request.encoding, largest), encoding="")


def read(live: ServedModel, request: Request) -> Work:
    """The work that *request*, whose body is not compressed, asks of *live*.

    Raises WireError (its kinds say which status) and InputError.
    """
    plan = live.runner.plan
    if request.kind == "invocations":
        return _scoring(live, request)
    if request.kind == "grpc":
        call = v2_grpc.decode(request.body, plan.signature, live.model, live.version)
        encode = v2_grpc.encode
    else:
        if not request.header_length and live.doubles is not None and (found := live.doubles.infer(request.body)):
            call = v2.InferCall(None, id=found[1])
            return Work(found[0], live.defaults, False, functools.partial(_infer, v2.encode, call, live))
        call = v2.decode(request.header_length, request.body, plan.signature)
        encode = v2.encode
    work = plan.coerce(call.inputs), plan.coerce_params(call.params), call.probabilities
    return Work(*work, functools.partial(_infer, encode, call, live))


def _infer(encode: Callable[..., Body], call: v2.InferCall, live: ServedModel, made: Prediction) -> Body:
    return encode(call, made.values, made.probabilities, live.model, live.version)


def _scoring(live: ServedModel, request: Request) -> Work:
    plan, kind = live.runner.plan, request.content_type
    encode, probabilities = _encoder(request.accept)
    if kind in ("application/json", "") and live.doubles is not None:
        data = live.doubles.scoring(request.body)
        if data is not None:
            return Work(data, live.defaults, probabilities, encode)
    decode = _DECODERS.get(invocations.media_type(kind))
    if decode is not None:
        return Work(decode(request.body, plan), live.defaults, probabilities, encode)
    call = invocations.decode(kind, request.body, plan.signature)
    return Work(plan.coerce(call.inputs), plan.coerce_params(call.params), probabilities, encode)


def _encoder(accept: str) -> tuple[Callable[[Prediction], Body], bool]:
    """How a prediction is written for who accepts *accept*, and whether with class probabilities."""
    form = "json" if accept in ("", "*/*", "application/json") else negotiation.choose(accept)
    return _ENCODERS[form]


def _json(made: Prediction) -> Body:
    values = made.values
    arrays = values.values() if type(values) is dict and not made.table else (values,)
    if all(
        type(array) is np.ndarray and array.dtype in _PLAIN and array.ndim and array.flags.c_contiguous
        for array in arrays
    ):
        return Body(orjson.dumps({"predictions": values}, option=orjson.OPT_SERIALIZE_NUMPY))
    return invocations.encode(values, table=made.table)


_PLAIN = frozenset(map(np.dtype, ("int64", "int32", "float64", "bool")))  # what needs no second look


_DECODERS: dict[str, Callable[[bytes, InputPlan], InputRows]] = {
    npy.MEDIA_TYPE: npy.decode,
    arrow_stream.MEDIA_TYPE: arrow_stream.decode,
}
_ENCODERS: dict[str, tuple[Callable[[Prediction], Body], bool]] = {
    "json": (_json, False),
    "npy": (npy.encode, False),
    "arrow": (arrow_stream.encode, False),
}


def answer(live: ServedModel, request: Request, largest: int = LARGEST_BODY) -> Answer:
    """Answers *request* by itself. Never raises.

    What the client got wrong is 400, 406, 413 or 415; what the model's own code raised is 500.
    """
    try:
        work = read(live, opened(request, largest))
        made = live.runner.answer(work.data, work.params, probabilities=work.probabilities)
        return Answer(200, work.encode(made))
    except Exception as error:
        return failed(live, request.kind, error)


def failed(live: ServedModel, kind: str, error: Exception) -> Answer:
    """The answer to a *kind* request that ended in *error*."""
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


_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (v2_grpc.UnknownModelError, 404),
    (MediaTypeError, 415),
    (NotAcceptableError, 406),
    (TooLargeError, 413),
    (WireError, 400),
    (InputError, 400),
    (PredictError, 500),
)


def mlflow_error(status: int, message: str) -> Body:
    """An error as MLflow's scoring server writes it: plain text for 415, else a code and a message."""
    if status == 415:
        return Body(message.encode(), "text/plain; charset=utf-8")
    return invocations.encode_error(_MLFLOW_CODES.get(status, "BAD_REQUEST"), message)


_MLFLOW_CODES = {
    404: "ENDPOINT_NOT_FOUND",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


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
