"""``python -m flows.stack.prefect_deployments``: the work pool and the deployments of prefect.yaml, made equal to what the files say."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bentos.serving.errors import PermanentError
from flows.release.line import default_blocks
from flows.stack.parts import POOL, ROOT, choose_servers, worker_environment
from infra.settings import StackSettings, load_settings


class DeployError(PermanentError):
    """prefect.yaml is missing or Prefect did not take it."""


def deploy(settings: StackSettings, environ: Mapping[str, str], file: Path = ROOT / "prefect.yaml") -> list[str]:
    """Makes pool and deployments as *file* says; ``flow/deployment`` names of all. Idempotent.

    Where neither the file nor a flow has changed since the last time and Prefect still has every deployment, nothing is
    sent. Raises DeployError.
    """
    import prefect

    from blocks.image_registry import ImageRegistryBlock

    try:
        wanted = [entry["name"] for entry in yaml.safe_load(file.read_text())["deployments"]]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise DeployError(
            f"{file} cannot be read as deployments ({error!r}); restore it from the repository."
        ) from error
    job = {
        "command": f"{sys.executable} -m flows.stack.engine",  # names the interpreter; spares a second import of prefect
        "working_dir": str(file.parent),
        "env": worker_environment(settings, choose_servers(settings, environ)),
    }
    blocks = default_blocks(settings, choose_servers(settings, environ).mlflow)
    content = hashlib.sha256(repr((prefect.__version__, job, blocks)).encode())
    for path in [file, *sorted((file.parent / "flows").glob("**/*.py"))]:
        content.update(path.read_bytes())
    stamp = settings.stack / "deployed"
    present = _ensure_pool(job)
    _drop_late_runs()
    if stamp.exists() and stamp.read_text() == content.hexdigest() and len(present) >= len(wanted):
        return present
    stamp.unlink(missing_ok=True)
    _apply(file)
    for (_, name), block in blocks.items():
        block.save(name, overwrite=True)
    ImageRegistryBlock.register_type_and_schema()  # none is saved here, but the UI offers its form
    present = _ensure_pool(job)
    missing = set(wanted) - {name.rpartition("/")[2] for name in present}
    if missing or len(present) < len(wanted):
        raise DeployError(f"{file}: Prefect has {present}, expected {len(wanted)} deployments; see the lines above.")
    stamp.write_text(content.hexdigest())
    return present


def _ensure_pool(job: Mapping[str, Any]) -> list[str]:
    """Makes the pool or updates the defaults of its jobs; the names of the deployments that use it."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.client.schemas.filters import DeploymentFilter, WorkPoolFilter, WorkPoolFilterName
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    for name, value in job.items():
        template["variables"]["properties"][name]["default"] = value
    with get_client(sync_client=True) as client:
        try:
            pool = client.read_work_pool(POOL)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
        else:
            if pool.base_job_template != template:
                client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=template))
        found = client.read_deployments(
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL])),
            deployment_filter=DeploymentFilter(),
            limit=200,
        )
        flows = {flow: client.read_flow(flow).name for flow in {deployment.flow_id for deployment in found}}
    return sorted(f"{flows[deployment.flow_id]}/{deployment.name}" for deployment in found)


def _drop_late_runs() -> None:
    """Scheduled runs whose time passed while the stack was down: one reconcile is enough, not one for every minute."""
    from datetime import UTC, datetime

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterExpectedStartTime,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import StateType

    late = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=FlowRunFilterExpectedStartTime(before_=datetime.now(UTC)),
    )
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL]))
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=late, work_pool_filter=pool, limit=200):
            if run.auto_scheduled:
                client.delete_flow_run(run.id)


def _apply(file: Path) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", file.name]
    code = subprocess.run(command, cwd=file.parent, check=False).returncode
    if code:
        raise DeployError(f"{file}: 'prefect deploy --all' ended with {code}; see the lines above.")


def main() -> None:
    """Applies prefect.yaml of this installation; the console shows what there is then."""
    print("deployed:", ", ".join(deploy(load_settings(os.environ), os.environ)))


if __name__ == "__main__":
    main()
