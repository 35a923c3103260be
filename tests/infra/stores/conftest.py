"""One S3 API for the tests of stores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.infra.stores.servers import S3, s3_server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """An S3 API on loopback that checks keys."""
    with s3_server(tmp_path_factory.mktemp("s3")) as made:
        yield made
