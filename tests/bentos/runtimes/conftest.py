"""What the tests of runtimes share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits

from bentos.serving.model import latency_profile


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same measurements, of fewer calls, and on one thread, as in the child."""
    monkeypatch.setattr(latency_profile, "SECONDS", 0.01)
    monkeypatch.setattr(latency_profile, "ALONE_SECONDS", 0.1)
    with threadpool_limits(1):
        yield
