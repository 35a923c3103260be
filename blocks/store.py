"""StoreBlock: where release reports and batch answers are kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from prefect.blocks.core import Block
from pydantic import Field, SecretStr, model_validator

from infra.settings import StackSettings, read_secret

if TYPE_CHECKING:
    from infra.stores.interface import Store


class StoreBlock(Block):
    """A store of files: a folder, or a bucket of an S3 API."""

    _block_type_name = "Shipway store"
    _block_type_slug = "shipway-store"
    _description = "Where release reports are kept and served from: a folder, or a bucket of an S3 API."

    kind: Literal["folder", "s3"] = Field("folder", description="A folder of this machine, or a bucket.")
    folder: Path | None = Field(None, description="For kind folder: the folder that holds the files.")
    url: str | None = Field(None, description="For kind s3: s3://bucket/prefix.")
    endpoint: str | None = Field(None, description="For kind s3: address of the S3 API; empty: AWS.")
    region: str | None = Field(None, description="For kind s3: region of the bucket; empty: what boto3 finds.")
    access_key: SecretStr | None = Field(
        None, description="For kind s3: access key id, or file:/path of a file that has it; empty: what boto3 finds."
    )
    secret_key: SecretStr | None = Field(
        None, description="For kind s3: secret key, or file:/path of a file that has it."
    )
    ca_file: Path | None = Field(None, description="For kind s3: certificate authorities (PEM) of that address.")

    @model_validator(mode="after")
    def _says_where(self) -> Self:
        if self.kind == "folder" and self.folder is None:
            raise ValueError("kind folder needs folder")
        if self.kind == "s3" and not (self.url or "").startswith("s3://"):
            raise ValueError("kind s3 needs url, s3://bucket/prefix")
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("access_key and secret_key: one is set without the other")
        return self

    @classmethod
    def of_reports(cls, settings: StackSettings) -> Self:
        """The block of the store that *settings* give reports; keys are named by their files, not held."""
        from infra.stores.configured import reports_url

        url = reports_url(settings)
        if url is None:
            return cls(folder=settings.reports)

        def key(name: str) -> SecretStr | None:
            found = settings.reference(name)
            return None if found is None else SecretStr(found)

        return cls(
            kind="s3",
            url=url,
            endpoint=settings.s3_endpoint,
            region=settings.s3_region,
            access_key=key("s3_access_key"),
            secret_key=key("s3_secret_key"),
            ca_file=None if settings.s3_ca_file is None else settings.s3_ca_file.expanduser().absolute(),
        )

    def client(self) -> Store:
        """The store; nothing is asked of it yet. Raises SettingsError for a key's file that cannot be read."""
        if self.kind == "folder":
            from infra.stores.folder import FolderStore

            assert self.folder is not None  # validated
            return FolderStore(self.folder)
        from infra.stores.s3 import S3Access, S3Store

        def key(field: str, value: SecretStr | None) -> SecretStr | None:
            return None if value is None else SecretStr(read_secret(value, f"block {self._block_type_slug}: {field}"))

        access = S3Access(
            endpoint=self.endpoint or None,
            region=self.region or None,
            access_key=key("access_key", self.access_key),
            secret_key=key("secret_key", self.secret_key),
            ca_file=self.ca_file,
        )
        return S3Store(self.url or "", access)

    def put(self, key: str, source: Path) -> str:
        """Keeps a copy of *source* (file or folder) as *key*, replacing what was there; returns where it lies.

        Raises StoreError and SettingsError.
        """
        return self.client().put(key, source)
