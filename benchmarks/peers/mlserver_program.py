"""An ONNX runtime for MLServer, which ships none: a custom runtime as its documentation describes it."""

from pathlib import Path

from estimator import predictor  # type: ignore[import-not-found]
from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import NumpyCodec, NumpyRequestCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]


class OnnxModel(MLModel):  # type: ignore[misc]
    """One V2 tensor through an onnxruntime session."""

    async def load(self) -> bool:
        """Opens the session."""
        self._predict = predictor(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The classes of the request's rows, as mlserver-sklearn answers."""
        rows = self.decode_request(payload, default_codec=NumpyRequestCodec)
        output = NumpyCodec.encode_output(name="predict", payload=self._predict(rows))
        return InferenceResponse(model_name=self.name, outputs=[output])
