"""``python -m flows.stack.docker_pool --image IMAGE``: a work pool of type docker, whose flow runs are containers of IMAGE.

Every deployment that the stack has gets a twin called ``docker`` that runs there: ``promote-model/docker``. The worker is
Prefect's own: ``prefect worker start --pool shipway-docker --type docker``. docs/work-pools.md says more.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bentos.serving import egress
from bentos.serving.errors import PermanentError
from flows.stack.parts import POOL, choose_servers, worker_environment
from infra.settings import StackSettings, load_settings

DOCKER_POOL = "shipway-docker"
NAME = "docker"
APP = "/opt/shipway/app"  # the repository in the image of infra/compose
SOCKET = "/var/run/docker.sock"
CA_FILE = "/etc/shipway/ca/ca.pem"  # trusted by all that a container of that image starts


class DockerPoolError(PermanentError):
    """The stack has no deployments yet, or the engine's socket is not there."""


def job_of(settings: StackSettings, environ: Mapping[str, str], image: str, socket: str = SOCKET) -> dict[str, Any]:
    """What every flow run's container is made of, by the names of the pool's job variables.

    It sees this stack as a process of the same machine does: the home at the same path, loopback, the engine's socket and
    the machine's process ids, by which the ledger tells a dead owner from a living one. Model environments alone are its
    own, because they hold links to the interpreter that made them. Raises DockerPoolError without the socket.
    """
    if not Path(socket).exists():
        raise DockerPoolError(
            f"{socket}: no such file; expected the engine's socket. Start the engine, or name its socket."
        )
    home = settings.root
    own = home / "docker-pool"
    for folder in (own / "envs", settings.envs):
        folder.mkdir(parents=True, exist_ok=True)
    volumes = [f"{home}:{home}", f"{own / 'envs'}:{settings.envs}", f"{socket}:{SOCKET}"]
    if settings.policies is not None:
        volumes.append(f"{settings.policies.absolute()}:{settings.policies.absolute()}:ro")
    if settings.image_ca_file is not None:
        authority = settings.image_ca_file.absolute()
        volumes += [f"{authority}:{authority}:ro", f"{authority}:{CA_FILE}:ro"]
    elif files := egress.authority_files(environ):
        (own / "ca.pem").write_bytes(egress.joined(files))
        volumes.append(f"{own / 'ca.pem'}:{CA_FILE}:ro")
    return {
        "image": image,
        "image_pull_policy": "IfNotPresent",
        "command": "python -m prefect.engine",
        "network_mode": "host",
        "auto_remove": True,
        "volumes": volumes,
        "env": {
            **_proxies(environ),
            **({"UV_DEFAULT_INDEX": index} if (index := egress.index_url(environ)) is not None else {}),
            **worker_environment(settings, choose_servers(settings, environ)),
            "UV_CACHE_DIR": str(own / "cache"),
        },
        "container_create_kwargs": {
            "user": f"{os.getuid()}:{os.getgid()}",  # whose home it is
            "group_add": [Path(socket).stat().st_gid],
            "pid_mode": "host",
            "init": True,
            "security_opt": ["no-new-privileges:true"],
        },
    }


def _proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """The machine's proxy, which never stands between processes of one machine."""
    said = egress.proxies(environ)
    direct = ",".join(filter(None, [said.get("NO_PROXY"), "127.0.0.1", "localhost"]))
    return {**said, "NO_PROXY": direct} if said else {}


def make_pool(job: Mapping[str, Any]) -> list[str]:
    """Makes pool and deployments equal to *job* and to the stack's own deployments; their names. Idempotent.

    Raises DockerPoolError where the stack has no deployments.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.client.schemas.filters import DeploymentFilter, WorkPoolFilter, WorkPoolFilterName
    from prefect.exceptions import ObjectNotFound
    from prefect_docker.worker import DockerWorker  # type: ignore[import-untyped]  # it ships no types

    template = DockerWorker.get_default_base_job_template()
    for name, value in job.items():
        template["variables"]["properties"][name]["default"] = value
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(DOCKER_POOL)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=DOCKER_POOL, type="docker", base_job_template=template))
        else:
            client.update_work_pool(DOCKER_POOL, WorkPoolUpdate(base_job_template=template))
        own = WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL]))
        found = client.read_deployments(work_pool_filter=own, deployment_filter=DeploymentFilter(), limit=200)
        if not found:
            raise DockerPoolError(f"work pool {POOL} has no deployments; 'shipway up' makes them. Run it first.")
        for each in found:
            client.create_deployment(
                flow_id=each.flow_id,
                name=NAME,
                work_pool_name=DOCKER_POOL,
                entrypoint=each.entrypoint,
                description=each.description,
                parameter_openapi_schema=each.parameter_openapi_schema,
                enforce_parameter_schema=each.enforce_parameter_schema,
                path=APP,
                pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": APP}}],
            )
        return sorted(f"{client.read_flow(each.flow_id).name}/{NAME}" for each in found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Says what there is then."""
    parser = argparse.ArgumentParser(prog="python -m flows.stack.docker_pool", description=__doc__)
    parser.add_argument("--image", required=True, help="image of infra/compose/Dockerfile")
    parser.add_argument("--socket", default=SOCKET, help="the engine's socket on this machine")
    chosen = parser.parse_args(arguments)
    job = job_of(load_settings(os.environ), os.environ, chosen.image, chosen.socket)
    print("deployed:", ", ".join(make_pool(job)))


if __name__ == "__main__":
    main()
