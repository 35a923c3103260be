"""Signatures as Standard Webhooks define them, and the webhook registered once in a real MLflow's stead."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from infra.receiver.webhooks import ForgedWebhookError, StaleWebhookError, sign, verify

NOW = 1_700_000_000.0
BODY = b'{"entity":"model_version_alias"}'


def headers(
    delivery: str = "d1", timestamp: str = "1700000000", body: bytes = BODY, secret: str = "s"
) -> dict[str, str]:
    return {
        "x-mlflow-delivery-id": delivery,
        "x-mlflow-timestamp": timestamp,
        "x-mlflow-signature": sign(secret, delivery, timestamp, body),
    }


def test_the_signature_is_the_documented_one():
    expected = hmac.new(b"s", b"d1.1700000000." + BODY, hashlib.sha256).digest()
    assert sign("s", "d1", "1700000000", BODY) == "v1," + base64.b64encode(expected).decode()


def test_a_genuine_delivery_gives_its_id():
    assert verify(headers(), BODY, secret="s", now=NOW) == "d1"


@pytest.mark.parametrize(
    "change",
    [
        {"x-mlflow-delivery-id": "d2"},
        {"x-mlflow-timestamp": "1700000001"},
        {"x-mlflow-signature": "v1,AAAA"},
        {"x-mlflow-signature": "v1,not base64 at all é"},
        {"x-mlflow-signature": ""},
        {"x-mlflow-delivery-id": ""},
        {"x-mlflow-timestamp": ""},
    ],
)
def test_anything_altered_is_forged(change):
    with pytest.raises(ForgedWebhookError):
        verify({**headers(), **change}, BODY, secret="s", now=NOW)


def test_another_body_secret_or_version_is_forged():
    good = headers()
    for given, body, secret in [
        (good, BODY + b" ", "s"),
        (good, BODY, "other"),
        ({**good, "x-mlflow-signature": good["x-mlflow-signature"].replace("v1,", "v2,")}, BODY, "s"),
    ]:
        with pytest.raises(ForgedWebhookError):
            verify(given, body, secret=secret, now=NOW)


@pytest.mark.parametrize("timestamp", ["1699999699", "1700000301", "nan", "soon"])
def test_a_signature_of_another_time_is_stale(timestamp):
    with pytest.raises(StaleWebhookError):
        verify(headers(timestamp=timestamp), BODY, secret="s", now=NOW)


def test_five_minutes_are_tolerated():
    assert verify(headers(timestamp="1699999701"), BODY, secret="s", now=NOW) == "d1"
