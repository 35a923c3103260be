"""The generic BentoML service: ``bentoml serve <sealed bento>`` answers as our launcher does.

``Service.to_asgi`` is where BentoML asks a service for its application; ours is the data plane itself, outermost, so that
both servers run the same code on a request's path. The model is the one beside this file in the sealed bento.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")

import bentoml  # after the line above: telemetry is off before it can start

if TYPE_CHECKING:
    from bentos.serving.server.asgi import Asgi

SEGMENTS = "SHIPWAY_SEGMENTS"  # environment variable: folder of the prediction log; unset: nothing is logged


class PlaneService(bentoml.Service[Any]):  # type: ignore[misc] # bentoml ships no type information
    """A BentoML service whose application is Shipway's data plane."""

    def to_asgi(self, is_main: bool = True) -> Asgi:
        """Loads the model of this bento and gives the application that answers for it."""
        from bentos.serving.launcher import freeze_garbage
        from bentos.serving.log.writer import SegmentWriter
        from bentos.serving.server.asgi import Asgi
        from bentos.serving.server.dataplane import DataPlane
        from bentos.serving.server.served_model import ServedModel
        from bentos.serving.threads import one_thread_unless_said

        one_thread_unless_said()
        live = ServedModel.load(Path(__file__).resolve().parents[3])
        freeze_garbage()
        folder = os.environ.get(SEGMENTS)
        return Asgi(DataPlane(live, writer=SegmentWriter(Path(folder)) if folder else None))


@bentoml.service(name="shipway", service_class=PlaneService, workers=1)
class Model:
    """The model of this bento. Its endpoints are the data plane's own; see /docs."""


service = Model
