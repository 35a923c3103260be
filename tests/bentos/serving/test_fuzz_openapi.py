"""Schemathesis over the document of a real server: what it promises holds, for good requests and for bad ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from tests.bentos.saved import IGNORED
from tests.bentos.servers import Server, launch
from tests.bentos.zoo import MODELS

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]
load_all_checks()
MODES = {"good": GenerationMode.POSITIVE, "bad": GenerationMode.NEGATIVE}
# What no JSON schema can say: rows are as long as their header, a shape has as many elements as there are, a column's name
# is the model's, compressed bytes are compressed. A body that fits the document may so still be a 400.
UNSAID = [CHECKS.get_one("positive_data_acceptance")]


@pytest.fixture(scope="module", params=["logistic regression", "onnx tensors", "echo native"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("openapi")
    bento = MODELS[request.param][0](folder / "model")
    with launch("--bento", str(bento), "--model", "m", segments_folder=folder / "log") as found:
        yield found


@pytest.mark.parametrize("mode", MODES)
def test_the_document_is_true(server: Server, mode: str) -> None:
    """No 5xx, no status, content type or body that the document does not name; what it forbids is refused."""
    schema = schemathesis.openapi.from_url(f"{server.address}/openapi.json")
    with requests.Session() as session:
        for operation in (found.ok() for found in schema.get_all_operations()):
            if mode == "good" or operation.method == "post":  # a page without parameters cannot be asked badly
                _asked(operation, MODES[mode], session)
    assert server.process.poll() is None


def _asked(operation: Any, mode: GenerationMode, session: requests.Session) -> None:
    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(mode))
    def check(case: Case) -> None:
        case.call_and_validate(session=session, excluded_checks=UNSAID)

    check()
