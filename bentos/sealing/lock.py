"""The lock of a model version under its policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
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
    return environments.lock(
        mv.requirements,
        flavor=_flavor(mv, policy),
        extra=policy.requirements,
        converters=converters,
        python_version=mv.python_version,
        hashed=hashed,
    )


def known_python(
    environments: Environments, mv: ModelVersion, policy: BuildPolicy, *, converters: Sequence[str] = ()
) -> Path | None:
    """The interpreter of ``lock_for`` where lock and environment are there already; nothing is resolved or made."""
    from bentos.serving.environments.environment import Given

    given = Given(
        _flavor(mv, policy), mv.requirements, tuple(policy.requirements), tuple(converters), mv.python_version
    )
    lock = environments.known(given)
    return None if lock is None else environments.ready(lock)


def _flavor(mv: ModelVersion, policy: BuildPolicy) -> str:
    return "python_function" if policy.runtime == "pyfunc" else mv.flavor
