"""A plain BentoML service with a typed API: ``bentoml serve bentoml_program:Served``, the model's file in MODEL_FILE."""

import os
from pathlib import Path

import bentoml
import numpy as np
from estimator import predictor  # type: ignore[import-not-found]


@bentoml.service(workers=1)
class Served:
    """Rows as JSON through the estimator."""

    def __init__(self) -> None:
        self._predict = predictor(Path(os.environ["MODEL_FILE"]))

    @bentoml.api  # type: ignore[untyped-decorator]
    async def predict(self, rows: np.ndarray) -> np.ndarray:
        """Classes of rows [n x 20]; a coroutine, which BentoML runs without its thread pool."""
        return np.asarray(self._predict(rows))
