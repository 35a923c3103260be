"""What cannot be released is refused with an error that says what to do, and leaves nothing behind."""

from __future__ import annotations

import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from bentos.versions.registry import Registry
from tests.bentos.saved import IGNORED, logistic, numbers, save
from tests.e2e.stack import Run, Stack, until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.long("refusals"),
    pytest.mark.timeout(600),
    *(pytest.mark.filterwarnings(line) for line in IGNORED),
    # mlflow's client leaves the handler of its own progress bar open
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
AT_ONCE = 3


@dataclass(frozen=True)
class Case:
    """A release that cannot be: what promote-model is given, what was done to the version, and what must be said."""

    model: str
    says: tuple[str, ...]  # in the flow run's message or logs; of a release that was opened, in its record too
    given: dict[str, Any] = field(default_factory=lambda: {"version": "1"})
    made: Callable[[Path], None] | None = None  # changes the folder before it is registered
    harmed: Callable[[Path], None] | None = None  # changes MLflow's own copy afterwards
    outcome: str = ""  # of the release's record; "" where none was opened and the flow run failed


def unsigned(folder: Path) -> None:
    """As if logged without a signature."""
    path = folder / "MLmodel"
    values = yaml.safe_load(path.read_text())
    del values["signature"]
    path.write_text(yaml.safe_dump(values))


def flip(name: str) -> Callable[[Path], None]:
    """Inverts the bytes of the middle of a file."""

    def harm(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        for place in range(len(data) // 3, 2 * len(data) // 3):
            data[place] ^= 0xFF
        (folder / name).write_bytes(data)

    return harm


def cut(name: str) -> Callable[[Path], None]:
    """Leaves the first half of a file."""

    def harm(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return harm


def lose(name: str) -> Callable[[Path], None]:
    """Removes a file."""
    return lambda folder: (folder / name).unlink()


CASES = {
    "unknown model": Case("nobodys", ("model nobodys: not in the registry", "mlflow.register_model")),
    "unknown version": Case("plain", ("model plain: no version '9'", "versions: 1"), {"version": 9}),
    "unknown alias": Case("plain", ("no alias 'nightly'", "set_registered_model_alias"), {"alias": "nightly"}),
    "version and alias": Case("plain", ("exactly one of version and alias",), {"version": "1", "alias": "x"}),
    "unknown policy block": Case(
        "plain", ("policy 'strict'", "Save one in the Prefect UI"), {"version": "1", "policy": "strict"}
    ),
    "unknown target": Case(
        "plain",
        ("target 'moon'", "shipway-target/moon", "expected one of docker, process"),
        {"version": "1", "target": "moon"},
    ),
    "unknown policy key": Case("keyed", ("keyed.yaml", "shadow.percentage", "docs/policy.md")),
    "no signature": Case("unsigned", ("no signature", "signature=infer_signature(X, model.predict(X))"), made=unsigned),
    "MLmodel gone": Case("headless", ("no MLmodel file", "register the model again"), harmed=lose("MLmodel")),
    "MLmodel damaged": Case("garbled", ("MLmodel",), harmed=flip("MLmodel")),
    "model file gone": Case("hollow", ("model.skops",), harmed=lose("model.skops"), outcome="ERROR"),
    "model file damaged": Case(
        "dented", ("model.skops: cannot be scanned",), harmed=flip("model.skops"), outcome="ROLLED_BACK"
    ),
    "model file cut": Case(
        "torn", ("model.skops: cannot be scanned",), harmed=cut("model.skops"), outcome="ROLLED_BACK"
    ),
    "native file damaged": Case(
        "boosted",
        ("xgboost model in", "cannot be loaded", "log the model again"),
        harmed=flip("model.ubj"),
        outcome="ERROR",
    ),
}


def publish(stack: Stack, model: str, folder: Path) -> Path:
    """Registers a saved model as version 1; MLflow's own copy of its files."""
    from mlflow import MlflowClient

    client = MlflowClient(stack.settings.mlflow_url)
    run = client.create_run("0")
    client.log_artifacts(run.info.run_id, str(folder), "model")
    client.create_registered_model(model)
    client.create_model_version(model, f"runs:/{run.info.run_id}/model", run.info.run_id)
    return stack.settings.root / "mlflow" / "artifacts" / "0" / run.info.run_id / "artifacts" / "model"


@pytest.fixture(scope="module")
def runs(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """promote-model of every case, some at once."""
    folder = tmp_path_factory.mktemp("saved")
    (stack.policies / "keyed.yaml").write_text("shadow: {percentage: 50}\n")
    publish(stack, "plain", logistic(folder / "plain"))
    for case in CASES.values():
        if case.model in ("nobodys", "plain"):
            continue
        saved = boosted(folder / case.model) if case.model == "boosted" else logistic(folder / case.model)
        if case.made is not None:
            case.made(saved)
        kept = publish(stack, case.model, saved)
        if case.harmed is not None:
            case.harmed(kept)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ended = pool.map(lambda case: stack.flow("promote-model", model=case.model, **case.given), CASES.values())
        yield dict(zip(CASES, ended, strict=True))


def boosted(folder: Path) -> Path:
    """A booster in xgboost's own format, which is data: only loading it finds out that it is damaged."""
    from xgboost import XGBClassifier

    frame = numbers()
    model = XGBClassifier(n_estimators=3).fit(frame, frame["a"] > 0.5)
    return save("xgboost", model, folder, frame, model.predict(frame), input_example=frame.head(2))


@pytest.mark.parametrize("what", CASES)
def test_is_refused_with_what_to_do_and_leaves_nothing_behind(what: str, runs: dict[str, Run], stack: Stack) -> None:
    case, run = CASES[what], runs[what]
    releases = stack.ledger().releases(case.model)
    if case.outcome:
        assert run.state == ("FAILED" if case.outcome == "ERROR" else "COMPLETED"), run.said
        (release,) = releases
        assert release.outcome == case.outcome, release.reason
        for words in case.says:
            assert words in release.reason
    else:
        assert run.state == "FAILED", run.said
        assert releases == []
        for words in case.says:
            assert words in run.message, run.message
    for words in case.says:
        until(lambda words=words: words in stack.logs(run.id), 10)
    nothing_of(stack, case.model)


def nothing_of(stack: Stack, model: str) -> None:
    """No routes, no deployment, no open release, no alias, and the gateway knows no such model."""
    assert stack.gateway().plan(model) is None
    assert [each.name for each in stack.target().list() if each.model == model] == []
    assert stack.ledger().current(model) is None
    assert stack.post(f"/models/{model}/invocations", {"inputs": [[1]]}).status_code == 404
    registry = Registry(stack.settings.mlflow_url, stack.settings.models)
    if model in registry.models():
        assert registry.aliases(model) == {}


class Writes:
    """Writes a file where it is loaded."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call[0], self.call[1:]


EVIL = ("evil-sklearn", "evil-pyfunc")


@pytest.fixture(scope="module")
def evil(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, list[Run]]]]:
    """Models whose pickles write a file where they are loaded, and every flow that could be made to load them."""
    from sklearn.linear_model import LogisticRegression

    folder = tmp_path_factory.mktemp("evil")
    written = folder / "written"
    written.mkdir()
    rows = folder / "rows.parquet"
    numbers().to_parquet(rows)
    frame = numbers()
    honest = LogisticRegression().fit(frame, frame["a"] > 0.5)
    with warnings.catch_warnings(record=True):  # mlflow turns its own advice on whatever the filters say
        saved = {
            "evil-sklearn": save(
                "sklearn", honest, folder / "evil-sklearn", frame, honest.predict(frame), serialization_format="pickle"
            ),
            "evil-pyfunc": save(
                "pyfunc", None, folder / "evil-pyfunc", frame, [0], python_model=lambda model_input: model_input["a"]
            ),
        }
    (saved["evil-sklearn"] / "model.pkl").write_bytes(pickle.dumps(Writes(open, str(written / "sklearn"), "w")))
    (saved["evil-pyfunc"] / "python_model.pkl").write_bytes(pickle.dumps(Writes(os.system, f"touch {written}/pyfunc")))
    for name, place in saved.items():
        publish(stack, name, place)

    def tried(name: str) -> list[Run]:
        out = str(folder / f"{name}.parquet")
        promoted = stack.flow("promote-model", model=name, version="1")
        scored = stack.flow("batch-score", model=name, version="1", input=str(rows), output=out)
        stack.flow("reconcile", model=name)
        return [promoted, scored]

    with ThreadPoolExecutor(len(EVIL)) as pool:
        yield written, dict(zip(EVIL, pool.map(tried, EVIL), strict=True))
    shutil.rmtree(written)


@pytest.mark.parametrize(
    ("model", "file", "call"), [("evil-sklearn", "model.pkl", "open"), ("evil-pyfunc", "python_model.pkl", "system")]
)
def test_a_pickle_that_would_write_a_file_is_refused_and_writes_none(
    model: str, file: str, call: str, evil: tuple[Path, dict[str, list[Run]]], stack: Stack
) -> None:
    written, runs = evil
    promoted, scored = runs[model]
    (release,) = stack.ledger().releases(model)
    assert release.outcome == "ROLLED_BACK"
    assert f"vet refused {model}/1" in release.reason
    assert f"{file}: " in release.reason
    assert call in release.reason
    until(lambda: f"vet refused {model}/1" in stack.logs(promoted.id), 10)
    assert scored.state == "FAILED"
    assert f"vet refused {model}/1" in scored.message
    assert list(written.iterdir()) == []
    nothing_of(stack, model)


def test_the_payloads_would_have_written(evil: tuple[Path, dict[str, list[Run]]], tmp_path: Path) -> None:
    data = pickle.dumps(Writes(open, str(tmp_path / "written"), "w"))
    pickle.loads(data).close()
    assert (tmp_path / "written").exists()
