"""What the engine's errors mean, and that one which is away is said to be."""

import docker.errors
import pytest
import requests
import urllib3

from infra.images import engine
from infra.images.interface import PermanentImageError, TransientImageError


@pytest.mark.parametrize("host", ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:9"])
def test_no_engine_is_transient_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(TransientImageError) as told:
        engine.connect()
    assert f"the Docker engine at {host} does not answer" in str(told.value)
    assert "Start it, or choose target process" in str(told.value)


def response(status: int) -> requests.Response:
    answer = requests.Response()
    answer.status_code = status
    return answer


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (docker.errors.APIError("x", response(500), "write /a: no space left on device"), PermanentImageError, "is full.*docker system df"),
        (docker.errors.APIError("x", response(409), "conflict: in use"), PermanentImageError, "refused: conflict: in use"),
        (docker.errors.APIError("x", response(500), "panic"), TransientImageError, "failed: panic"),
        (requests.ConnectionError("refused"), TransientImageError, "does not answer"),
        (requests.exceptions.ChunkedEncodingError("broken"), TransientImageError, "does not answer"),
        (urllib3.exceptions.ProtocolError("broken"), TransientImageError, "does not answer"),
    ],
)  # fmt: skip
def test_errors_of_the_engine_become_ours(error: Exception, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=f"image x: .*{words}"), engine.translated("image x"):
        raise error


def test_errors_of_something_else_and_our_own_pass() -> None:
    with pytest.raises(KeyError), engine.translated("x"):
        raise KeyError("mine")
    own = PermanentImageError("said already")
    with pytest.raises(PermanentImageError) as told, engine.translated("x"):
        raise own
    assert told.value is own
