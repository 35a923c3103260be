"""SBOMs, held against CycloneDX's own schema."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from bentos.versions.model_version import ModelVersion
from infra.images.interface import Image, PermanentImageError
from infra.images.sbom import image_sbom, keep_sboms, model_sbom

ONE, TWO = "1" * 64, "2" * 64
MODEL_DIGEST = "sha256:" + hashlib.sha256(b"model").hexdigest()

LOCK = f"""# made by uv
numpy==2.3.1 ; python_full_version < '3.12' \\
    --hash=sha256:{TWO} \\
    --hash=sha256:{ONE}
Scikit_Learn==1.8.0 \\
    --hash=sha256:{ONE}
uvicorn[standard]==0.38.0
mine @ https://files.example/mine-1.0-py3-none-any.whl \\
    --hash=sha256:{TWO}
"""

STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Multi-Arch: same
Source: glibc
Version: 2.36-9+deb12u10
Description: GNU C Library: Shared libraries
 Contains the standard libraries: of all sorts.

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0

Package: base-files
Status: install ok installed
Architecture: all
Version: 1:12.4+deb12u11
"""

LABELS = {
    "org.opencontainers.image.title": "shipway/flights",
    "org.opencontainers.image.version": "3",
    "org.opencontainers.image.source": "models:/flights/3",
    "io.shipway.model": "flights",
    "io.shipway.version": "3",
}

VERSION = ModelVersion("flights", "3", "r1", "models:/m-1", "sklearn", MODEL_DIGEST, ("numpy",), "3.11.7")


def read(document: bytes) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The document, found valid, and its components by package URL."""
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(document.decode()) is None
    values = json.loads(document)
    return values, {component.get("purl", component["name"]): component for component in values["components"]}


def hashes(component: dict[str, Any]) -> list[str]:
    assert {entry["alg"] for entry in component.get("hashes", [])} <= {"SHA-256"}
    return sorted(entry["content"] for entry in component.get("hashes", []))


def test_an_image_lists_packages_of_both_kinds_and_the_model() -> None:
    values, found = read(image_sbom(LABELS, LOCK, STATUS, MODEL_DIGEST))
    image = values["metadata"]["component"]
    assert (image["type"], image["name"], image["version"]) == ("container", "shipway/flights", "3")
    assert {entry["name"]: entry["value"] for entry in image["properties"]} == LABELS
    assert sorted(found) == [
        "pkg:deb/debian/base-files@1:12.4%2Bdeb12u11?arch=all",
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64",
        "pkg:mlflow/flights@3",
        "pkg:pypi/mine?download_url=https://files.example/mine-1.0-py3-none-any.whl",
        "pkg:pypi/numpy@2.3.1",
        "pkg:pypi/scikit-learn@1.8.0",
        "pkg:pypi/uvicorn@0.38.0",
    ]
    assert hashes(found["pkg:pypi/numpy@2.3.1"]) == [ONE, TWO]
    assert hashes(found["pkg:pypi/uvicorn@0.38.0"]) == []
    assert found["pkg:deb/debian/base-files@1:12.4%2Bdeb12u11?arch=all"]["version"] == "1:12.4+deb12u11"
    model = found["pkg:mlflow/flights@3"]
    assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", "flights", "3")
    assert hashes(model) == [MODEL_DIGEST.removeprefix("sha256:")]
    [depends] = [entry for entry in values["dependencies"] if entry["ref"] == image["bom-ref"]]
    assert sorted(depends["dependsOn"]) == sorted(component["bom-ref"] for component in values["components"])


def test_an_image_without_a_model_has_none() -> None:
    values, found = read(image_sbom({"org.opencontainers.image.title": "shipway/serving"}, LOCK, "", ""))
    assert "version" not in values["metadata"]["component"]
    assert {component["type"] for component in found.values()} == {"library"}


def test_equal_inputs_give_equal_bytes_and_others_another_serial_number() -> None:
    first = image_sbom(LABELS, LOCK, STATUS, MODEL_DIGEST)
    paragraphs = STATUS.strip().split("\n\n")
    shuffled = image_sbom(dict(reversed(LABELS.items())), LOCK, "\n\n".join(reversed(paragraphs)), MODEL_DIGEST)
    assert first == shuffled
    assert b"timestamp" not in first
    other = image_sbom(LABELS, LOCK.replace("2.3.1", "2.3.2"), STATUS, MODEL_DIGEST)
    assert json.loads(first)["serialNumber"] != json.loads(other)["serialNumber"]


def test_a_model_alone() -> None:
    values, found = read(model_sbom(VERSION, "numpy==2.3.1\npandas==2.3.0\n"))  # the stack's own: no hashes
    model = values["metadata"]["component"]
    assert (model["type"], model["purl"], hashes(model)) == (
        "machine-learning-model",
        "pkg:mlflow/flights@3",
        [MODEL_DIGEST.removeprefix("sha256:")],
    )
    assert {entry["name"]: entry["value"] for entry in model["properties"]} == {
        "shipway:flavor": "sklearn",
        "shipway:python": "3.11.7",
        "shipway:run": "r1",
        "shipway:source": "models:/m-1",
    }
    assert sorted(found) == ["pkg:pypi/numpy@2.3.1", "pkg:pypi/pandas@2.3.0"]
    assert model_sbom(VERSION, "pandas==2.3.0\nnumpy==2.3.1\n") == model_sbom(VERSION, "numpy==2.3.1\npandas==2.3.0\n")


def test_what_a_release_keeps_is_what_its_digests_say(tmp_path: Path) -> None:
    document = image_sbom(LABELS, LOCK, STATUS, MODEL_DIGEST)
    (tmp_path / "abc.cdx.json").write_bytes(document)
    image = Image("sha256:1", "shipway/flights:1", sbom=tmp_path / "abc.cdx.json")
    for given in (None, image):
        digests = keep_sboms(tmp_path / "evidence" / "sbom", VERSION, LOCK, given)
        assert sorted(digests) == (["sbom_image", "sbom_model"] if given else ["sbom_model"])
        for name, digest in digests.items():
            kept = tmp_path / "evidence" / "sbom" / f"{name.removeprefix('sbom_')}.cdx.json"
            assert digest == "sha256:" + hashlib.sha256(kept.read_bytes()).hexdigest()
    assert (tmp_path / "evidence" / "sbom" / "image.cdx.json").read_bytes() == document


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(PermanentImageError, match="the lock has the line 'not a requirement'"):
        image_sbom(LABELS, "not a requirement\n", "", "")
    with pytest.raises(PermanentImageError, match="expected sha256"):
        image_sbom(LABELS, "", "", "abc")
