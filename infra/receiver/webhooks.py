"""MLflow's registry webhooks: registered once by ``up``, and every delivery verified.

A delivery is signed as in Standard Webhooks (https://www.standardwebhooks.com): ``X-MLflow-Signature: v1,`` and the base64
HMAC-SHA256 of ``"{delivery id}.{timestamp}." + body``. Retries carry the id and the timestamp of the first try.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterator, Mapping
from typing import Any

from bentos.serving.errors import PermanentError
from infra.mlflow_rest import MlflowRest

NAME = "shipway"
PATH = "/webhooks/mlflow"
TOLERANCE_SECONDS = 300.0
_EVENTS = [{"entity": "MODEL_VERSION_ALIAS", "action": "CREATED"}]
_DESCRIPTION = "Starts a release when the alias challenger is set. Made by 'shipway up'."


class ForgedWebhookError(PermanentError):
    """A delivery whose signature does not fit its content, or that has none."""


class StaleWebhookError(PermanentError):
    """A delivery that was signed too long ago, or in the future: a replay, or a clock that is wrong."""


def sign(secret: str, delivery: str, timestamp: str, body: bytes) -> str:
    """The value of ``X-MLflow-Signature`` for a delivery."""
    digest = hmac.new(secret.encode(), f"{delivery}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def verify(headers: Mapping[str, str], body: bytes, *, secret: str, now: float) -> str:
    """The id of a genuine delivery; *headers* have lower-case names, *now* is in unix seconds.

    Raises ForgedWebhookError without a valid signature, StaleWebhookError when a genuine one was signed more than five
    minutes from *now*.
    """
    delivery = headers.get("x-mlflow-delivery-id", "")
    timestamp = headers.get("x-mlflow-timestamp", "")
    signature = headers.get("x-mlflow-signature", "")
    if not delivery or not timestamp or not signature:
        raise ForgedWebhookError(
            "a delivery needs the headers X-MLflow-Delivery-Id, X-MLflow-Timestamp and X-MLflow-Signature; give the "
            "webhook in MLflow the secret of this receiver"
        )
    if not _equal(sign(secret, delivery, timestamp, body), signature):
        raise ForgedWebhookError(f"delivery {delivery[:64]!r}: the signature does not fit the body and this secret")
    try:
        age = now - float(timestamp)
    except ValueError:
        raise StaleWebhookError(f"delivery {delivery[:64]!r}: {timestamp[:32]!r} is no unix time") from None
    if not abs(age) <= TOLERANCE_SECONDS:
        raise StaleWebhookError(
            f"delivery {delivery[:64]!r} was signed {age:.0f} s ago; at most {TOLERANCE_SECONDS:.0f} s are accepted"
        )
    return delivery


def _equal(expected: str, found: str) -> bool:
    """Compares in constant time the decoded bytes of two ``v1,…`` signatures."""
    version, _, text = found.partition(",")
    if version != "v1":
        return False
    try:
        given = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(given, base64.b64decode(expected.partition(",")[2]))


def register(rest: MlflowRest, url: str, secret: str, name: str = NAME) -> str:
    """Makes sure that MLflow sends alias events to *url*, signed with *secret*; the webhook's id.

    Idempotent: the webhook called *name* is updated in place (its secret cannot be read back, so it is always set).
    Raises TransientMlflowError or PermanentMlflowError.
    """
    values = {"url": url, "events": _EVENTS, "secret": secret, "status": "ACTIVE"}
    for webhook in _webhooks(rest):
        if webhook.get("name") == name:
            rest.call("PATCH", f"/webhooks/{webhook['webhook_id']}", **values)
            return str(webhook["webhook_id"])
    made = rest.call("POST", "/webhooks", name=name, description=_DESCRIPTION, **values)
    return str(made["webhook"]["webhook_id"])


def _webhooks(rest: MlflowRest) -> Iterator[dict[str, Any]]:
    token = ""
    while True:
        page = rest.call("GET", "/webhooks", max_results=100, page_token=token)
        yield from page.get("webhooks", [])
        token = page.get("next_page_token", "")
        if not token:
            return
