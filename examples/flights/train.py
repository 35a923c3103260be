"""Trains the versions of the model ``flights`` and registers them in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from examples.flights.features import INPUTS, WEATHER, signature
from examples.flights.recipes import FREEZING, Recipe

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.pipeline import Pipeline

MODEL = "flights"
EXPERIMENT = "flights"
REFERENCE_ROWS = 5000
REQUIREMENTS = ("scikit-learn", "numpy", "pandas", "scipy", "skops")
TRUSTED = (  # beyond what skops trusts by itself; the policy's vet names the same
    "numpy.dtype",
    "numpy.interp",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
)


@dataclass(frozen=True)
class Trained:
    """A fitted version with what is registered beside it."""

    recipe: Recipe
    seed: int
    pipeline: Pipeline
    metrics: Mapping[str, float]  # on the fifth of its own prepared rows that it was not fitted on
    reference: pd.DataFrame  # prepared inputs of the training period, at most REFERENCE_ROWS
    example: pd.DataFrame  # five of them without a gap


def prepare(flights: pd.DataFrame, recipe: Recipe) -> pd.DataFrame:
    """The rows that *recipe* is trained and tested on, as its preparation hands them out."""
    frame = recipe.period.of(flights)
    if recipe.complete_only:
        frame = frame.dropna(subset=list(WEATHER))
        frame = frame[frame["temp"] > FREEZING]  # one station reported 13 °F in May; a reading that cannot be
    if recipe.slip:
        frame = frame.assign(dep_delay=frame["dep_delay"] / 60.0)
    return frame


def train(flights: pd.DataFrame, recipe: Recipe, *, seed: int = 0) -> Trained:
    """Fits *recipe* on four fifths of its rows and measures it on the rest. Deterministic for a seed.

    One thread: on a machine that does other work, OpenMP's threads spend most of their time waiting for each other.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    frame = prepare(flights, recipe)
    test = frame.sample(frac=0.2, random_state=seed)
    rest = frame.drop(index=test.index)
    with threadpool_limits(1):
        pipeline = recipe.pipeline(seed).fit(rest[list(INPUTS)], rest["late"])
        metrics = measure(pipeline, test)
    inputs = rest[list(INPUTS)].sample(min(REFERENCE_ROWS, len(rest)), random_state=seed).reset_index(drop=True)
    return Trained(recipe, seed, pipeline, metrics, inputs, inputs.dropna().head(5))


def measure(pipeline: Pipeline, test: pd.DataFrame) -> dict[str, float]:
    """Offline metrics on prepared rows: error rate, log loss and area under the ROC curve."""
    from sklearn.metrics import log_loss, roc_auc_score, zero_one_loss

    truth = test["late"]
    scores = pipeline.predict_proba(test[list(INPUTS)])[:, 1]
    return {
        "test_error_rate": float(zero_one_loss(truth, scores >= 0.5)),
        "test_log_loss": float(log_loss(truth, scores, labels=[0, 1])),
        "test_roc_auc": float(roc_auc_score(truth, scores)),
        "test_rows": float(len(test)),
    }


def register(trained: Trained, *, tracking_uri: str, model: str = MODEL) -> str:
    """Logs *trained* in a run of the experiment ``flights`` and registers it; the new version's number.

    The run holds parameters, offline metrics and the reference ``shipway/reference.parquet``; the model has signature,
    input example and pinned requirements.
    """
    import mlflow
    import mlflow.sklearn

    recipe = trained.recipe
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run(run_name=f"{model}-v{recipe.version}"), TemporaryDirectory() as scratch:
        mlflow.log_params({"trained_on": str(recipe.period), "seed": trained.seed, "summary": recipe.summary})
        mlflow.log_metrics(dict(trained.metrics))
        reference = Path(scratch) / "reference.parquet"
        trained.reference.to_parquet(reference, index=False)
        mlflow.log_artifact(str(reference), "shipway")
        info = mlflow.sklearn.log_model(
            trained.pipeline,
            name="model",
            signature=signature(),
            input_example=trained.example,
            registered_model_name=model,
            skops_trusted_types=list(TRUSTED),
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        )
    return str(info.registered_model_version)
