"""A store in a bucket: refusals say what to do and show no key, TLS by a CA of one's own, a killed upload leaves nothing."""

from __future__ import annotations

import datetime
import ipaddress
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from infra.stores.interface import PermanentStoreError, TransientStoreError
from infra.stores.s3 import S3Access, S3Store
from tests.infra.stores.servers import s3_server


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bucket": "missing"}, "NoSuchBucket.*Make the bucket"),
        ({"access_key": SecretStr("AKIAWRONG")}, "InvalidAccessKeyId.*Correct the access key"),
        ({"secret_key": SecretStr("wr0ng")}, "SignatureDoesNotMatch.*Correct the secret key"),
    ],
)
def test_a_refusal_says_what_to_do_and_shows_no_key(s3, change, says):
    s3.store("s3://refusing/a")
    bucket = change.pop("bucket", "refusing")
    store = S3Store(f"s3://{bucket}/a", s3.access.model_copy(update=change))
    with pytest.raises(
        PermanentStoreError, match=rf"store s3://{bucket}/a: cannot use: it answered 40\d {says}"
    ) as told:
        store.check()
    assert not {s3.secret_key, "wr0ng", "AKIAWRONG"} & set(str(told.value).split())
    assert "SecretStr('**********')" in repr(store.access)


def test_a_user_who_may_not_write_is_refused(s3, tmp_path):
    s3.store("s3://others/a")
    policy = '{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject",'
    policy += ' "Resource": "arn:aws:s3:::others/*"}]}'
    s3.client().put_bucket_policy(Bucket="others", Policy=policy)
    with pytest.raises(PermanentStoreError, match=r"403 AccessDenied .*Let that access key"):
        S3Store("s3://others/a", s3.access).check()


def test_an_api_that_is_away_is_tried_again_later(s3, tmp_path):
    store = S3Store("s3://bucket/a", s3.access.model_copy(update={"endpoint": "http://127.0.0.1:1"}))
    with pytest.raises(TransientStoreError, match=r"no answer .*Is the address right"):
        store.exists("a")


def test_without_keys_it_says_so(s3, monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(PermanentStoreError, match="there are no keys"):
        S3Store("s3://bucket", S3Access(endpoint=s3.endpoint)).check()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    s3.store("s3://by-variables")
    S3Store("s3://by-variables", S3Access(endpoint=s3.endpoint)).check()


@pytest.mark.parametrize("url", ["https://bucket/a", "s3:///a", "s3://key:secret@bucket", "bucket/a", "s3://b?x=1"])
def test_what_is_no_bucket_is_refused(url):
    with pytest.raises(PermanentStoreError, match=r"expected s3://bucket/prefix"):
        S3Store(url)


def test_media_types_are_kept_for_browsers(s3, tmp_path):
    store = s3.store("s3://types/deep/prefix/")
    (tmp_path / "a.html").write_text("<p>")
    store.put("m/a.html", tmp_path / "a.html")
    assert s3.keys("types") == ["deep/prefix/m/a.html"]
    assert s3.client().head_object(Bucket="types", Key="deep/prefix/m/a.html")["ContentType"] == "text/html"


def test_more_files_than_one_answer_lists(s3, tmp_path):
    store = s3.store("s3://many/a")
    client = s3.client()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: client.put_object(Bucket="many", Key=f"a/day/{n:04}", Body=b""), range(1005)))
    assert len(list(store.list())) == 1005
    assert store.delete("day") == 1005
    assert s3.keys("many") == []


PUT = """
import os, sys
from pathlib import Path
from infra.stores.s3 import S3Access, S3Store
access = S3Access(endpoint=sys.argv[1], access_key=os.environ["A"], secret_key=os.environ["S"])
S3Store("s3://killed/a", access).put("big", Path(sys.argv[2]))
"""


def test_an_upload_that_is_killed_leaves_the_file_that_was_there(s3, tmp_path):
    store, client = s3.store("s3://killed/a"), s3.client()
    (tmp_path / "small").write_text("whole")
    store.put("big", tmp_path / "small")
    (tmp_path / "big").write_bytes(b"\0" * 256 * 1024 * 1024)
    command = [sys.executable, "-c", PUT, s3.endpoint, str(tmp_path / "big")]
    with subprocess.Popen(command, env={**os.environ, "A": s3.access_key, "S": s3.secret_key}) as process:
        deadline = time.monotonic() + 30
        while not client.list_multipart_uploads(Bucket="killed").get("Uploads"):
            assert process.poll() is None and time.monotonic() < deadline
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert [(stored.key, stored.size) for stored in store.list()] == [("big", 5)]


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "shipway test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "ca.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    )
    return paths


def test_tls_by_an_authority_of_one_s_own(tmp_path):
    with s3_server(tmp_path, tls=certificate(tmp_path)) as s3:
        s3.store("s3://bucket").check()
        stranger = S3Store("s3://bucket", s3.access.model_copy(update={"ca_file": None}))
        with pytest.raises(PermanentStoreError, match=r"certificate is not trusted .*CA file"):
            stranger.check()
