"""What a version is made into: its bento, and the image of its container."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

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


class ImagePolicy(Frozen):
    """What a version's container holds and what it fetches when it starts. Only targets that run containers ask."""

    model: Literal["included", "pulled"] = Field(
        "included",
        description="included: the model's files are in the image; pulled: the container fetches them from the registry at its start and checks their digest.",
    )
    dependencies: Literal["included", "resolved"] = Field(
        "included",
        description="included: the model's environment is in the image; resolved: the container makes it at its start from the hashed lock, and keeps it in a cache.",
    )
    builder: Literal["shipway", "bentoml"] = Field(
        "shipway",
        description="shipway: the two-layer build; bentoml: `bentoml containerize` of the sealed bento, with model and dependencies included.",
    )

    @model_validator(mode="after")
    def _bentoml_includes_all(self) -> Self:
        if self.builder == "bentoml" and (self.model, self.dependencies) != ("included", "included"):
            raise ValueError(
                "image.builder bentoml puts model and dependencies into the image; expected both 'included'"
            )
        return self
