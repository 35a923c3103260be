"""Requirements: what a model's own pins and our serving code need together, and whether this interpreter has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

SERVING: tuple[str, ...] = (
    "numpy",
    "pyarrow",
    "orjson",
    "msgspec",
    "uvicorn",
    "uvloop",
    "httptools",
    "prometheus-client",
    "pyyaml",
    "packaging",
    "protobuf",
    "grpcio",
)
"""What every model server imports besides the model's own libraries."""

FRAMES: tuple[str, ...] = ("pandas",)
"""What servers of models as they were registered import besides, to make the frames that these take."""

BATCH: tuple[str, ...] = ("pyarrow",)
"""Of these, what no server imports: batch scoring and the check of a version read and write Parquet with it."""

CONVERTED_FLAVOR = "converted"
"""In place of a flavor: a converted model, which needs what it is pinned to and no frames."""

LOADING: dict[str, tuple[str, ...]] = {
    "sklearn": ("scikit-learn", "cloudpickle"),
    "onnx": ("onnxruntime",),
    "xgboost": (),
    "lightgbm": ("lightgbm",),
    "python_function": ("mlflow",),
    CONVERTED_FLAVOR: (),
}
"""What loading a flavor needs, whether or not the model's author listed it."""

SERVED_BY: dict[str, tuple[str, ...]] = {"onnx": ("onnxruntime", "numpy"), "gtil": ("treelite", "numpy")}
"""What a converted model is answered with, by its runtime; pinned to the versions that it was proven with."""

CONVERTERS: dict[str, tuple[str, ...]] = {
    "sklearn": ("onnx>=1.17", "onnxruntime>=1.20", "skl2onnx>=1.18", "treelite>=4.4"),
    "lightgbm": ("onnx>=1.17", "onnxruntime>=1.20", "treelite>=4.4"),
    "xgboost": ("onnx>=1.17", "onnxruntime>=1.20", "treelite>=4.4"),
}
"""What turns a model of a flavor into a faster one and tries it; the first two know trees of doubles from there on."""

INFERRED_ONLY = frozenset({"mlflow", "mlflow-skinny", "mlflow-tracing", "pytest", "rich", "psutil"})
"""MLflow infers these from its own imports; a natively loaded model does not need them."""


def needed(requirements: Sequence[str], *, flavor: str, extra: Sequence[str] = ()) -> tuple[str, ...]:
    """The requirement lines of an environment that serves a model of *flavor*: its own, *extra*, loading and serving.

    For native flavors the lines that MLflow only infers from itself are left out; of the pair ``xgboost`` and
    ``xgboost-cpu`` (the same module) the second stays. The model's own pins come first and are unaltered.
    """
    own = [line for line in requirements if flavor == "python_function" or project(line) not in INFERRED_ONLY]
    names = {project(line) for line in own}
    loading = LOADING.get(flavor, LOADING["python_function"])
    frames = FRAMES if flavor != CONVERTED_FLAVOR else ()
    if "xgboost-cpu" in names:
        own = [line for line in own if project(line) != "xgboost"]
    for line in [*extra, *loading, *SERVING, *frames]:
        if project(line) not in names or line in extra:
            own.append(line)
            names.add(project(line))
    if flavor == "xgboost" and not names & {"xgboost", "xgboost-cpu"}:
        own.append("xgboost-cpu")
    return tuple(dict.fromkeys(own))


def asked_by(lines: Iterable[str], requirements: Sequence[str], extra: Sequence[str]) -> dict[str, str]:
    """Line → who asked for it, in words: the model's own *requirements*, the policy's *extra* ones, or Shipway."""
    return {
        line: "the model's own pins"
        if line in requirements
        else "build.requirements of the policy"
        if line in extra
        else "Shipway's serving set"
        for line in lines
    }


def unsatisfied(requirements: Iterable[str]) -> list[str]:
    """The lines that the running interpreter's packages do not satisfy, each with what was found.

    A line that is no plain requirement (an option, a path, a URL) counts as not satisfied: it cannot be checked.
    """
    missing = []
    for line in requirements:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            missing.append(f"{line} (not a plain requirement)")
            continue
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        found = installed(requirement.name)
        if requirement.url is not None:
            missing.append(f"{line} (installed from a URL)")
        elif found is None:
            missing.append(f"{line} (not installed)")
        elif not requirement.specifier.contains(found, prereleases=True):
            missing.append(f"{line} (found {found})")
    return missing


def installed(name: str) -> str | None:
    """The installed version of *name*, None where it is not installed. ``xgboost-cpu`` provides ``xgboost``."""
    for candidate in (name, "xgboost-cpu") if canonicalize_name(name) == "xgboost" else (name,):
        try:
            return metadata.version(candidate)
        except metadata.PackageNotFoundError:
            continue
    return None


def closure(requirements: Iterable[str]) -> tuple[str, ...]:
    """``name==version`` of everything installed that *requirements* reach, sorted; the facts a borrowed environment rests on."""
    waiting = [Requirement(line) for line in requirements]
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen or not _applies(requirement, ("",)):
            continue
        seen.add(key)
        try:
            distribution = metadata.distribution(requirement.name)
        except metadata.PackageNotFoundError:
            if key[0] == "xgboost":
                waiting.append(Requirement("xgboost-cpu"))
            continue
        found[key[0]] = distribution.version
        extras = ("", *requirement.extras)
        waiting += [needs for needs in map(Requirement, distribution.requires or ()) if _applies(needs, extras)]
    return tuple(f"{name}=={version}" for name, version in sorted(found.items()))


def everything_installed() -> tuple[str, ...]:
    """``name==version`` of every installed package: what a new lock prefers where the model's pins leave a choice."""
    versions = {canonicalize_name(item.metadata["Name"]): item.version for item in metadata.distributions()}
    return tuple(f"{name}=={version}" for name, version in sorted(versions.items()))


def _applies(requirement: Requirement, extras: Sequence[str]) -> bool:
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({"extra": extra}) for extra in extras)


def project(line: str) -> str:
    """The canonical project name of a requirement line; the line itself where it is no plain requirement."""
    try:
        return canonicalize_name(Requirement(line).name)
    except InvalidRequirement:
        return line
