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
