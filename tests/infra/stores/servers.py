"""Real servers for the tests of stores: an S3 API (moto's server) that checks keys, and Debian's PostgreSQL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import psycopg2
from pydantic import SecretStr

from infra.stores.s3 import S3Access, S3Store
from tests.conftest import free_port

MOTO = Path(sys.executable).with_name("moto_server")
POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=Path("/nowhere/initdb")).parent
PASSWORD = "Pa55:w@rd/%"  # as a careful person has it
QUOTED = "Pa55%3Aw%40rd%2F%25"


@dataclass(frozen=True)
class S3:
    """An S3 API that lets one key in."""

    endpoint: str
    access_key: str
    secret_key: str
    ca_file: Path | None = None

    @property
    def access(self) -> S3Access:
        """How a store reaches it."""
        keys = {"access_key": SecretStr(self.access_key), "secret_key": SecretStr(self.secret_key)}
        return S3Access(endpoint=self.endpoint, ca_file=self.ca_file, **keys)

    def client(self, service: str = "s3") -> Any:
        """A client of its own, for what is looked at and done behind a store's back."""
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            verify=str(self.ca_file) if self.ca_file else None,
        )

    def store(self, url: str) -> S3Store:
        """A store in a bucket of it, which is made."""
        self.client().create_bucket(Bucket=url.removeprefix("s3://").partition("/")[0])
        return S3Store(url, self.access)

    def keys(self, bucket: str) -> list[str]:
        """What is in a bucket."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [one["Key"] for page in pages for one in page.get("Contents", ())]


@contextmanager
def s3_server(folder: Path, *, tls: tuple[Path, Path] | None = None) -> Iterator[S3]:
    """An S3 API on loopback, with buckets in memory; *tls*: its certificate, which is its own authority, and its key."""
    port = free_port()
    command = [str(MOTO), "-H", "127.0.0.1", "-p", str(port), *(["-c", str(tls[0]), "-k", str(tls[1])] if tls else [])]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with (folder / "s3.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)
    try:
        root = S3(f"http{'s' if tls else ''}://127.0.0.1:{port}", "root", "root", tls[0] if tls else None)
        with httpx.Client(verify=ssl.create_default_context(cafile=tls[0]) if tls else True, trust_env=False) as client:
            _until(lambda: client.get(f"{root.endpoint}/moto-api/").status_code == 200, process, folder / "s3.log")
            iam = root.client("iam")
            iam.create_user(UserName="shipway")
            allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
            iam.put_user_policy(UserName="shipway", PolicyName="s3", PolicyDocument=json.dumps(allowed))
            made = iam.create_access_key(UserName="shipway")["AccessKey"]
            client.post(f"{root.endpoint}/moto-api/reset-auth", content="0")  # from now on keys are checked
        yield S3(root.endpoint, made["AccessKeyId"], made["SecretAccessKey"], root.ca_file)
    finally:
        process.terminate()
        process.wait(timeout=10)


class Postgres:
    """A PostgreSQL cluster on loopback with the user ``ship`` (password PASSWORD) and databases of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self._log = folder / "postgres.log"
        self._user = {"user": "postgres"} if os.geteuid() == 0 else {}
        self._process: subprocess.Popen[bytes] | None = None

    def make(self, *databases: str) -> None:
        """Makes the cluster, starts it, and makes *databases* that ``ship`` owns."""
        if self._user:
            shutil.chown(self.folder, "postgres", "postgres")
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        words = [
            "-D",
            "data",
            "-U",
            "admin",
            "-A",
            "scram-sha-256",
            f"--pwfile={secret}",
            "--no-sync",
            "--no-locale",
            "-E",
            "UTF8",
        ]
        done = subprocess.run(
            [str(POSTGRES / "initdb"), *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            **self._user,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self.start()
        self.sql(
            f"CREATE ROLE ship LOGIN PASSWORD '{PASSWORD}'",
            *(f"CREATE DATABASE {name} OWNER ship" for name in databases),
        )

    def start(self) -> None:
        """Starts it, also after a kill."""
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)
        options = {"unix_socket_directories": self.folder, "listen_addresses": "127.0.0.1", "max_connections": 200}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(POSTGRES / "postgres"), "-D", "data", "-p", str(self.port), *words],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                **self._user,
            )
        _until(self.answers, self._process, self._log)

    def stop(self, number: int = signal.SIGINT) -> None:
        """Ends it: SIGINT fast, SIGQUIT as if the power had gone."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(timeout=30)

    def answers(self) -> bool:
        """Whether it takes connections."""
        try:
            self.sql()
        except psycopg2.OperationalError:
            return False
        return True

    def sql(self, *statements: str, database: str = "postgres") -> None:
        """Runs statements as its administrator."""
        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user="admin", password=PASSWORD, dbname=database
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
        finally:
            connection.close()

    def url(self, database: str, *, password: str = QUOTED, user: str = "ship") -> str:
        """As a person writes it."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"


@contextmanager
def postgres_server(*databases: str) -> Iterator[Postgres]:
    """A cluster in a folder that its user may enter, whoever runs the tests."""
    with tempfile.TemporaryDirectory(prefix="shipway-pg-", dir="/tmp") as folder:
        made = Postgres(Path(folder))
        try:
            made.make(*databases)
            yield made
        finally:
            made.stop()


def _until(true: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if true():
                return
        except httpx.TransportError:
            pass
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.1)
