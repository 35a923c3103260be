"""What an image and a model hold, as CycloneDX 1.6 JSON (https://cyclonedx.org/docs/1.6/json/).

Equal inputs give equal bytes: the serial number is made from the content, nothing carries a time, everything is sorted.
Package URLs: https://github.com/package-url/purl-spec
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.versions.model_version import ModelVersion
from infra.images.interface import Image, PermanentImageError

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

TITLE, VERSION = "org.opencontainers.image.title", "org.opencontainers.image.version"
MODEL, MODEL_VERSION = "io.shipway.model", "io.shipway.version"
DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def image_sbom(labels: Mapping[str, str], lock_text: str, packages: str, model_digest: str) -> bytes:
    """The CycloneDX document of an image.

    *labels* are the image's: title and version of the OCI annotations name it, ``io.shipway.model`` and
    ``io.shipway.version`` name the model in it, and all of them are kept as properties. *lock_text* is the requirements lock of its Python
    environment, *packages* the text of its /var/lib/dpkg/status (both may be empty), *model_digest* ``sha256:…`` of the
    model's artifact tree, empty where the image holds no model. Raises PermanentImageError for a line it cannot read.
    """
    from cyclonedx.model.component import ComponentType

    name = labels.get(TITLE) or labels.get(MODEL) or "shipway-image"
    version = labels.get(VERSION) or labels.get(MODEL_VERSION) or None
    image = _component("image", ComponentType.CONTAINER, name, version, properties=labels)
    parts = [*_python_packages(lock_text), *_debian_packages(packages)]
    if model_digest:
        parts.append(_model(labels.get(MODEL) or name, labels.get(MODEL_VERSION) or version or "", model_digest))
    return _document(image, parts)


def model_sbom(version: ModelVersion, lock_text: str) -> bytes:
    """The CycloneDX document of a model alone: its files by their digest, and the Python packages it is run with."""
    properties = {"shipway:flavor": version.flavor, "shipway:source": version.source}
    if version.run_id:
        properties["shipway:run"] = version.run_id
    if version.python_version:
        properties["shipway:python"] = version.python_version
    model = _model(version.model, version.version, version.digest, properties)
    return _document(model, _python_packages(lock_text))


def keep_sboms(folder: Path, version: ModelVersion, lock_text: str, image: Image | None) -> dict[str, str]:
    """Writes ``model.cdx.json``, and ``image.cdx.json`` where *image* has one, into *folder*; returns their ``sha256:…``
    as ``sbom_model`` and ``sbom_image``, for the ledger."""
    documents = {"model": model_sbom(version, lock_text)}
    if image is not None and image.sbom is not None:
        documents["image"] = image.sbom.read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in documents.items():
        (folder / f"{name}.cdx.json").write_bytes(document)
    return {f"sbom_{name}": f"sha256:{hashlib.sha256(document).hexdigest()}" for name, document in documents.items()}


def _document(subject: Component, parts: Iterable[Component]) -> bytes:
    from cyclonedx.model.bom import Bom
    from cyclonedx.output.json import JsonV1Dot6

    bom = Bom(components=parts)
    bom.metadata.component = subject
    bom.register_dependency(subject, bom.components)
    values = json.loads(JsonV1Dot6(bom).output_as_string())
    del values["serialNumber"], values["metadata"]["timestamp"]
    content = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest()
    values["serialNumber"] = f"urn:uuid:{uuid.UUID(bytes=content[:16], version=5)}"
    return (json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _component(
    ref: str,
    kind: object,
    name: str,
    version: str | None,
    *,
    purl: tuple[str, str | None] | None = None,
    qualifiers: Mapping[str, str] | None = None,
    hashes: Iterable[str] = (),
    properties: Mapping[str, str] | None = None,
) -> Component:
    """A component; *purl* is the type and namespace of its package URL, *hashes* are sha256 in hexadecimal."""
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    url = PackageURL(purl[0], purl[1], name, version, dict(qualifiers or {})) if purl is not None else None
    return Component(
        type=ComponentType(kind),
        bom_ref=url.to_string() if url is not None else ref,
        name=name,
        version=version,
        purl=url,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in hashes],
        properties=[Property(name=key, value=value) for key, value in (properties or {}).items()],
    )


def _model(name: str, version: str, digest: str, properties: Mapping[str, str] | None = None) -> Component:
    """The model; its hash is that of its artifact tree (see bentos/serving/fetch/artifact_tree.py)."""
    from cyclonedx.model.component import ComponentType

    found = DIGEST.fullmatch(digest)
    if found is None:
        raise PermanentImageError(
            f"SBOM of model {name}: digest {digest!r}; expected sha256: and 64 hexadecimal digits."
        )
    kind = ComponentType.MACHINE_LEARNING_MODEL
    purl = ("mlflow", None)
    return _component("model", kind, name, version or None, purl=purl, hashes=[found[1]], properties=properties)


def _python_packages(lock_text: str) -> Iterator[Component]:
    """The packages of a requirements lock. A package has the hash of every file that the lock accepts for it."""
    from cyclonedx.model.component import ComponentType
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    seen: set[tuple[str, str | None]] = set()
    for line in lock_text.replace("\\\n", " ").splitlines():
        text = line.split(" --hash", 1)[0].split(" #", 1)[0].strip()
        if not text or text.startswith(("#", "-")):
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise PermanentImageError(
                f"SBOM: the lock has the line {text!r}: {error}. Expected name==version, as uv writes it."
            ) from error
        pins = [pin.version for pin in requirement.specifier if pin.operator in ("==", "===")]
        name, version = canonicalize_name(requirement.name), pins[0] if pins else None
        if (name, version) in seen:  # one line per platform may name the same package
            continue
        seen.add((name, version))
        yield _component(
            name,
            ComponentType.LIBRARY,
            name,
            version,
            purl=("pypi", None),
            qualifiers={"download_url": requirement.url} if requirement.url else None,
            hashes=sorted(set(_HASH.findall(line))),
        )


def _debian_packages(status: str) -> Iterator[Component]:
    """The installed packages of a dpkg status file (deb-control format, see dpkg-query(1))."""
    from cyclonedx.model.component import ComponentType

    for paragraph in re.split(r"\n\s*\n", status.strip()):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] not in " \t")
        if "Package" not in fields or not fields.get("Status", "").endswith(" installed"):
            continue
        name, version = fields["Package"], fields.get("Version")
        architecture = {"arch": fields["Architecture"]} if "Architecture" in fields else None
        yield _component(name, ComponentType.LIBRARY, name, version, purl=("deb", "debian"), qualifiers=architecture)
