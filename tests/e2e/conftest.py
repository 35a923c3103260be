"""One stack for all modules that do not break it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.stack import Stack, running


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that is up for the session. Tests use models of their own names, and leave every part running."""
    with running(tmp_path_factory.mktemp("shared")) as made:
        yield made
