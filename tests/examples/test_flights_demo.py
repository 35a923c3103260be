"""The demo's judgement of itself: its report, its exit, the home it begins in, and the runs it waits for."""

import json
import os
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from typing import ClassVar

import pandas as pd
import pytest
from rich.console import Console

from examples.flights import flow_runs as flow_runs_module
from examples.flights.demo import Demo, DemoError, Ended, clear_home, conclude
from examples.flights.demo_plan import PLAN
from examples.flights.flow_runs import FlowRunError, FlowRuns, PrefectAwayError
from examples.flights.report import table, write_report
from examples.flights.sent import Sent, read_sent, write_sent
from infra.processes import identity
from infra.settings import StackSettings
from infra.stack.state import StackState, write_state
from infra.targets.interface import Address
from infra.traffic import Arm, TrafficPlan
from monitoring.ledger.ledger import Release

VERSIONS = {1: "1", 2: "2", 3: "3", 4: "4"}
OUTCOMES = {1: "PROMOTED", 2: "PROMOTED", 3: "ROLLED_BACK", 4: "ROLLED_BACK"}
ADDRESS = Address(host="127.0.0.1", port=1)
STAGES = {3: "shadow", 4: "split-20"}


def ended(number: int) -> Ended:
    """Release *number*: from second 100·n to 100·n + 100, decided after 50."""
    release = Release(
        run_id=f"run{number}",
        model="flights",
        candidate=str(number),
        baseline={1: None, 2: "1"}.get(number, "2"),
        attempt=1,
        opened_at=0.0,
        facts={"decided_at": repr(100.0 * number + 50), "decided_stage": STAGES.get(number, "")},
        open=False,
        outcome=OUTCOMES[number],
        reason=f"reason <{number}>",
        experiment_id="7",
    )
    return Ended(PLAN[number - 1], release, 100.0 * number, 100.0 * number + 100)


def answers(tmp_path, *extra: Sent) -> pd.DataFrame:
    """One answer a second by the version that should be live, and *extra*."""
    rows = []
    for second in range(200, 500):
        version = "1" if second < 250 else "2"
        rows.append(Sent("p", second, "2013-07-01", second, second, second + 0.01, "", 200, version, "baseline"))
    write_sent([*rows, *extra], tmp_path / "sent.parquet")
    return read_sent(tmp_path / "sent.parquet")


def concluded(sent, releases=None):
    return conclude(
        releases or [ended(n) for n in VERSIONS], sent, 300.0, [], ["a note"], VERSIONS, {"MLflow": "http://m"}
    )


def sent_at(second: float, version: str, *, failure: str = "", fallback: str = "") -> Sent:
    return Sent("p", 0, "2013-07-01", second, second, second + 0.01, failure, 200, version, "baseline", fallback)


def test_a_demo_that_went_as_it_must_has_no_problem_and_exact_keys(tmp_path):
    late = sent_at(250.3, "1")
    fallback = sent_at(420.0, "2", fallback="candidate/4")
    report = concluded(answers(tmp_path, late, fallback))
    assert report.ok, report.problems
    write_report(report, tmp_path)
    written = json.loads((tmp_path / "report.json").read_text())
    assert set(written) == {"releases", "requests", "failed", "seconds"}
    assert (written["requests"], written["failed"], written["seconds"]) == (302, 0, 300.0)
    assert set(written["releases"][1]) == {
        *("version", "verdict", "reason", "requests", "failed", "candidate_failed"),
        *("seconds_to_last_bad_answer", "mlflow_run_id", "mlflow_page"),
    }
    assert [row["verdict"] for row in written["releases"]] == ["PROMOTE", "PROMOTE", "ROLLBACK", "ROLLBACK"]
    assert [row["requests"] for row in written["releases"]] == [0, 101, 100, 101]
    assert written["releases"][1]["seconds_to_last_bad_answer"] == pytest.approx(0.31)
    assert [row["candidate_failed"] for row in written["releases"]] == [0, 0, 0, 1]


def test_the_page_is_self_contained_and_escapes(tmp_path):
    write_report(concluded(answers(tmp_path)), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "reason &lt;3&gt;" in page and "<3>" not in page
    assert 'href="http://m/#/experiments/7/runs/run3"' in page
    assert "<script" not in page and "<link" not in page and "src=" not in page
    console = Console(file=StringIO(), width=200)
    console.print(table(concluded(answers(tmp_path))))
    assert "302" not in console.file.getvalue() and "300 requests, 0 failed" in console.file.getvalue()


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (sent_at(300.5, "", failure="reset"), "1 of 301 requests failed as the client saw it: {'reset': 1}"),
        (sent_at(452.0, "4"), "version 4: the losing arm answered for 2.01 s more"),
        (sent_at(251.5, "1"), "version 2: the losing arm answered for 1.51 s more"),
    ],
)
def test_a_failed_request_or_a_late_answer_of_the_loser_is_a_problem(tmp_path, extra, said):
    assert said in concluded(answers(tmp_path, extra)).problems


@pytest.mark.parametrize(
    ("number", "outcome", "stage", "said"),
    [
        (2, "INCONCLUSIVE", "", "version 2: expected PROMOTE, found INCONCLUSIVE"),
        (3, "PROMOTED", "", "version 3: expected ROLLBACK, found PROMOTE"),
        (4, "ROLLED_BACK", "shadow", "version 4: expected a ROLLBACK in split, found it in shadow"),
        (4, "ROLLED_BACK", "", "version 4: expected a ROLLBACK in split, found it in none"),
    ],
)
def test_another_verdict_than_the_expected_one_is_a_problem(tmp_path, number, outcome, stage, said):
    releases = [ended(n) for n in VERSIONS]
    wrong = releases[number - 1]
    facts = {**wrong.release.facts, "decided_stage": stage}
    releases[number - 1] = replace(wrong, release=replace(wrong.release, outcome=outcome, facts=facts))
    problems = concluded(answers(tmp_path), releases).problems
    assert any(one.startswith(said) for one in problems), problems


def test_what_an_earlier_demo_left_is_moved_aside_not_deleted(tmp_path):
    settings = StackSettings(home=tmp_path / "home")
    for number in (1, 2):
        clear_home(settings)
        (tmp_path / "home" / "kept").write_text(str(number))
    clear_home(settings)
    assert (tmp_path / "home.1" / "kept").read_text() == "1"
    assert (tmp_path / "home.2" / "kept").read_text() == "2"
    assert not (tmp_path / "home" / "kept").exists()


def test_a_home_that_no_demo_made_is_used_as_it_is(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mine").write_text("1")
    clear_home(StackSettings(home=tmp_path / "home"))
    assert (tmp_path / "home" / "mine").exists()


def test_a_running_stack_is_refused(tmp_path):
    settings = StackSettings(home=tmp_path / "home")
    settings.stack.mkdir(parents=True)
    write_state(settings.stack, StackState(os.getpid(), identity(os.getpid()), time.time()))
    with pytest.raises(DemoError, match=r"a stack runs at .*shipway down"):
        clear_home(settings)


class _Prefect(BaseHTTPRequestHandler):
    """A few answers of Prefect's API; the first *busy* calls are answered 503."""

    busy = 0
    states: ClassVar[list[str]]
    created: ClassVar[list[dict]]

    def _reply(self, status: int, value: object) -> None:
        if type(self).busy > 0:
            type(self).busy -= 1
            status, value = 503, {"exception_message": "Service Unavailable"}
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path == "/api/deployments/name/promote-model/local":
            self._reply(200, {"id": "d1"})
        elif self.path.startswith("/api/flow_runs/"):
            state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            self._reply(200, {"state": {"type": state, "message": f"it was {state}"}})
        else:
            self._reply(404, {"detail": "no such deployment"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.created.append(body)
        self._reply(201, {"id": "r1"})

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def prefect(monkeypatch):
    monkeypatch.setattr(flow_runs_module, "POLL_SECONDS", 0.01)
    handler = type("Handler", (_Prefect,), {"states": ["RUNNING", "RUNNING", "COMPLETED"], "created": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield handler, f"http://127.0.0.1:{server.server_port}/api"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_run_is_started_once_and_waited_for(prefect):
    handler, api = prefect
    handler.busy, looks = 2, []
    with FlowRuns(api) as runs:
        run = runs.start("promote-model/local", {"model": "flights", "version": "2"})
        runs.wait(run, "version 2", timeout=10, meanwhile=lambda: looks.append(1))
    assert handler.created[-1]["parameters"] == {"model": "flights", "version": "2"}
    assert len({one["idempotency_key"] for one in handler.created}) == 1, "a repeated call means the same run"
    assert len(looks) == 2


def test_a_run_that_fails_or_does_not_end_is_an_error_with_prefects_words(prefect):
    handler, api = prefect
    with FlowRuns(api) as runs:
        handler.states = ["FAILED"]
        with pytest.raises(FlowRunError, match="version 3: flow run r1 ended FAILED: it was FAILED"):
            runs.wait("r1", "version 3", timeout=10)
        handler.states = ["RUNNING"]
        with pytest.raises(FlowRunError, match="has not ended within"):
            runs.wait("r1", "version 3", timeout=0.05)
        with pytest.raises(FlowRunError, match=r"404: .*no such deployment"):
            runs.start("unknown/local", {})


def test_a_prefect_that_stays_away_is_said(monkeypatch):
    monkeypatch.setattr(flow_runs_module, "POLL_SECONDS", 0.01)
    with (
        FlowRuns("http://127.0.0.1:9/api", patience=0.05) as runs,
        pytest.raises(PrefectAwayError, match=r"for 0\.05 s"),
    ):
        runs.start("promote-model/local", {})


class _Replay:
    """Remembers the scenes it is told to play."""

    def __init__(self) -> None:
        self.scenes = []

    def play(self, scene) -> None:
        self.scenes.append(scene)


class _Flows:
    """A run in which *meanwhile* is called once for each stage of the story."""

    def __init__(self, story, tell) -> None:
        self.story, self.tell = story, tell

    def start(self, deployment, parameters) -> str:
        return "run"

    def wait(self, run_id, what, *, timeout, meanwhile) -> None:
        for moment in self.story:
            self.tell(moment)
            meanwhile()


class _World:
    """Gateway and ledger of one release whose candidate is version 4, at the moment that was last told."""

    def __init__(self) -> None:
        self.moment, self.release = "", ended(4).release

    def plan(self, model):
        candidate = Arm("candidate", "4", "flights-4", ADDRESS, weight=20 if self.moment == "split" else 0)
        baseline = Arm("baseline", "2", "flights-2", ADDRESS, weight=100 - candidate.weight)
        return TrafficPlan(model, (baseline, candidate), expires_at=1.0)

    def current(self, model):
        facts = {"began.shadow": "1.0"} if self.moment in ("began", "began.split", "split") else {}
        facts |= {"began.split-20": "2.0"} if self.moment in ("began.split", "split") else {}
        return replace(self.release, facts=facts, open=True)

    def releases(self, model, limit=20):
        return [self.release]


def test_the_days_of_a_stage_are_played_once_and_in_their_time(tmp_path):
    world, replay, heard = _World(), _Replay(), []

    def tell(moment: str) -> None:
        heard.append((world.moment, len(replay.scenes)))
        world.moment = moment

    story = ["", "began", "began", "began.split", "split", "split", ""]
    console = Console(file=StringIO())
    demo = Demo(console, tmp_path, _Flows(story, tell), world, world, replay, VERSIONS, pd.DataFrame(), time.time())
    scenes = PLAN[3].scenes
    assert demo.release(PLAN[3]).release.run_id == "run4"
    assert replay.scenes == [scenes["start"], scenes["shadow"], scenes["split"]]
    assert ("began.split", 2) in heard, "while the mirror may still be there, the days of the split have not come"
    assert ("began", 2) in heard, "the days of the shadow are there before the first copy"
