"""Waiting for a deployment, the same for every target."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from infra.targets.interface import Deployment, PermanentTargetError, State, TransientTargetError


class Logs(Protocol):
    """The last lines that a deployment wrote."""

    def __call__(self, name: str, lines: int, /) -> str:
        """*name*'s last *lines*."""
        ...


def until_ready(
    look: Callable[[str], Deployment], logs: Logs, name: str, timeout: float, *, every: float
) -> Deployment:
    """*name* once it is READY, looked at *every* so many seconds.

    Raises PermanentTargetError where it failed and TransientTargetError where it is not ready after *timeout* seconds,
    both with the end of its log; and what *look* raises.
    """
    deadline = time.monotonic() + timeout
    while True:
        deployment = look(name)
        if deployment.state is State.READY:
            return deployment
        if deployment.state is State.FAILED:
            raise PermanentTargetError(
                f"deployment {name} failed: {deployment.reason}. Its log ends:\n{logs(name, 30)}"
            )
        if time.monotonic() >= deadline:
            raise TransientTargetError(
                f"deployment {name} is {deployment.state} and not ready after {timeout:g} s. Its log ends:\n{logs(name, 10)}"
            )
        time.sleep(every)
