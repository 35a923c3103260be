"""A state folder that cannot be written is one clear error, whoever meets it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from bentos.policy.build import BuildPolicy
from bentos.sealing.bento import build
from bentos.serving.environments.environment import Environments, Lock
from bentos.serving.files import StateFolderError, is_about_the_disk, writable
from bentos.versions.model_version import ModelVersion
from bentos.versions.registry import Registry

pytestmark = [
    # mlflow's own imports, met when an artifact is downloaded
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:mlflow"),
]


def test_a_file_in_the_folders_place_is_named_by_every_keeper(
    tmp_path: Path, mlflow_server: str, registered: dict[str, str]
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("not a folder")
    code = tmp_path / "code"
    code.mkdir()
    (code / "service.py").touch()
    lock = Lock("", "sha256:" + "0" * 64, "3.11")
    mv = ModelVersion("m", "1", None, "s", "sklearn", "sha256:" + "0" * 64, (), None)
    for keeper in (
        lambda: build(mv, tmp_path, BuildPolicy(), lock, taken, code=code),
        lambda: Environments(taken).ensure(lock),
        lambda: Registry(mlflow_server, taken).resolve("tensor", version="1"),
        lambda: Registry(mlflow_server, taken).run_artifact(registered["with-reference"], "shipway/mine.csv"),
    ):
        with pytest.raises(StateFolderError, match=rf"state folder {taken}.*set SHIPWAY_HOME"):
            keeper()


@pytest.mark.parametrize(("number", "cure"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "read-only")])
def test_a_full_disk_and_a_read_only_one_say_what_to_do(tmp_path: Path, number: int, cure: str) -> None:
    with pytest.raises(StateFolderError, match=cure), writable(tmp_path, "a thing"):
        raise OSError(number, "as the kernel says")
    with pytest.raises(OSError, match="something else"), writable(tmp_path, "a thing"):
        raise OSError(errno.EIO, "something else")


def test_a_disk_error_is_found_behind_a_librarys_own() -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "no space")
        except OSError as error:
            raise RuntimeError("download failed") from error
    except RuntimeError as error:
        found = is_about_the_disk(error)
    assert found is not None and found.errno == errno.ENOSPC
    worded = is_about_the_disk(RuntimeError("artifact a: OSError(28): [Errno 28] No space left on device"))
    assert worded is not None and worded.errno == errno.ENOSPC
    assert is_about_the_disk(ValueError("not about that")) is None
