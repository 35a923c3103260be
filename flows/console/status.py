"""``shipway status``: parts, models, routes, open releases and model servers as they are now; no import of mlflow or prefect."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bentos.serving.errors import PermanentError, ShipwayError
from flows.stack.env import find_stack
from flows.stack.parts import Servers
from infra.mlflow_rest import MlflowRest
from infra.processes import runs
from infra.settings import StackSettings
from infra.stack.part import PartState
from infra.stack.state import StackState, read_state

MLFLOW_SECONDS = 3.0  # an answer that takes longer is none


class UnknownModelError(PermanentError):
    """A model that neither the registry nor the gateway nor the target knows."""


def look(environ: Mapping[str, str], model: str | None = None) -> dict[str, Any]:
    """Everything there is to say, as plain values: running, up, urls, parts, models, plans, releases, deployments, problems.

    Only *model*, when one is named. What cannot be asked is under ``problems`` with the reason, never left out
    silently. Raises UnknownModelError, SettingsError, StackError.
    """
    settings, servers = find_stack(environ)
    state = read_state(settings.stack)
    running = state is not None and state.running
    problems: dict[str, str] = dict(state.problems) if state is not None and running else {}
    found: dict[str, Any] = {
        "home": str(settings.root),
        "running": running,
        "up": bool(state is not None and running and state.up),
        "urls": _urls(settings, servers),
        "parts": _parts(state, running),
        "models": [],
        "plans": {},
        "releases": [],
        "deployments": [],
        "problems": problems,
    }
    if settings.root.exists():
        asked = {"models": _models, "releases": _releases, "plans": _plans, "deployments": _deployments}
        for key, ask in asked.items():
            if key == "releases" and "models" in problems:
                problems[key] = "open releases are not known while MLflow is away."
                continue
            try:
                found[key] = ask(settings, servers) if running or key == "deployments" else found[key]
            except ShipwayError as error:
                problems[key] = str(error)
        for release in found["releases"]:
            release |= _share(found["plans"].get(release["model"]), release["version"])
    return _only(found, model) if model is not None else found


def _urls(settings: StackSettings, servers: Servers) -> dict[str, str]:
    return {
        "gateway": settings.gateway_url,
        "mlflow": servers.mlflow,
        "prefect": servers.prefect_api.removesuffix("/api"),
        "receiver": settings.receiver_url,
    }


def _parts(state: StackState | None, running: bool) -> list[dict[str, Any]]:
    """The parts as written down, corrected by what still lives."""
    parts = []
    for part in state.parts if state is not None else ():
        values = asdict(part)
        values["state"] = part.state.value
        if not running and part.state not in (PartState.EXTERNAL, PartState.DONE):
            values |= {"state": PartState.STOPPED.value, "next_try": None}
        if not runs(part.pid, part.identity):
            values["pid"] = None
        waits = part.next_try is not None and values["next_try"] is not None
        values["next_try_in"] = max(0.0, round((part.next_try or 0.0) - time.time(), 1)) if waits else None
        parts.append(values)
    return parts


def _models(_: StackSettings, servers: Servers) -> list[dict[str, Any]]:
    rest = MlflowRest(servers.mlflow, timeout=MLFLOW_SECONDS)
    return [
        {
            "name": model["name"],
            "aliases": {alias["alias"]: alias["version"] for alias in model.get("aliases", [])},
            "latest": max((int(each["version"]) for each in model.get("latest_versions", [])), default=None),
        }
        for model in rest.models()
    ]


def _releases(settings: StackSettings, servers: Servers) -> list[dict[str, Any]]:
    from flows.console.open_releases import open_releases

    return open_releases(settings, servers, MLFLOW_SECONDS)


def _share(plan: Mapping[str, Any] | None, version: str) -> dict[str, float]:
    """What the gateway gives *version*, in percent of the requests and of their copies."""
    mine = [arm for arm in plan["arms"] if arm["version"] == version] if plan is not None else []
    return {name: sum(arm[name] for arm in mine) for name in ("weight", "mirror_percent")}


def _plans(settings: StackSettings, _: Servers) -> dict[str, Any]:
    from infra.gateways.envoy import EnvoyGateway

    gateway = EnvoyGateway(
        settings.gateway, host=settings.host, port=settings.gateway_port, admin_port=settings.gateway_admin_port
    )
    return {name: plan.to_json() for name, plan in sorted(gateway.plans().items())}


def _deployments(settings: StackSettings, _: Servers) -> list[dict[str, Any]]:
    from flows.release.line import every_target

    return [
        {
            **asdict(each),
            "state": each.state.value,
            "address": str(each.address),
            "runtime": _runtime(settings.bentos, each.bento_digest),
        }
        for each in every_target(settings).list()
    ]


def _runtime(bentos: Path, digest: str) -> str:
    """What answers in the model's place, or ``native``, as its sealed bento says; "" where the bento is gone."""
    seal = bentos / digest.removeprefix("sha256:")[:16] / "src" / "shipway.json"
    try:
        return str(json.loads(seal.read_text())["runtime"])
    except (OSError, ValueError, KeyError):
        return ""


def _only(found: dict[str, Any], model: str) -> dict[str, Any]:
    models = [each for each in found["models"] if each["name"] == model]
    plans = {name: plan for name, plan in found["plans"].items() if name == model}
    deployments = [each for each in found["deployments"] if each["model"] == model]
    releases = [each for each in found["releases"] if each["model"] == model]
    known = models or plans or releases or deployments
    if not known and "models" not in found["problems"] and found["running"]:
        names = ", ".join(each["name"] for each in found["models"]) or "none"
        raise UnknownModelError(f"model {model!r} is not registered in {found['urls']['mlflow']}; registered: {names}.")
    return {**found, "models": models, "plans": plans, "releases": releases, "deployments": deployments}
