"""What each file of an artifact tree is, and the scan that its kind needs."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import yaml

from bentos.vet.finding import Finding
from bentos.vet.pickle_rules import may_name, trusted
from bentos.vet.pickle_walk import WalkError, walk

if TYPE_CHECKING:
    from bentos.policy.gates import VetPolicy

_PICKLES = frozenset((".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".sav", ".pck", ".p"))
_PROGRAMS = frozenset((".so", ".dll", ".dylib", ".exe", ".pyd", ".pyc", ".pth", ".whl", ".egg", ".jar", ".node"))
_PROGRAM_MAGIC = (b"\x7fELF", b"MZ\x90", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
_CODE_BY_DESIGN = frozenset((".keras", ".h5", ".hdf5", ".pb"))
_SAFE_LOADERS = frozenset(("onnx", "xgboost", "catboost"))  # their files are data: no loader of theirs runs code
_SKOPS_COLLECTIONS = frozenset(("collections.OrderedDict", "collections.defaultdict", "builtins.slice"))
_LIMIT = 2 << 30  # bytes of one pickle that the walk reads into memory


def scan_files(folder: Path, files: Sequence[Path], policy: VetPolicy) -> Iterator[Finding]:
    """The findings of every file of *files*, below *folder*."""
    loaded, problem = _loaded_as(folder)
    if problem:
        yield Finding("MLmodel", problem, "refuse")
    for path in files:
        name = path.relative_to(folder).as_posix()
        try:
            refusal, notice = _scan(path, loaded.get(name), policy)
        except WalkError as error:
            refusal, notice = f"as a pickle, {error}; if that is intended, name it in vet.trusted_types", ""
        except Exception as error:  # fail-closed: whatever a hostile file makes a reader raise, it was not scanned
            refusal, notice = f"cannot be scanned: {type(error).__name__}: {error}", ""
        if refusal:
            yield Finding(name, refusal, "refuse")
        elif notice:
            yield Finding(name, notice, "notice")


def _loaded_as(folder: Path) -> tuple[dict[str, str], str]:
    """Which file MLflow's loaders read how: relative path → ``skops``, ``pickle`` or ``unknown``; and a problem."""
    try:
        flavors = yaml.safe_load((folder / "MLmodel").read_text())["flavors"]
        loaded: dict[str, str] = {}
        safe = {str(v) for name in _SAFE_LOADERS & set(flavors) for k, v in flavors[name].items() if k == "data"}
        for name, values in sorted(flavors.items()):
            for key in ("pickled_model", "python_model", "data", "model_path", "context"):
                if not isinstance(values, dict) or not isinstance(values.get(key), str) or name in _SAFE_LOADERS:
                    continue
                loader = str(values.get("loader_module", ""))
                if values[key] in safe and loader.removeprefix("mlflow.") in _SAFE_LOADERS:
                    continue
                _note(loaded, folder, values[key], _format(name, key, values))
        return loaded, ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        return {}, f"cannot be read, so what loads which file is unknown: {type(error).__name__}: {error}"


def _format(flavor: str, key: str, values: dict[str, Any]) -> str:
    if flavor in ("sklearn", "lightgbm"):
        return (
            "skops" if values.get("serialization_format") == "skops" else "pickle" if flavor == "sklearn" else "unknown"
        )
    return "pickle" if key == "python_model" or flavor == "statsmodels" else "unknown"


def _note(loaded: dict[str, str], folder: Path, relative: str, how: str) -> None:
    """A file, or every file of a folder; where two loaders read one file, a named format wins over an unknown one."""
    target = folder / relative
    for path in target.rglob("*") if target.is_dir() else [target]:
        name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else relative
        known = loaded.get(name, "unknown")
        loaded[name] = how if known == "unknown" else "pickle" if {known, how} == {"skops", "pickle"} else known


def _scan(path: Path, how: str | None, policy: VetPolicy) -> tuple[str, str]:
    """A refusal and a notice, each may be empty."""
    if path.is_symlink():
        return "a symbolic link: what it points at is outside the artifacts", ""
    suffix = path.suffix.lower()
    with path.open("rb") as stream:
        head = stream.read(8)
        if suffix == ".py":
            return "", "Python source: it runs when the model is loaded, in the model's own environment"
        if suffix == ".pth" and head.startswith((b"PK", b"\x80")):
            return _zipped(path, policy) if head.startswith(b"PK") else _pickle(stream, policy), ""
        if suffix in _PROGRAMS or head.startswith(_PROGRAM_MAGIC):
            return "a program or library, which a model has no need to carry", ""
        if suffix == ".skops" or how == "skops":
            return _skops(path, policy), ""
        if head.startswith(b"\x93NUMPY"):
            return _array(stream, policy), ""
        if zipfile.is_zipfile(path):
            return _zipped(path, policy), ""
        if how == "pickle" or suffix in _PICKLES or (head[:1] == b"\x80" and head[1:2] <= b"\x05" and len(head) > 1):
            return _pickle(stream, policy), ""
        if suffix in _CODE_BY_DESIGN:
            return f"a {suffix} file can carry code, and no scanner here can read it to its end", ""
        if how == "unknown":
            return _unknown(stream, policy), ""
    return "", ""


def _pickle(stream: BinaryIO, policy: VetPolicy) -> str:
    stream.seek(0)
    data = stream.read(_LIMIT + 1)
    if len(data) > _LIMIT:
        return f"larger than {_LIMIT >> 30} GiB, which is more than the pickle scan reads"
    walk(data, policy.trusted_types)
    return ""


def _unknown(stream: BinaryIO, policy: VetPolicy) -> str:
    """A file that some loader reads in a way that is not known here: JSON is data, LightGBM's text too, else a pickle."""
    stream.seek(0)
    data = stream.read(_LIMIT + 1)
    if data.startswith(b"tree\n"):  # LightGBM's own text format; as a pickle it would end at its first letters
        return ""
    try:
        json.loads(data)
    except ValueError:
        return _pickle(stream, policy)
    return ""


def _skops(path: Path, policy: VetPolicy) -> str:
    from skops.io import get_untrusted_types

    def fine(name: str) -> bool:
        module, _, attribute = name.rpartition(".")
        library = module.partition(".")[0] in ("numpy", "scipy", "sklearn", "xgboost", "lightgbm", "pandas")
        return (
            (library and may_name(module, attribute))
            or name in _SKOPS_COLLECTIONS
            or trusted(name, policy.trusted_types)
        )

    refused = [name for name in get_untrusted_types(file=path) if not fine(name)]
    if refused:
        return f"skops: types outside the allow-list: {', '.join(refused)}; if they are intended, name them in vet.trusted_types"
    return _zipped(path, policy)


def _zipped(path: Path, policy: VetPolicy) -> str:
    """The members of a zip file: arrays and pickles are read, programs and zips within are refused."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as stream:
                head = stream.read(8)
            suffix = Path(member.filename).suffix.lower()
            if suffix in _PROGRAMS or head.startswith((*_PROGRAM_MAGIC, b"PK\x03\x04")):
                return f"{member.filename}: a program, or an archive within the archive"
            with archive.open(member) as stream:
                opened: Any = stream
                if head.startswith(b"\x93NUMPY"):
                    refusal = _array(opened, policy)
                elif suffix in _PICKLES or (head[:1] == b"\x80" and head[1:2] <= b"\x05" and len(head) > 1):
                    refusal = _pickle(opened, policy)
                else:
                    refusal = ""
            if refusal:
                return f"{member.filename}: {refusal}"
    return ""


def _array(stream: BinaryIO, policy: VetPolicy) -> str:
    """A ``.npy`` file: one of objects holds a pickle after its header."""
    from numpy.lib import format as npy

    stream.seek(0)
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    _, _, dtype = read(stream)
    if dtype.hasobject:
        walk(stream.read(), policy.trusted_types)
    return ""
