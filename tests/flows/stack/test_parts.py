"""What the stack starts: its own servers or the user's, and an environment that hears nobody else."""

from __future__ import annotations

import sys

import pytest

from flows.stack.parts import choose_servers, client_environment, compose, webhook_name, worker_environment
from infra.settings import StackSettings, variables
from infra.stack.part import StackError
from infra.stack.secrets import ensure_secrets
from infra.telemetry import telemetry_off


@pytest.fixture
def settings(tmp_path) -> StackSettings:
    return StackSettings(home=tmp_path / "home")


def parts_of(settings, environ, tmp_path):
    secrets = ensure_secrets(tmp_path)
    return {part.name: part for part in compose(settings, choose_servers(settings, environ), secrets, environ)}


def test_without_the_user_s_servers_the_stack_runs_its_own(settings, tmp_path):
    parts = parts_of(settings, {}, tmp_path)
    own = {"mlflow", "prefect", "gateway", "receiver", "webhook", "deployments", "worker", "compactor"}
    assert set(parts) == own
    assert {part.name for part in parts.values() if part.once} == {"webhook", "deployments"}
    assert all(part.log.parent == settings.logs for part in parts.values())
    assert all(part.environment.items() >= telemetry_off().items() for part in parts.values())
    assert sorted(setting for part in parts.values() for setting in part.ports) == [
        name for name in sorted(variables()) if name.endswith("_PORT")
    ]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"MLFLOW_TRACKING_URI": "http://127.0.0.1:15500", "PREFECT_API_URL": "http://127.0.0.1:14200/api"},
        {"MLFLOW_TRACKING_URI": "http://localhost:15500/", "PREFECT_API_URL": "http://localhost:14200/api/"},
        {"MLFLOW_TRACKING_URI": "", "PREFECT_API_URL": ""},
    ],
)
def test_addresses_of_the_stack_s_own_servers_are_not_external(settings, environ):
    servers = choose_servers(settings, environ)
    assert servers.external == ()
    assert (servers.mlflow, servers.prefect_api) == ("http://127.0.0.1:15500", "http://127.0.0.1:14200/api")


def test_the_user_s_servers_are_used_instead(settings, tmp_path):
    environ = {"MLFLOW_TRACKING_URI": "https://mlflow.example/", "PREFECT_API_URL": "http://prefect:4200/api"}
    servers = choose_servers(settings, environ)
    assert [(part.name, part.url, part.variable) for part in servers.external] == [
        ("mlflow", "https://mlflow.example", "MLFLOW_TRACKING_URI"),
        ("prefect", "http://prefect:4200/api", "PREFECT_API_URL"),
    ]
    parts = parts_of(settings, environ, tmp_path)
    assert not {"mlflow", "prefect"} & set(parts)
    assert parts["webhook"].optional
    assert parts["worker"].environment["PREFECT_API_URL"] == "http://prefect:4200/api"


@pytest.mark.parametrize("value", ["sqlite:///mlflow.db", "./mlruns", "databricks"])
def test_what_is_no_server_is_refused(settings, value):
    with pytest.raises(StackError, match=r"MLFLOW_TRACKING_URI=.*Unset it"):
        choose_servers(settings, {"MLFLOW_TRACKING_URI": value})


def test_own_servers_do_not_hear_the_user_s_shell(settings, tmp_path):
    environ = {
        "PATH": "/bin",
        "PREFECT_API_KEY": "secret",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql://elsewhere",
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "MLFLOW_BACKEND_STORE_URI": "postgresql://elsewhere",
        "MLFLOW_S3_ENDPOINT_URL": "http://s3",
    }
    for part in parts_of(settings, environ, tmp_path).values():
        assert part.environment["PATH"] == "/bin"
        assert part.environment["PREFECT_LOGGING_LEVEL"] == "DEBUG"
        assert part.environment["MLFLOW_S3_ENDPOINT_URL"] == "http://s3"
        assert "elsewhere" not in "".join(part.environment.values())
        assert "PREFECT_API_KEY" not in part.environment
    environ["PREFECT_API_URL"] = "http://prefect:4200/api"
    assert parts_of(settings, environ, tmp_path)["worker"].environment["PREFECT_API_KEY"] == "secret"


def test_the_webhook_secret_is_in_no_command_and_no_foreign_environment(settings, tmp_path):
    secrets = ensure_secrets(tmp_path)
    for part in compose(settings, choose_servers(settings, {}), secrets, {}):
        assert secrets.webhook not in " ".join((*part.command, *part.environment.values()))
        assert (secrets.fernet in part.environment.values()) == (part.name == "mlflow")


def test_a_flow_run_finds_the_stack_from_its_environment(settings):
    moved = StackSettings(home=settings.home, gateway_port=4000)
    environment = worker_environment(moved, choose_servers(moved, {}))
    assert environment["SHIPWAY_HOME"] == str(settings.root)
    assert environment["SHIPWAY_GATEWAY_PORT"] == "4000"
    assert environment.items() >= client_environment(moved, choose_servers(moved, {})).items()


def test_two_homes_have_two_webhooks(settings, tmp_path):
    assert webhook_name(settings) == webhook_name(StackSettings(home=settings.root))
    assert webhook_name(settings) != webhook_name(StackSettings(home=tmp_path / "other"))


def test_composing_imports_neither_mlflow_nor_prefect(tmp_path):
    import subprocess

    code = (
        "import sys; from flows.stack import parts, up, down, env, daemon; from flows.console import cli, status; from flows.triggers import receiver, prefect_runs;"
        "print([name for name in ('mlflow', 'prefect', 'bentoml', 'evidently', 'pandas') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
