"""The bucket, made on a real S3 API."""

from __future__ import annotations

import pytest

from infra.compose.bucket import ensure_bucket
from tests.infra.stores.servers import s3_server


@pytest.fixture
def s3(tmp_path, monkeypatch):
    with s3_server(tmp_path) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", made.endpoint)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", made.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", made.secret_key)
        yield made


def test_it_is_made_once(s3):
    assert ensure_bucket("shipway") == "bucket shipway made"
    assert ensure_bucket("shipway") == "bucket shipway is there"
    assert [one["Name"] for one in s3.client().list_buckets()["Buckets"]] == ["shipway"]


def test_keys_that_are_refused_are_not_tried_again(s3, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(SystemExit, match="keys in secrets/"):
        ensure_bucket("shipway")


def test_an_api_that_does_not_answer_is_named(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    with pytest.raises(SystemExit, match=r"no S3 API answers at http://127\.0\.0\.1:1"):
        ensure_bucket("shipway", wait=0.2)
