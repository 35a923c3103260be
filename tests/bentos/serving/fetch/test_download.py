"""An MLflow server by plain REST: what it refuses, who asks, and what stands between."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from bentos.serving.fetch.download import API, DownloadError, NotFoundError, RegistryAway, Rest

ALIAS = f"{API}/registered-models/alias"


@pytest.fixture
def guarded() -> Iterator[str]:
    """A server that tells the login it was given, as a refusal of the status that the path ends with."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"asked by {self.headers['Authorization']}".encode()
            self.send_response(int(self.path.rpartition("/")[2]))
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing is said."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_what_is_not_there_is_told_from_what_is_refused(mlflow_server: str, registered: dict[str, str]) -> None:
    rest = Rest(mlflow_server)
    with pytest.raises(NotFoundError, match=r"the registry answered 404 RESOURCE_DOES_NOT_EXIST: .*nothing"):
        rest.call("GET", f"{API}/registered-models/get", name="nothing")
    with pytest.raises(DownloadError, match="the registry answered 400 INVALID_PARAMETER_VALUE: ") as told:
        rest.call("GET", f"{API}/registered-models/get")
    assert not isinstance(told.value, NotFoundError)


def test_an_alias_is_set_and_deleted(mlflow_server: str, registered: dict[str, str]) -> None:
    rest = Rest(mlflow_server)
    rest.call("POST", ALIAS, name="with-example", alias="here", version="2")
    assert rest.version_of("with-example", "here") == "2"
    rest.call("DELETE", ALIAS, name="with-example", alias="here")
    with pytest.raises(DownloadError):
        rest.version_of("with-example", "here")


def test_a_proxy_of_the_environment_does_not_stand_between(
    mlflow_server: str, registered: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert Rest(mlflow_server).source_of("with-example", "1")


@pytest.mark.parametrize(
    ("environ", "login"),
    [
        ({}, "None"),
        ({"MLFLOW_TRACKING_TOKEN": "t"}, "Bearer t"),
        ({"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "p"}, "Basic dTpw"),
        (
            {"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "p", "MLFLOW_TRACKING_TOKEN": "t"},
            "Basic dTpw",
        ),
    ],
)
def test_the_login_is_that_of_mlflows_own_client(guarded: str, environ: dict[str, str], login: str) -> None:
    with pytest.raises(DownloadError, match=f"answered 401 : asked by {login}. Set MLFLOW_TRACKING_USERNAME"):
        Rest(guarded, environ=environ).call("GET", "/401")


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_who_is_busy_or_broken_is_away(guarded: str, status: int) -> None:
    with pytest.raises(RegistryAway, match=f"answered {status}"):
        Rest(guarded).call("GET", f"/{status}")
