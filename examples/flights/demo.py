"""``shipway demo``: four real model versions, each to its verdict on replayed traffic.

The stack comes up, the versions are trained and registered, and then everything happens as a user would do it: flow runs
are started through Prefect, and the demo only watches, sends traffic and counts.
"""

from __future__ import annotations

import io
import logging
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bentos.serving.errors import PermanentError
from examples.flights.demo_plan import AFTERWARDS, HELD_OUT, PLAN, POLICIES, RATE, Act
from examples.flights.flow_runs import FlowRunError, FlowRuns
from examples.flights.report import DemoReport, ReleaseRow, table, write_report
from examples.flights.sent import last_answer, read_sent
from examples.flights.train import MODEL, register, train
from infra.gateways.interface import TransientGatewayError
from infra.pages import run_page, without_login

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from examples.flights.replay_process import ReplayProcess
    from examples.flights.train import Trained
    from infra.gateways.interface import Gateway
    from infra.settings import StackSettings
    from monitoring.ledger.ledger import Ledger, Release

RELEASE_SECONDS = 300.0  # a flow run of the demo takes no longer
SAMPLE = 1000  # live answers of the held-out month that are compared with the batch
REQUESTS = 10_000  # the demo sends more than this
VERDICTS = {"PROMOTED": "PROMOTE", "ROLLED_BACK": "ROLLBACK"}


class DemoError(PermanentError):
    """The demo cannot begin here; the message says what is in the way."""


@dataclass(frozen=True)
class Ended:
    """A release of the demo, and the window (unix seconds) in which its traffic was sent."""

    act: Act
    release: Release
    began: float
    ended: float


@dataclass
class Demo:
    """One run of the demo against a stack that is up."""

    console: Console
    folder: Path  # <home>/demo
    flows: FlowRuns
    ledger: Ledger
    gateway: Gateway
    replay: ReplayProcess
    versions: Mapping[int, str]  # act → registered version
    flights: pd.DataFrame
    started: float
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """One line with the seconds since the demo began."""
        self.console.print(f"[dim]{time.time() - self.started:6.1f} s[/]  {text}", highlight=False)

    def release(self, act: Act) -> Ended:
        """Releases the act's version under its traffic."""
        version, began, seen = self.versions[act.version], time.time(), {""}
        self.say(f"version {act.version}: promote-model starts")
        if "start" in act.scenes:
            self.replay.play(act.scenes["start"])
        run = self.flows.start("promote-model/local", {"model": MODEL, "version": version})

        def watch() -> None:
            stage = self.stage_of(version)
            if stage in seen:
                return
            kind = stage.partition("-")[0]
            if kind not in seen and kind in act.scenes:
                self.replay.play(act.scenes[kind])
            seen.update({kind, stage})
            self.say(f"version {act.version}: {stage}")

        self.flows.wait(run, f"version {act.version}", timeout=RELEASE_SECONDS, meanwhile=watch)
        release = next(one for one in self.ledger.releases(MODEL) if one.candidate == version and not one.open)
        self.say(f"version {act.version}: [bold]{verdict_of(release)}[/] — {release.reason}")
        return Ended(act, release, began, time.time())

    def stage_of(self, version: str) -> str:
        """How far the candidate is: "", "shadow" from just before it is mirrored, "split-<weight>" once clients meet it.

        The days of the shadow must be there before the first copy, and those of the split only after the last.
        """
        try:
            plan = self.gateway.plan(MODEL)
        except TransientGatewayError:
            return ""  # asked again in a moment; clients count what a gateway that is away costs
        arm = plan.candidate if plan is not None else None
        if arm is not None and arm.version == version and arm.weight:
            return f"split-{arm.weight}"
        release = self.ledger.current(MODEL)
        begun = release is not None and release.candidate == version and "began.shadow" in release.facts
        return "shadow" if begun else ""

    def roll_back(self) -> None:
        """Returns to the previous version by ``rollback-model``."""
        self.replay.play(AFTERWARDS)
        self.say("rollback-model starts")
        run = self.flows.start("rollback-model/local", {"model": MODEL, "reason": "the demo's last act"})
        self.flows.wait(run, "rollback-model", timeout=RELEASE_SECONDS)
        release = self.ledger.releases(MODEL, limit=1)[0]
        self.notes.append(f"rollback-model: back on version {release.candidate}, MLflow run {release.run_id}")
        self.say(f"rollback-model: back on version {release.candidate}")

    def score_batch(self) -> Path:
        """Scores the held-out month with ``batch-score`` while the same days come in as live traffic; the answers' file."""
        from examples.flights.features import INPUTS

        source, output = self.folder / "held-out.parquet", self.folder / "scored.parquet"
        HELD_OUT.of(self.flights)[list(INPUTS)].to_parquet(source, index=False)
        self.say(f"batch-score of {HELD_OUT} starts")
        self.replay.play(replace(AFTERWARDS, period="held-out"))
        parameters = {"model": MODEL, "input": str(source), "output": str(output)}
        self.flows.wait(self.flows.start("batch-score/local", parameters), "batch-score", timeout=RELEASE_SECONDS)
        deadline = time.monotonic() + RELEASE_SECONDS
        while time.monotonic() < deadline:
            sent = {period: tally["requests"] for period, tally in self.replay.counts().items()}
            if sent.get("held-out", 0) >= SAMPLE and sum(sent.values()) > REQUESTS:
                break
            time.sleep(0.2)
        return output

    def compare(self, scored: Path, sent: pd.DataFrame) -> None:
        """Batch and online answers to the same flights of the held-out month must be equal."""
        import pandas as pd

        answers = pd.read_parquet(scored)
        month = HELD_OUT.of(self.flights)
        if len(answers) != len(month):
            self.problems.append(f"batch-score answered {len(answers)} of {len(month)} rows")
            return
        column = "late" if "late" in answers else "prediction"
        batch = pd.Series(answers[column].to_numpy(), index=month.index)
        online = sent[(sent["period"] == "held-out") & (sent["failure"] == "")].drop_duplicates("flight")
        differ = int((batch.loc[online["flight"]].to_numpy() != online["prediction"].to_numpy()).sum())
        said = f"batch-score: {len(answers):,} rows; {len(online):,} of them also asked online, {differ} differ"
        (self.problems if differ or len(online) < SAMPLE else self.notes).append(said)
        self.say(said)


def verdict_of(release: Release) -> str:
    """PROMOTE, ROLLBACK, or what else the release ended as."""
    return VERDICTS.get(release.outcome, release.outcome)


def run_demo(settings: StackSettings, *, keep: bool, console: Console, target: str | None = None) -> DemoReport:
    """Runs the whole demo in ``settings.home`` and writes its report into ``<home>/demo``.

    *target* names the target block that runs the versions; None: the one that the settings name.

    The stack is brought up and, unless *keep*, taken down again whatever happens. Raises DemoError where the folder
    already has a stack or a model of that name, and whatever a flow run or the stack fails with.
    """
    from flows.stack.down import take_down
    from flows.stack.parts import choose_servers
    from flows.stack.up import bring_up
    from infra.telemetry import telemetry_off

    started = time.time()
    settings = settings.model_copy(update={"policies": POLICIES, "target": target or settings.target})
    os.environ.update(telemetry_off())
    clear_home(settings)
    servers = choose_servers(settings, os.environ)
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        if not keep:
            stack.callback(take_down, settings)
        training = pool.submit(train_all)
        console.print("The stack starts, and four versions are trained …")
        bring_up(settings)
        flights, trained = training.result()
        versions = register_all(trained, servers.mlflow)
        report = _perform(settings, servers, flights, versions, started, console, stack)
    console.print(table(report))
    for line in (*report.notes, *report.problems):
        console.print(line, style="bold red" if line in report.problems else None, highlight=False)
    for name, url in (report.urls or {}).items():
        console.print(f"{name}: {url}", highlight=False, soft_wrap=True)
    if not keep:
        console.print(
            "The stack is down again: `shipway up` opens these pages, `shipway demo --keep` leaves them open."
        )
    return report


def _perform(
    settings: StackSettings,
    servers: Any,
    flights: pd.DataFrame,
    versions: Mapping[int, str],
    started: float,
    console: Console,
    stack: ExitStack,
) -> DemoReport:
    from examples.flights.replay_process import ReplayProcess
    from infra.gateways.envoy import EnvoyGateway
    from monitoring.ledger.ledger import Ledger

    folder = settings.root / "demo"
    data, seen = folder / "flights.parquet", folder / "sent.parquet"
    flights.to_parquet(data)
    urls = {"gateway": settings.gateway_url, "receiver": settings.receiver_url}
    replay = ReplayProcess(flights=data, sent=seen, **urls, rate=RATE, model=MODEL)
    stack.callback(replay.kill)
    flows = stack.enter_context(FlowRuns(servers.prefect_api))
    ledger = Ledger(servers.mlflow, folder / "files")
    gateway = EnvoyGateway(
        settings.gateway, host=settings.host, port=settings.gateway_port, admin_port=settings.gateway_admin_port
    )
    demo = Demo(console, folder, flows, ledger, gateway, replay, versions, flights, started)
    releases = [demo.release(act) for act in PLAN]
    scored = None
    try:
        demo.roll_back()
        scored = demo.score_batch()
    except FlowRunError as error:  # after a verdict that was not the expected one; the report must still say which
        demo.problems.append(str(error))
    tallies = replay.counts()
    replay.stop()
    sent = read_sent(seen)
    if scored is not None:
        demo.compare(scored, sent)
    seconds = time.time() - started
    report = conclude(releases, sent, seconds, demo.problems, demo.notes, versions, _pages(settings, servers))
    lost = sum(tally["labels_failed"] for tally in tallies.values())
    if lost:
        report = _with_problem(report, f"{lost} labels could not be posted to the receiver")
    write_report(report, folder)
    return report


def conclude(
    releases: list[Ended],
    sent: pd.DataFrame,
    seconds: float,
    problems: list[str],
    notes: list[str],
    versions: Mapping[int, str],
    urls: Mapping[str, str],
) -> DemoReport:
    """The report of what was released and sent; *problems* grow by every verdict that is not the expected one."""
    found = list(problems)
    rows = tuple(
        replace(
            row_of(ended, sent), mlflow_page=run_page(urls["MLflow"], ended.release.experiment_id, ended.release.run_id)
        )
        for ended in releases
    )
    for ended, row in zip(releases, rows, strict=True):
        act, stage = ended.act, ended.release.facts.get("decided_stage", "")
        if row.verdict != act.expected:
            found.append(f"version {row.version}: expected {act.expected}, found {row.verdict}: {row.reason}")
        elif act.stage and not stage.startswith(act.stage):
            found.append(
                f"version {row.version}: expected a {row.verdict} in {act.stage}, found it in {stage or 'none'}"
            )
        if row.seconds_to_last_bad_answer >= 1.0:
            found.append(
                f"version {row.version}: the losing arm answered for {row.seconds_to_last_bad_answer:.2f} s more"
            )
        if versions[act.version] != ended.release.candidate:
            found.append(f"act {act.version}: released version {ended.release.candidate}, not {versions[act.version]}")
    failed = int((sent["failure"] != "").sum())
    if failed:
        kinds = sent.loc[sent["failure"] != "", "failure"].value_counts().to_dict()
        found.append(f"{failed} of {len(sent)} requests failed as the client saw it: {kinds}")
    return DemoReport(rows, len(sent), failed, seconds, tuple(found), tuple(notes), urls)


def row_of(ended: Ended, sent: pd.DataFrame) -> ReleaseRow:
    """One release with the client's counts of its window."""
    release = ended.release
    rows = sent[(sent["sent"] >= ended.began) & (sent["sent"] < ended.ended)]
    verdict, decided = verdict_of(release), float(release.facts.get("decided_at", ended.ended))
    loser = release.baseline if verdict == "PROMOTE" else release.candidate
    last = last_answer(sent, loser, since=decided, until=ended.ended) if loser is not None else None
    return ReleaseRow(
        version=int(release.candidate),
        verdict=verdict,
        reason=release.reason,
        requests=len(rows),
        failed=int((rows["failure"] != "").sum()),
        candidate_failed=int((rows["fallback"] == f"candidate/{release.candidate}").sum()),
        seconds_to_last_bad_answer=round(last - decided, 3) if last is not None else 0.0,
        mlflow_run_id=release.run_id,
    )


def train_all() -> tuple[pd.DataFrame, list[Trained]]:
    """The flights, and every version fitted on its own period of them."""
    from examples.flights.data import load_flights
    from examples.flights.recipes import RECIPES

    flights = load_flights()
    return flights, [train(flights, recipe) for recipe in RECIPES]


def register_all(trained: list[Trained], tracking_uri: str) -> dict[int, str]:
    """Registers the versions in their order; act → version in the registry."""
    from infra.mlflow_rest import MlflowRest

    rest = MlflowRest(tracking_uri)
    known = [model["name"] for model in rest.models()]
    if MODEL in known:
        raise DemoError(
            f"MLflow at {tracking_uri} has a model {MODEL!r} already, and the demo tells a story from its first version"
            " on. Set SHIPWAY_HOME to a new folder, or unset MLFLOW_TRACKING_URI."
        )
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # MLflow prints a page; what fails is raised
        return {one.recipe.version: register(one, tracking_uri=tracking_uri) for one in trained}


def clear_home(settings: StackSettings) -> None:
    """Makes room: what an earlier demo left is moved aside, a stack that runs is an error (DemoError)."""
    from infra.stack.state import read_state

    state = read_state(settings.stack)
    if state is not None and state.running:
        raise DemoError(
            f"a stack runs at {settings.root}, and the demo needs one of its own. Stop it with 'shipway down', or set"
            " SHIPWAY_HOME to a new folder and the SHIPWAY_…_PORT variables to free ports."
        )
    if (settings.root / "demo").exists():
        number = 1
        while (aside := settings.root.with_name(f"{settings.root.name}.{number}")).exists():
            number += 1
        settings.root.rename(aside)
    (settings.root / "demo").mkdir(parents=True, mode=0o700)


def _pages(settings: StackSettings, servers: Any) -> dict[str, str]:
    """What to look at."""
    return {
        "Prefect": without_login(servers.prefect_api.removesuffix("/api")),
        "MLflow": without_login(settings.mlflow_pages or servers.mlflow),
        "Releases": f"{settings.receiver_url}/reports",
        "Report": (settings.root / "demo" / "report.html").as_uri(),
    }


def _with_problem(report: DemoReport, problem: str) -> DemoReport:
    return replace(report, problems=(*report.problems, problem))
