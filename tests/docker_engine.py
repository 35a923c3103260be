"""What tests of images and containers need of this machine: an engine that answers, and a base image on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra.images.engine import connected, host
from infra.images.interface import ImageSettings, TransientImageError

LOCAL_BASE = "shipway-base:bookworm"


def base_image() -> str:
    """The image that tests build upon: SHIPWAY_IMAGE_BASE, else the one that `make base-image` makes."""
    return os.environ.get("SHIPWAY_IMAGE_BASE") or LOCAL_BASE


def require_engine() -> None:
    """Skips the test, with the reason, where no engine answers or the base image is not on it."""
    try:
        with connected() as client:
            found = client.images.list(name=base_image())
    except TransientImageError as error:
        pytest.skip(f"no Docker engine: {error}")
    if not found:
        pytest.skip(f"the Docker engine at {host()} has no image {base_image()}: run `make base-image`")


def settings_of_this_machine() -> ImageSettings:
    """How images are built in tests: on the local base, over the host's network, with the host's authorities."""
    authority = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    return ImageSettings(base=base_image(), network="host", ca_file=Path(authority) if authority else None)
