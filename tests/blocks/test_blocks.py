"""Blocks: settings in, ready client out; what does not fit is refused before it decides anything."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prefect.client.orchestration import SyncPrefectClient
from pydantic import ValidationError

from bentos.policy.load import PolicyError
from bentos.versions.registry import Registry
from blocks.gateway import GatewayBlock
from blocks.interface import BlockError, load_strict
from blocks.policy import PolicyBlock
from blocks.registry import RegistryBlock
from blocks.store import StoreBlock
from blocks.target import TargetBlock
from infra.gateways.envoy import EnvoyGateway
from infra.settings import load_settings
from infra.stores.folder import FolderStore
from infra.stores.interface import StoreError
from infra.stores.s3 import S3Store
from infra.targets.process.target import ProcessTarget


class Documents:
    """The seam to Prefect's API: what a document holds, however it was edited."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    def read_block_document_by_name(self, name: str, block_type_slug: str) -> Any:
        return SimpleNamespace(data=self.data, name=name, slug=block_type_slug)


def stored(**data: Any) -> SyncPrefectClient:
    return cast(SyncPrefectClient, Documents(data))


def test_blocks_give_clients(tmp_path: Path) -> None:
    assert isinstance(RegistryBlock(tracking_uri="http://127.0.0.1:1", cache=tmp_path).client(), Registry)
    assert isinstance(TargetBlock(folder=tmp_path, segments=tmp_path).client(), ProcessTarget)
    assert isinstance(GatewayBlock(folder=tmp_path, port=18080, admin_port=19901).client(), EnvoyGateway)


def test_a_whole_document_loads(tmp_path: Path) -> None:
    found = load_strict(TargetBlock, "process", stored(folder=str(tmp_path), segments=str(tmp_path)))
    assert found is not None and found.folder == tmp_path


def test_an_unknown_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BlockError, match=r"unknown field segmets; expected .*segments"):
        load_strict(TargetBlock, "process", stored(folder=str(tmp_path), segmets=str(tmp_path)))


def test_a_field_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BlockError, match=r"(?s)shipway-gateway/local cannot be used.*port"):
        load_strict(GatewayBlock, "local", stored(folder=str(tmp_path), port="many", admin_port=1))


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        TargetBlock.model_validate({"kind": "balloon", "folder": tmp_path, "segments": tmp_path})


def test_a_policy_folder_wins_over_values(tmp_path: Path) -> None:
    (tmp_path / "flights.yaml").write_text("bake_seconds: 3")
    block = PolicyBlock(folder=tmp_path, values={"bake_seconds": 5})
    assert block.policy("flights")[0].bake_seconds == 3
    assert PolicyBlock(values={"bake_seconds": 5}).policy("flights")[0].bake_seconds == 5
    with pytest.raises(PolicyError, match="bakes_seconds"):
        PolicyBlock(values={"bakes_seconds": 5}).policy("flights")


def test_the_store_keeps_copies_and_stays_in_its_folder(tmp_path: Path) -> None:
    source = tmp_path / "report.html"
    source.write_text("whole")
    store = StoreBlock(folder=tmp_path / "store")
    assert Path(store.put("flights/run/report.html", source)).read_text() == "whole"
    with pytest.raises(StoreError, match="leads outside"):
        store.put("../report.html", source)
    assert isinstance(store.client(), FolderStore)


def test_the_store_may_be_a_bucket_whose_keys_lie_in_files(tmp_path: Path) -> None:
    values = {"SHIPWAY_HOME": str(tmp_path), "SHIPWAY_STORE": "s3://ships/one", "SHIPWAY_S3_ENDPOINT": "http://s3:9000"}
    assert StoreBlock.of_reports(load_settings({"SHIPWAY_HOME": str(tmp_path)})).folder == tmp_path / "reports"
    (tmp_path / "key").write_text("s3cret\n")
    keys = {"SHIPWAY_S3_ACCESS_KEY": f"file:{tmp_path}/key", "SHIPWAY_S3_SECRET_KEY_FILE": f"{tmp_path}/key"}
    block = StoreBlock.of_reports(load_settings({**values, **keys}))
    assert block.secret_key is not None and block.secret_key.get_secret_value() == f"file:{tmp_path}/key"
    document = block.model_dump(mode="json", context={"include_secrets": True})
    found = load_strict(StoreBlock, "local", stored(**{name: document[name] for name in StoreBlock.model_fields}))
    assert found is not None
    store = found.client()
    assert isinstance(store, S3Store) and str(store) == "s3://ships/one/reports"
    assert store.access.endpoint == "http://s3:9000"
    assert store.access.secret_key is not None and store.access.secret_key.get_secret_value() == "s3cret"
    assert "s3cret" not in f"{found!r} {store.access!r}"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"kind": "s3"}, "kind s3 needs url"),
        ({"kind": "s3", "url": "https://bucket"}, "kind s3 needs url"),
        ({"kind": "folder"}, "kind folder needs folder"),
        ({"kind": "s3", "url": "s3://b", "access_key": "a"}, "one is set without the other"),
    ],
)
def test_a_store_that_does_not_say_where_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(BlockError, match=f"(?s)shipway-store/local cannot be used.*{says}"):
        load_strict(StoreBlock, "local", stored(**values))
