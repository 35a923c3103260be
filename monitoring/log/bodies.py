"""What the bodies of a record say: input columns and predictions, one value a row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.signature import InputError, Signature
from bentos.serving.log.decode import decode_outputs, decode_request, decode_response
from bentos.serving.log.segments import Record
from bentos.serving.wire.interface import WireError
from bentos.serving.wire.v2.rest import PREDICT, PROBABILITIES
from monitoring.evidence.values import compared


@dataclass(frozen=True)
class Answer:
    """Predictions of one record, one a row; ``scores`` are of the same length where the model gave any.

    A prediction of several values is their JSON text.
    """

    values: Sequence[Any]
    scores: Sequence[float] | None = None


class Bodies(Protocol):
    """Decodes a record's bodies; ``inputs`` and ``answer`` raise PermanentError for what cannot be decoded."""

    def inputs(self, record: Record) -> Mapping[str, Sequence[Any]]:
        """Column name → values, one a row."""

    def invalid(self, record: Record) -> int:
        """How many rows of a refused request (4xx) break the signature."""

    def answer(self, record: Record) -> Answer:
        """The predictions in the record's response."""


def columns_of(inputs: Any, names: Sequence[str] = ()) -> dict[str, Sequence[Any]]:
    """A model's inputs as columns: a mapping as it is, [rows, columns] under *names* (else "0", "1", …).

    Values of more than one dimension a row are kept as JSON text, so that a column always has one value a row.
    """
    if hasattr(inputs, "columns") and hasattr(inputs, "to_dict"):
        inputs = {name: inputs[name].tolist() for name in inputs.columns}
    if isinstance(inputs, Mapping):
        return {str(name): scalars(values) for name, values in inputs.items()}
    rows = inputs.tolist() if hasattr(inputs, "tolist") else list(inputs)
    if not rows or not isinstance(rows[0], list | tuple):
        return {names[0] if names else "0": scalars(rows)}
    width = len(rows[0])
    titles = list(names) if len(names) == width else [str(number) for number in range(width)]
    return {title: scalars([row[at] for row in rows]) for at, title in enumerate(titles)}


def scalars(values: Any) -> list[Any]:
    """One plain value a row: numpy scalars become Python's, nested values JSON text, bytes text."""
    plain = values.tolist() if hasattr(values, "tolist") else list(values)
    return [_scalar(value) for value in plain]


def _scalar(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, default=_plain, sort_keys=True)
    return value


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else _scalar(value) if isinstance(value, bytes) else str(value)


class WireBodies:
    """Bodies as our servers read and write them, under the candidate's *signature*; *output* is ``Metrics.output``."""

    def __init__(self, signature: Signature, output: str | None = None) -> None:
        self._signature, self._output = signature, output
        self._plan = InputPlan.compile(signature)
        self._names = tuple(signature.columns)

    def inputs(self, record: Record) -> Mapping[str, Sequence[Any]]:
        """Column name → values; columns that the signature does not know are left out, as the model never sees them."""
        columns = columns_of(self._decode(record), self._names)
        return {name: columns[name] for name in self._names if name in columns} if self._names else columns

    def invalid(self, record: Record) -> int:
        """How many of the record's rows break the signature; 1 where it cannot be told apart by row."""
        try:
            inputs = self._decode(record)
            self._plan.coerce(inputs)
        except WireError:
            return 0  # not a table at all: the client's fault, and no row of it reached the model
        except InputError:
            try:
                return max(1, int(self._plan.bad_rows(inputs)[0].sum()))
            except InputError:
                return 1
        return 0

    def answer(self, record: Record) -> Answer:
        """Predictions, of several outputs the one that is compared; the score is the probability of the last class, where V2
        answered with probabilities. Raises WireError where an answer has no such output.
        """
        arguments = record.kind, record.response_content_type, record.response_header_length, record.response
        try:
            values = scalars([compared(row, self._output) for row in decode_response(*arguments)])
        except KeyError as error:
            raise WireError(
                f"answer: expected the output {self._output!r} of metrics.output, found {error.args[0]}"
            ) from None
        if record.kind == "invocations":
            return Answer(values)
        outputs = decode_outputs(*arguments[1:])
        probabilities = outputs.pop(PROBABILITIES, None)
        if self._output is not None and len(outputs) == 1 and not outputs.keys() & {self._output, PREDICT}:
            raise WireError(
                f"answer: expected the output {self._output!r} of metrics.output, found {', '.join(outputs)}"
            )
        if probabilities is None or len(probabilities) != len(values):
            return Answer(values)
        return Answer(values, [float(row[-1] if hasattr(row, "__len__") else row) for row in probabilities])

    def _decode(self, record: Record) -> Any:
        if record.request_truncated:
            raise WireError(f"request {record.request_id}: its body was cut when it was logged")
        return decode_request(
            record.kind, record.content_type, record.request_header_length, record.request, self._signature
        )
