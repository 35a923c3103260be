"""The real flow killed with SIGKILL after each of its effects in turn, under traffic: nobody feels it, and it ends whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from tests.e2e.stack import Stack, until
from tests.e2e.toy import QUICK, model_of, register_toy, write_policy
from tests.e2e.traffic import Traffic

pytestmark = [pytest.mark.e2e, pytest.mark.long("kill"), pytest.mark.timeout(900)]
MODEL = "killed"
CALM = [
    "vet",
    "build",
    "deploy",
    "check",
    "shadow",
    "watch shadow",
    "split 50%",
    "watch split-50 50%",
    "decide PROMOTE",
    "route",
    "set-alias previous",
    "set-alias champion",
    "committed",
    "bake",
    "remove",
    "close",
]
DECIDED = CALM.index("decide PROMOTE") + 1  # from here on reconcile finishes what was decided


class Helper:
    """A module of these tests as a process that answers a line of JSON to every line."""

    def __init__(self, stack: Stack, module: str) -> None:
        self._log = (stack.settings.logs / f"test-{module}.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"tests.e2e.{module}", MODEL],
            env=stack.user_environ(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def ask(self, line: str = "") -> Any:
        """The answer to one line; log lines between are passed over."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(line, file=self._process.stdin, flush=True)
        for said in self._process.stdout:
            if said.startswith("{"):
                return json.loads(said)
        raise AssertionError(f"it ended with {self._process.wait()}; see {self._log.name}")

    def end(self) -> None:
        """Closes its door and waits for it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()
        self._log.close()


@dataclass
class Killer:
    """The flow, killed where it is asked to be, and reconcile."""

    stack: Stack
    flow: Helper
    other: Helper

    def promote(self, version: str, last: int = 0) -> dict[str, Any]:
        """The flow, killed after *last* steps; 0: it lives. Steps without their version."""
        done = self.flow.ask(f"{version} {last}")
        done["steps"] = [step.partition(" version")[0] for step in done["steps"]]
        return dict(done)

    def reconcile(self) -> str:
        """What the reconcile flow said."""
        return str(self.other.ask())


def at_rest(stack: Stack) -> dict[str, Any]:
    """The model in `shipway status`, which must be at rest: alias, routes and processes agree."""
    found = model_of(stack, MODEL)
    live = found["aliases"]["champion"]
    arms = found["plan"]["arms"]
    assert [(arm["name"], arm["version"], arm["weight"]) for arm in arms] == [("baseline", live, 100)]
    assert [one["version"] for one in found["deployments"]] == [live]
    return found


def versions(stack: Stack) -> tuple[str, str]:
    """The live version, and the other one."""
    live = model_of(stack, MODEL)["aliases"]["champion"]
    return live, "2" if live == "1" else "1"


def kill_servers(stack: Stack) -> None:
    """SIGKILL to every model server and its keeper."""
    home = str(stack.settings.deployments)
    for process in psutil.process_iter(["cmdline"]):
        if any(home in word for word in process.info["cmdline"] or ()):
            process.kill()


@pytest.fixture(scope="module")
def killer(stack: Stack) -> Iterator[Killer]:
    register_toy(stack, MODEL, versions=2)
    write_policy(stack, MODEL, QUICK)
    made = Killer(stack, Helper(stack, "kill_after"), Helper(stack, "reconciler"))
    done = made.promote("1")
    assert "PROMOTED" in done["said"], done
    yield made
    made.flow.end()
    made.other.end()


def test_killed_after_every_effect_in_turn(killer: Killer) -> None:
    stack, killed = killer.stack, []
    url = f"{stack.settings.gateway_url}/models/{MODEL}/invocations"
    with stack.without_schedules(), Traffic(url, rate=40) as traffic:
        until(lambda: traffic.requests > 20)
        for last in range(1, len(CALM) + 1):
            live, candidate = versions(stack)
            done = killer.promote(candidate, last)
            assert done["ended"] == -signal.SIGKILL, done
            killed.append(done["steps"][-1])
            said = killer.reconcile()
            expected = candidate if last >= DECIDED else live
            assert at_rest(stack)["aliases"]["champion"] == expected, f"killed after {killed[-1]}: {said}"
        live, candidate = versions(stack)
        done = killer.promote(candidate, DECIDED - 2)  # and without reconcile: the same flow again goes on
        assert done["ended"] == -signal.SIGKILL, done
        again = killer.promote(candidate)
        assert "PROMOTED" in again["said"], again
        assert not {"vet", "build", "check"} & set(again["steps"]), "finished steps were done again"
        assert at_rest(stack)["aliases"]["champion"] == candidate
    print("killed after:", ", ".join(killed))
    assert killed == CALM
    assert traffic.failures == [], f"{len(traffic.failures)} of {traffic.requests}: {traffic.failures[:3]}"
    assert "0 findings" in stack.run("verify", MODEL)


def test_everything_killed_in_shadow_comes_back_with_up(killer: Killer) -> None:
    stack = killer.stack
    live, candidate = versions(stack)
    write_policy(stack, MODEL, {**QUICK, "shadow": {"min_pairs": 100_000, "max_seconds": 120}})
    flow = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from flows.promote import promote_model; promote_model(model={MODEL!r}, version={candidate})",
        ],
        env=stack.user_environ(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with Traffic(f"{stack.settings.gateway_url}/models/{MODEL}/invocations", rate=20):
        until(lambda: len((model_of(stack, MODEL)["plan"] or {"arms": []})["arms"]) == 2, seconds=90)
        time.sleep(1)
    os.kill(flow.pid, signal.SIGKILL)
    flow.wait()
    stack.kill_everything()
    kill_servers(stack)
    stack.run("up")
    write_policy(stack, MODEL, QUICK)
    until(lambda: "under way" not in killer.reconcile(), seconds=90)  # the stack's own may have been first
    assert at_rest(stack)["aliases"]["champion"] == live
    with Traffic(f"{stack.settings.gateway_url}/models/{MODEL}/invocations", rate=20) as traffic:
        until(lambda: traffic.requests > 20)
    assert traffic.failures == []
    assert "0 findings" in stack.run("verify", MODEL)
