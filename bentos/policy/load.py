"""A policy read from YAML, one file a model and ``default.yaml`` for the rest. Unknown keys are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from bentos.policy.release import ReleasePolicy
from bentos.serving.errors import PermanentError


class PolicyError(PermanentError):
    """A policy file or value that cannot be used; the message names the key."""


def parse_policy(values: dict[str, Any], *, where: str) -> ReleasePolicy:
    """Checks *values* (as read from YAML) into a policy.

    Raises PolicyError naming *where*, the key, what was found and what was expected.
    """
    try:
        return ReleasePolicy.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'policy'}: {problem['msg']} (found {problem['input']!r})"
            for problem in error.errors()
        )
        raise PolicyError(f"policy {where}: {problems}. The keys and their meaning are in docs/policy.md.") from error


def load_policy(folder: Path | None, model: str) -> tuple[ReleasePolicy, str]:
    """The policy of *model* and where it came from.

    Looks for ``<folder>/<model>.yaml``, then ``<folder>/default.yaml``, then the documented defaults. Raises PolicyError
    for a file that cannot be read, is not a mapping, or has unknown keys.
    """
    for path in [folder / f"{model}.yaml", folder / "default.yaml"] if folder is not None else []:
        if path.exists():
            try:
                values = yaml.safe_load(path.read_text())
            except (OSError, yaml.YAMLError) as error:
                raise PolicyError(
                    f"policy {path}: cannot be read as YAML: {error}. Mend the file and run again."
                ) from error
            if values is None:
                values = {}
            if not isinstance(values, dict):
                raise PolicyError(f"policy {path}: expected a mapping of keys, found {type(values).__name__}.")
            return parse_policy(values, where=str(path)), str(path)
    return ReleasePolicy(), "built-in defaults"
