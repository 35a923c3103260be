"""KServe's Python server with what its sklearnserver does: ``python kserve_program.py MODEL_FILE PORT``."""

import sys
from pathlib import Path
from typing import Any

from estimator import predictor  # type: ignore[import-not-found]
from kserve import Model, ModelServer  # type: ignore[import-not-found]
from kserve.utils.utils import get_predict_input, get_predict_response  # type: ignore[import-not-found]


class Served(Model):  # type: ignore[misc]
    """Rows of the V1 protocol through the estimator."""

    def __init__(self, file: Path) -> None:
        super().__init__("bench")
        self._predict = predictor(file)
        self.ready = True

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """As kserve/python/sklearnserver does it."""
        return get_predict_response(payload, self._predict(get_predict_input(payload)), self.name)


ModelServer(http_port=int(sys.argv[2]), enable_grpc=False, workers=1).start([Served(Path(sys.argv[1]))])
