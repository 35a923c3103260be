"""Push and pull by digest, against a real OCI registry (Debian's docker-registry) and a real engine."""

from __future__ import annotations

import contextlib
import datetime
import gc
import io
import ipaddress
import json
import os
import secrets
import shutil
import socket
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infra.images.engine import connect
from infra.images.interface import ImageError, PermanentImageError, RegistryLogin, TransientImageError
from infra.images.registry import pull, push
from tests.infra.images.oci_registry import LOGIN, RealRegistry, needs_registry, serve

if TYPE_CHECKING:
    import docker

CERTIFICATES = Path("/etc/docker/certs.d")

pytestmark = needs_registry


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    try:
        client = connect()
    except ImageError as error:
        pytest.skip(f"no Docker engine answers: {error}")
    yield client
    client.close()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    running = serve(tmp_path_factory.mktemp("registry"))
    yield running
    running.stop()


@pytest.fixture
def make_image(engine: docker.DockerClient) -> Iterator[Callable[[], str]]:
    """Makes images of 64 KiB, each with a layer of its own; nothing of them is left on the engine."""
    made: list[str] = []

    def make() -> str:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            entry = tarfile.TarInfo("content")
            entry.size = 65536
            tar.addfile(entry, io.BytesIO(os.urandom(entry.size)))
        tag = f"shipway-test-registry/model:{secrets.token_hex(6)}"
        engine.api.import_image_from_data(archive.getvalue(), tag.partition(":")[0], tag.partition(":")[2])
        made.append(str(engine.api.inspect_image(tag)["Id"]))
        return tag

    yield make
    for identifier in made:
        forget(engine, identifier)


def forget(engine: docker.DockerClient, identifier: str) -> None:
    from docker.errors import ImageNotFound

    try:
        engine.api.remove_image(identifier, force=True)
    except ImageNotFound:
        return


def test_a_pushed_image_comes_back_by_its_digest(
    engine: docker.DockerClient, registry: RealRegistry, make_image: Callable[[], str]
) -> None:
    tag = make_image()
    identifier = engine.api.inspect_image(tag)["Id"]
    reference = push(engine, tag, f"{registry.host}/team", LOGIN)

    repository, _, digest = reference.partition("@")
    assert repository == f"{registry.host}/team/shipway-test-registry/model"
    assert json.loads(registry.blob(digest).read_bytes())["config"]["digest"] == identifier  # what the registry holds
    assert push(engine, tag, f"{registry.host}/team", LOGIN) == reference

    forget(engine, identifier)
    pull(engine, reference, LOGIN)
    assert engine.api.inspect_image(reference)["Id"] == identifier
    pull(engine, reference, LOGIN)  # there already


def test_a_name_that_has_the_repository_already_is_not_nested(
    engine: docker.DockerClient, registry: RealRegistry, make_image: Callable[[], str]
) -> None:
    own = f"{registry.host}/team/flights"
    engine.api.tag(make_image(), own, "1")
    assert push(engine, f"{own}:1", f"{registry.host}/team", LOGIN).startswith(f"{own}@sha256:")


@pytest.mark.parametrize("login", [RegistryLogin(username="robot", password="wrong-but-secret"), None])
def test_a_refused_login_names_user_and_repository_and_no_password(
    engine: docker.DockerClient, registry: RealRegistry, make_image: Callable[[], str], login: RegistryLogin | None
) -> None:
    tag = make_image()
    name = f"{registry.host}/refused/shipway-test-registry/model"
    with pytest.raises(PermanentImageError) as pushing:
        push(engine, tag, f"{registry.host}/refused", login)
    with pytest.raises(PermanentImageError) as pulling:
        pull(engine, f"{name}@sha256:{'0' * 64}", login)
    for error in (str(pushing.value), str(pulling.value)):
        assert ("user 'robot'" if login else "no login") in error and name in error
        assert "image registry block" in error
        assert "wrong-but-secret" not in error


def test_a_registry_that_is_down_is_transient(engine: docker.DockerClient, make_image: Callable[[], str]) -> None:
    tag = make_image()
    with socket.socket() as bound:  # bound and not listening: connections are refused
        bound.bind(("127.0.0.1", 0))
        host = f"localhost:{bound.getsockname()[1]}"
        with pytest.raises(TransientImageError, match=f"registry {host} does not answer"):
            push(engine, tag, host, LOGIN)
        with pytest.raises(TransientImageError, match=f"registry {host} does not answer"):
            pull(engine, f"{host}/model@sha256:{'0' * 64}", LOGIN)


def test_a_registry_that_fails_by_itself_is_transient(engine: docker.DockerClient, tmp_path: Path) -> None:
    running = serve(tmp_path)
    try:
        running.storage.write_text("a file where the registry's folder should be")
        # a pull: the engine tries a push again by itself, for 50 s
        with pytest.raises(TransientImageError, match=f"registry {running.host} does not answer as it should"):
            pull(engine, f"{running.host}/model@sha256:{'0' * 64}", LOGIN)
    finally:
        running.stop()


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # the SDK leaves a socket that did not connect
def test_an_engine_that_is_away_is_transient(tmp_path: Path) -> None:
    import docker

    client = docker.DockerClient(base_url=f"unix://{tmp_path}/none.sock", version="1.41")
    try:
        with pytest.raises(TransientImageError, match="engine"):
            push(client, "model:1", "localhost:1", LOGIN)
    finally:
        client.close()
        gc.collect()


def test_a_tampered_layer_is_not_used(
    engine: docker.DockerClient, registry: RealRegistry, make_image: Callable[[], str]
) -> None:
    tag = make_image()
    identifier = engine.api.inspect_image(tag)["Id"]
    reference = push(engine, tag, registry.host, LOGIN)
    forget(engine, identifier)
    layer = json.loads(registry.blob(reference.partition("@")[2]).read_bytes())["layers"][0]["digest"]
    content = bytearray(registry.blob(layer).read_bytes())
    content[len(content) // 2] ^= 1
    registry.blob(layer).write_bytes(content)

    with pytest.raises(PermanentImageError, match="not what its digest says") as refused:
        pull(engine, reference, LOGIN)
    assert registry.host in str(refused.value)
    assert not [image for image in engine.api.images() if reference in (image.get("RepoDigests") or [])]


def test_a_tampered_manifest_is_not_used(
    engine: docker.DockerClient, registry: RealRegistry, make_image: Callable[[], str]
) -> None:
    tag = make_image()
    identifier = engine.api.inspect_image(tag)["Id"]
    reference = push(engine, tag, registry.host, LOGIN)
    other = push(engine, make_image(), registry.host, LOGIN)
    forget(engine, identifier)
    manifests = [registry.blob(name.partition("@")[2]) for name in (reference, other)]
    manifests[0].write_bytes(manifests[1].read_bytes())

    with pytest.raises(PermanentImageError, match="not what its digest says"):
        pull(engine, reference, LOGIN)


def test_a_digest_that_was_never_pushed(engine: docker.DockerClient, registry: RealRegistry) -> None:
    with pytest.raises(PermanentImageError, match="has no such image"):
        pull(engine, f"{registry.host}/model@sha256:{'0' * 64}", LOGIN)


@pytest.mark.parametrize("reference", ["localhost:1/model:latest", "localhost:1/model", "sha256:" + "0" * 64])
def test_only_digests_are_pulled(engine: docker.DockerClient, reference: str) -> None:
    with pytest.raises(PermanentImageError, match="expected repository@sha256"):
        pull(engine, reference, LOGIN)


def test_only_tags_are_pushed(engine: docker.DockerClient) -> None:
    with pytest.raises(PermanentImageError, match="expected name:tag"):
        push(engine, "localhost:5000/model", "localhost:5000", LOGIN)
    with pytest.raises(PermanentImageError, match=r"[Nn]o such image"):
        push(engine, "shipway-test-registry/none:1", "localhost:5000", LOGIN)


def authority(folder: Path, address: str) -> tuple[Path, tuple[Path, Path]]:
    """A certificate authority and a server certificate for the IP *address*: ca.crt, (server.crt, server.key)."""
    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("tests CA", address)]
    paths = []
    for index, name in enumerate(names):
        builder = (
            x509.CertificateBuilder(names[0], name, keys[index].public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=index == 0, path_length=None), critical=True)
        )
        if index:
            alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
            builder = builder.add_extension(alternative, critical=False)
        paths.append(folder / f"{index}.crt")
        paths[-1].write_bytes(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    key = folder / "server.key"
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key.write_bytes(keys[1].private_bytes(*form))
    return paths[0], (paths[1], key)


def other_address(engine: docker.DockerClient) -> str:
    """An address of this machine that is not loopback: the engine checks no certificate of 127.0.0.0/8."""
    configs = [config for network in engine.api.networks() for config in network["IPAM"].get("Config") or []]
    for address in [*(config.get("Gateway", "") for config in configs), socket.gethostbyname(socket.gethostname())]:
        with socket.socket() as probe, contextlib.suppress(OSError):
            if address and not ipaddress.ip_address(address).is_loopback:
                probe.bind((address, 0))
                return str(address)
    pytest.skip("this machine has no address but loopback, of which the engine checks no certificate")


def test_tls_is_explained_and_works_with_the_authority_in_place(
    engine: docker.DockerClient, make_image: Callable[[], str], tmp_path: Path
) -> None:
    address = other_address(engine)
    ca, server = authority(tmp_path, address)
    running = serve(tmp_path, address, server)
    trusted, there = CERTIFICATES / running.host, CERTIFICATES.exists()
    try:
        tag = make_image()
        with pytest.raises(PermanentImageError, match="no trusted connection") as refused:
            push(engine, tag, running.host, LOGIN)
        assert f"/etc/docker/certs.d/{running.host}/ca.crt" in str(refused.value)
        try:
            trusted.mkdir(parents=True)
        except PermissionError as error:
            pytest.skip(f"certificate authorities cannot be put where the engine looks: {error}")
        shutil.copyfile(ca, trusted / "ca.crt")
        reference = push(engine, tag, running.host, LOGIN)
        forget(engine, engine.api.inspect_image(tag)["Id"])
        pull(engine, reference, LOGIN)
    finally:
        shutil.rmtree(trusted, ignore_errors=True)
        if not there and CERTIFICATES.is_dir():
            CERTIFICATES.rmdir()
        running.stop()
