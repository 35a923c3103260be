"""An image is built over what this machine names, as processes are: here an index behind a password and TLS of an authority
that nobody else knows. None of it is in the image."""

from __future__ import annotations

import io
import json
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from bentos.policy.build import ImagePolicy
from bentos.serving import egress
from blocks.target import TargetBlock
from infra.images.interface import PermanentImageError
from tests.docker_engine import base_image
from tests.infra.images.conftest import SECRET
from tests.private_authority import Authority, https

pytestmark = pytest.mark.long("images")  # a real build each


@pytest.fixture
def machine(index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Authority]:
    """The settings of a machine behind that authority."""
    for name in (*egress.AUTHORITIES, *egress.INDEXES):
        monkeypatch.delenv(name, raising=False)
    authority = Authority(tmp_path, f"authority {SECRET}")
    with https(authority, index.handler_in_folder) as url:
        monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
        (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {url.replace('//', f'//robot:{SECRET}@')}/simple\n")
        yield authority


def builder_of(tmp_path: Path):
    """As `promote-model` with target docker has it."""
    images = {"base": base_image(), "network": "host", "builder": "classic"}
    block = TargetBlock(kind="docker", folder=tmp_path / "containers", segments=tmp_path / "segments", images=images)
    return block.builder(tmp_path / "images")


def test_index_and_authority_of_the_machine_are_used_and_not_in_the_image(
    machine, engine, seal, shared, tmp_path, monkeypatch
):
    monkeypatch.setenv("PIP_CERT", str(machine.file))
    bento, version = seal(lock=f"# {uuid.uuid4()}\n{seal.lock}")  # nothing of it was built before
    image = builder_of(tmp_path).ensure(bento, version, ImagePolicy())
    shared.update(
        json.loads(path.read_text())["tag"] for path in (tmp_path / "images").glob("*.json") if ".cdx" not in path.name
    )
    found = json.dumps([engine.api.inspect_image(image.reference), engine.api.history(image.reference)])
    secrets = [SECRET.encode(), machine.file.read_bytes().splitlines()[1]]
    assert not [secret for secret in secrets if secret in found.encode()]
    archive = io.BytesIO(b"".join(engine.api.get_image(image.reference)))
    layers = 0
    with tarfile.open(fileobj=archive) as whole:
        for entry in whole:
            data = whole.extractfile(entry).read() if entry.isfile() else b""
            assert not [secret for secret in secrets if secret in data], entry.name  # layers are not compressed
            layers += len(data) > 1_000
    assert layers >= 3


def test_an_authority_that_nothing_names_is_said_with_the_setting(machine, seal, tmp_path):
    bento, version = seal(lock=f"# {uuid.uuid4()}\n{seal.lock}")  # nothing of it was built before
    with pytest.raises(PermanentImageError, match=r"not trusted in the build.*SHIPWAY_IMAGE_CA_FILE") as refused:
        builder_of(tmp_path).ensure(bento, version, ImagePolicy())
    assert SECRET not in str(refused.value)
