"""Model signing with real keys and certificates, as the policy asks for it."""

from __future__ import annotations

import base64
import datetime
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bentos.policy.gates import SignaturePolicy
from bentos.vet.signing import (
    BadSignatureError,
    ChangedError,
    KeyFileError,
    Signer,
    SigningExtraError,
    UnsignedError,
    WrongSignerError,
    sign_tree,
    verify_signature,
)

pytest.importorskip("model_signing", reason="the extra signing is not installed")

DAY = datetime.timedelta(days=1)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An artifact tree, with a file that git would keep to itself."""
    for name in ("MLmodel", "model.skops", "code/mine.py", ".gitattributes"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the content of {name}")
    return tmp_path / "tree"


class Keys:
    """Key pairs and certificates in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys: dict[str, ec.EllipticCurvePrivateKey] = {}

    def pair(self, name: str) -> tuple[Path, Path]:
        """Private and public key."""
        key = self.keys[name] = ec.generate_private_key(ec.SECP256R1())
        private, public = self.folder / f"{name}.key", self.folder / f"{name}.pub"
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        private.write_bytes(key.private_bytes(*form))
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, spki))
        return private, public

    def certificate(
        self, name: str, issuer: str | None = None, *, signs: bool = True, since: datetime.timedelta = DAY
    ) -> Path:
        """The certificate of *name*'s key by *issuer*'s, of itself where that is None; valid from *since* ago for 2 days
        (authorities: since 1000 days ago)."""
        ca = issuer is None or name == "between"
        began = datetime.datetime.now(datetime.UTC) - (1000 * DAY if ca else since)
        names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer or name)]
        granted = {"key_cert_sign"} if ca else {"digital_signature" if signs else "key_agreement"}
        certificate = (
            x509.CertificateBuilder(names[1], names[0], self.keys[name].public_key(), x509.random_serial_number())
            .not_valid_before(began)
            .not_valid_after(began + (2000 * DAY if ca else 2 * DAY))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.KeyUsage(**{usage: usage in granted for usage in USAGES}), critical=True)
            .sign(self.keys[issuer or name], hashes.SHA256())
        )
        path = self.folder / f"{name}.crt"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path


USAGES = [
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
]


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


@pytest.fixture
def signed(tree: Path, keys: Keys) -> tuple[Path, SignaturePolicy]:
    """The signature of the tree by a key, and the policy that trusts it."""
    private, public = keys.pair("signer")
    signature = tree.parent / "model.sig.json"
    sign_tree(tree, signature, Signer(private))
    return signature, SignaturePolicy(method="key", public_key=public)


def test_a_signed_tree_passes_and_says_who_signed(tree: Path, signed: tuple[Path, SignaturePolicy]) -> None:
    said = verify_signature(tree, *signed)
    assert said.startswith("signed with the key sha256:") and "signer.pub" in said and "\n" not in said
    tree = tree.rename(tree.parent / "elsewhere")  # the folder's name is no part of it
    assert verify_signature(tree, *signed) == said


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda tree: _flip(tree / "model.skops"), "model.skops"),
        (lambda tree: _flip(tree / ".gitattributes"), ".gitattributes"),
        (lambda tree: (tree / "code/mine.py").unlink(), "code/mine.py"),
        (lambda tree: (tree / "code/yours.py").write_text("import os"), "code/yours.py"),
        (lambda tree: (tree / ".gitignore").write_text("*"), ".gitignore"),
        (lambda tree: (tree / "model.skops").rename(tree / "other.skops"), "other.skops"),
    ],
)
def test_a_changed_tree_is_refused_and_the_file_named(
    tree: Path, signed: tuple[Path, SignaturePolicy], change: Callable[[Path], object], named: str
) -> None:
    change(tree)
    with pytest.raises(ChangedError, match="not those that were signed") as refused:
        verify_signature(tree, *signed)
    assert named in str(refused.value) and "MLmodel" not in str(refused.value)


def test_a_file_that_the_signer_left_out_is_refused(tree: Path, keys: Keys, tmp_path: Path) -> None:
    from model_signing import hashing, signing

    private, public = keys.pair("signer")
    config = signing.Config().use_elliptic_key_signer(private_key=private)
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=["model.skops"])).sign(tree, tmp_path / "sig")
    with pytest.raises(ChangedError, match=r"does not cover \.gitattributes, model\.skops"):
        verify_signature(tree, tmp_path / "sig", SignaturePolicy(method="key", public_key=public))


@pytest.mark.parametrize("form", ["blake3", "shards"])
def test_signatures_of_the_librarys_own_command_pass(tree: Path, keys: Keys, tmp_path: Path, form: str) -> None:
    from model_signing import hashing, signing

    (tree / ".gitattributes").unlink()  # the library's default leaves it out
    private, public = keys.pair("signer")
    how = hashing.Config()
    if form == "shards":
        how.use_shard_serialization(shard_size=5)
    else:
        how.use_file_serialization(hashing_algorithm="blake3")
    signing.Config().use_elliptic_key_signer(private_key=private).set_hashing_config(how).sign(tree, tmp_path / "sig")
    policy = SignaturePolicy(method="key", public_key=public)
    assert verify_signature(tree, tmp_path / "sig", policy)
    _flip(tree / "MLmodel")
    with pytest.raises(ChangedError, match="MLmodel"):
        verify_signature(tree, tmp_path / "sig", policy)


def test_another_key_is_refused(tree: Path, keys: Keys, signed: tuple[Path, SignaturePolicy]) -> None:
    _, other = keys.pair("other")
    with pytest.raises(WrongSignerError, match=r"other\.pub"):
        verify_signature(tree, signed[0], SignaturePolicy(method="key", public_key=other))


def test_a_statement_under_a_signature_of_another_is_refused(tree: Path, signed: tuple[Path, SignaturePolicy]) -> None:
    bundle = json.loads(signed[0].read_text())
    statement = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(statement.replace(b"code/mine.py", b"code/evil.py")).decode()
    signed[0].write_text(json.dumps(bundle))
    (tree / "code/mine.py").rename(tree / "code/evil.py")
    with pytest.raises(WrongSignerError):
        verify_signature(tree, *signed)


def test_no_signature(tree: Path, signed: tuple[Path, SignaturePolicy]) -> None:
    with pytest.raises(UnsignedError, match="shipway sign"):
        verify_signature(tree, tree.parent / "none.json", signed[1])


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"dsseEnvelope": {"payload": "e30="}}'])
def test_a_damaged_signature(tree: Path, signed: tuple[Path, SignaturePolicy], content: bytes) -> None:
    signed[0].write_bytes(content)
    with pytest.raises(BadSignatureError):
        verify_signature(tree, *signed)


def test_keys_that_cannot_be_used_are_named(tree: Path, keys: Keys, signed: tuple[Path, SignaturePolicy]) -> None:
    large = rsa.generate_private_key(65537, 2048)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (tree.parent / "rsa.pub").write_bytes(large.public_key().public_bytes(serialization.Encoding.PEM, form))
    encrypted = (serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret"))
    private, _ = keys.pair("locked")
    private.write_bytes(keys.keys["locked"].private_bytes(serialization.Encoding.PEM, *encrypted))
    (tree.parent / "text.pub").write_text("no key")
    for name in ("rsa.pub", "text.pub", "none.pub"):
        with pytest.raises(KeyFileError, match=name):
            verify_signature(tree, signed[0], SignaturePolicy(method="key", public_key=tree.parent / name))
    for name in ("locked.key", "text.pub", "none.key"):
        with pytest.raises(KeyFileError, match=name):
            sign_tree(tree, tree.parent / "new.json", Signer(tree.parent / name))
    assert not (tree.parent / "new.json").exists()


@pytest.fixture
def chain(keys: Keys) -> tuple[Signer, Path]:
    """A signer whose certificate a trusted authority issued by way of another, and that authority's certificate."""
    for name in ("root", "between", "leaf"):
        keys.pair(name)
    root, between = keys.certificate("root"), keys.certificate("between", "root")
    return Signer(keys.folder / "leaf.key", keys.certificate("leaf", "between"), (between,)), root


def test_a_certificate_chain(tree: Path, keys: Keys, chain: tuple[Signer, Path], tmp_path: Path) -> None:
    signer, root = chain
    sign_tree(tree, tmp_path / "sig", signer)
    policy = SignaturePolicy(method="certificate", certificate_chain=(root,))
    said = verify_signature(tree, tmp_path / "sig", policy)
    assert "signed by CN=leaf (certificate sha256:" in said and "issued by CN=between" in said
    _flip(tree / "model.skops")
    with pytest.raises(ChangedError, match=r"model\.skops"):
        verify_signature(tree, tmp_path / "sig", policy)

    keys.pair("stranger")
    policy = SignaturePolicy(method="certificate", certificate_chain=(keys.certificate("stranger"),))
    with pytest.raises(WrongSignerError, match=r"stranger\.crt"):
        verify_signature(tree, tmp_path / "sig", policy)


def test_a_chain_with_a_gap(tree: Path, chain: tuple[Signer, Path], tmp_path: Path) -> None:
    signer, root = chain
    sign_tree(tree, tmp_path / "sig", Signer(signer.key, signer.certificate))
    with pytest.raises(WrongSignerError, match="issuer"):
        verify_signature(tree, tmp_path / "sig", SignaturePolicy(method="certificate", certificate_chain=(root,)))
    whole = SignaturePolicy(method="certificate", certificate_chain=(root, *signer.chain))
    assert verify_signature(tree, tmp_path / "sig", whole)


def test_a_certificate_that_ended_since_still_counts(
    tree: Path, keys: Keys, chain: tuple[Signer, Path], tmp_path: Path
) -> None:
    old = keys.certificate("leaf", "between", since=30 * DAY)
    sign_tree(tree, tmp_path / "sig", Signer(chain[0].key, old, chain[0].chain))
    assert verify_signature(
        tree, tmp_path / "sig", SignaturePolicy(method="certificate", certificate_chain=(chain[1],))
    )


def test_certificates_that_may_not_sign(tree: Path, keys: Keys, chain: tuple[Signer, Path], tmp_path: Path) -> None:
    unfit = keys.certificate("leaf", "between", signs=False)
    sign_tree(tree, tmp_path / "sig", Signer(chain[0].key, unfit, chain[0].chain))
    policy = SignaturePolicy(method="certificate", certificate_chain=(chain[1],))
    with pytest.raises(WrongSignerError, match="cannot be used for signing"):
        verify_signature(tree, tmp_path / "sig", policy)
    keys.pair("other")
    with pytest.raises(KeyFileError, match="does not match"):
        sign_tree(tree, tmp_path / "sig", Signer(keys.folder / "other.key", unfit))


def test_a_signature_of_the_other_kind(
    tree: Path, chain: tuple[Signer, Path], signed: tuple[Path, SignaturePolicy], tmp_path: Path
) -> None:
    by_key, key_policy = signed
    by_certificate = tmp_path / "sig"
    sign_tree(tree, by_certificate, chain[0])
    with pytest.raises(BadSignatureError):
        verify_signature(tree, by_certificate, key_policy)
    with pytest.raises(BadSignatureError):
        verify_signature(tree, by_key, SignaturePolicy(method="certificate", certificate_chain=(chain[1],)))


def test_without_the_extra_the_error_says_what_to_install(
    tree: Path, signed: tuple[Path, SignaturePolicy], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model_signing", "model_signing.verifying", "model_signing.signing"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SigningExtraError, match=r"shipway\[signing\]"):
        verify_signature(tree, *signed)


def test_importing_it_loads_no_library() -> None:
    code = "import bentos.vet.signing, sys; print([n for n in ('model_signing', 'sigstore', 'cryptography') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
