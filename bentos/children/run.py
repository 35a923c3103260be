"""A module run to its end in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bentos.children import ahead
from bentos.serving.errors import PermanentError


class ChildError(PermanentError):
    """The child failed; the message ends with the end of what it wrote to stderr."""


def run_module(
    python: Path,
    code: Path,
    command: Sequence[str],
    timeout: float,
    what: str,
    *,
    late: str = "allow more time or send less",
    environment: Mapping[str, str] | None = None,
    given: str = "",
) -> str:
    """Run ``python -m <command>`` to its end in an empty working folder, in an interpreter that was started ahead where one
    waits; its stdout.

    ``code`` is the parent of the package that ``command``'s module lies in, ``environment`` is added to ``child_env``'s, ``given``
    comes on its stdin. After ``timeout`` seconds the whole process group is killed. Raises ChildError that begins with
    ``what``; ``late`` is what it advises after a time-out.
    """
    with tempfile.TemporaryDirectory(prefix="shipway-child-") as where:
        env = {**child_env(code), **(environment or {})}
        try:
            process = ahead.take(python, command, code=code, where=where, environment=env) or subprocess.Popen(
                [str(python), "-m", *command], cwd=where, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise ChildError(f"{what} could not be started: {error}. Make the model's environment again") from error
        try:
            printed, said = process.communicate(given, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise ChildError(f"{what} took longer than {timeout:g} s and was ended: {late}") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
    if number := process.returncode:
        ended = f"killed by signal {-number}" if number < 0 else f"exit {number}"
        raise ChildError(f"{what} failed ({ended}): {said.strip()[-2000:] or 'it said nothing'}")
    return printed


def child_env(code: Path) -> dict[str, str]:
    """The environment of a child whose code lies below *code*; see ``ahead.bare``."""
    return {**ahead.bare(), "PYTHONPATH": str(code.resolve())}
