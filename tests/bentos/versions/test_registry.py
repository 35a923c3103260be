"""The registry against a real MLflow server."""

from __future__ import annotations

import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from bentos.serving.fetch.artifact_tree import tree_digest
from bentos.serving.inputs.signature import SignatureError
from bentos.versions.model_version import ModelVersion
from bentos.versions.registry import PermanentRegistryError, Registry, TransientRegistryError
from tests.infra.stores.servers import s3_server

pytestmark = [
    # mlflow's own imports, met when the first artifact is downloaded
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:mlflow"),
]


@pytest.fixture
def registry(mlflow_server: str, registered: dict[str, str], tmp_path: Path) -> Registry:
    return Registry(mlflow_server, tmp_path / "models")


def test_a_version_is_resolved_with_its_digest_and_facts(registry: Registry, registered: dict[str, str]) -> None:
    mv = registry.resolve("with-reference", version="1")
    assert (mv.model, mv.version, mv.flavor) == ("with-reference", "1", "sklearn")
    assert mv.run_id == registered["with-reference"]
    assert mv.python_version is not None and mv.python_version.startswith("3.")
    assert any(line.startswith("scikit-learn==") for line in mv.requirements)
    folder = registry.fetch(mv)
    assert (folder / "MLmodel").is_file()
    assert tree_digest(folder) == mv.digest
    assert folder.name == mv.digest.removeprefix("sha256:")


def test_versions_have_digests_of_their_own_and_resolve_repeats(registry: Registry) -> None:
    first = registry.resolve("with-example", version="1")
    assert registry.resolve("with-example", version="1") == first
    assert registry.resolve("with-example", version="2").digest != first.digest
    assert registry.versions("with-example") == ["1", "2"]
    assert {"with-example", "tensor"} <= set(registry.models())


def test_a_damaged_cache_is_downloaded_again(registry: Registry) -> None:
    mv = registry.resolve("with-example", version="1")
    folder = registry.fetch(mv)
    (folder / "model.pkl").write_bytes(b"not what was logged")
    assert registry.fetch(mv) == folder
    assert tree_digest(folder) == mv.digest
    (folder / "extra").write_text("more than was logged")
    assert registry.resolve("with-example", version="1") == mv
    assert not (folder / "extra").exists()
    shutil.rmtree(folder)
    assert tree_digest(registry.fetch(mv)) == mv.digest
    assert not list(registry.cache.glob(".*"))


def test_a_damaged_tree_that_another_version_left_is_replaced(registry: Registry) -> None:
    mv = registry.resolve("with-example", version="1")
    (registry.fetch(mv) / "model.pkl").write_bytes(b"not what was logged")
    (registry.cache / "with-example-1.json").unlink()
    assert registry.resolve("with-example", version="1") == mv
    assert tree_digest(registry.fetch(mv)) == mv.digest


def test_several_may_fetch_the_same_tree_at_once(registry: Registry) -> None:
    def one(_: int) -> ModelVersion:
        return Registry(registry.tracking_uri, registry.cache).resolve("with-example", version="1")

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, range(4)))
    assert len({mv.digest for mv in found}) == 1
    assert {path.name for path in registry.cache.iterdir()} == {found[0].digest[7:], "with-example-1.json"}


def test_files_that_are_no_longer_those_that_were_resolved_are_refused(registry: Registry) -> None:
    mv = registry.resolve("with-example", version="1")
    other = dataclasses.replace(mv, digest="sha256:" + "ab" * 32)
    with pytest.raises(
        PermanentRegistryError, match=rf"with-example/1: .*{mv.digest}, expected sha256:abab.*new version"
    ):
        registry.fetch(other)
    assert not list(registry.cache.glob("abab*"))


def test_a_store_that_the_server_does_not_serve_is_read_by_mlflows_client(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mv, api = registry.resolve("with-example", version="1"), f"{registry.tracking_uri}/api/2.0/mlflow"
    folder = registry.fetch(mv)
    with s3_server(tmp_path) as s3:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", s3.endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
        s3.client().create_bucket(Bucket="models")
        for path in (path for path in folder.rglob("*") if path.is_file()):
            s3.client().upload_file(str(path), "models", f"mine/{path.relative_to(folder)}")
        shutil.rmtree(folder)
        httpx.post(f"{api}/registered-models/create", json={"name": "elsewhere"}).raise_for_status()
        for place in ("mine", "nothing"):
            values = {"name": "elsewhere", "source": f"s3://models/{place}"}
            httpx.post(f"{api}/model-versions/create", json=values).raise_for_status()
        assert registry.resolve("elsewhere", version="1").digest == mv.digest
        with pytest.raises(PermanentRegistryError, match=r"elsewhere/2: .*s3://models/nothing.*again"):
            registry.resolve("elsewhere", version="2")
    assert not list(registry.cache.glob(".*"))


def test_aliases_are_set_read_and_removed(registry: Registry) -> None:
    assert registry.champion("with-example") is None
    registry.set_alias("with-example", "champion", "1")
    registry.set_alias("with-example", "champion", "2")
    registry.set_alias("with-example", "champion", "2")
    assert registry.aliases("with-example") == {"champion": "2"}
    assert registry.champion("with-example") == "2"
    by_alias = registry.resolve("with-example", alias="champion")
    assert (by_alias.version, by_alias.aliases) == ("2", ("champion",))
    registry.delete_alias("with-example", "champion")
    registry.delete_alias("with-example", "champion")
    assert registry.aliases("with-example") == {}


def test_what_is_unknown_is_named_with_what_exists(registry: Registry) -> None:
    with pytest.raises(PermanentRegistryError, match=r"nothing.*registered models: .*with-example"):
        registry.resolve("nothing", version="1")
    with pytest.raises(PermanentRegistryError, match="no version '7'; versions: 1, 2"):
        registry.resolve("with-example", version="7")
    with pytest.raises(PermanentRegistryError, match="no alias 'nobody'; aliases: none"):
        registry.resolve("tensor", alias="nobody")
    with pytest.raises(PermanentRegistryError, match="no version '9'"):
        registry.set_alias("tensor", "champion", "9")
    with pytest.raises(PermanentRegistryError, match="no version 'x'"):
        registry.resolve("tensor", version="x")
    with pytest.raises(ValueError, match="exactly one of version and alias"):
        registry.resolve("tensor")
    with pytest.raises(PermanentRegistryError, match="run nope"):
        registry.run_artifact("nope", "a.csv")


@pytest.mark.parametrize("name", ["spaced name", "a/b", "..", "", "ünicode"])
def test_a_name_that_cannot_be_a_path_is_refused(registry: Registry, name: str) -> None:
    with pytest.raises(PermanentRegistryError, match="cannot be released"):
        registry.resolve(name, version="1")


def test_a_version_without_a_signature_is_refused_with_the_cure(registry: Registry) -> None:
    with pytest.raises(SignatureError, match=r"no-signature/1.*signature=infer_signature"):
        registry.resolve("no-signature", version="1")


def test_an_artifact_of_the_run_is_fetched_or_none(registry: Registry, registered: dict[str, str]) -> None:
    run = registered["with-reference"]
    path = registry.run_artifact(run, "shipway/mine.csv")
    assert path is not None and path.read_text().startswith("a,b\n")
    assert registry.run_artifact(run, "shipway/missing.csv") is None
    assert registry.run_artifact(run, "shipway") is None


def test_a_server_that_is_away_is_transient(tmp_path: Path) -> None:
    away = Registry("http://127.0.0.1:9", tmp_path)
    for call in (away.models, lambda: away.aliases("a"), lambda: away.resolve("a", version="1")):
        with pytest.raises(TransientRegistryError, match=r"127\.0\.0\.1:9"):
            call()
    with pytest.raises(PermanentRegistryError, match="expected http"):
        Registry("sqlite:///here.db", tmp_path)


def test_artifacts_that_are_gone_or_damaged_are_permanent(
    registry: Registry, mlflow_server: str, registered: dict[str, str]
) -> None:
    """Registers versions whose source is an empty place, and one without an MLmodel, by MLflow's own REST."""
    api = f"{mlflow_server}/api/2.0/mlflow"
    httpx.post(f"{api}/registered-models/create", json={"name": "damaged"}).raise_for_status()
    run = httpx.get(f"{api}/runs/get", params={"run_id": registered["with-reference"]}).json()["run"]["info"]
    for place in ("nowhere", "shipway"):
        values = {"name": "damaged", "source": f"{run['artifact_uri']}/{place}", "run_id": run["run_id"]}
        httpx.post(f"{api}/model-versions/create", json=values).raise_for_status()
    for version in ("1", "2"):
        with pytest.raises(PermanentRegistryError, match=rf"damaged/{version}.*(again)"):
            registry.resolve("damaged", version=version)
    assert not list(registry.cache.glob(".*"))
