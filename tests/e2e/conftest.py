"""A stack for each module that does not break it, and down as soon as the module is done: its parts are never idle."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.stack import Stack, running


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that is up for the module. Tests use models of their own names, and leave every part running."""
    with running(tmp_path_factory.mktemp("shared")) as made:
        yield made
