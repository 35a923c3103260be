"""Signatures of model versions: made by ``shipway sign``, kept with the version's MLflow run, checked by the vet."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.errors import PermanentError
from bentos.signing import KEYLESS, Signer, UnsignedError, sign_tree, verify_signature

if TYPE_CHECKING:
    from bentos.model_version import ModelVersion
    from bentos.policy import SignaturePolicy
    from bentos.registry import Registry
    from monitoring.tracking import Runs


class UnsignableError(PermanentError):
    """A version that cannot be signed as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Proof:
    """A signature that holds: *who* signed, in one line, and the ``sha256:…`` of the signature file."""

    who: str
    digest: str


def signature_path(version: ModelVersion) -> str:
    """Where the run of *version* keeps its signature. The name holds the digest of the files: other files, other name."""
    return f"shipway/signatures/{version.digest.removeprefix('sha256:')[:16]}.sig.json"


def signer_of(key: Path | None, certificate: Path | None, chain: Sequence[Path]) -> Signer:
    """Who signs, of a command's options. Raises UnsignableError for keyless signing and for a chain of nothing."""
    if key is None:
        raise UnsignableError(f"no --key was given, and {KEYLESS}. Name a private key: --key private.pem.")
    if chain and certificate is None:
        raise UnsignableError("--chain was given without --certificate: name the certificate that the chain is of.")
    return Signer(key, certificate, tuple(chain))


def sign(environ: Mapping[str, str], model: str, version: str, signer: Signer) -> str:
    """Signs a version of the registry that *environ* means; returns a line about what was done."""
    from bentos.registry import Registry
    from flows.env import find_stack
    from monitoring.ledger import Ledger

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


def check_signature(registry: Registry, runs: Runs, found: ModelVersion, policy: SignaturePolicy) -> Proof:
    """Checks that whom *policy* trusts signed the files of *found*. The signature is read anew each time.

    Raises UnsignedError, and what ``verify_signature`` raises.
    """
    path, run_id = signature_path(found), found.run_id
    content = runs.read(runs.get(run_id), path) if run_id is not None else None
    if content is None:
        where = f"run {run_id} has no {path}" if run_id is not None else "the version has no run to keep one"
        raise UnsignedError(
            f"{found.name}: the policy asks for a signature, and {where}. Whom the policy trusts must sign it:"
            f" `shipway sign {found.model} {found.version} --key private.pem`."
        )
    with tempfile.TemporaryDirectory(prefix="shipway-sign-") as folder:
        signature = Path(folder) / Path(path).name
        signature.write_bytes(content)
        who = verify_signature(registry.fetch(found), signature, policy)
    return Proof(who, "sha256:" + hashlib.sha256(content).hexdigest())


def _run_of(found: ModelVersion) -> str:
    if found.run_id is None:
        raise UnsignableError(
            f"{found.name}: registered without a run, so there is nowhere to keep its signature. Log the model in a run"
            " (`with mlflow.start_run(): mlflow.<flavor>.log_model(…)`) and register that."
        )
    return found.run_id
