"""Signatures of versions in a real MLflow registry: made, kept with the run, and asked for by the vet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bentos.policy.gates import SignaturePolicy
from bentos.policy.release import ReleasePolicy
from bentos.serving.environments.environment import Environments
from bentos.versions.registry import Registry
from bentos.vet.signing import KeyFileError, Signer, UnsignedError
from blocks.store import StoreBlock
from flows.console.sign import UnsignableError, sign, sign_version, signer_of
from flows.release.line import Line
from flows.release.prepare import VetRefusedError, vet_version
from flows.release.signature import check_signature, signature_path
from infra.gateways.memory import MemoryGateway
from infra.settings import StackSettings
from infra.targets.memory import MemoryTarget
from monitoring.ledger.ledger import Ledger

pytest.importorskip("model_signing", reason="the extra signing is not installed")

MLMODEL = {
    "flavors": {"python_function": {"python_version": "3.11.7"}},
    "signature": {"inputs": '[{"type": "double", "name": "a"}]', "outputs": '[{"type": "long"}]'},
}


@pytest.fixture
def line(mlflow_server: str, tmp_path: Path) -> Line:
    """A line on the real registry and ledger; what the vet does not ask is in memory."""
    settings = StackSettings(home=tmp_path / "home")
    return Line(
        settings=settings,
        registry=Registry(mlflow_server, settings.models),
        environments=Environments(settings.envs),
        targets={},
        target_name="memory",
        target=MemoryTarget(),
        images=None,
        gateway=MemoryGateway(lambda *_: True),
        ledger=Ledger(mlflow_server, settings.root / "releases" / "files"),
        store=StoreBlock(folder=settings.reports),
    )


@pytest.fixture
def register(line: Line) -> Callable[..., str]:
    """Registers the next version of the model ``signed`` by plain REST; returns its number."""

    def post(path: str, **values: object) -> dict[str, Any]:
        answer = httpx.post(f"{line.registry.tracking_uri}/api/2.0/mlflow/{path}", json=values)
        assert answer.is_success or "RESOURCE_ALREADY_EXISTS" in answer.text, answer.text
        return dict(answer.json())

    def upload(artifacts: str, content: bytes) -> None:
        root = f"{line.registry.tracking_uri}/api/2.0/mlflow-artifacts/artifacts/{urlsplit(artifacts).path.strip('/')}"
        for name, data in (("MLmodel", yaml.safe_dump(MLMODEL).encode()), ("code/mine.py", content)):
            assert httpx.put(f"{root}/{name}", content=data).is_success

    def make(content: bytes = b"print('a model')\n", *, with_run: bool = True) -> str:
        run = line.ledger.runs.create("signing", "author", {})
        source, about = f"{run.artifacts}/model", {"run_id": run.run_id}
        upload(source, content)
        if not with_run:  # a logged model of MLflow 3 need not be a run's
            experiment = urlsplit(run.artifacts).path.split("/")[1]
            logged = post("logged-models", experiment_id=experiment, name="alone")["model"]["info"]
            upload(logged["artifact_uri"], content)
            source, about = f"models:/{logged['model_id']}", {"model_id": logged["model_id"]}
        post("registered-models/create", name="signed")
        created = post("model-versions/create", name="signed", source=source, **about)
        return str(created["model_version"]["version"])

    return make


@pytest.fixture
def pair(tmp_path: Path) -> Callable[[str], tuple[Signer, ReleasePolicy]]:
    """Makes a signer and the policy that trusts it alone."""

    def make(name: str) -> tuple[Signer, ReleasePolicy]:
        key = ec.generate_private_key(ec.SECP256R1())
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (tmp_path / f"{name}.key").write_bytes(key.private_bytes(*form))
        spki = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / f"{name}.pub").write_bytes(key.public_key().public_bytes(*spki))
        trusted = SignaturePolicy(method="key", public_key=tmp_path / f"{name}.pub")
        return Signer(tmp_path / f"{name}.key"), ReleasePolicy(signature=trusted)

    return make


def test_the_vet_asks_for_the_signature_that_sign_made(
    line: Line, register: Callable[..., str], pair: Callable[[str], tuple[Signer, ReleasePolicy]]
) -> None:
    version = register()
    signer, policy = pair("ours")
    stranger, _ = pair("stranger")
    with pytest.raises(VetRefusedError, match=rf"shipway sign signed {version}"):
        vet_version(line, "signed", version, policy)
    vet_version(line, "signed", version, ReleasePolicy())  # kept, and of no use to a policy that asks

    with pytest.raises(VetRefusedError, match="asks for a signature"):
        vet_version(line, "signed", version, policy)
    sign_version(line.registry, line.ledger.runs, "signed", version, stranger)
    with pytest.raises(VetRefusedError, match="not by whom the policy trusts"):
        vet_version(line, "signed", version, policy)

    said = sign_version(line.registry, line.ledger.runs, "signed", version, signer)
    found = line.registry.resolve("signed", version=version)
    assert signature_path(found) in said and str(found.run_id) in said
    passed = vet_version(line, "signed", version, policy)
    assert "passed modelscan" in passed and "signed with the key sha256:" in passed and "ours.pub" in passed
    assert check_signature(line.registry, line.ledger.runs, found, policy.signature).digest in passed
    assert vet_version(line, "signed", version, policy) == passed

    sign_version(line.registry, line.ledger.runs, "signed", version, stranger)  # replaced after it was vetted
    with pytest.raises(VetRefusedError, match="not by whom the policy trusts"):
        vet_version(line, "signed", version, policy)


def test_a_signature_is_of_its_files_only(
    line: Line, register: Callable[..., str], pair: Callable[[str], tuple[Signer, ReleasePolicy]]
) -> None:
    signer, policy = pair("ours")
    first, second = register(), register(b"print('another model')\n")
    stack = {"SHIPWAY_HOME": str(line.settings.home), "MLFLOW_TRACKING_URI": line.registry.tracking_uri}
    assert f"signed/{first}: signed" in sign(stack, "signed", first, signer)
    old, new = (line.registry.resolve("signed", version=version) for version in (first, second))
    runs = line.ledger.runs
    proof = check_signature(line.registry, runs, old, policy.signature)
    assert proof.digest.startswith("sha256:")
    with pytest.raises(UnsignedError):
        check_signature(line.registry, runs, new, policy.signature)
    content = runs.read(runs.get(str(old.run_id)), signature_path(old))
    assert content is not None
    runs.put(runs.get(str(new.run_id)), signature_path(new), content)
    with pytest.raises(VetRefusedError, match=r"mine\.py"):
        vet_version(line, "signed", second, policy)


def test_a_version_without_a_run_cannot_keep_a_signature(
    line: Line, register: Callable[..., str], pair: Callable[[str], tuple[Signer, ReleasePolicy]]
) -> None:
    signer, policy = pair("ours")
    version = register(with_run=False)
    with pytest.raises(UnsignableError, match="registered without a run"):
        sign_version(line.registry, line.ledger.runs, "signed", version, signer)
    with pytest.raises(VetRefusedError, match="no run"):
        vet_version(line, "signed", version, policy)


def test_a_key_that_cannot_be_read_speaks_against_the_policy_not_the_version(
    line: Line, register: Callable[..., str], pair: Callable[[str], tuple[Signer, ReleasePolicy]], tmp_path: Path
) -> None:
    signer, policy = pair("ours")
    version = register()
    sign_version(line.registry, line.ledger.runs, "signed", version, signer)
    (tmp_path / "ours.pub").write_text("no key any more")
    with pytest.raises(KeyFileError, match=r"ours\.pub"):
        vet_version(line, "signed", version, policy)


def test_keyless_is_refused_with_the_reason() -> None:
    with pytest.raises(UnsignableError, match="needs the internet"):
        signer_of(None, None, ())
    with pytest.raises(UnsignableError, match="--certificate"):
        signer_of(Path("private.pem"), None, (Path("chain.pem"),))
