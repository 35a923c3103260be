"""From a request's bytes to work for the model, and from its prediction to an answer's bytes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import orjson

from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.rows import InputRows
from bentos.serving.model.interface import Prediction
from bentos.serving.server.messages import Headers, Request
from bentos.serving.server.served_model import ServedModel
from bentos.serving.wire import negotiation
from bentos.serving.wire.arrow import stream as arrow_stream
from bentos.serving.wire.compression import decompress
from bentos.serving.wire.interface import Body
from bentos.serving.wire.scoring import invocations, npy
from bentos.serving.wire.v2 import grpc as v2_grpc
from bentos.serving.wire.v2 import rest as v2

LARGEST_BODY = 64 << 20
IGNORED = b"x-shipway-ignored-params"  # names of params that the client sent to a model which declares none
_LONGEST_NAMES = 200


class Work(NamedTuple):
    """A decoded and checked request: what the model is asked, and how its prediction becomes a body."""

    data: InputRows
    params: Mapping[str, Any]
    probabilities: bool
    encode: Callable[[Prediction], Body]
    headers: Headers = ()  # of the answer

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
    if request.kind == "invocations":
        return _scoring(live, request)
    plan = live.runner.plan
    call: v2.InferCall
    if request.kind == "grpc":
        call, encode = v2_grpc.decode(request.body, plan.signature, live.model, live.version), v2_grpc.encode
    else:
        if not request.header_length and live.doubles is not None and (found := live.doubles.infer(request.body)):
            call = v2.InferCall(None, id=found[1])
            return Work(found[0], live.defaults, False, functools.partial(_infer, v2.encode, call, live))
        call, encode = v2.decode(request.header_length, request.body, plan.signature), v2.encode
    params, headers = _params(live, call.params)
    return Work(
        plan.coerce(call.inputs), params, call.probabilities, functools.partial(_infer, encode, call, live), headers
    )


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
    params, headers = _params(live, call.params)
    return Work(plan.coerce(call.inputs), params, probabilities, encode, headers)


def _params(live: ServedModel, given: Mapping[str, Any]) -> tuple[Mapping[str, Any], Headers]:
    """The params of the predict, and the headers of the answer. A model that declares none answers without those that
    were sent, as MLflow does, and the answer names them; declared ones are checked. Raises InputError."""
    if not given:
        return live.defaults, ()
    plan = live.runner.plan
    if plan.signature.params:
        return plan.coerce_params(given), ()
    names = ", ".join(sorted(given))[:_LONGEST_NAMES]
    said = names.encode("ascii", "backslashreplace").decode("ascii")
    return live.defaults, ((IGNORED, "".join(c if c.isprintable() else "?" for c in said).encode()),)


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
