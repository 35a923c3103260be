"""BuildPolicy: what changes the build."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bentos.policy.values import Frozen


class BuildPolicy(Frozen):
    """What changes the build. Only this part enters a bento's digest."""

    runtime: Literal["auto", "native", "pyfunc"] = Field(
        "auto",
        description="auto: the fastest runtime that was proven to give the same answers (the model as it is, ONNX, or for trees treelite's GTIL); native: the model as it is, without mlflow where the flavor allows; pyfunc: always through mlflow.pyfunc.",
    )
    requirements: tuple[str, ...] = Field(
        (), description="Extra pip requirements for the model's environment, added to the model's own pins."
    )
