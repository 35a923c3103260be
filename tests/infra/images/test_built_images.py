"""BuiltImages of images: written in one step, and known to be what was written."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from bentos.serving.files import StateFolderError
from infra.images.built_images import BuiltImage, BuiltImages
from infra.images.interface import PermanentImageError

RECORD = BuiltImage("ab" * 32, "sha256:1", "shipway/x:ab", 5, {"io.shipway.model": "x"})


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    records = BuiltImages(tmp_path / "images")
    assert records.read(RECORD.key) is None
    records.write(RECORD)
    assert records.read(RECORD.key) == RECORD
    pushed = replace(RECORD, reference="localhost:5000/x@sha256:2")
    records.write(pushed)
    assert records.read(RECORD.key) == pushed


@pytest.mark.parametrize("text", ["{", "[]", '{"key": "x"}', '{"digest": 1, "unknown": 2}'])
def test_what_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / f"{RECORD.key[:16]}.json").write_text(text)
    with pytest.raises(PermanentImageError, match=r"cannot be read.*Remove it"):
        BuiltImages(tmp_path).read(RECORD.key)


def test_a_changed_record_is_refused(tmp_path: Path) -> None:
    records = BuiltImages(tmp_path)
    records.write(RECORD)
    path = tmp_path / f"{RECORD.key[:16]}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "id": "sha256:another"}))
    with pytest.raises(PermanentImageError, match="Somebody changed it"):
        records.read(RECORD.key)


def test_one_key_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    inside, most = [], []

    def work() -> None:
        with BuiltImages(tmp_path).held(RECORD.key):
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.02)
            inside.pop()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert most == [1, 1, 1, 1]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateFolderError, match="the record of an image cannot be written"):
        BuiltImages(tmp_path / "file").write(RECORD)
