"""The demo's controls, on the stack: another month and seed, the slip taken out of version 3 and put into version 2."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from examples.flights.data import load_flights
from examples.flights.demo import Demo, Ended, row_of, verdict_of
from examples.flights.demo_plan import POLICIES, RATE, Act
from examples.flights.flow_runs import FlowRuns
from examples.flights.recipes import V2, V3, with_slip
from examples.flights.replay import Scene
from examples.flights.replay_process import ReplayProcess
from examples.flights.report import ReleaseRow
from examples.flights.sent import read_sent
from examples.flights.train import MODEL, register, train
from tests.e2e.stack import running

pytestmark = [
    pytest.mark.long("controls"),
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # MLflow, at its own import
]

SEED = 7
RECIPES = {1: V2, 2: with_slip(V3, False), 3: with_slip(V2, True)}
ACTS = (
    Act(1, "PROMOTE"),
    Act(2, "PROMOTE", scenes={"start": Scene("sound", "08-10", stride=3)}),
    Act(3, "ROLLBACK", scenes={"start": Scene("slipped", "09-20", stride=3)}),
)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, tuple[Ended, ReleaseRow]]]:
    """Each act's release and what its clients saw, on one stack of its own."""
    folder = tmp_path_factory.mktemp("controls")
    flights = load_flights()
    trained = {number: train(flights, recipe, seed=SEED) for number, recipe in RECIPES.items()}
    flights.to_parquet(folder / "flights.parquet")
    with running(folder) as stack, FlowRuns(stack.settings.prefect_api_url) as flows:
        for policy in Path(POLICIES).glob("*.yaml"):
            shutil.copy(policy, stack.policies)
        versions = {number: register(one, tracking_uri=stack.settings.mlflow_url) for number, one in trained.items()}
        replay = ReplayProcess(
            flights=folder / "flights.parquet",
            sent=folder / "sent.parquet",
            gateway=stack.settings.gateway_url,
            receiver=stack.settings.receiver_url,
            rate=RATE,
            model=MODEL,
        )
        try:
            demo = Demo(
                Console(), folder, flows, stack.ledger(), stack.gateway(), replay, versions, flights, time.time()
            )
            releases = [demo.release(act) for act in ACTS]
            replay.stop()
        finally:
            replay.kill()
        sent = read_sent(folder / "sent.parquet")
    yield {one.act.version: (one, row_of(one, sent)) for one in releases}


@pytest.mark.parametrize("act", ACTS, ids=["before", "version 3 without the slip", "version 2 with it"])
def test_the_verdict_follows_the_slip(act: Act, ended: dict[int, tuple[Ended, ReleaseRow]]) -> None:
    release, row = ended[act.version]
    assert verdict_of(release.release) == act.expected, release.release.reason
    assert row.failed == 0
