"""Settings of the embedded stack, each from an environment variable ``SHIPWAY_<NAME>``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


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
    reconcile_seconds: float = Field(60.0, gt=0, description="Period of the reconcile flow, in seconds.")
    retention_days: float = Field(30.0, gt=0, description="Prediction log older than this is deleted, in days.")

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
        """The prediction log: raw segments under ``segments/<model>/<version>/``, Parquet under ``parquet/``, labels under ``labels/<model>/``."""
        return self.root / "predictions"

    @property
    def reports(self) -> Path:
        """Release reports that the receiver serves."""
        return self.root / "reports"

    @property
    def logs(self) -> Path:
        """One log file per part."""
        return self.root / "logs"
