"""What the embedded stack is made of: every part with its command, its environment and its health check."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from infra.settings import StackSettings
from infra.stack.databases import database_of
from infra.stack.part import ExternalPart, Part, StackError
from infra.stack.probes import answers, ask
from infra.stack.secrets import Secrets
from infra.stores.configured import s3_environment
from infra.telemetry import telemetry_off

if TYPE_CHECKING:
    from infra.gateways.envoy import EnvoyGateway

POOL = "shipway"
OVERTAKEN = os.EX_TEMPFAIL  # exit code of a supervisor that finds another one at its folder
_WORKER = ("--pool", POOL, "--type", "process", "--name", "shipway-stack", "--install-policy", "never")
ROOT = Path(__file__).resolve().parents[2]  # where prefect.yaml and the flows lie

# What the user's shell says about other servers; the stack's own parts must not hear it.
_FOREIGN = ("PREFECT_API_", "PREFECT_PROFILE", "PREFECT_SERVER_", "PREFECT_HOME", "PREFECT_UI_", "MLFLOW_BACKEND_")
_FOREIGN_NAMES = frozenset({"MLFLOW_REGISTRY_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT", "MLFLOW_ARTIFACTS_DESTINATION"})


@dataclass(frozen=True)
class Servers:
    """The MLflow and Prefect servers that are used: the stack's own, or the user's."""

    mlflow: str
    prefect_api: str
    external: tuple[ExternalPart, ...] = ()

    @property
    def own_mlflow(self) -> bool:
        """Whether the stack runs MLflow itself."""
        return all(part.name != "mlflow" for part in self.external)

    @property
    def own_prefect(self) -> bool:
        """Whether the stack runs Prefect itself."""
        return all(part.name != "prefect" for part in self.external)


def choose_servers(settings: StackSettings, environ: Mapping[str, str]) -> Servers:
    """The servers to use: those that MLFLOW_TRACKING_URI and PREFECT_API_URL name, where they are not the stack's own.

    Raises StackError for a value that is no http(s) address.
    """
    external = []
    chosen = {}
    for name, variable, own in (
        ("mlflow", "MLFLOW_TRACKING_URI", settings.mlflow_url),
        ("prefect", "PREFECT_API_URL", settings.prefect_api_url),
    ):
        value = environ.get(variable, "").rstrip("/")
        if not value or _same(value, own):
            chosen[name] = own
            continue
        if urlsplit(value).scheme not in ("http", "https"):
            raise StackError(
                f"{variable}={value}: expected the http(s) address of a running server. Unset it to use the stack's own."
            )
        chosen[name] = value
        external.append(ExternalPart(name, value, variable))
    return Servers(chosen["mlflow"], chosen["prefect"], tuple(external))


def _same(left: str, right: str) -> bool:
    """Whether two addresses are one: localhost is 127.0.0.1, a slash at the end says nothing."""
    one, other = (urlsplit(url.rstrip("/").replace("//localhost", "//127.0.0.1")) for url in (left, right))
    return (one.scheme, one.hostname, one.port, one.path) == (other.scheme, other.hostname, other.port, other.path)


def client_environment(settings: StackSettings, servers: Servers) -> dict[str, str]:
    """What a process needs to find the stack: exported by ``shipway env``, given to every flow run."""
    return {
        "PREFECT_API_URL": servers.prefect_api,
        "MLFLOW_TRACKING_URI": servers.mlflow,
        **settings.environment(),
        **telemetry_off(),
    }


def worker_environment(settings: StackSettings, servers: Servers) -> dict[str, str]:
    """What a flow run and its worker need beyond that."""
    return {
        **client_environment(settings, servers),
        "PREFECT_HOME": str(settings.root / "prefect"),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PYTHONUNBUFFERED": "1",
    }


def own_gateway(settings: StackSettings) -> EnvoyGateway:
    """The stack's gateway, as the settings say."""
    from infra.gateways.envoy import EnvoyGateway

    return EnvoyGateway(
        settings.gateway,
        host=settings.gateway_host or settings.host,
        port=settings.gateway_port,
        admin_port=settings.gateway_admin_port,
        admin_host=settings.gateway_admin_host,
        tracing=settings.tracing,
        memory_mb=settings.gateway_memory_mb,
    )


def webhook_name(settings: StackSettings) -> str:
    """The name of this stack's webhook: an MLflow server may serve more than one stack."""
    return f"shipway-{hashlib.sha256(str(settings.root).encode()).hexdigest()[:8]}"


def compose(
    settings: StackSettings, servers: Servers, secrets: Secrets, environ: Mapping[str, str] = os.environ
) -> list[Part]:
    """Every part that the stack starts, in no order: ``after`` gives it. Nothing is started or written here."""
    base = {
        name: value for name, value in environ.items() if not name.startswith(_FOREIGN) and name not in _FOREIGN_NAMES
    }
    if not servers.own_prefect:  # its key and headers are the user's
        base |= {name: value for name, value in environ.items() if name.startswith("PREFECT_API_")}
    make = _Maker(settings, servers, base)
    own = [make.mlflow(secrets)] if servers.own_mlflow else []
    own += [make.prefect()] if servers.own_prefect else []
    return [*own, make.gateway(), make.receiver(), make.webhook(), make.deployments(), make.worker(), make.compactor()]


def _python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *arguments)


def _beats_since(url: str, moment: datetime) -> bool:
    """Whether a worker of the pool reported to Prefect after *moment*; older ones are of an earlier stack."""
    status, answer = ask(url, body={})
    if status != 200:
        return False
    beats = [str(worker.get("last_heartbeat_time") or "") for worker in json.loads(answer)]
    return any(datetime.fromisoformat(beat) > moment for beat in beats if beat)


@dataclass(frozen=True)
class _Maker:
    """Makes one part a method."""

    settings: StackSettings
    servers: Servers
    base: Mapping[str, str]

    def mlflow(self, secrets: Secrets) -> Part:
        settings, folder = self.settings, self.settings.root / "mlflow"
        database = database_of(settings, "mlflow_database")
        command = _python(
            "mlflow",
            "server",
            "--serve-artifacts",
            f"--artifacts-destination={settings.artifacts or folder / 'artifacts'}",
            "--workers=1",
            f"--host={settings.host}",
            f"--port={settings.mlflow_port}",
        )
        environment = {
            # not on the command line, which everyone on the machine can read
            "MLFLOW_BACKEND_STORE_URI": database.url if database else f"sqlite:///{folder / 'mlflow.db'}",
            **(s3_environment(settings, self.base) if settings.artifacts is not None else {}),
            "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": secrets.fernet,
            "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
            "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",  # the receiver listens on loopback
            "MLFLOW_WEBHOOK_CACHE_TTL": "1",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        url = settings.mlflow_url
        return self._part(
            "mlflow",
            command,
            environment,
            url=url,
            ports={"SHIPWAY_MLFLOW_PORT": settings.mlflow_port},
            healthy=lambda: answers(f"{url}/health"),
            # `mlflow server` passes SIGTERM on to the uvicorn it started; SIGKILL would orphan that
            death_signal=signal.SIGTERM,
        )

    def prefect(self) -> Part:
        settings, api = self.settings, self.settings.prefect_api_url
        database = database_of(settings, "prefect_database")
        environment = {
            **({"PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url, **database.environment} if database else {}),
            "PREFECT_HOME": str(settings.root / "prefect"),
            "PREFECT_API_URL": api,
            "PREFECT_UI_API_URL": api,
            # the default, in memory, leaks the slot of every lock at a restart
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        }
        return self._part(
            "prefect",
            _python("prefect", "server", "start", "--host", settings.host, "--port", str(settings.prefect_port)),
            environment,
            url=api.removesuffix("/api"),
            ports={"SHIPWAY_PREFECT_PORT": settings.prefect_port},
            healthy=lambda: answers(f"{api}/health"),
        )

    def deployments(self) -> Part:
        return self._part(
            "deployments",
            _python("flows.stack.prefect_deployments"),
            worker_environment(self.settings, self.servers),
            after=("prefect",),
            once=True,
        )

    def worker(self) -> Part:
        url = f"{self.servers.prefect_api}/work_pools/{POOL}/workers/filter"
        made = datetime.now(UTC)
        return self._part(
            "worker",
            _python("prefect", "worker", "start", *_WORKER),
            worker_environment(self.settings, self.servers),
            after=("prefect", "deployments"),
            healthy=lambda: _beats_since(url, made),
            spares_children=True,  # a flow run outlives its worker
        )

    def gateway(self) -> Part:
        settings, gateway = self.settings, own_gateway(self.settings)
        return self._part(
            "gateway",
            tuple(gateway.command()),
            {},
            url=settings.gateway_url,
            ports={
                "SHIPWAY_GATEWAY_PORT": settings.gateway_port,
                "SHIPWAY_GATEWAY_ADMIN_PORT": settings.gateway_admin_port,
            },
            healthy=lambda: answers(f"http://127.0.0.1:{settings.gateway_admin_port}/ready"),
            drain=gateway.drain,
        )

    def receiver(self) -> Part:
        settings = self.settings
        return self._part(
            "receiver",
            _python("flows.triggers.receiver"),
            worker_environment(settings, self.servers),
            url=settings.receiver_url,
            ports={"SHIPWAY_RECEIVER_PORT": settings.receiver_port},
            healthy=lambda: answers(f"{settings.receiver_url}/healthz"),
        )

    def webhook(self) -> Part:
        return self._part(
            "webhook",
            _python("flows.triggers.webhook"),
            client_environment(self.settings, self.servers),
            after=("mlflow", "receiver"),
            once=True,
            optional=not self.servers.own_mlflow,  # reconcile finds what webhooks would have told
        )

    def compactor(self) -> Part:
        settings = self.settings
        days = f"{settings.retention_days:g}"
        return self._part(
            "compactor",
            _python("monitoring.log.compactor", "--home", str(settings.root), "--retention-days", days),
            client_environment(settings, self.servers),
            healthy=lambda: True,  # it has no door to knock at; that its process lives is what can be known
        )

    def _part(
        self,
        name: str,
        command: tuple[str, ...],
        environment: Mapping[str, str],
        *,
        after: tuple[str, ...] = (),
        **values: object,
    ) -> Part:
        return Part(
            name,
            command,
            {**self.base, **telemetry_off(), **environment},
            cwd=ROOT,
            log=self.settings.logs / f"{name}.log",
            after=after,
            start_seconds=self.settings.start_seconds,
            **{"healthy": lambda: True, **values},  # type: ignore[arg-type]
        )
