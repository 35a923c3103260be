"""Settings come from SHIPWAY_ variables; unknown names and bad values are refused with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.settings import SettingsError, StackSettings, load_settings, variables


def test_defaults_listen_on_loopback_alone():
    settings = load_settings({})
    assert settings.host == "127.0.0.1"
    assert settings.gateway_url == "http://127.0.0.1:18080"
    assert settings.prefect_api_url == "http://127.0.0.1:14200/api"


def test_variables_are_read_and_given_on(tmp_path):
    environ = {"SHIPWAY_HOME": str(tmp_path), "SHIPWAY_GATEWAY_PORT": "4000", "SHIPWAY_POLICIES": "rules", "OTHER": "x"}
    settings = load_settings(environ)
    assert (settings.root, settings.gateway_port, settings.policies) == (tmp_path, 4000, Path("rules"))
    given = settings.environment()
    assert given == {
        "SHIPWAY_HOME": str(tmp_path),
        "SHIPWAY_GATEWAY_PORT": "4000",
        "SHIPWAY_POLICIES": str(Path("rules").absolute()),
    }
    assert load_settings(given).environment() == given


@pytest.mark.parametrize(
    ("name", "near"), [("SHIPWAY_GATEWY_PORT", "SHIPWAY_GATEWAY_PORT"), ("SHIPWAY_HOM", "SHIPWAY_HOME")]
)
def test_an_unknown_variable_is_refused_with_the_nearest_known(name, near):
    with pytest.raises(SettingsError, match=rf"^{name}: no such setting; did you mean {near}\?"):
        load_settings({name: "1"})


def test_a_variable_like_no_other_lists_the_known():
    with pytest.raises(SettingsError, match=r"known: .*SHIPWAY_RECEIVER_PORT"):
        load_settings({"SHIPWAY_ZZZZZZZZZZZZZZZZZZZZZZ": "1"})


@pytest.mark.parametrize(("name", "value"), [("SHIPWAY_MLFLOW_PORT", "70000"), ("SHIPWAY_RETENTION_DAYS", "soon")])
def test_a_bad_value_is_refused_with_its_name(name, value):
    with pytest.raises(SettingsError, match=rf"{name}: .*found '{value}'"):
        load_settings({name: value})


def test_any_host_is_reached_by_loopback():
    assert load_settings({"SHIPWAY_HOST": "0.0.0.0"}).mlflow_url == "http://127.0.0.1:15500"
    assert load_settings({"SHIPWAY_HOST": "::1"}).mlflow_url == "http://[::1]:15500"


def test_every_setting_has_a_variable_and_a_description():
    assert len(variables()) == len(StackSettings.model_fields)
    assert all(field.description for field in StackSettings.model_fields.values())


def test_a_secret_is_never_shown_and_given_on_by_its_file(tmp_path):
    settings = load_settings({"SHIPWAY_HOME": str(tmp_path), "SHIPWAY_MLFLOW_DATABASE": "postgresql://u:s3cret@h/d"})
    assert settings.secret("mlflow_database") == "postgresql://u:s3cret@h/d"
    assert settings.secret("prefect_database") is None
    given = settings.environment()
    assert given["SHIPWAY_MLFLOW_DATABASE"] == f"file:{tmp_path}/stack/given/mlflow_database"
    assert "s3cret" not in f"{settings!r} {settings} {settings.model_dump_json()} {given}"


def test_a_secret_may_be_given_by_a_file_in_two_ways(tmp_path, monkeypatch):
    (tmp_path / "url").write_text("postgresql://u:s3cret@h/d\n")
    monkeypatch.chdir(tmp_path)
    name = "SHIPWAY_MLFLOW_DATABASE"
    for environ in ({f"{name}_FILE": str(tmp_path / "url")}, {f"{name}_FILE": "url"}, {name: "file:url"}):
        settings = load_settings(environ)
        assert settings.secret("mlflow_database") == "postgresql://u:s3cret@h/d"
        assert settings.environment()[name] == f"file:{tmp_path}/url"
    both = {**load_settings({f"{name}_FILE": "url"}).environment(), f"{name}_FILE": "url"}  # as a part inherits them
    assert load_settings(both).secret("mlflow_database") == "postgresql://u:s3cret@h/d"
    with pytest.raises(SettingsError, match=f"{name} and {name}_FILE are both set and differ") as told:
        load_settings({name: "postgresql://u:s3cret@h/d", f"{name}_FILE": "url"})
    assert "s3cret" not in str(told.value)


@pytest.mark.parametrize(("content", "says"), [(None, "cannot be read"), (b"\n", "is empty"), (b"\xff", "no text")])
def test_a_file_without_a_secret_is_named(tmp_path, content, says):
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    settings = load_settings({"SHIPWAY_S3_SECRET_KEY_FILE": str(tmp_path / "key")})
    with pytest.raises(SettingsError, match=rf"SHIPWAY_S3_SECRET_KEY: the file {tmp_path}/key .*{says}"):
        settings.secret("s3_secret_key")


def test_only_secrets_have_a_file_variable():
    with pytest.raises(SettingsError, match="SHIPWAY_POLICIES_FILE: no such setting"):
        load_settings({"SHIPWAY_POLICIES_FILE": "x"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SHIPWAY_STORE", "/a/folder"),
        ("SHIPWAY_STORE", "s3://B"),
        ("SHIPWAY_ARTIFACTS", "gs://bucket/a"),
        ("SHIPWAY_ARTIFACTS", "s3://bucket/a?b"),
        ("SHIPWAY_S3_ENDPOINT", "s3.example:9000"),
        ("SHIPWAY_S3_ENDPOINT", "http://key:secret@s3:9000"),
    ],
)
def test_what_is_no_bucket_or_endpoint_is_refused(name, value):
    with pytest.raises(SettingsError, match=f"^{name}: "):
        load_settings({name: value})
