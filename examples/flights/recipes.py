"""The four versions of the model: what each is trained on and the pipeline it is made of.

Version 3 is version 2's code on more months, prepared by a step that hands out the departure delay in hours while the
signature and live requests carry minutes. Its own test set comes from the same step, so its offline metrics show nothing.

Version 4 is trained on complete observations of the warm months. It does well while days are like those, and has two
weaknesses that only later days show: Box-Cox of degrees Celsius is undefined from the first frost on (it raises), and
an observation with a gap is filled in from its nearest neighbours among every training row (it is slow).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from examples.flights.data import Period
from examples.flights.features import NUMBERS, SCHEDULE, WEATHER, WORDS

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

FREEZING = 32.0  # degrees Fahrenheit


@dataclass(frozen=True)
class Recipe:
    """How one version is made."""

    version: int
    period: Period
    pipeline: Callable[[int], Pipeline]  # seed → unfitted
    summary: str
    slip: bool = False  # the preparation hands out dep_delay in hours
    complete_only: bool = False  # trained on rows with every weather value and a plausible temperature


def delay_bands(seed: int) -> Pipeline:
    """Version 1: the departure delay in quarters, and the distance, in a logistic regression."""
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import KBinsDiscretizer, StandardScaler

    bands = KBinsDiscretizer(4, encode="onehot-dense", quantile_method="averaged_inverted_cdf", random_state=seed)
    columns = ColumnTransformer([("delay", bands, ["dep_delay"]), ("distance", StandardScaler(), ["distance"])])
    return Pipeline([("columns", columns), ("model", LogisticRegression(random_state=seed))])


def boosted_trees(seed: int) -> Pipeline:
    """Versions 2 and 3: every input, in boosted trees that take gaps and unknown words as they are."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OrdinalEncoder

    words = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = ColumnTransformer([("words", words, list(WORDS)), ("numbers", "passthrough", list(NUMBERS))])
    trees = HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=15, learning_rate=0.15, early_stopping=False, random_state=seed
    )
    return Pipeline([("columns", columns), ("model", trees)])


def imputed_trees(seed: int) -> Pipeline:
    """Version 4: temperature in °C made symmetric by Box-Cox, gaps filled from the nearest rows, boosted trees."""
    import numpy as np
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.impute import KNNImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, PowerTransformer

    celsius = FunctionTransformer(np.interp, kw_args={"xp": [-40.0, 212.0], "fp": [-40.0, 100.0]})
    temperature = Pipeline([("celsius", celsius), ("symmetric", PowerTransformer(method="box-cox"))])
    columns = ColumnTransformer(
        [
            ("few", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["carrier", "origin"]),
            ("many", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["dest"]),
            ("temperature", temperature, ["temp"]),
            ("numbers", "passthrough", [*SCHEDULE, *(name for name in WEATHER if name != "temp")]),
        ]
    )
    trees = HistGradientBoostingClassifier(
        max_iter=80, max_leaf_nodes=8, learning_rate=0.1, min_samples_leaf=1000, early_stopping=False, random_state=seed
    )
    return Pipeline([("columns", columns), ("gaps", KNNImputer(n_neighbors=5)), ("model", trees)])


V1 = Recipe(1, Period("01-01", "02-28"), delay_bands, "winter; delay in quarters, distance")
V2 = Recipe(2, Period("01-01", "05-31"), boosted_trees, "winter and spring; every input, boosted trees")
V3 = Recipe(3, Period("01-01", "07-31"), boosted_trees, "through July; delay prepared in hours by a slip", slip=True)
V4 = Recipe(
    4,
    Period("04-05", "10-15"),
    imputed_trees,
    "April to mid-October; Box-Cox temperature, gaps filled from neighbours",
    complete_only=True,
)
RECIPES = (V1, V2, V3, V4)


def with_slip(recipe: Recipe, slip: bool) -> Recipe:
    """*recipe* with or without the slip, for controls."""
    return replace(recipe, slip=slip)
