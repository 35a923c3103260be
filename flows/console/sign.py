"""``shipway sign``: signs a model version and keeps the signature with its MLflow run, where a release looks for it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.serving.errors import PermanentError
from bentos.vet.signing import KEYLESS, Signer, sign_tree
from flows.release.signature import signature_path

if TYPE_CHECKING:
    from bentos.versions.model_version import ModelVersion
    from bentos.versions.registry import Registry
    from monitoring.ledger.tracking import Runs


class UnsignableError(PermanentError):
    """A version that cannot be signed as asked; the message says why and what to do."""


def signer_of(key: Path | None, certificate: Path | None, chain: Sequence[Path]) -> Signer:
    """Who signs, of a command's options. Raises UnsignableError for keyless signing and for a chain of nothing."""
    if key is None:
        raise UnsignableError(f"no --key was given, and {KEYLESS}. Name a private key: --key private.pem.")
    if chain and certificate is None:
        raise UnsignableError("--chain was given without --certificate: name the certificate that the chain is of.")
    return Signer(key, certificate, tuple(chain))


def sign(environ: Mapping[str, str], model: str, version: str, signer: Signer) -> str:
    """Signs a version of the registry that *environ* means; returns a line about what was done."""
    from bentos.versions.registry import Registry
    from flows.stack.env import find_stack
    from monitoring.ledger.ledger import Ledger

    settings, servers = find_stack(environ)
    runs = Ledger(servers.mlflow, settings.root / "releases" / "files").runs
    return sign_version(Registry(servers.mlflow, settings.models), runs, model, version, signer)


def sign_version(registry: Registry, runs: Runs, model: str, version: str, signer: Signer) -> str:
    """Fetches the version's files, signs them, and keeps the signature with its run; one that is there is replaced.

    Raises UnsignableError for a version without a run, SigningError, RegistryError, and the monitoring errors of a run
    that cannot be written.
    """
    found = registry.resolve(model, version=version)
    run = runs.get(_run_of(found))
    path = signature_path(found)
    with tempfile.TemporaryDirectory(prefix="shipway-sign-") as folder:
        signature = Path(folder) / "signature.json"
        sign_tree(registry.fetch(found), signature, signer)
        content = signature.read_bytes()
    runs.put(run, path, content)
    if runs.read(run, path) != content:
        raise UnsignableError(
            f"{found.name}: run {run.run_id} does not give {path} back as it was put there. Sign again."
        )
    return f"{found.name}: signed, {found.digest[:19]}; kept as {path} of run {run.run_id}"


def _run_of(found: ModelVersion) -> str:
    if found.run_id is None:
        raise UnsignableError(
            f"{found.name}: registered without a run, so there is nowhere to keep its signature. Log the model in a run"
            " (`with mlflow.start_run(): mlflow.<flavor>.log_model(…)`) and register that."
        )
    return found.run_id
