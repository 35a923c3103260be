"""The lock of a model version under its policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bentos.policy.build import BuildPolicy
    from bentos.serving.environments.environment import Environments, Lock
    from bentos.versions.model_version import ModelVersion


def lock_for(
    environments: Environments,
    mv: ModelVersion,
    policy: BuildPolicy,
    *,
    converters: Sequence[str] = (),
    hashed: bool = False,
) -> Lock:
    """The lock of *mv* under *policy*; a model run through pyfunc keeps its mlflow pin whatever its flavor is.

    *converters* are asked for besides. Raises what ``Environments.lock`` raises.
    """
    flavor = "python_function" if policy.runtime == "pyfunc" else mv.flavor
    return environments.lock(
        mv.requirements,
        flavor=flavor,
        extra=policy.requirements,
        converters=converters,
        python_version=mv.python_version,
        hashed=hashed,
    )
