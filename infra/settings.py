"""Settings of the embedded stack, each from an environment variable ``SHIPWAY_<NAME>``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from bentos.errors import PermanentError

PREFIX = "SHIPWAY_"


class SettingsError(PermanentError):
    """A SHIPWAY_ variable that is unknown or has a value that cannot be used; the message names it."""


class StackSettings(BaseSettings):
    """Where the stack keeps its state and which ports it uses. Unknown SHIPWAY_ variables are refused at ``up``."""

    model_config = SettingsConfigDict(env_prefix="SHIPWAY_", frozen=True)

    home: Path = Field(Path(".shipway"), description="Folder of all state and logs; made if missing.")
    host: str = Field(
        "127.0.0.1", description="Address that gateway, receiver and servers listen on; loopback unless changed."
    )
    mlflow_port: int = Field(15500, ge=1, le=65535, description="Port of the stack's own MLflow server.")
    prefect_port: int = Field(14200, ge=1, le=65535, description="Port of the stack's own Prefect server.")
    gateway_port: int = Field(18080, ge=1, le=65535, description="Port that clients send requests to.")
    gateway_admin_port: int = Field(19901, ge=1, le=65535, description="Envoy's admin port; always on loopback.")
    receiver_port: int = Field(18081, ge=1, le=65535, description="Port of the webhook receiver and the reports.")
    policies: Path | None = Field(
        None, description="Folder of release policies, <model>.yaml and default.yaml; None: the built-in defaults."
    )
    tracing: str | None = Field(
        None,
        pattern=r"^[^:/\s]+:\d+$",
        description="host:port of an OpenTelemetry collector (OTLP over gRPC) that the gateway reports to; None: no tracing.",
    )
    retention_days: float = Field(30.0, gt=0, description="Prediction log older than this is deleted, in days.")
    start_seconds: float = Field(
        120.0, gt=0, description="A part that is not healthy this long after its start is stopped and tried again."
    )

    @property
    def client_host(self) -> str:
        """The address under which this machine reaches the parts: ``host``, or loopback where ``host`` means any."""
        if self.host in ("0.0.0.0", "::", ""):  # noqa: S104 (compared, not bound)
            return "127.0.0.1"
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def mlflow_url(self) -> str:
        """Of the stack's own MLflow server."""
        return f"http://{self.client_host}:{self.mlflow_port}"

    @property
    def prefect_api_url(self) -> str:
        """Of the API of the stack's own Prefect server."""
        return f"http://{self.client_host}:{self.prefect_port}/api"

    @property
    def gateway_url(self) -> str:
        """Where clients send requests."""
        return f"http://{self.client_host}:{self.gateway_port}"

    @property
    def receiver_url(self) -> str:
        """Webhooks, labels and reports."""
        return f"http://{self.client_host}:{self.receiver_port}"

    @property
    def root(self) -> Path:
        """``home`` as an absolute path."""
        return self.home.expanduser().absolute()

    @property
    def envs(self) -> Path:
        """Model environments, one folder per lock."""
        return self.root / "envs"

    @property
    def models(self) -> Path:
        """Downloaded artifact trees, one folder per digest."""
        return self.root / "models"

    @property
    def bentos(self) -> Path:
        """Sealed bentos, one folder per digest."""
        return self.root / "bentos"

    @property
    def deployments(self) -> Path:
        """State of the process target."""
        return self.root / "deployments"

    @property
    def gateway(self) -> Path:
        """Envoy's bootstrap and xDS files, and the plans they were rendered from."""
        return self.root / "gateway"

    @property
    def predictions(self) -> Path:
        """The prediction log: raw segments under ``segments/<model>/<version>/``, Parquet under ``parquet/``, labels under ``labels/``."""
        return self.root / "predictions"

    @property
    def segments(self) -> Path:
        """Raw segments that the model servers write, one folder per model and version."""
        return self.predictions / "segments"

    @property
    def labels(self) -> Path:
        """Labels that came back, one file per UTC hour."""
        return self.predictions / "labels"

    @property
    def reports(self) -> Path:
        """Release reports that the receiver serves."""
        return self.root / "reports"

    @property
    def logs(self) -> Path:
        """One log file per part."""
        return self.root / "logs"

    @property
    def stack(self) -> Path:
        """The supervisor's own: its lock, the state of the parts, the secrets."""
        return self.root / "stack"

    def environment(self) -> dict[str, str]:
        """The SHIPWAY_ variables under which another process sees these settings: the home folder, absolute, and
        whatever is not the default."""
        values = {"SHIPWAY_HOME": str(self.root)}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name != "home" and value != field.default:
                values[PREFIX + name.upper()] = str(value.expanduser().absolute() if isinstance(value, Path) else value)
        return values


def variables() -> list[str]:
    """The name of every setting's environment variable."""
    return [PREFIX + name.upper() for name in StackSettings.model_fields]


def load_settings(environ: Mapping[str, str]) -> StackSettings:
    """The settings that *environ* gives.

    Raises SettingsError for a SHIPWAY_ variable that is no setting, with the nearest one that is, and for a value that
    cannot be used.
    """
    known = variables()
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}."
            raise SettingsError(f"{name}: no such setting; {hint} Unset it or correct its name.")
    values: dict[str, Any] = {
        name.removeprefix(PREFIX).lower(): value for name, value in environ.items() if name in known and value != ""
    }
    try:
        return StackSettings(**values)
    except ValidationError as error:
        problems = "; ".join(
            f"{PREFIX}{str(problem['loc'][0]).upper()}: {problem['msg']} (found {problem['input']!r})"
            for problem in error.errors()
        )
        raise SettingsError(f"{problems}. Correct the variable or unset it for the default.") from error
