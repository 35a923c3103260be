"""A retreat whose own steps fail: the candidate gets no traffic again. Target, gateway and ledger are those in memory."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bentos.policy.release import ReleasePolicy
from bentos.serving.errors import PermanentError
from flows.release import plans
from flows.release.drive import Drive
from flows.release.line import Line
from flows.release.machine import Routes
from flows.release.owner import this_owner
from flows.release.world import routes_of
from infra.gateways.memory import MemoryGateway
from infra.targets.interface import DeploymentSpec
from infra.targets.memory import MemoryTarget
from monitoring.ledger.memory import MemoryLedger
from monitoring.ledger.release import Release

BASELINE = DeploymentSpec("flights", "1", "/bentos/1", "sha256:1111111111111111", "/usr/bin/python3")
CANDIDATE = DeploymentSpec("flights", "2", "/bentos/2", "sha256:2222222222222222", "/usr/bin/python3")


class Registry:
    """Aliases, and files that nobody can fetch: no server is made again."""

    def aliases(self, model: str) -> dict[str, str]:
        return {"champion": "1", "challenger": "2"}

    def resolve(self, *_: object, **__: object) -> Any:
        raise PermanentError("the registry has lost the files")


@pytest.fixture
def line(tmp_path: Path) -> Line:
    target = MemoryTarget()
    for spec in (BASELINE, CANDIDATE):
        target.ensure(spec)
        target.ready(spec.name, timeout=1)
    gateway = MemoryGateway(target.is_ready)
    parts = {"target": target, "gateway": gateway, "ledger": MemoryLedger(tmp_path), "registry": Registry()}
    made = cast(Line, SimpleNamespace(**parts, lock=lambda _: nullcontext(), scratch=tmp_path / "releases"))
    gateway.apply(plans.split(made, "flights", "1", "2", 20, ReleasePolicy(), time.time() + 60))
    return made


def opened(line: Line, **facts: str) -> Release:
    release = line.ledger.open(
        "flights", "2", baseline="1", policy=ReleasePolicy(), policy_source="here", digests={}, owner=this_owner("f")
    )
    return line.ledger.note(release, vetted="yes", built="sha256:2", **facts)


def test_a_failure_takes_the_candidate_s_traffic_although_the_baseline_cannot_be_started(line: Line) -> None:
    release = opened(line, **{"stage.check": "PROMOTE"})
    cast(MemoryTarget, line.target).make_failing(BASELINE.name, "killed")
    with pytest.raises(PermanentError, match="lost the files"):
        Drive(line, release, ReleasePolicy()).run()
    assert routes_of(line.gateway.plan("flights")) == Routes("1")
    current = line.ledger.current("flights")
    assert current is not None and current.facts["decision"] == "ERROR"


def test_what_a_dead_flow_decided_is_carried_out_before_the_baseline_is_looked_after(line: Line) -> None:
    release = opened(line, decision="ROLLBACK", reason="worse", decided_at=repr(time.time()))
    cast(MemoryTarget, line.target).make_failing(BASELINE.name, "killed")
    with pytest.raises(PermanentError, match="lost the files"):
        Drive(line, release, ReleasePolicy()).run()
    assert routes_of(line.gateway.plan("flights")) == Routes("1")
