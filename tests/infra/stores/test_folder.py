"""A store in a folder: whole or not at all, and nothing behind a link."""

from __future__ import annotations

import pytest

from infra.stores.folder import FolderStore
from infra.stores.interface import PermanentStoreError


def test_a_copy_that_fails_leaves_what_was_there(tmp_path):
    store = FolderStore(tmp_path / "store")
    source = tmp_path / "pages"
    source.mkdir()
    (source / "a.html").write_text("whole")
    store.put("run", source)
    (source / "b.html").symlink_to(tmp_path / "nowhere")
    with pytest.raises(PermanentStoreError, match=r"cannot put 'run'"):
        store.put("run", source)
    assert [stored.key for stored in store.list()] == ["run/a.html"]
    assert [path.name for path in store.folder.iterdir()] == ["run"]


def test_a_link_leads_outside(tmp_path):
    store = FolderStore(tmp_path / "store")
    store.check()
    (tmp_path / "secret").write_text("secret")
    (store.folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(PermanentStoreError, match="leads outside"):
        store.open("link")


def test_what_is_no_folder_cannot_be_used(tmp_path):
    (tmp_path / "store").write_text("a file")
    with pytest.raises(PermanentStoreError, match=rf"store {tmp_path}/store: cannot check"):
        FolderStore(tmp_path / "store").check()
