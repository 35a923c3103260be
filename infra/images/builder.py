"""ImageBuilder: the image of a sealed bento, built once and known again by what determines it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bentos.serving.environments.lock_text import python_of, served
from bentos.serving.files import writable, write_atomically
from infra.images import engine
from infra.images.build import build, clear, mark, remove
from infra.images.built_images import BuiltImage, BuiltImages
from infra.images.image_labels import labels_of
from infra.images.interface import Image, ImageError, ImageSettings, PermanentImageError, RegistryLogin
from infra.images.template import STAGE_LABEL, Content, Recipe, app_recipe, containerized_recipe, environment_recipe

if TYPE_CHECKING:
    import docker

    from bentos.policy.build import ImagePolicy
    from bentos.sealing.bento import SealedBento
    from bentos.versions.model_version import ModelVersion

PACKAGES = "/var/lib/dpkg/status"


class ImageBuilder:
    """Builds images as *settings* say and keeps what is known of them below *records*.

    *login*: for the repository that the settings name. Several processes may use the same folder at once.
    """

    def __init__(self, settings: ImageSettings, records: Path, *, login: RegistryLogin | None = None) -> None:
        self._settings = settings
        self._records = BuiltImages(records)
        self._login = login

    def ensure(self, bento: SealedBento, version: ModelVersion, policy: ImagePolicy) -> Image:
        """The image for *bento* under *policy*: pulled ones hold no model and are shared by all versions with equal code
        and, with their dependencies included, an equal lock.

        Raises TransientImageError where the engine, the package index or the image registry is away;
        PermanentImageError where the base does not fit, the build fails, the engine's disk is full, or an image is not
        the one that was recorded.
        """
        with engine.connected() as client:
            base_id, layers = self._base(client)
            lock = (bento.source / "requirements.lock").read_text()
            content = content_of(bento, lock, policy)
            labels = labels_of(bento, version, content)
            if policy.builder == "bentoml":
                record = self._containerized(client, bento, base_id, labels)
            else:
                wanted = served(lock) if content.kind == "env" else ""
                environment = environment_recipe(content.kind, self._settings.base, base_id, wanted, content.minor)
                lock = wanted or environment.files["start.txt"].decode()
                record = self._two_layers(client, environment, _app(content, environment, bento, labels), layers)
            return self._image(client, record, lock, version.digest if content.model else "")

    def _two_layers(
        self, client: docker.DockerClient, environment: Recipe, recipe: Recipe, layers: Sequence[str]
    ) -> BuiltImage:
        """The app image of *recipe* on the environment image, which stands on the base's *layers*."""
        with self._records.held(recipe.key):
            record = self._kept(client, recipe, [])
            if record is None:
                with self._records.held(environment.key):
                    parent = self._kept(client, environment, layers) or self._build(client, environment, layers)
                with engine.translated(f"image {environment.tag}"):
                    inside = client.api.inspect_image(parent.id)["RootFS"]["Layers"]
                record = self._kept(client, recipe, inside) or self._build(client, recipe, inside)
            return record

    def _containerized(
        self, client: docker.DockerClient, bento: SealedBento, base_id: str, labels: Mapping[str, str]
    ) -> BuiltImage:
        """BentoML's image of *bento* under our contract. BentoML's own tag does not stay."""
        from infra.images.containerize import containerize, parent_tag

        parent = parent_tag(bento, base_id)
        recipe = containerized_recipe(parent, bento.digest, base_id, labels)
        with self._records.held(recipe.key):
            record = self._kept(client, recipe, [])
            if record is None:
                marked = f"{parent}-base"  # on it, whatever BentoML leaves behind is found again
                clear(client, recipe.key)
                try:
                    mark(client, self._settings.base, marked, recipe.key)
                    containerize(bento, self._settings.model_copy(update={"base": marked}), parent)
                    record = self._build(client, recipe, [])
                finally:
                    with suppress(ImageError):
                        remove(client, parent, marked)
                        clear(client, recipe.key)
            return record

    def _base(self, client: docker.DockerClient) -> tuple[str, list[str]]:
        """Id and layers of the base image, pulled where it is not there."""
        base = self._settings.base
        with engine.translated(f"base image {base}"):
            found = inspected(client, base)
        if found is None:
            try:
                with engine.translated(f"base image {base}"):
                    client.images.pull(base)
                    found = client.api.inspect_image(base)
            except Exception as error:
                raise PermanentImageError(
                    f"base image {base}: not on the Docker engine at {engine.host()}, and pulling it failed:"
                    f" {engine.said(error.__cause__ or error)}. Set SHIPWAY_IMAGE_BASE to an image that is there or can be pulled, or"
                    " make one: `make base-image`."
                ) from error
        return str(found["Id"]), list(found["RootFS"]["Layers"])

    def _kept(self, client: docker.DockerClient, recipe: Recipe, layers: Sequence[str]) -> BuiltImage | None:
        """The record of *recipe*'s image where the engine has it, None where it is to be built.

        An image without a record, from another stack on this engine or before the state was lost, is taken where it has
        every label and stands on *layers* (none given: it is not taken); from then on its id is recorded. Raises
        PermanentImageError for an image that is not the recorded one.
        """
        record = self._records.read(recipe.key)
        with engine.translated(f"image {recipe.tag}"):
            found = inspected(client, recipe.tag)
            if record is not None and found is None and (found := inspected(client, record.id)) is not None:
                client.api.tag(record.id, recipe.repository, recipe.key[:16])
        if found is None:
            return None
        labels = (found["Config"] or {}).get("Labels") or {}
        fits = all(labels.get(name) == value for name, value in recipe.all_labels.items())
        if record is None:
            below = found["RootFS"]["Layers"][: len(layers)]
            return self._recorded(recipe, found) if fits and layers and below == list(layers) else None
        if found["Id"] != record.id or dict(record.labels) != recipe.all_labels or not fits:
            raise PermanentImageError(
                f"image {recipe.tag}: the engine has {found['Id']}, recorded is {record.id} with"
                f" {'other' if found['Id'] == record.id else 'its'} labels. Somebody replaced it after it was built: find"
                f" out who; then `docker image rm {recipe.tag}`, and release the version again."
            )
        return record

    def _build(self, client: docker.DockerClient, recipe: Recipe, layers: Sequence[str]) -> BuiltImage:
        """Builds, tags and records. Where another stack on this engine was quicker, its image is taken."""
        made = build(client, recipe, self._settings)
        other = None if self._records.read(recipe.key) else self._kept(client, recipe, layers)
        with engine.translated(f"image {recipe.tag}"):
            if other is not None:
                client.api.remove_image(made)
                return other
            client.api.tag(made, recipe.repository, recipe.key[:16])
            return self._recorded(recipe, client.api.inspect_image(made))

    def _recorded(self, recipe: Recipe, found: dict[str, Any]) -> BuiltImage:
        record = BuiltImage(recipe.key, str(found["Id"]), recipe.tag, int(found["Size"]), recipe.all_labels)
        self._records.write(record)
        return record

    def _image(self, client: docker.DockerClient, record: BuiltImage, lock: str, model_digest: str) -> Image:
        """The image of *record* with its SBOM, pushed where the settings name a repository."""
        sbom = self._records.sbom(record.key)
        if not sbom.exists():
            from infra.images.sbom import image_sbom

            document = image_sbom(record.labels, lock, installed(client, record.id, record.key), model_digest)
            with writable(self._records.folder, "the SBOM of an image"):
                write_atomically(sbom, document.decode())
        repository = self._settings.repository
        if repository is None:
            return Image(record.id, record.tag, record.size, sbom)
        from infra.images.registry import push, remote_name

        if record.reference.rpartition("@")[0] != remote_name(record.tag, repository):
            record = replace(record, reference=push(client, record.tag, repository, self._login))
            self._records.write(record)
        return Image(record.reference, record.tag, record.size, sbom)


def inspected(client: docker.DockerClient, image: str) -> dict[str, Any] | None:
    """What the engine says of *image* (a tag or an id), None where it has none."""
    from docker.errors import ImageNotFound

    try:
        found: dict[str, Any] = client.api.inspect_image(image)
    except ImageNotFound:
        return None
    return found


def installed(client: docker.DockerClient, image: str, key: str) -> str:
    """The text of Debian's package database in *image*, empty where it has none. The container is never started."""
    from docker.errors import NotFound

    with engine.translated(f"packages of image {image[:19]}"):
        container = client.api.create_container(image, ["true"], labels={STAGE_LABEL: key})["Id"]
        try:
            stream, _ = client.api.get_archive(container, PACKAGES)
            with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
                file = tar.extractfile(tar.getmembers()[0])
                return file.read().decode(errors="replace") if file is not None else ""
        except NotFound:
            return ""
        finally:
            with suppress(NotFound):
                client.api.remove_container(container, force=True)


def content_of(bento: SealedBento, lock: str, policy: ImagePolicy) -> Content:
    """What the image holds. Raises PermanentImageError for a bento whose lock has no hashes."""
    minor = python_of(lock, bento.facts["lock_digest"])
    kind, model = ("env" if policy.dependencies == "included" else "start"), policy.model == "included"
    if minor is None:
        raise PermanentImageError(
            f"bento {bento.path}: its lock {bento.facts['lock_digest'][:23]} is not one with hashes, as an image needs."
            " Release the version with a target that runs images, so that it is locked for one."
        )
    return Content("env", model, minor) if kind == "env" else Content("start", model, minor if model else "any")


def sources_of(bento: SealedBento, content: Content) -> dict[str, Path]:
    """What is laid into the context: the bento's ``src``, or the serving code alone."""
    return {"src": bento.source} if content.model else {"src/bentos": bento.source / "bentos"}


def _app(content: Content, environment: Recipe, bento: SealedBento, labels: Mapping[str, str]) -> Recipe:
    facts = {"bento": bento.digest} if content.model else {"code": bento.facts["code_digest"]}
    return app_recipe(content, environment, sources_of(bento, content), facts, labels)
