"""Images to and from an OCI registry, by digest. The engine moves the bytes; what it says on the way decides.

Wire protocol of the registry: https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from infra.images.engine import disk_full, meaning, said
from infra.images.interface import ImageError, PermanentImageError, RegistryLogin, TransientImageError

if TYPE_CHECKING:
    import docker

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
LOGIN_BLOCK = "the Shipway image registry block that the target names (image_registry)"

# What the engine says, in the order in which it is looked for: a handshake that timed out is no matter of certificates.
_AWAY = (
    "connection refused",
    "connection reset",
    "broken pipe",
    "no route to host",
    "network is unreachable",
    "timeout",
    "timed out",
    "deadline exceeded",
    "temporary failure in name resolution",
    "server misbehaving",
    "unexpected http status: 5",
    "unexpected status code 5",
    "unexpected status: 5",
    "internal server error",
    "bad gateway",
    "service unavailable",
    "too many requests",
    "toomanyrequests",
    "unexpected eof",
    ": eof",
)
_REFUSED = (
    "unauthorized",
    "authentication required",
    "no basic auth credentials",
    "denied",
    "forbidden",
    "incorrect username or password",
    "unexpected http status: 401",
    "unexpected http status: 403",
)
_TLS = ("x509:", "tls:", "http response to https client", "first record does not look like a tls handshake")
_TAMPERED = ("verification failed", "does not match digest", "digest mismatch", "unexpected digest", "invalid checksum")
_MISSING = ("manifest unknown", "not found", "name unknown", "does not exist", "blob unknown")


def remote_name(tag: str, repository: str) -> str:
    """What the local image *tag* is called once it is pushed below *repository*, without tag or digest."""
    name, _, label = tag.partition("@")[0].rpartition(":")
    if not name or "/" in label:
        raise PermanentImageError(f"image {tag!r}: expected name:tag of a local image to push.")
    return name if name.startswith(f"{repository.rstrip('/')}/") else f"{repository.rstrip('/')}/{name}"


def push(client: docker.DockerClient, tag: str, repository: str, login: RegistryLogin | None) -> str:
    """Pushes the local image *tag* (``name:tag``) below *repository* (``host[:port]/path``) and returns what it is there:
    ``repository/name@sha256:…``, the digest as the registry itself gives it when asked afterwards.

    *login* None: what the engine's client has stored for that registry, if anything. Raises TransientImageError where
    the registry or the engine is away, PermanentImageError where it refuses or cannot be trusted.
    """
    remote, label = remote_name(tag, repository), tag.partition("@")[0].rpartition(":")[2]
    what = f"push of {tag} to {remote}"
    auth = _auth(login)
    try:
        client.api.tag(tag, remote, label)
        entries = client.api.push(remote, tag=label, stream=True, decode=True, auth_config=auth)
        digest = _followed(entries, what, remote, login)
        there = client.api.inspect_distribution(f"{remote}:{label}", auth_config=auth)["Descriptor"]["digest"]
    except Exception as error:
        raise _meaning(error, what, remote, login) from error
    if not DIGEST.fullmatch(digest):
        raise TransientImageError(f"{what}: the engine ended the push without a digest; it may have been stopped.")
    if there != digest:
        raise PermanentImageError(
            f"{what}: the registry has {there} under the tag {label}, pushed was {digest}. Somebody else pushed the same"
            " tag at the same moment; expected one writer for this repository. Run again."
        )
    return f"{remote}@{digest}"


def pull(client: docker.DockerClient, reference: str, login: RegistryLogin | None) -> None:
    """Has the engine fetch ``repository@sha256:…`` unless it is there; every layer is checked against its digest.

    Raises TransientImageError where the registry or the engine is away, PermanentImageError where the reference is no
    digest, the registry refuses, does not have it, or has other bytes under it.
    """
    repository, _, digest = reference.partition("@")
    if not repository or not DIGEST.fullmatch(digest):
        raise PermanentImageError(
            f"image {reference!r}: expected repository@sha256:… (a tag may be moved; a digest may not)."
        )
    what = f"pull of {reference}"
    try:
        entries = client.api.pull(repository, tag=digest, stream=True, decode=True, auth_config=_auth(login))
        _followed(entries, what, repository, login)
        found = client.api.inspect_image(reference).get("RepoDigests") or []
    except Exception as error:
        raise _meaning(error, what, repository, login) from error
    if reference not in found:
        raise PermanentImageError(f"{what}: the engine has {', '.join(found) or 'no digest'} for it. Pull it again.")


def _auth(login: RegistryLogin | None) -> dict[str, str] | None:
    if login is None:
        return None
    return {"username": login.username, "password": login.password.get_secret_value()}


def _followed(entries: Iterable[Mapping[str, Any]], what: str, repository: str, login: RegistryLogin | None) -> str:
    """Reads the engine's report to its end and returns the digest it names, empty where it names none.

    Failures are entries of a stream that began with 200; one that is left half read would keep its connection open.
    """
    digest, failed = "", ""
    for entry in entries:
        failed = failed or str(entry.get("error") or (entry.get("errorDetail") or {}).get("message") or "")
        digest = str((entry.get("aux") or {}).get("Digest") or digest)
    if failed:
        raise _judged(failed, what, repository, login)
    return digest


def _meaning(error: Exception, what: str, repository: str, login: RegistryLogin | None) -> Exception:
    """What an error of the SDK means; errors that are none of the engine's or the registry's stay as they are."""
    from docker.errors import APIError

    if isinstance(error, APIError):
        return _judged(said(error), what, repository, login)
    if isinstance(error, ImageError):
        return error
    return meaning(error, what) or error


def _judged(words: str, what: str, repository: str, login: RegistryLogin | None) -> ImageError:
    """The error that the engine's *words* about a registry come to."""
    host, low = repository.partition("/")[0], words.lower()
    user = f"user {login.username!r}" if login is not None else "no login"
    if login is not None and login.password.get_secret_value():
        words = words.replace(login.password.get_secret_value(), "********")

    def says(signs: tuple[str, ...]) -> bool:
        return any(sign in low for sign in signs)

    if "no space left on device" in low:
        return disk_full(what, words)
    if says(_AWAY):
        return TransientImageError(f"{what}: the registry {host} does not answer as it should: {words}. Is it up?")
    if says(_TLS):
        return PermanentImageError(
            f"{what}: no trusted connection to the registry {host}: {words}. The engine takes certificate authorities"
            f" from its system and from /etc/docker/certs.d/{host}/ca.crt on its own machine: put the registry's there;"
            " the engine need not be restarted."
        )
    if says(_TAMPERED):
        return PermanentImageError(
            f"{what}: what the registry {host} holds is not what its digest says: {words}. It was changed or damaged in"
            " the registry; nothing of it is used. Remove it there, push the image again, and find out who can write there."
        )
    if says(_REFUSED):
        return PermanentImageError(
            f"{what}: the registry {host} refused {user} for {repository}: {words}. Put a user and password that may"
            f" do this into {LOGIN_BLOCK}."
        )
    if says(_MISSING):
        return PermanentImageError(
            f"{what}: the registry {host} has no such image: {words}. It was never pushed or was removed there: build and"
            " push it again."
        )
    if "no such host" in low:
        return PermanentImageError(
            f"{what}: no machine is called {host}: {words}. Correct image_repository, or the DNS."
        )
    return PermanentImageError(f"{what}: {words}.")
