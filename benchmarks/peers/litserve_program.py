"""LitServe with one API process and one worker: ``python litserve_program.py MODEL_FILE PORT``."""

import sys
from pathlib import Path
from typing import Any

import litserve  # type: ignore[import-not-found]
import numpy as np
from estimator import predictor  # type: ignore[import-not-found]


class Served(litserve.LitAPI):  # type: ignore[misc]
    """Rows as JSON through the estimator."""

    def setup(self, device: str) -> None:
        """Loads the model in the worker."""
        self._predict = predictor(Path(sys.argv[1]))

    def decode_request(self, request: dict[str, Any], **_: Any) -> Any:
        """A request's rows, [n x 20]."""
        return np.asarray(request["instances"])

    def predict(self, x: Any, **_: Any) -> Any:
        """Their classes."""
        return self._predict(x)

    def encode_response(self, output: Any, **_: Any) -> dict[str, Any]:
        """The answer's JSON."""
        return {"predictions": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Served(), accelerator="cpu", devices=1, workers_per_device=1, fast_queue=True)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, generate_client_file=False)
