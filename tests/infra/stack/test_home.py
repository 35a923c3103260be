"""A state folder that cannot be used is an error before anything is started in it."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from infra.settings import StackSettings, load_settings
from infra.stack.home import prepare_home
from infra.stack.part import StackError
from infra.stack.secrets import ensure_secrets


def test_folders_are_made_for_their_owner_alone_also_where_they_were_others(tmp_path):
    settings = StackSettings(home=tmp_path / "deep" / "home")
    settings.segments.mkdir(parents=True)
    settings.segments.chmod(0o777)
    settings.root.chmod(0o755)
    settings.predictions.chmod(0o700)
    prepare_home(settings)
    prepare_home(settings)
    assert settings.segments.is_dir()
    folders = [settings.root, *(path for path in settings.root.rglob("*") if path.is_dir())]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}
    assert len(folders) > 8
    assert not list(settings.root.rglob(".probe-*"))


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "home").write_text("")
    with pytest.raises(StackError, match=r"home cannot be used.*SHIPWAY_HOME"):
        prepare_home(StackSettings(home=tmp_path / "home"))


def test_a_read_only_place(tmp_path):
    # root ignores modes; nobody may make a folder in /sys
    with pytest.raises(StackError, match=r"/sys/shipway cannot be used: .*SHIPWAY_HOME"):
        prepare_home(StackSettings(home=Path("/sys/shipway")))


def test_a_full_place(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StackError, match=r"cannot be used.*Free space"):
            prepare_home(StackSettings(home=tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_secrets_are_made_once_and_for_their_owner_alone(tmp_path):
    made = ensure_secrets(tmp_path)
    again = ensure_secrets(tmp_path)
    assert (made.webhook, made.fernet) == (again.webhook, again.fernet)
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert made.webhook not in repr(made)
    assert [path.name for path in tmp_path.iterdir()] == ["secrets.json"]


def test_broken_secrets_are_named_not_replaced(tmp_path):
    (tmp_path / "secrets.json").write_text("{}")
    with pytest.raises(StackError, match=r"secrets\.json cannot be read"):
        ensure_secrets(tmp_path)
    assert (tmp_path / "secrets.json").read_text() == "{}"


def test_secrets_given_as_values_are_kept_in_files_of_their_owner(tmp_path):
    values = {"SHIPWAY_HOME": str(tmp_path), "SHIPWAY_S3_SECRET_KEY": "s3cret"}
    for text in ("s3cret", "renewed"):
        settings = load_settings({**values, "SHIPWAY_S3_SECRET_KEY": text})
        prepare_home(settings)
        (path,) = settings.given_secrets.iterdir()
        assert path.stat().st_mode & 0o777 == 0o600
        assert settings.given_secrets.stat().st_mode & 0o777 == 0o700
        given = load_settings(settings.environment())
        assert (given.secret("s3_secret_key"), given.environment()) == (text, settings.environment())
        prepare_home(given)  # as the supervisor does
        assert given.secret("s3_secret_key") == text
