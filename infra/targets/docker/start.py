"""Starter: from a spec to a started container, with its image checked and its folders made."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.serving.files import private_folder
from infra.targets.docker.container import CA_FILE, CACHE, LOCK_FILE, PORT, fetches, given_path, options_of
from infra.targets.docker.engine import ContainerEngine, PortTakenError
from infra.targets.docker.place import Place, container_name, free_port, give, run_folder, stack_of, user
from infra.targets.docker.settings import DockerSettings
from infra.targets.interface import Address, DeploymentSpec, PermanentTargetError
from infra.targets.known_deployments import KnownDeployments, values_of

if TYPE_CHECKING:
    from infra.images.interface import ImageSettings, RegistryLogin

DIGEST_LABEL = "io.shipway.bento-digest"
PINNED = re.compile(r"(.+@)?sha256:[0-9a-f]{64}")
NETWORK_LOCK = "network"  # no deployment is called so: their names end with a digest
KEPT_LINES = 1000  # of a container's log, once it is gone
PORT_TRIES = 5


@dataclass(frozen=True)
class Starter:
    """Starts the containers of one target. Every call is made under the deployment's lock."""

    engine: ContainerEngine
    records: KnownDeployments
    segments: Path
    settings: DockerSettings
    images: ImageSettings
    login: RegistryLogin | None

    def start(self, spec: DeploymentSpec) -> None:
        """Puts a new container in the place of the old one, on the old one's port where that is still free.

        Raises PermanentTargetError for what cannot run as asked, before anything is changed.
        """
        self._check(spec)
        image = self._image(spec)
        given = self._given(spec)
        port = self._port_before(spec.name)
        self.clear(spec.name)
        for tries_left in reversed(range(PORT_TRIES)):
            if self._publishes and port is None:
                port = free_port(self._ports())
            place = self._place(spec, port, given=bool(given))
            address = self._address(spec, place)
            self.records.write(spec.name, {"spec": values_of(spec), "wanted": "running", "address": asdict(address)})
            try:
                self._start(spec, image, place, given)
            except PortTakenError:
                if not tries_left:
                    raise
                port = None
            else:
                return

    def clear(self, name: str) -> None:
        """Removes the container and its socket; the end of its log is kept."""
        container = container_name(stack_of(self.records.folder), name)
        home = self.records.home(name)
        kept = home / "last.log"
        written = self.engine.logs(container, KEPT_LINES)
        if written and home.exists():
            before = kept.read_text() if kept.exists() else ""
            kept.write_text("".join((before + written).splitlines(keepends=True)[-KEPT_LINES:]))
        self.engine.remove(container)
        (run_folder(home) / "server.sock").unlink(missing_ok=True)

    def _start(self, spec: DeploymentSpec, image: str, place: Place, given: Mapping[str, bytes]) -> None:
        options = options_of(spec, place, self.settings, self.images, os.environ)
        inside = {Path(given_path(spec, self.settings, name)).name: content for name, content in given.items()}
        if place.given is not None:
            for name, content in inside.items():
                (place.given / name).write_bytes(content)
                (place.given / name).chmod(0o644)
            inside = {}
        with ExitStack() as stack:
            if self.settings.network is not None:
                stack.enter_context(self.records.lock(NETWORK_LOCK))  # nobody removes it before we are in it
                self.engine.ensure_network(self.settings.network, place.stack)
            self.engine.start(image, options, inside, CACHE, place.user)

    def _check(self, spec: DeploymentSpec) -> None:
        if not PINNED.fullmatch(spec.image):
            raise PermanentTargetError(
                f"deployment {spec.name}: image {spec.image!r}: expected the id of an image (sha256:…) or"
                " repository@sha256:…, never a tag. Release the version again, so that its image is built."
            )
        if spec.pulled and not (self.settings.registry_url and spec.model_digest):
            missing = "registry_url is not set" if spec.model_digest else "its spec has no model_digest"
            raise PermanentTargetError(
                f"deployment {spec.name}: its container pulls the model, but {missing}. Set docker.registry_url to"
                " MLflow's address as containers reach it, or use the image policy model: included."
            )

    def _image(self, spec: DeploymentSpec) -> str:
        """The id of the image, once the engine has it and it has proved to be the one of the spec's bento."""
        found = self.engine.image(spec.image)
        if found is None and "@" in spec.image:
            self.engine.pull(spec.image, self.login)
            found = self.engine.image(spec.image)
        if found is None:
            raise PermanentTargetError(
                f"deployment {spec.name}: the engine has no image {spec.image}. Release the version again, so that it is"
                " built, or push images to a repository that this engine can pull from."
            )
        sealed = (found["Config"].get("Labels") or {}).get(DIGEST_LABEL)
        if not spec.pulled and sealed != spec.bento_digest:
            raise PermanentTargetError(
                f"deployment {spec.name}: image {spec.image} is not the image of this version: its label {DIGEST_LABEL} is"
                f" {sealed!r}, expected {spec.bento_digest!r}. Somebody changed it: remove the image and release the"
                " version again."
            )
        return str(found["Id"])

    def _given(self, spec: DeploymentSpec) -> dict[str, bytes]:
        """What the container is given to start with, by name: the hashed lock where it has neither model nor environment,
        and certificate authorities (this machine's and the extra ones) where it fetches."""
        given = {}
        if spec.pulled and spec.resolved:
            given[LOCK_FILE] = _read(Path(spec.bento) / "src" / LOCK_FILE, spec)
        if fetches(spec) and self.images.ca_files:
            usual = ssl.get_default_verify_paths().cafile
            files = [*([Path(usual)] if usual is not None else []), *self.images.ca_files]
            given[CA_FILE] = b"\n".join(dict.fromkeys(_read(path, spec) for path in files))
        return given

    def _place(self, spec: DeploymentSpec, port: int | None, *, given: bool) -> Place:
        """Where the container goes, with every folder made and given to whoever runs in it."""
        owner, stack = user(), stack_of(self.records.folder)
        home = self.records.home(spec.name)
        private_folder(home)
        segments, cache = self.segments / spec.model / spec.version, self.records.folder / "cache"
        private_folder(segments.parent)
        give(segments, owner)
        run = handed = None
        if self.settings.network is None:
            run = run_folder(home)
            give(run, owner)
        if given and self.settings.cache_volume is None:
            handed = home / "given"
            handed.mkdir(exist_ok=True)
            handed.chmod(0o755)
        if fetches(spec) and self.settings.cache_volume is None:
            give(cache, owner)
        return Place(container_name(stack, spec.name), stack, owner, segments, cache, run, handed, port)

    def _address(self, spec: DeploymentSpec, place: Place) -> Address:
        if self.settings.network is None:
            return Address(uds=str(run_folder(self.records.home(spec.name)) / "server.sock"))
        if place.port is not None:
            return Address(host="127.0.0.1", port=place.port)
        return Address(host=place.container, port=PORT)

    @property
    def _publishes(self) -> bool:
        return self.settings.network is not None and self.settings.publish

    def _port_before(self, name: str) -> int | None:
        """The port that the deployment was published on last: whoever knows its address finds it there again."""
        record = self.records.read(name)
        if record is None or not self._publishes or record["address"]["host"] != "127.0.0.1":
            return None
        return int(record["address"]["port"])

    def _ports(self) -> set[int]:
        """Ports on record, also of containers that do not run now."""
        found = [self.records.read(name) for name in self.records.names()]
        return {record["address"]["port"] for record in found if record is not None and record["address"]["port"]}


def _read(path: Path, spec: DeploymentSpec) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PermanentTargetError(
            f"deployment {spec.name}: its container needs {path} to start: {error.strerror}. Put the file back; a bento's"
            " own comes back when the version is released again."
        ) from error
