"""The signature of a model version: where its MLflow run keeps it, and whether whom the policy trusts made it."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.vet.signing import UnsignedError, verify_signature

if TYPE_CHECKING:
    from bentos.policy.gates import SignaturePolicy
    from bentos.versions.model_version import ModelVersion
    from bentos.versions.registry import Registry
    from monitoring.ledger.tracking import Runs


@dataclass(frozen=True)
class Proof:
    """A signature that holds: *who* signed, in one line, and the ``sha256:…`` of the signature file."""

    who: str
    digest: str


def signature_path(version: ModelVersion) -> str:
    """Where the run of *version* keeps its signature. The name holds the digest of the files: other files, other name."""
    return f"shipway/signatures/{version.digest.removeprefix('sha256:')[:16]}.sig.json"


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
