"""ContainerEngine: the few things that the docker target asks of an engine, in the target's own errors."""

from __future__ import annotations

import io
import tarfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from infra.targets.docker.container import STACK_LABEL
from infra.targets.interface import PermanentTargetError, TransientTargetError

if TYPE_CHECKING:
    from infra.images.interface import RegistryLogin

ANSWER_SECONDS = 30.0  # an engine that is busy with a build or a pull still answers in this time
TAKEN = ("port is already allocated", "address already in use")


class PortTakenError(TransientTargetError):
    """The port that a container was to be published on belongs to somebody else."""


class ContainerEngine:
    """An engine that is asked for nothing, and not looked for, before the first call.

    Every call raises TransientTargetError where no engine answers, and PermanentTargetError where it refuses. What the
    engine knows is given as its API's own plain values (docs.docker.com/engine/api).
    """

    def __init__(self) -> None:
        self._client: Any = None

    def inspect(self, container: str) -> dict[str, Any] | None:
        """What the engine says of a container, None where there is none of that name."""
        from docker.errors import NotFound

        with self._asked(f"container {container}") as client, suppress(NotFound):
            values: dict[str, Any] = client.api.inspect_container(container)
            return values
        return None

    def of_stack(self, stack: str) -> Sequence[str]:
        """The names of a stack's containers, running or not."""
        with self._asked("list containers") as client:
            found = client.api.containers(all=True, filters={"label": f"{STACK_LABEL}={stack}"})
            return sorted(container["Names"][0].removeprefix("/") for container in found)

    def image(self, reference: str) -> dict[str, Any] | None:
        """What the engine says of an image, None where it has none."""
        from docker.errors import NotFound

        with self._asked(f"image {reference}") as client, suppress(NotFound):
            values: dict[str, Any] = client.api.inspect_image(reference)
            return values
        return None

    def pull(self, reference: str, login: RegistryLogin | None) -> None:
        """Pulls ``repository@sha256:…``."""
        from infra.images.registry import pull

        with self._asked(f"pull {reference}") as client:
            pull(client, reference, login)

    def start(self, image: str, options: Mapping[str, Any], files: Mapping[str, bytes], folder: str, user: str) -> None:
        """Creates and starts a container; *files* are put into *folder*, a volume of it, before it starts.

        Raises PortTakenError where its port is taken; the container is then gone again.
        """
        name = options["name"]
        with self._asked(f"container {name}") as client:
            container = client.containers.create(image, **options)
            if files:
                container.put_archive(folder, _archive(files, user))
        try:
            with self._asked(f"container {name}"):
                container.start()
        except (TransientTargetError, PermanentTargetError) as error:
            if any(words in str(error) for words in TAKEN):
                self.remove(name)
                raise PortTakenError(str(error)) from error
            raise

    def stop(self, container: str, seconds: float) -> None:
        """SIGTERM, and SIGKILL after *seconds*; returns when it has stopped. A missing container has stopped."""
        with self._asked(f"stop {container}") as client, _none_is_fine():
            client.api.stop(container, timeout=max(0, round(seconds)))

    def terminate(self, container: str) -> None:
        """SIGTERM, without a wait. One that does not run is left alone."""
        with self._asked(f"stop {container}") as client, _none_is_fine(also=409):
            client.api.kill(container, "SIGTERM")

    def remove(self, container: str) -> None:
        """Kills and removes a container with its anonymous volumes."""
        with self._asked(f"remove {container}") as client, _none_is_fine(also=409):  # 409: it is being removed
            client.api.remove_container(container, force=True, v=True)

    def restart_from_now(self, container: str, policy: Mapping[str, Any]) -> None:
        """Changes the restart policy of a container."""
        with self._asked(f"container {container}") as client, _none_is_fine(also=409):
            client.api.update_container(container, restart_policy=dict(policy))

    def logs(self, container: str, lines: int) -> str:
        """The last *lines* lines that a container wrote, both streams."""
        from docker.errors import NotFound

        with self._asked(f"logs of {container}") as client, suppress(NotFound):
            written: bytes = client.api.logs(container, stdout=True, stderr=True, tail=lines)
            return written.decode(errors="replace")
        return ""

    def ensure_network(self, name: str, stack: str) -> None:
        """Makes the network unless there is one of that name; only one that is made here carries the stack's label."""
        with self._asked(f"network {name}") as client:
            if not any(found["Name"] == name for found in client.api.networks(names=[name])):
                client.api.create_network(name, driver="bridge", check_duplicate=True, labels={STACK_LABEL: stack})

    def remove_networks(self, stack: str) -> None:
        """Removes the networks that the stack made; one that somebody else has joined meanwhile stays."""
        with self._asked("remove networks") as client:
            for found in client.api.networks(filters={"label": f"{STACK_LABEL}={stack}"}):
                with _none_is_fine(also=403):
                    client.api.remove_network(found["Id"])

    @contextmanager
    def _asked(self, what: str) -> Iterator[Any]:
        """The client; what it raises is turned into the target's errors."""
        from infra.images.engine import connect, translated
        from infra.images.interface import PermanentImageError, TransientImageError

        try:
            if self._client is None:
                self._client = connect(timeout=ANSWER_SECONDS)
                weakref.finalize(self, self._client.close)
            with translated(what):
                yield self._client
        except TransientImageError as away:
            raise TransientTargetError(str(away)) from away
        except PermanentImageError as refused:
            raise PermanentTargetError(str(refused)) from refused


@contextmanager
def _none_is_fine(also: int = 404) -> Iterator[None]:
    """Passes over the engine's answer that there is no such thing, and over the status *also*."""
    from docker.errors import APIError

    try:
        yield
    except APIError as error:
        if error.status_code not in (404, also):
            raise


def _archive(files: Mapping[str, bytes], user: str) -> bytes:
    """A tar of *files* that belong to *user* (uid:gid)."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.uid, entry.gid = (int(part) for part in user.split(":"))
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
