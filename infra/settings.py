"""Settings of the embedded stack, each from an environment variable ``SHIPWAY_<NAME>``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from bentos.serving.errors import PermanentError

PREFIX = "SHIPWAY_"
SECRETS = (
    "mlflow_database",
    "prefect_database",
    "s3_access_key",
    "s3_secret_key",
)  # settings whose value nobody may see
_FILE = "file:"  # a secret that begins so is the content of that file
_BUCKET = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9!_.*'()/=-]*)?$"


class SettingsError(PermanentError):
    """A SHIPWAY_ variable that is unknown or has a value that cannot be used; the message names it."""


class StackSettings(BaseSettings):
    """Where the stack keeps its state and which ports it uses. Unknown SHIPWAY_ variables are refused at ``up``."""

    model_config = SettingsConfigDict(env_prefix="SHIPWAY_", env_ignore_empty=True, frozen=True)

    home: Path = Field(Path(".shipway"), description="Folder of all state and logs; made if missing.")
    host: str = Field(
        "127.0.0.1", description="Address that gateway, receiver and servers listen on; loopback unless changed."
    )
    mlflow_port: int = Field(15500, ge=1, le=65535, description="Port of the stack's own MLflow server.")
    prefect_port: int = Field(14200, ge=1, le=65535, description="Port of the stack's own Prefect server.")
    gateway_port: int = Field(18080, ge=1, le=65535, description="Port that clients send requests to.")
    gateway_admin_port: int = Field(
        19901, ge=1, le=65535, description="Envoy's admin port; on loopback unless changed."
    )
    gateway_host: str | None = Field(
        None, description="Where the gateway is reached, where it runs elsewhere (in a container); None: this machine."
    )
    gateway_admin_host: str = Field(
        "127.0.0.1", description="Where Envoy's admin port listens and is reached. Who reaches it can stop the gateway."
    )
    gateway_memory_mb: int = Field(
        2048,
        ge=256,
        description="Memory that the gateway may hold, in MiB. Near it new requests get 503 and long bodies are cut off.",
    )
    mlflow_pages: str | None = Field(
        None,
        pattern=r"^https?://[^/@\s?#]+(/[^\s?#]*)?$",
        description="Where browsers reach MLflow, http(s)://host[:port], for links; None: as the stack does.",
    )
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
    target: str = Field("process", description="Target block that runs what no release names a target for.")
    image_base: str = Field("python:3.11-slim-bookworm", description="Image that every built image starts from.")
    image_index_url: str | None = Field(
        None,
        description="Package index of image builds and container starts; None: the one of this machine (UV_DEFAULT_INDEX, PIP_INDEX_URL, pip.conf).",
    )
    image_ca_file: Path | None = Field(
        None,
        description="Extra certificate authorities (PEM) for that index; None: those of this machine (SSL_CERT_FILE, PIP_CERT, REQUESTS_CA_BUNDLE, pip.conf).",
    )
    image_network: str | None = Field(None, description="Network mode of image builds, for example host.")
    image_proxy: str | None = Field(
        None, description="HTTP(S) proxy of image builds and container starts; None: that of this machine."
    )
    image_builder: Literal["auto", "classic", "buildkit"] = Field("auto", description="How images are built.")
    image_repository: str | None = Field(None, description="Where images are pushed, host[:port]/path; None: nowhere.")
    image_registry: str | None = Field(
        None, description="Image registry block with the login for that repository; None: no login."
    )
    docker_network: str | None = Field(
        None, description="Network of model containers; None: none, a unix socket on a private bind mount."
    )
    docker_publish: bool = Field(True, description="With a network: publish containers on 127.0.0.1.")
    docker_registry_url: str | None = Field(
        None, description="The MLflow server as containers reach it; None: as the stack does."
    )
    docker_segments_volume: str | None = Field(
        None, description="Named volume of the prediction log where the stack itself runs in a container."
    )
    docker_cache_volume: str | None = Field(
        None, description="Named volume of what containers fetch at start, where the stack itself runs in a container."
    )
    docker_cpus: float | None = Field(None, gt=0, description="CPUs of one model container at most.")
    docker_memory_mb: int | None = Field(None, ge=64, description="Memory of one model container at most, in MiB.")
    start_seconds: float = Field(
        120.0, gt=0, description="A part that is not healthy this long after its start is stopped and tried again."
    )
    mlflow_database: SecretStr | None = Field(
        None,
        description="PostgreSQL database of the stack's MLflow, `postgresql://…`, a secret; None: SQLite in the home.",
    )
    prefect_database: SecretStr | None = Field(
        None,
        description="PostgreSQL database of the stack's Prefect, another than MLflow's, a secret; None: SQLite in the home.",
    )
    artifacts: str | None = Field(
        None, pattern=_BUCKET, description="`s3://bucket/prefix` of MLflow's artifacts; None: a folder in the home."
    )
    store: str | None = Field(
        None,
        pattern=_BUCKET,
        description="`s3://bucket/prefix` of reports and of the compacted prediction log; None: folders in the home.",
    )
    s3_endpoint: str | None = Field(
        None, pattern=r"^https?://[^/@\s?#]+/?$", description="Address of the S3 API, http(s)://host[:port]; None: AWS."
    )
    s3_region: str | None = Field(None, description="Region of the buckets; None: what boto3 finds.")
    s3_ca_file: Path | None = Field(
        None, description="Certificate authorities (PEM) of that address; None: boto3's own."
    )
    s3_access_key: SecretStr | None = Field(
        None, description="Access key id, a secret; None: what boto3 finds (AWS_ variables, profile, role)."
    )
    s3_secret_key: SecretStr | None = Field(None, description="The secret key of that access key, a secret.")

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
    def containers(self) -> Path:
        """State of the docker target."""
        return self.root / "containers"

    @property
    def images(self) -> Path:
        """What is known of the images built here: their records and their SBOMs."""
        return self.root / "images"

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

    @property
    def given_secrets(self) -> Path:
        """Secrets that were given as values, one file each, so that no variable or state file has to hold them."""
        return self.stack / "given"

    def secret(self, name: str) -> str | None:
        """The secret setting *name*, read from its file where it names one. Raises SettingsError."""
        value = getattr(self, name)
        return None if value is None else read_secret(value, PREFIX + name.upper())

    def reference(self, name: str) -> str | None:
        """``file:`` and the path of the file that has the secret *name* once the home is prepared; None: not set."""
        value: SecretStr | None = getattr(self, name)
        if value is None:
            return None
        text = value.get_secret_value()
        return text if text.startswith(_FILE) else f"{_FILE}{self.given_secrets / name}"

    def environment(self) -> dict[str, str]:
        """The SHIPWAY_ variables under which another process sees these settings: the home folder, absolute, and
        whatever is not the default. Secrets are named by their files."""
        values = {"SHIPWAY_HOME": str(self.root)}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name == "home" or value == field.default:
                continue
            if name in SECRETS:
                value = self.reference(name)
            values[PREFIX + name.upper()] = str(value.expanduser().absolute() if isinstance(value, Path) else value)
        return values


def read_secret(value: SecretStr, where: str) -> str:
    """The text of *value*, or of the file that it names as ``file:/path``. Raises SettingsError that names *where*."""
    text = value.get_secret_value()
    if not text.startswith(_FILE):
        return text
    path = Path(text.removeprefix(_FILE))
    try:
        found = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no text"
        raise SettingsError(
            f"{where}: the file {path} cannot be read ({why}). Correct the path or its mode."
        ) from error
    if not found:
        raise SettingsError(f"{where}: the file {path} is empty; expected the secret.")
    return found


def variables() -> list[str]:
    """The name of every setting's environment variable."""
    return [PREFIX + name.upper() for name in StackSettings.model_fields]


def load_settings(environ: Mapping[str, str]) -> StackSettings:
    """The settings that *environ* gives. ``SHIPWAY_<NAME>_FILE`` names the file of a secret setting.

    Raises SettingsError for a SHIPWAY_ variable that is no setting, with the nearest one that is, and for a value that
    cannot be used.
    """
    environ = _with_secrets(environ)
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
            if problem["loc"][0] not in SECRETS  # any text is one, so that none is ever shown here
        )
        raise SettingsError(f"{problems}. Correct the variable or unset it for the default.") from error


def _with_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """*environ* with every secret under its own variable, those of files as ``file:/absolute/path``."""
    values = dict(environ)
    for name in (PREFIX + secret.upper() for secret in SECRETS):
        path = values.pop(f"{name}_FILE", "")
        found = values.get(name, "")
        named = f"{_FILE}{path}" if path else found
        if named.startswith(_FILE):
            named = f"{_FILE}{Path(named.removeprefix(_FILE)).expanduser().absolute()}"
        if path and found and found != named:
            raise SettingsError(f"{name} and {name}_FILE are both set and differ. Unset one of them.")
        if named:
            values[name] = named
    return values
