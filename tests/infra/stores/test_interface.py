"""What every store does, held against a folder and against a bucket of an S3 API."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from infra.stores.folder import FolderStore
from infra.stores.interface import MissingFileError, PermanentStoreError, Store, StoreError


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    made: Store = request.getfixturevalue("s3").store(f"s3://bucket-{uuid.uuid4().hex}/some/prefix")
    return made


def read(store: Store, key: str) -> bytes:
    with store.open(key) as opened:
        return b"".join(iter(lambda: opened.read(7), b""))


def keys(store: Store, prefix: str = "") -> list[str]:
    return [stored.key for stored in store.list(prefix)]


def test_a_file_is_kept_and_read_back(store, tmp_path):
    source = tmp_path / "report.html"
    source.write_bytes(bytes(range(256)) * 9)
    where = store.put("my model/run/report.html", source)
    source.unlink()
    assert where.endswith("/my model/run/report.html")
    assert read(store, "my model/run/report.html") == bytes(range(256)) * 9
    (stored,) = store.list()
    assert (stored.key, stored.size) == ("my model/run/report.html", 2304)
    assert stored.modified > 1.7e9
    store.get("my model/run/report.html", tmp_path / "back" / "report.html")
    assert (tmp_path / "back" / "report.html").read_bytes() == bytes(range(256)) * 9
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["report.html"]


def test_a_second_put_replaces_the_first_and_changes_the_tag(store, tmp_path):
    for text in ("first", "second, longer"):
        (tmp_path / "a").write_text(text)
        store.put("a", tmp_path / "a")
        with store.open("a") as opened:
            assert opened.stored.size == len(text)
            tag = opened.stored.tag
        assert read(store, "a") == text.encode()
    (tmp_path / "a").write_text("third")
    store.put("a", tmp_path / "a")
    assert [one.tag == tag for one in store.list()] == [False]


def test_a_folder_replaces_the_folder_that_was_there(store, tmp_path):
    source = tmp_path / "pages"
    (source / "deep").mkdir(parents=True)
    for name in ("index.html", "old.html", "deep/a.txt"):
        (source / name).write_text(name)
    store.put("m/run", source)
    assert keys(store) == ["m/run/deep/a.txt", "m/run/index.html", "m/run/old.html"]
    (source / "old.html").unlink()
    store.put("m/run", source)
    assert keys(store) == ["m/run/deep/a.txt", "m/run/index.html"]
    assert read(store, "m/run/deep/a.txt") == b"deep/a.txt"


def test_list_exists_and_delete_know_files_from_folders(store, tmp_path):
    (tmp_path / "x").write_text("x")
    for key in ("day=1/a", "day=1/b", "day=10/a", "day=2"):
        store.put(key, tmp_path / "x")
    assert keys(store, "day=1/") == ["day=1/a", "day=1/b"]
    assert keys(store, "day=1") == ["day=1/a", "day=1/b", "day=10/a"]
    assert (store.exists("day=1/a"), store.exists("day=1"), store.exists("none")) == (True, False, False)
    assert store.delete("day=1") == 2
    assert store.delete("day=1") == 0
    assert store.delete("day=2") == 1
    assert keys(store) == ["day=10/a"]


def test_a_file_that_is_not_there_is_named(store, tmp_path):
    with pytest.raises(MissingFileError, match=r"no/such\.html"):
        store.open("no/such.html")
    with pytest.raises(MissingFileError):
        store.get("no/such.html", tmp_path / "back")
    assert not (tmp_path / "back").exists()
    with pytest.raises(PermanentStoreError, match="gone"):
        store.put("a", tmp_path / "gone")
    assert keys(store) == []


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../a", "a/../../b", "a//b", "a/", ".", "a\\b", "a\nb", "x" * 901])
def test_keys_cannot_leave_the_store(store, tmp_path, key):
    (tmp_path / "x").write_text("x")
    for act in (lambda: store.put(key, tmp_path / "x"), lambda: store.open(key), lambda: store.delete(key)):
        with pytest.raises(PermanentStoreError, match="expected a relative path"):
            act()
    with pytest.raises(StoreError, match="expected a relative path"):
        store.exists(key)


def test_check_leaves_nothing(store):
    store.check()
    assert keys(store) == []
