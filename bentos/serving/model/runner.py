"""ModelRunner: the only thing that predicts, for HTTP, batch and checks alike, so that all give the same numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.rows import InputRows
from bentos.serving.inputs.signature import InputError, Inputs, Signature, parse_signature, read_mlmodel
from bentos.serving.model.interface import LoadError, PredictError, Prediction, Predictor, RefusedError
from bentos.serving.model.loaders import choose_flavor, load_predictor
from bentos.serving.model.profile import CONVERTED, Profile


@dataclass(frozen=True)
class ModelRunner:
    """One loaded model version. ``model`` and ``version`` are empty when it came from a bare artifact folder.

    ``predict`` is not reentrant: one call at a time. The number of threads a library takes is set by the environment of
    the process (OMP_NUM_THREADS), never here.
    """

    folder: Path
    model: str
    version: str
    flavor: str
    signature: Signature
    plan: InputPlan
    predictor: Predictor
    profile: Profile = field(default_factory=Profile)  # what was measured of the runtime when the bento was sealed

    @staticmethod
    def load(folder: Path, *, bulk: bool = False) -> ModelRunner:
        """Load from an MLflow artifact folder (MLmodel at its root) or from a sealed bento's folder.

        With *bulk*, for many rows at once: the model itself, where the profile says that it is sooner done with them and
        its answers are to the bit those of the converted one; that takes the model's own environment. Raises SignatureError
        if the model has no signature, LoadError if it cannot be loaded.
        """
        seal = folder / "src" / "shipway.json"
        facts = read_seal(seal) if seal.is_file() else {}
        root = folder / "src" / "model" if facts else folder
        mlmodel = read_mlmodel(root)
        signature = parse_signature(mlmodel.get("signature"), root)
        flavor = "python_function" if facts.get("runtime") in PYFUNC else choose_flavor(mlmodel)
        made = folder / "src" / "runtime"
        profile = Profile.read(made) if facts else Profile()
        if facts and profile.runtime != facts.get("runtime", "native") and made.is_dir():
            raise LoadError(
                f"{made} is of the runtime {profile.runtime}, the bento of {facts.get('runtime')}. Build the bento again"
            )
        if profile.runtime in CONVERTED and profile.converted is not None and not (bulk and profile.bulk):
            from bentos.serving.model.loaders.converted import load as load_converted

            predictor: Predictor = load_converted(made, profile.runtime, profile.converted)
        else:
            predictor = load_predictor(root, mlmodel, flavor, array=profile.array)
            if bulk and profile.bulk:
                predictor = for_bulk(predictor)
        model, version = str(facts.get("model", "")), str(facts.get("version", ""))
        return ModelRunner(root, model, version, flavor, signature, InputPlan.compile(signature), predictor, profile)

    def predict(
        self, inputs: Inputs, params: Mapping[str, Any] | None = None, *, probabilities: bool = False
    ) -> Prediction:
        """Check, coerce and answer ``inputs``. Raises InputError for what does not fit, PredictError for what the model
        raised; nothing else.
        """
        return self.answer(self.plan.coerce(inputs), self.plan.coerce_params(params), probabilities=probabilities)

    def answer(self, data: InputRows, params: Mapping[str, Any], *, probabilities: bool = False) -> Prediction:
        """Answer inputs and params that the plan has coerced already, as a batch of several requests is."""
        try:
            return self.predictor.predict(data, params, probabilities=probabilities)
        except (InputError, PredictError, KeyboardInterrupt):
            raise
        except (
            BaseException
        ) as error:  # a panic of a native library is no Exception, and exit() in a model ends no server
            # such values fit the signature, and are the client's to avoid
            if isinstance(error, ValueError) and not data.usual:
                raise RefusedError(f"the model refuses a missing, infinite or very large value: {error}") from error
            name = f"{self.model}/{self.version}" if self.model else str(self.folder)
            raise PredictError(f"model {name} raised {type(error).__name__}: {error}") from error

    def example(self) -> Inputs | None:
        """The input example logged with the model (MLflow's ``serving_input_example.json``), as inputs of ``predict``; None if
        there is none.

        Raises InputError if the file is there and cannot be read.
        """
        path = self.folder / "serving_input_example.json"
        if not path.is_file():
            return None
        try:
            body = json.loads(path.read_bytes())  # MLflow writes a bare NaN for a missing number, which orjson refuses
            if (split := body.get("dataframe_split")) is not None:
                rows = split["data"]
                names = split.get("columns", range(len(rows[0])))
                return {str(name): [row[i] for row in rows] for i, name in enumerate(names)}
            return body.get("inputs", body.get("instances"))
        except (ValueError, AttributeError, KeyError, IndexError, TypeError) as error:
            raise InputError(f"the input example {path} cannot be read: {error!r}. Log the model again") from error

    def sample(self) -> InputRows:
        """Rows to try the model with: its input example, else one synthetic row. Raises InputError for an example that does
        not fit."""
        example = self.example()
        return self.plan.coerce(self.plan.synthetic() if example is None else example)

    def warm(self) -> bool:
        """Predict once so that the first request finds caches filled and lazy imports done.

        Uses the input example, else one synthetic row of zeros. Returns whether the model answered: a model may rightly
        refuse zeros. Raises InputError or PredictError if it refuses its own example.
        """
        example = self.example()
        if example is not None:
            self.predict(example, probabilities=True)
            return True
        try:
            self.predict(self.plan.synthetic(), probabilities=True)
        except (InputError, PredictError):
            return False
        return True


def for_bulk(predictor: Predictor) -> Predictor:
    """*predictor* for many rows at once; itself where it knows no other way."""
    other: Predictor = getattr(predictor, "for_bulk", lambda: predictor)()
    return other


PYFUNC = ("pyfunc", "python_function")


def read_seal(path: Path) -> dict[str, Any]:
    """A sealed bento's ``shipway.json``. Raises LoadError if it is damaged."""
    try:
        facts = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise LoadError(f"{path} cannot be read: {error}. Build the bento again") from error
    if not isinstance(facts, dict) or not {"model", "version"} <= facts.keys():
        raise LoadError(f"{path} names no model and version: expected a sealed bento. Build the bento again")
    return facts
