"""A model's pins → a lock → an interpreter that has exactly that. uv is the real one; the packages are small."""

from __future__ import annotations

import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path

import pytest

from bentos.policy.build import BuildPolicy
from bentos.serving.environments.environment import (
    Environments,
    Lock,
    PermanentEnvironmentError,
    TransientEnvironmentError,
)
from bentos.serving.environments.lock_text import packages
from bentos.serving.environments.requirements import SERVING, asked_by, closure, needed, unsatisfied

SKLEARN = f"scikit-learn=={metadata.version('scikit-learn')}"
SMALL = "click==8.1.7"  # pure Python, one file, not the version the stack has


def small_lock(environments: Environments) -> Lock:
    """The lock of one small package, through the same compile that a model's lock takes."""
    text = environments._compile([SMALL], f"{sys.version_info.major}.{sys.version_info.minor}")
    return Lock(text, "sha256:" + "ab" * 32, f"{sys.version_info.major}.{sys.version_info.minor}")


def test_mlflows_own_lines_are_dropped_for_native_flavors_alone() -> None:
    lines = ["mlflow==3.1.0", "pandas==2.2.0", "pytest==9.0", "psutil==7.0", "rich==14.0", "scikit-learn==1.4.2"]
    native = needed(lines, flavor="sklearn")
    assert native[:2] == ("pandas==2.2.0", "scikit-learn==1.4.2")
    assert not any(line.startswith(("mlflow", "pytest", "psutil", "rich")) for line in native)
    assert "pandas" not in native and set(SERVING) - {"pandas"} <= set(native)
    pyfunc = needed(lines, flavor="python_function", extra=["polars==1.0"])
    assert "mlflow==3.1.0" in pyfunc and "polars==1.0" in pyfunc and "mlflow" not in pyfunc


def test_every_line_has_somebody_who_asked_for_it() -> None:
    asked = asked_by(needed([SKLEARN, "numpy<3"], flavor="sklearn", extra=["polars"]), [SKLEARN, "numpy<3"], ["polars"])
    assert asked[SKLEARN] == asked["numpy<3"] == "the model's own pins"
    assert asked["polars"] == "build.requirements of the policy"
    assert asked["cloudpickle"] == asked["uvicorn"] == "Shipway's serving set" and "numpy" not in asked


def test_the_xgboost_pair_is_one_package() -> None:
    both = needed(["xgboost-cpu==3.2.0", "xgboost==3.2.0"], flavor="xgboost")
    assert "xgboost-cpu==3.2.0" in both and "xgboost==3.2.0" not in both
    assert "xgboost==3.2.0" in needed(["xgboost==3.2.0"], flavor="xgboost")
    assert "xgboost-cpu" in needed([], flavor="xgboost")


def test_what_is_installed_is_compared_pin_by_pin() -> None:
    assert unsatisfied([SKLEARN, "numpy>=2", "numpy<1 ; python_version < '3'"]) == []
    missing = unsatisfied(["scikit-learn==1.4.2", "no-such-package-here", "--index-url http://x", "a @ http://h/a.whl"])
    assert [line.split(" (")[1] for line in missing] == [
        f"found {metadata.version('scikit-learn')})", "not installed)", "not a plain requirement)", "installed from a URL)"
    ]  # fmt: skip
    assert {SKLEARN, f"numpy=={metadata.version('numpy')}"} <= set(closure(["scikit-learn"]))


def test_the_stacks_own_environment_is_used_where_it_satisfies_every_pin(tmp_path: Path) -> None:
    environments = Environments(tmp_path / "envs")
    lock = environments.lock([SKLEARN, "mlflow==0.1"], flavor="sklearn")
    assert lock.own and SKLEARN in lock.text.splitlines()
    assert environments.ensure(lock) == Path(sys.executable)
    assert environments.lock([SKLEARN], flavor="sklearn").digest == lock.digest
    assert environments.lock([SKLEARN, "rich"], flavor="python_function").digest != lock.digest
    gone = Lock("scikit-learn==0.1\n", lock.digest, lock.python, own=True)
    with pytest.raises(PermanentEnvironmentError, match=r"scikit-learn==0\.1 \(found .*Release the version again"):
        environments.ensure(gone)


def test_another_pin_gives_a_hashed_lock_kept_for_the_next(tmp_path: Path) -> None:
    environments = Environments(tmp_path / "envs")
    lock = environments.lock(["scikit-learn==1.7.2"], flavor="sklearn", extra=BuildPolicy().requirements)
    assert not lock.own
    assert "scikit-learn==1.7.2 \\\n    --hash=sha256:" in lock.text
    assert f"numpy=={metadata.version('numpy')} \\" in lock.text  # a free choice follows the stack's own version
    nowhere = Environments(tmp_path / "envs", uv=Path("/no/uv/here"))
    assert nowhere.lock(["scikit-learn==1.7.2"], flavor="sklearn") == lock
    assert environments.lock(["scikit-learn==1.7.1"], flavor="sklearn").digest != lock.digest


@pytest.mark.parametrize(
    ("requirements", "extra", "sides"),
    [
        (["scikit-learn==1.7.2", "scipy<1.6"], [],
         r"scikit-learn==1\.7\.2 \(asked for by the model's own pins\), scipy<1\.6 \(asked for by the model's own pins\)"),
        (["scikit-learn==1.7.2"], ["scipy<1.6"],
         r"scikit-learn==1\.7\.2 \(asked for by the model's own pins\), scipy<1\.6 \(asked for by build\.requirements of the policy\)"),
    ],
)  # fmt: skip
def test_pins_that_contradict_each_other_are_explained_by_both_sides(
    tmp_path: Path, requirements, extra, sides
) -> None:
    with pytest.raises(PermanentEnvironmentError, match=f"cannot be met together: .*{sides}.*uv says: .*unsatisfiable"):
        Environments(tmp_path).lock(requirements, flavor="sklearn", extra=extra, hashed=True)
    assert not list(tmp_path.glob("locks/*"))


def test_a_lock_says_what_no_server_needs(tmp_path: Path) -> None:
    environments = Environments(tmp_path)
    first = environments.lock([SKLEARN], flavor="sklearn", hashed=True)
    assert first.text.startswith("# for batch scoring alone: pyarrow\n") and "# via" not in first.text
    asked = environments.lock([SKLEARN, "pyarrow"], flavor="sklearn", hashed=True)
    assert packages(asked.text) == packages(first.text) and not asked.text.startswith("#")
    assert asked.digest != first.digest
    assert (tmp_path / "locks").exists() and environments.lock([SKLEARN], flavor="sklearn", hashed=True) == first


def test_an_index_that_is_away_is_transient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple",
        "UV_NO_CACHE": "1",
        "UV_HTTP_RETRIES": "0",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TransientEnvironmentError, match=r"127\.0\.0\.1:9"):
        Environments(tmp_path).lock(["scikit-learn==1.7.2"], flavor="sklearn")


def test_a_python_that_is_not_here_is_noted(tmp_path: Path) -> None:
    lock = Environments(tmp_path).lock([SKLEARN], flavor="sklearn", python_version="3.4.9")
    assert lock.own and "logged with Python 3.4.9" in lock.note


def test_an_environment_is_made_once_by_whoever_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV_COMPILE_BYTECODE", raising=False)
    environments = Environments(tmp_path / "envs")
    lock = small_lock(environments)
    made: list[Path] = []
    makers = [threading.Thread(target=lambda: made.append(environments.ensure(lock))) for _ in range(2)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert len(made) == 2 and made[0] == made[1] == tmp_path / "envs" / ("ab" * 8) / "bin" / "python"
    code = "import click, importlib.metadata as m; print(m.version('click'), click.__cached__)"
    found = subprocess.run([made[0], "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found[0] == "8.1.7"
    assert Path(found[1]).is_file()  # installed with compiled bytecode
    marker = tmp_path / "envs" / ("ab" * 8) / ".complete"
    before = marker.stat().st_mtime_ns
    environments.ensure(lock)
    assert marker.stat().st_mtime_ns == before


def test_a_half_made_environment_is_made_again_and_a_false_hash_refused(tmp_path: Path) -> None:
    environments = Environments(tmp_path / "envs")
    lock = small_lock(environments)
    home = tmp_path / "envs" / ("ab" * 8)
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").write_text("half of an interpreter")
    python = environments.ensure(lock)
    assert subprocess.run([python, "-c", "import click"], check=False).returncode == 0
    forged = Lock(
        lock.text.replace("sha256:", "sha256:0000", 1)[: lock.text.index("sha256:") + 7] + "0" * 64 + "\n",
        "sha256:" + "cd" * 32,
        lock.python,
    )
    with pytest.raises(PermanentEnvironmentError, match=r"[Hh]ash"):
        environments.ensure(forged)
    assert not (tmp_path / "envs" / ("cd" * 8) / ".complete").exists()
