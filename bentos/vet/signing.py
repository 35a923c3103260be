"""OpenSSF model signing: who vouches for a model's files, checked before anything loads them.

    SigningError
    ├── UnsignedError        there is no signature
    ├── ChangedError         a file is not as it was signed, is missing, or the signature does not cover it
    ├── WrongSignerError     somebody else signed, or nobody whom the policy trusts vouches for who signed
    ├── BadSignatureError    the signature file is damaged or of another kind
    ├── KeyFileError         a key or certificate file cannot be used
    └── SigningExtraError    the library is not installed

A signature is a Sigstore bundle around an in-toto statement that lists every file with its hash
(https://github.com/ossf/model-signing-spec). Method key: the statement is signed by one key. Method certificate: the
bundle brings the signing certificate, whose chain must end in one that the policy trusts; certificates are judged as of
the day on which the signing certificate began, so that a signature does not expire.
"""

from __future__ import annotations

import ast
import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bentos.policy.gates import SignaturePolicy
from bentos.serving.errors import PermanentError, brief

KEYLESS = (
    "keyless signing asks Sigstore's public services who is signing, so it needs the internet, from here and from"
    " wherever the signature is verified"
)


class SigningError(PermanentError):
    """Base of what signing and verifying raise."""


class UnsignedError(SigningError):
    """There is no signature."""


class ChangedError(SigningError):
    """The files are not those that were signed; the message names them."""


class WrongSignerError(SigningError):
    """The signature is not by whom the policy trusts."""


class BadSignatureError(SigningError):
    """The signature cannot be read as one."""


class KeyFileError(SigningError):
    """A key or a certificate cannot be used."""


class SigningExtraError(SigningError):
    """The extra ``signing`` is not installed."""


@dataclass(frozen=True)
class Signer:
    """Who signs: an unencrypted private key (PEM, EC P-256, P-384 or P-521), alone or with the certificate issued for it
    and the certificates between that and the trusted one."""

    key: Path
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()


def sign_tree(tree: Path, signature: Path, signer: Signer) -> None:
    """Signs every file below *tree* and writes the signature to *signature*. Raises KeyFileError, SigningExtraError."""
    signing, hashing = _library("signing"), _library("hashing")
    config = signing.Config().set_hashing_config(_hashing(hashing, {"method": "files", "hash_type": "sha256"}))
    files = [signer.key, *([signer.certificate] if signer.certificate is not None else []), *signer.chain]
    with _key_files(files):
        if signer.certificate is None:
            config.use_elliptic_key_signer(private_key=signer.key)
        else:
            chain = signer.chain or (signer.certificate,)  # the library cannot take an empty one
            config.use_certificate_signer(
                private_key=signer.key, signing_certificate=signer.certificate, certificate_chain=chain
            )
    config.sign(tree, signature)


def verify_signature(tree: Path, signature: Path, policy: SignaturePolicy) -> str:
    """Checks that whom *policy* trusts signed every file below *tree*, and that none was changed or added since.

    Returns who signed, in one line. Raises the errors at the top of this module.
    """
    if not signature.is_file():
        raise UnsignedError(f"signature {signature.name}: there is none. Sign the version with `shipway sign`.")
    verifying, hashing = _library("verifying"), _library("hashing")
    config = verifying.Config()
    with _key_files([policy.public_key] if policy.public_key is not None else policy.certificate_chain):
        if policy.method == "key":
            config.use_elliptic_key_verifier(public_key=policy.public_key)
        else:
            config.use_certificate_verifier(certificate_chain=policy.certificate_chain)
    bundle, statement = _read(signature)
    try:
        config.set_hashing_config(_hashing(hashing, statement["predicate"]["serialization"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BadSignatureError(
            f"signature {signature.name}: not a statement of model-signing 1.0: {brief(error)}. Sign the version again."
        ) from error
    _verify(config, tree, signature, policy)
    _cover(tree, statement, signature)
    return _who(bundle, policy)


def _verify(config: Any, tree: Path, signature: Path, policy: SignaturePolicy) -> None:
    """The library's own verification, its errors told apart: it has ValueError for nearly all of them."""
    from cryptography.exceptions import InvalidSignature
    from OpenSSL.crypto import X509StoreContextError

    trusted = str(policy.public_key) if policy.method == "key" else ", ".join(map(str, policy.certificate_chain))
    try:
        config.verify(tree, signature)
    except (InvalidSignature, X509StoreContextError) as error:
        raise _wrong_signer(signature, trusted, error) from error
    except ValueError as error:
        words = str(error)
        if words.startswith("Signature mismatch"):
            raise ChangedError(
                f"signature {signature.name}: the files are not those that were signed: {_differences(words)}. Find out"
                " who changed them; what is meant to be so must be registered as a new version and signed."
            ) from error
        if "Key mismatch" in words or "cannot be used for signing" in words:
            raise _wrong_signer(signature, trusted, error) from error
        raise _damaged(signature, error) from error
    except (LookupError, TypeError, AttributeError, OSError) as error:
        raise _damaged(signature, error) from error


def _wrong_signer(signature: Path, trusted: str, error: Exception) -> WrongSignerError:
    return WrongSignerError(
        f"signature {signature.name}: not by whom the policy trusts ({trusted}): {brief(error)}. Have the version signed"
        " by a key or certificate that the policy names, or correct `signature` in the policy."
    )


def _damaged(signature: Path, error: Exception) -> BadSignatureError:
    return BadSignatureError(
        f"signature {signature.name}: damaged, or of another kind than the policy's: {brief(error)}. Sign the version"
        " again with `shipway sign`."
    )


def _differences(words: str) -> str:
    """The library's list of differences, as it prints one, without the hashes."""
    listed = ast.literal_eval(words.removeprefix("Signature mismatch: "))
    return "; ".join(str(difference).split(": Expected")[0] for difference in listed)


def _cover(tree: Path, statement: Mapping[str, Any], signature: Path) -> None:
    """Refuses files that the statement leaves out: signers may exclude paths, and what is excluded may be anything."""
    signed = {str(resource["name"]) for resource in statement["predicate"]["resources"]}
    if statement["predicate"]["serialization"]["method"] == "shards":  # named file:start:end
        signed = {name.rsplit(":", 2)[0] for name in signed}
    found = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()}
    if uncovered := sorted(found - signed):
        raise ChangedError(
            f"signature {signature.name}: does not cover {', '.join(uncovered[:10])}, so nobody vouches for that. Sign the"
            " whole tree: `shipway sign` does."
        )


def _read(signature: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The bundle, and the statement in it. Neither may be believed before it is verified."""
    try:
        bundle = json.loads(signature.read_bytes())
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        if isinstance(statement, dict) and bundle["verificationMaterial"]:
            return bundle, statement
        raise ValueError("no statement")
    except (ValueError, LookupError, TypeError, OSError) as error:
        raise BadSignatureError(
            f"signature {signature.name}: not a Sigstore bundle: {brief(error)}. Sign the version with `shipway sign`."
        ) from error


def _who(bundle: Mapping[str, Any], policy: SignaturePolicy) -> str:
    """Who signed, of a bundle that is verified."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    if policy.public_key is not None and policy.method == "key":
        public = serialization.load_pem_public_key(policy.public_key.read_bytes())
        der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        digest = hashes.Hash(hashes.SHA256())
        digest.update(der)
        return f"signed with the key sha256:{digest.finalize().hex()[:16]} ({policy.public_key.name})"
    first = bundle["verificationMaterial"]["x509CertificateChain"]["certificates"][0]["rawBytes"]
    certificate = x509.load_der_x509_certificate(base64.b64decode(first))
    print_of = certificate.fingerprint(hashes.SHA256()).hex()[:16]
    return (
        f"signed by {certificate.subject.rfc4514_string()} (certificate sha256:{print_of}, issued by"
        f" {certificate.issuer.rfc4514_string()})"
    )


def _hashing(hashing: Any, serialization: Mapping[str, Any]) -> Any:
    """How the files are hashed, as the statement says; no path is left out, whatever it is called."""
    config = hashing.Config()
    algorithm = serialization["hash_type"]
    if serialization["method"] == "shards":
        config.use_shard_serialization(hashing_algorithm=algorithm, shard_size=int(serialization["shard_size"]))
    else:
        config.use_file_serialization(hashing_algorithm=algorithm)
    return config.set_ignored_paths(paths=(), ignore_git_paths=False)


@contextmanager
def _key_files(files: tuple[Path, ...] | list[Path]) -> Iterator[None]:
    """Turns whatever the library makes of unusable key files into KeyFileError."""
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        yield
    except (OSError, ValueError, TypeError, AttributeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            f"key or certificate {', '.join(map(str, files))}: cannot be used: {brief(error)}. Expected PEM files: an"
            " unencrypted EC key (P-256, P-384 or P-521), the certificate issued for it, the chain above it."
        ) from error


def _library(name: str) -> Any:
    """A module of model-signing. It takes most of a second to import, and only who signs or verifies has it."""
    import importlib

    try:
        return importlib.import_module(f"model_signing.{name}")
    except ImportError as error:
        raise SigningExtraError(
            f"model signing: {brief(error)}. A policy with `signature`, and `shipway sign`, need the extra signing:"
            " `pip install 'shipway[signing]'`."
        ) from error
