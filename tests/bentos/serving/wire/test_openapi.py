"""The document says what the server reads and writes, and with which status it answers what it cannot."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from bentos.serving.inputs.signature import Column, Param, Signature, Tensor
from bentos.serving.server.errors import ERROR_FORMS
from bentos.serving.wire import negotiation, openapi
from bentos.serving.wire.scoring import invocations

COLUMNS = Signature((Column("a", "double"), Column("b", "string", required=False)), (), (Param("n", "long", 1),))
SIGNATURES = {
    "columns": COLUMNS,
    "unnamed": Signature((Column("", "double"), Column("", "long"))),
    "tensor": Signature((Tensor(None, "float64", (-1, 2)),)),
    "tensors": Signature((Tensor("x", "float64", (-1, 2)), Tensor("y", "str", (-1,)))),
}


def operation(signature: Signature, path: str) -> Any:
    return openapi.describe(signature, "m", "3")["paths"][path]["post"]


@pytest.mark.parametrize("what", SIGNATURES)
def test_it_says_which_media_types_are_read_and_written(what: str) -> None:
    invoke = operation(SIGNATURES[what], "/invocations")
    assert set(invoke["requestBody"]["content"]) == set(invocations.MEDIA_TYPES)
    assert set(invoke["responses"]["200"]["content"]) == set(negotiation.TYPES)
    infer = operation(SIGNATURES[what], "/v2/models/m/infer")
    assert set(infer["requestBody"]["content"]) == {"application/json", "application/octet-stream"}


@pytest.mark.parametrize(
    ("path", "kind", "statuses"),
    [
        ("/invocations", "invocations", (400, 406, 413, 415, 429, 500, 503, 504)),
        ("/v2/models/m/infer", "v2", (400, 413, 415, 429, 500, 503, 504)),
    ],
)
def test_errors_are_as_it_says(path: str, kind: str, statuses: tuple[int, ...]) -> None:
    responses = operation(COLUMNS, path)["responses"]
    assert set(responses) == {"200", *map(str, statuses)}
    assert "Retry-After" in responses["429"]["headers"]
    for status in statuses:
        body = ERROR_FORMS[kind](status, "why")
        content = responses[str(status)]["content"]
        assert body.content_type.partition(";")[0] in content
        if "application/json" in content:
            jsonschema.validate(invocations.orjson.loads(body.data), content["application/json"]["schema"])


def test_a_bodys_schema_takes_exactly_one_format() -> None:
    schema = operation(COLUMNS, "/invocations")["requestBody"]["content"]["application/json"]["schema"]
    records = [{"a": 1.5, "b": "x"}]
    jsonschema.validate({"dataframe_records": records, "params": {"n": 2}}, schema)
    for wrong in ({}, {"dataframe_records": records, "inputs": records}, {"dataframe_records": [{"b": "x"}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


@pytest.mark.parametrize("what", SIGNATURES)
def test_the_page_shows_every_path(what: str) -> None:
    document = openapi.describe(SIGNATURES[what], "m<b>", "3")
    page = openapi.page(document)
    assert "m<b>" not in page
    assert "m&lt;b&gt;, version 3" in page
    assert all(f"POST {path}" in page or f"GET {path}" in page for path in ("/invocations", "/ping", "/v2"))
