"""How containers of model versions run. No docker import, so that settings and blocks can name it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class DockerSettings(BaseModel):
    """The limits and the network of every model container."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str | None = Field(
        None,
        description="Network that the containers join, made if missing; None: no network, a unix socket on a private bind mount.",
    )
    publish: bool = Field(
        True,
        description="With a network: publish each container on a port of 127.0.0.1; false: the gateway is in that network and reaches them by name.",
    )
    pull_network: str = Field(
        "host",
        description="Network of containers that fetch their model or their packages at start and otherwise have none.",
    )
    registry_url: str | None = Field(
        None, description="The MLflow server as containers reach it; None: the address that the stack itself uses."
    )
    segments_volume: str | None = Field(
        None,
        description="Named volume of the prediction log, where the stack itself runs in a container; None: a bind mount.",
    )
    cache_volume: str | None = Field(
        None,
        description="Named volume that containers keep fetched models and environments in; None: the folder `cache` of the target, bind-mounted.",
    )
    cpus: float | None = Field(None, gt=0, description="CPUs of one container at most; None: no limit.")
    memory_mb: int | None = Field(None, ge=64, description="Memory of one container at most, in MiB; None: no limit.")
    pids: int = Field(256, ge=16, description="Processes and threads of one container at most.")
    restart: Literal["always", "on-failure", "no"] = Field(
        "always",
        description="What the engine does when a server dies that was ready before. always: starts it again, also after the engine's own restart or crash; a drained one stays stopped.",
    )
    log_mb: int = Field(5, ge=1, description="Size of one log file in MiB; two are kept.")
    tmp_mb: int = Field(
        64, ge=1, description="Size of the in-memory /tmp in MiB, the only place a container can write to."
    )
