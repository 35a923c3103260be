"""ModelVersion: the noun the whole line starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelVersion:
    """One registered version of a model, as the registry described it at one moment.

    ``digest`` is ``sha256:…`` over the sorted (relative path, file sha256) pairs of the whole artifact tree, so that two
    versions with equal digests are the same bytes. ``requirements`` are the pip requirement lines MLflow stored with the
    model, unaltered. ``flavor`` is the native flavor that loads it (``sklearn``, ``onnx``, ``xgboost``, ``lightgbm``) or
    ``python_function`` when only pyfunc can.
    """

    model: str
    version: str
    run_id: str | None
    source: str
    flavor: str
    digest: str
    requirements: tuple[str, ...]
    python_version: str | None
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``model/version``, as people write it."""
        return f"{self.model}/{self.version}"
