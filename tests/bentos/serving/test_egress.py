"""What this machine says of its way out is taken by every child that fetches: a real index and a real registry behind TLS of
an authority that only a setting names."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bentos.serving import egress
from bentos.serving.environments.environment import Environments, Lock, PermanentEnvironmentError
from bentos.serving.environments.lock_text import lock_digest
from infra.mlflow_rest import MlflowRest, TransientMlflowError
from tests.private_authority import Authority, https

SETTINGS = (*egress.AUTHORITIES, *egress.INDEXES, *egress.PROXIES, *(name.lower() for name in egress.PROXIES))


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """One that nothing names yet, on a machine that says nothing else either."""
    for name in (*SETTINGS, "SSL_CERT_DIR", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    return Authority(tmp_path)


class _Registry(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"registered_models": [{"name": "flights"}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "MLFLOW_TRACKING_SERVER_CERT_PATH"])
def test_a_registry_is_trusted_by_what_mlflow_s_own_client_takes(authority: Authority, name: str) -> None:
    with https(authority, _Registry) as url:
        with pytest.raises(TransientMlflowError, match=r"CERTIFICATE_VERIFY_FAILED.*REQUESTS_CA_BUNDLE"):
            list(MlflowRest(url, environ={}).models())
        assert [found["name"] for found in MlflowRest(url, environ={name: str(authority.file)}).models()] == ["flights"]


def test_a_bundle_that_is_not_there_is_named(authority: Authority) -> None:
    with https(authority, _Registry) as url, pytest.raises(TransientMlflowError, match=r"/nowhere/ca\.pem"):
        list(MlflowRest(url, environ={"REQUESTS_CA_BUNDLE": "/nowhere/ca.pem"}).models())


class _Index(http.server.SimpleHTTPRequestHandler):
    """PEP 503 for the files of one folder."""

    def do_GET(self) -> None:
        if self.path.startswith("/files/"):
            self.path = self.path.removeprefix("/files")
            return super().do_GET()
        files = [
            path.name for path in Path(self.directory).glob("*.whl") if path.name.startswith(self.path.split("/")[2])
        ]
        body = "".join(f'<a href="/files/{name}">{name}</a>' for name in files).encode()
        self.send_response(200 if files else 404)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return None

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def index(authority: Authority, tmp_path: Path) -> Iterator[tuple[str, Lock]]:
    """The index, and the lock of its one package."""
    folder = tmp_path / "packages"
    folder.mkdir()
    wheel, info = folder / "tiny-1.0-py3-none-any.whl", "tiny-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/__init__.py", "answer = 42\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"tiny/__init__.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    text = f"tiny==1.0 \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
    with https(authority, functools.partial(_Index, directory=str(folder))) as url:  # type: ignore[arg-type]
        yield f"{url}/simple", Lock(text, lock_digest("3.11", text, "hashed"), "3.11")


@pytest.mark.parametrize("said", ["uv", "pip", "pip.conf"])
def test_an_environment_is_made_over_what_uv_or_pip_is_told(
    authority: Authority, index: tuple[str, Lock], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    url, lock = index
    if said == "uv":
        monkeypatch.setenv("UV_DEFAULT_INDEX", url)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    elif said == "pip":
        monkeypatch.setenv("PIP_INDEX_URL", url)
        monkeypatch.setenv("PIP_CERT", str(authority.file))
    else:
        (tmp_path / ".config" / "pip").mkdir(parents=True)
        conf = f"[global]\nindex-url = {url}\n[install]\ncert = {authority.file}\n"
        (tmp_path / ".config" / "pip" / "pip.conf").write_text(conf)
    python = Environments(tmp_path / "envs").ensure(lock)
    assert list(python.parents[1].glob("lib/python*/site-packages/tiny/__init__.py"))


def test_an_authority_that_nothing_names_is_said_with_the_setting(
    index: tuple[str, Lock], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, lock = index
    monkeypatch.setenv("UV_DEFAULT_INDEX", url)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(PermanentEnvironmentError, match=r"not trusted.*SSL_CERT_FILE"):
        Environments(tmp_path / "envs").ensure(lock)


def test_authorities_of_several_files_are_joined_and_equal_ones_count_once(
    authority: Authority, tmp_path: Path
) -> None:
    copy, other = tmp_path / "copy.pem", tmp_path / "other.pem"
    copy.write_bytes(authority.file.read_bytes())
    other.write_text("another\n")
    environ = {
        "SSL_CERT_FILE": str(authority.file),
        "PIP_CERT": str(copy),
        "CURL_CA_BUNDLE": str(other),
        "PIP_CONFIG_FILE": "/dev/null",
    }
    assert egress.joined(egress.authority_files(environ)) == authority.file.read_bytes() + b"\nanother\n"


def test_the_last_word_of_pip_s_files_counts(tmp_path: Path) -> None:
    (tmp_path / "own.conf").write_text(
        "[global]\nindex-url = http://one\ncert = /global.pem\n[install]\nindex-url = http://two\n"
    )
    environ = {"HOME": str(tmp_path), "PIP_CONFIG_FILE": str(tmp_path / "own.conf")}
    assert egress.index_url(environ) == "http://two"
    assert egress.authority_files(environ) == (Path("/global.pem"),)
    assert egress.index_url({**environ, "UV_INDEX_URL": "http://uv"}) == "http://uv"
    assert egress.index_url({**environ, "PIP_CONFIG_FILE": "/dev/null"}) is None


def test_proxies_are_read_in_small_letters_first() -> None:
    environ = {
        "https_proxy": "http://small:1",
        "HTTPS_PROXY": "http://large:1",
        "NO_PROXY": ".example",
        "http_proxy": "",
    }
    assert egress.proxies(environ) == {"HTTPS_PROXY": "http://small:1", "NO_PROXY": ".example"}
