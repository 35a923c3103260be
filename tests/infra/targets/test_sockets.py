import os
import stat
import tempfile

import pytest

from infra.targets.interface import PermanentTargetError
from infra.targets.sockets import LONGEST_PATH, socket_path


def test_a_short_path_stays_in_its_folder(tmp_path):
    assert socket_path(tmp_path) == tmp_path / "server.sock"


def test_a_long_path_gets_a_private_short_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    deep = tmp_path / ("d" * LONGEST_PATH)
    path = socket_path(deep)
    assert len(os.fsencode(path)) <= LONGEST_PATH
    assert stat.S_IMODE(path.parent.stat().st_mode) == stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700
    assert socket_path(deep) == path
    assert socket_path(deep / "other") != path


def test_a_folder_that_others_can_use_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"shipway-{os.getuid()}").mkdir()
    (tmp_path / f"shipway-{os.getuid()}").chmod(0o777)
    with pytest.raises(PermanentTargetError, match="only user"):
        socket_path(tmp_path / ("d" * LONGEST_PATH))


def test_a_link_in_its_place_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / f"shipway-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermanentTargetError, match="only user"):
        socket_path(tmp_path / ("d" * LONGEST_PATH))
