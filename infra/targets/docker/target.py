"""DockerTarget: one container per version, on a unix socket in a private folder and without a network, or in a network.

What is wanted lies on disk, what is, the engine knows; so any process finds the deployments again:

    <folder>/<name>/deployment.json   the spec, whether it should run, and where it listens
    <folder>/<name>/run               the one folder that its container shares with this machine: the socket
    <folder>/<name>/last.log          what containers before the present one wrote last
    <folder>/cache                    models and environments that containers fetched

Containers are named and labelled after the stack and the deployment.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.targets.docker.container import lasting_restarts, no_restarts
from infra.targets.docker.engine import ContainerEngine
from infra.targets.docker.place import container_name, remove_run_folder, stack_of
from infra.targets.docker.settings import DockerSettings
from infra.targets.docker.start import NETWORK_LOCK, Starter
from infra.targets.docker.state import alive, answers_ready, judge
from infra.targets.interface import Address, Deployment, DeploymentSpec, PermanentTargetError, State
from infra.targets.known_deployments import KnownDeployments, refuse_another, spec_of
from infra.targets.waiting import until_ready

if TYPE_CHECKING:
    from infra.images.interface import ImageSettings, RegistryLogin

LOOK_SECONDS = 0.05


class DockerTarget:
    """The target seam over containers of one engine.

    *folder* holds the deployments, *segments* the prediction log (``<segments>/<model>/<version>``); *login* is for
    images that are pulled. An engine is needed as soon as there is a deployment and not before: without one on record
    no call but ``ensure`` looks for it. TransientTargetError where it is needed and does not answer.
    """

    def __init__(
        self,
        folder: Path,
        *,
        segments: Path,
        settings: DockerSettings,
        images: ImageSettings,
        login: RegistryLogin | None = None,
    ) -> None:
        self._records = KnownDeployments(folder)
        self._stack = stack_of(self._records.folder)
        self._settings = settings
        self._engine = ContainerEngine()
        self._starter = Starter(self._engine, self._records, segments.absolute(), settings, images, login)

    def ensure(self, spec: DeploymentSpec) -> Deployment:
        """Starts *spec* unless it runs.

        PermanentTargetError where another spec runs under the same name, and for an image that is named by a tag, that
        the engine cannot get, or that is not the image of the spec's bento; nothing is left of it then.
        """
        with self._records.lock(spec.name):
            record = self._records.read(spec.name)
            if record is not None and alive(self._engine.inspect(self._container(spec.name))):
                refuse_another(record, spec)
                if record["wanted"] == "running":
                    return self._deployment(spec.name)
            try:
                self._starter.start(spec)
            except PermanentTargetError:
                if record is None:
                    self._forget(spec.name)
                raise
            return self._deployment(spec.name)

    def ready(self, name: str, timeout: float) -> Deployment:
        """Waits for READY; TransientTargetError when it is still starting after *timeout* seconds."""
        return until_ready(self._deployment, self.logs, name, timeout, every=LOOK_SECONDS)

    def drain(self, name: str, timeout: float) -> None:
        """SIGTERM to the server through the engine, SIGKILL after *timeout*; ``restore`` does not start it again."""
        if self._records.read(name) is None:
            return
        with self._records.lock(name):
            record = self._records.read(name)
            if record is None:
                return
            self._records.write(name, {**record, "wanted": "stopped"})
            container = self._engine.inspect(self._container(name))
        if container is not None:  # by its id: an ensure may put another one in its place meanwhile
            self._engine.restart_from_now(container["Id"], no_restarts())
            self._engine.stop(container["Id"], timeout)

    def remove(self, name: str) -> None:
        """Kills the container and deletes folder and socket; the last one takes the network along that was made here."""
        with self._records.lock(name):
            if self._records.home(name).exists():
                self._forget(name)
            else:
                self._records.forget(name)

    def list(self) -> Sequence[Deployment]:
        """Every deployment on disk, each as the engine sees it now."""
        return [self._deployment(name) for name in self._records.names()]

    def logs(self, name: str, lines: int = 100) -> str:
        """The last lines, those of earlier containers included."""
        if self._records.read(name) is None:
            return ""
        kept = self._records.home(name) / "last.log"
        text = kept.read_text() if kept.exists() else ""
        text += self._engine.logs(self._container(name), lines)
        return "\n".join(text.splitlines()[-lines:])

    def restore(self) -> Sequence[Deployment]:
        """Starts every deployment that should run and does not; gives those it started."""
        started = []
        for name in self._records.names():
            with self._records.lock(name):
                record = self._records.read(name)
                if (
                    record is None
                    or record["wanted"] != "running"
                    or alive(self._engine.inspect(self._container(name)))
                ):
                    continue
                self._starter.start(spec_of(record))
                started.append(self._deployment(name))
        return started

    def stop_all(self, timeout: float = 10.0) -> None:
        """Removes every container and network of this stack, letting requests finish for *timeout* seconds in all."""
        names = self._records.names()
        if not names:
            return
        containers = self._engine.of_stack(self._stack)
        for container in containers:
            self._engine.terminate(container)
        deadline = time.monotonic() + timeout
        while any(alive(self._engine.inspect(container)) for container in containers) and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        for name in names:
            with self._records.lock(name):
                self._starter.clear(name)
        for container in containers:  # also what no record knows any more
            self._engine.remove(container)
        self._engine.remove_networks(self._stack)

    def _deployment(self, name: str) -> Deployment:
        record = self._records.known(name)
        spec, address = spec_of(record), Address(**record["address"])
        container = self._engine.inspect(self._container(name))
        state, reason = judge(
            container, record["wanted"], lambda: answers_ready(container or {}, address, self._settings.network)
        )
        if state is State.READY and container is not None:
            self._was_ready(container)
        restarts = container["RestartCount"] if container is not None else 0
        return Deployment(name, spec.model, spec.version, spec.bento_digest, address, state, restarts, reason)

    def _was_ready(self, container: Mapping[str, Any]) -> None:
        """From the first time that it was ready the engine restarts it as the settings say, not only a few times."""
        lasting = lasting_restarts(self._settings)
        if container["HostConfig"]["RestartPolicy"] != lasting:
            self._engine.restart_from_now(container["Id"], lasting)

    def _forget(self, name: str) -> None:
        """Leaves nothing of *name*, and nothing at all on the engine after the last one. The caller holds its lock."""
        self._engine.remove(self._container(name))
        remove_run_folder(self._records.home(name))
        self._records.forget(name)
        with self._records.lock(NETWORK_LOCK):
            if not self._records.names():
                self._engine.remove_networks(self._stack)
            self._records.forget(NETWORK_LOCK)

    def _container(self, name: str) -> str:
        return container_name(self._stack, name)
