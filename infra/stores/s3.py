"""S3Store: files kept in a bucket of an S3 API, through boto3. The one module that imports it, inside functions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from infra.stores.folder import whole
from infra.stores.interface import (
    MissingFileError,
    Opened,
    PermanentStoreError,
    Stored,
    StoreError,
    TransientStoreError,
    checked_key,
    content_type,
)

_CHUNK = 1024 * 1024
_AT_ONCE = 1000  # keys of one delete request, the API's limit
_CONNECT_SECONDS, _READ_SECONDS, _ATTEMPTS = 5, 30, 4
_PASSING = frozenset({"SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "InternalError", "ServiceUnavailable"})
_ADVICE = {
    "NoSuchBucket": "Make the bucket, or correct its name.",
    "InvalidAccessKeyId": "Correct the access key.",
    "SignatureDoesNotMatch": "Correct the secret key.",
    "AccessDenied": "Let that access key list, read, write and delete there.",
    "InvalidToken": "Unset AWS_SESSION_TOKEN, or renew it.",
    "ExpiredToken": "Renew the session token.",
}


class S3Access(BaseModel):
    """How a bucket is reached; what is None is what boto3 finds by itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str | None = Field(None, description="Address of the S3 API; None: AWS.")
    region: str | None = None
    access_key: SecretStr | None = None
    secret_key: SecretStr | None = None
    ca_file: Path | None = Field(None, description="Certificate authorities (PEM) of that address.")


class S3Store:
    """A store below ``s3://bucket/prefix``. Nothing is asked of the bucket before the first call of a method."""

    def __init__(self, url: str, access: S3Access | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc:
            raise PermanentStoreError(f"store {url}: expected s3://bucket/prefix.")
        self.bucket = parts.netloc
        self.prefix = f"{parts.path.strip('/')}/".lstrip("/")
        self.access = access or S3Access()

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def put(self, key: str, source: Path) -> str:
        """Keeps a copy of *source* as *key*. Of a folder, files that it does not have any more go last."""
        checked_key(key, self)
        if not source.is_dir():
            self._upload(key, source)
            return f"{self}/{key}"
        files = {f"{key}/{path.relative_to(source).as_posix()}": path for path in source.rglob("*") if path.is_file()}
        for name, path in sorted(files.items()):
            self._upload(checked_key(name, self), path)
        self._delete([old.key for old in self.list(f"{key}/") if old.key not in files])
        return f"{self}/{key}"

    def open(self, key: str) -> Opened:
        """The file *key*, streamed."""
        with self._told("open", key):
            answer = self._client.get_object(Bucket=self.bucket, Key=self._name(key))
        body, size, modified = answer["Body"], int(answer["ContentLength"]), answer["LastModified"].timestamp()

        def read(most: int) -> bytes:
            with self._told("read", key):
                return bytes(body.read(most))

        return Opened(Stored(key, size, modified, str(answer["ETag"]).strip('"')), read, body.close)

    def get(self, key: str, place: Path) -> None:
        """Copies the file *key* to *place*."""
        with self.open(key) as opened, whole(place) as path, path.open("wb") as file:
            while block := opened.read(_CHUNK):
                file.write(block)

    def list(self, prefix: str = "") -> Iterator[Stored]:
        """The files whose keys begin with *prefix*, a thousand a request."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
        found = iter(pages)
        while True:
            with self._told("list", prefix):
                page = next(found, None)
            if page is None:
                return
            for one in page.get("Contents", ()):
                key = one["Key"].removeprefix(self.prefix)
                yield Stored(key, int(one["Size"]), one["LastModified"].timestamp(), one["ETag"].strip('"'))

    def exists(self, key: str) -> bool:
        """Whether a file has that key."""
        try:
            with self._told("look for", key):
                self._client.head_object(Bucket=self.bucket, Key=self._name(key))
        except MissingFileError:
            return False
        return True

    def delete(self, key: str) -> int:
        """Deletes the file *key* or all files below the folder *key*."""
        checked_key(key, self)
        keys = [stored.key for stored in self.list(key) if stored.key == key or stored.key.startswith(f"{key}/")]
        self._delete(keys)
        return len(keys)

    def check(self) -> None:
        """Proves that files can be listed, written and deleted below the prefix."""
        with self._told("use", ""):
            self._client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)
            probe = f"{self.prefix}.shipway-probe-{os.getpid()}"
            self._client.put_object(Bucket=self.bucket, Key=probe, Body=b"")
            self._client.delete_object(Bucket=self.bucket, Key=probe)

    def _upload(self, key: str, source: Path) -> None:
        # in parts from 8 MiB on; S3 shows an object when its last part is there, and boto3 aborts what fails
        with self._told("put", key), source.open("rb") as file:
            extra = {"ContentType": content_type(key)}
            self._client.upload_fileobj(file, self.bucket, self._name(key), ExtraArgs=extra)

    def _delete(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), _AT_ONCE):
            names = [{"Key": self._name(key)} for key in keys[start : start + _AT_ONCE]]
            with self._told("delete", keys[start]):
                answer = self._client.delete_objects(Bucket=self.bucket, Delete={"Objects": names, "Quiet": True})
            for refused in answer.get("Errors", ()):
                raise PermanentStoreError(f"store {self}: cannot delete {refused['Key']!r} ({refused['Code']}).")

    def _name(self, key: str) -> str:
        return self.prefix + checked_key(key, self)

    @cached_property
    def _client(self) -> Any:
        return _connect(self.access, str(self))

    @contextmanager
    def _told(self, what: str, key: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            raise _meaning(error, f"store {self}: cannot {what} {key!r}".removesuffix(" ''")) from error


def _connect(access: S3Access, store: str) -> Any:
    """A client of the API. Raises PermanentStoreError where boto3 is not installed or the profile cannot be used."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise PermanentStoreError(f"store {store} needs boto3: install shipway with its extra s3.") from error
    settings: dict[str, Any] = {
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": _READ_SECONDS,
        "retries": {"mode": "standard", "total_max_attempts": _ATTEMPTS},
    }
    region = access.region
    if access.endpoint is not None:
        # other servers than AWS's have no name per bucket, and many do not know its newer checksums
        settings |= {"s3": {"addressing_style": "path"}, "request_checksum_calculation": "when_required"}
        settings |= {"response_checksum_validation": "when_required"}
        if urlsplit(access.endpoint).hostname in ("127.0.0.1", "localhost", "::1"):
            settings["proxies"] = {}
        region = region or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    try:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=access.endpoint,
            region_name=region,
            verify=str(access.ca_file) if access.ca_file is not None else None,
            aws_access_key_id=access.access_key.get_secret_value() if access.access_key else None,
            aws_secret_access_key=access.secret_key.get_secret_value() if access.secret_key else None,
            config=Config(**settings),
        )
    except (BotoCoreError, ValueError) as error:
        raise PermanentStoreError(f"store {store}: no client can be made ({error}).") from error


def _meaning(error: Exception, what: str) -> Exception:
    """*error* as ours: what boto3 raises, and files that cannot be read; anything else as it is."""
    from botocore import exceptions as boto

    if isinstance(error, boto.ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in ("NoSuchKey", "404", "NotFound"):
            return MissingFileError(f"{what}: there is none.")
        if code in _PASSING or status >= 500 or status == 429:
            return TransientStoreError(f"{what}: it answered {status} {code}. It may work later.")
        code = "AccessDenied" if code == "403" else code
        said = str(error.response.get("Error", {}).get("Message", ""))[:200]
        return PermanentStoreError(f"{what}: it answered {status} {code} ({said}). {_ADVICE.get(code, '')}".strip())
    if isinstance(error, boto.SSLError):
        return PermanentStoreError(
            f"{what}: its certificate is not trusted ({error}). Name its authority as the CA file."
        )
    if isinstance(error, (boto.NoCredentialsError, boto.PartialCredentialsError)):
        return PermanentStoreError(f"{what}: there are no keys ({error}). Give access key and secret key.")
    if isinstance(error, (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError)):
        return TransientStoreError(f"{what}: no answer ({error}). Is the address right and the server up?")
    if isinstance(error, boto.BotoCoreError):
        return PermanentStoreError(f"{what}: {error}")
    if isinstance(error, OSError):
        return PermanentStoreError(f"{what}: {error.filename or 'a file'}: {error.strerror or error}.")
    return error
