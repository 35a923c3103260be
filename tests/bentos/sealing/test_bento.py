"""The sealed bento: named by what determines it, built once, never half-made."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from bentos.policy.build import BuildPolicy
from bentos.sealing.bento import (
    PermanentBuildError,
    SealedBento,
    TransientBuildError,
    build,
    load_sealed,
    serving_modules,
)
from bentos.serving.environments.environment import Lock
from bentos.serving.fetch.artifact_tree import tree_digest
from bentos.versions.model_version import ModelVersion

SERVICE = """
import bentoml
from bentos.serving.helper import answer

@bentoml.service
class service:
    @bentoml.api
    def ask(self, x: int) -> int:
        return answer(x)
"""
SEALED = ("__init__.py", "service.py", "helper.py", "wire/__init__.py", "wire/json.py")
LOCK = Lock("numpy==2.4.0\n", "sha256:" + "1" * 64, "3.11", own=True)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    package = tmp_path / "code" / "bentos"
    serving = package / "serving"
    (serving / "wire").mkdir(parents=True)
    for folder in (package, serving, serving / "wire"):
        (folder / "__init__.py").touch()
    (serving / "wire" / "json.py").write_text("from bentos.serving import helper\n")
    (serving / "helper.py").write_text("def answer(x: int) -> int:\n    return x + 1\n")
    (serving / "service.py").write_text(SERVICE)
    (package / "beside.py").write_text("import no_such_module\n")
    return package


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    folder = tmp_path / "artifacts"
    (folder / "data" / ".hidden").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\n")
    (folder / "data" / "model.bin").write_bytes(bytes(range(256)))
    (folder / "data" / ".hidden" / "x.pyc").write_bytes(b"kept too")
    return folder


@pytest.fixture
def mv(artifacts: Path) -> ModelVersion:
    return ModelVersion("Flights.v2_", "3", "run", "models:/m", "sklearn", tree_digest(artifacts), (), "3.11.7")


def built(
    mv: ModelVersion, artifacts: Path, bentos: Path, code: Path, policy: BuildPolicy | None = None
) -> SealedBento:
    return build(mv, artifacts, policy or BuildPolicy(), LOCK, bentos, code=code)


def test_a_sealed_bento_holds_model_code_lock_and_facts(
    mv: ModelVersion, artifacts: Path, code: Path, tmp_path: Path
) -> None:
    bentos = tmp_path / ".shipway" / "bentos"  # hidden, as the stack's own is
    sealed = built(mv, artifacts, bentos, code)
    assert sealed.path == bentos / sealed.digest.removeprefix("sha256:")[:16]
    assert sealed.tag == f"flights.v2:{sealed.path.name}"
    assert tree_digest(sealed.model) == mv.digest
    assert (sealed.source / "requirements.lock").read_text() == LOCK.text
    facts = json.loads((sealed.source / "shipway.json").read_text())
    assert facts["model"] == "Flights.v2_" and facts["version"] == "3" and facts["runtime"] == "native"
    assert facts["build_digest"].startswith("sha256:") and facts["bento_digest"] == sealed.digest
    inside = {
        file.relative_to(sealed.source / "bentos").as_posix() for file in (sealed.source / "bentos").rglob("*.py")
    }
    assert inside == {"__init__.py", *(f"serving/{name}" for name in SEALED)}
    assert (sealed.path / "bento.yaml").is_file()
    assert [entry.name for entry in bentos.iterdir()] == [sealed.path.name]


def test_equal_inputs_are_one_bento_and_no_second_build(
    mv: ModelVersion, artifacts: Path, code: Path, tmp_path: Path
) -> None:
    sealed = built(mv, artifacts, tmp_path / "bentos", code)
    before = (sealed.path / "bento.yaml").stat().st_mtime_ns
    assert built(mv, artifacts, tmp_path / "bentos", code) == sealed
    assert (sealed.path / "bento.yaml").stat().st_mtime_ns == before
    assert load_sealed(sealed.path) == sealed


def test_whatever_determines_it_changes_its_name(mv: ModelVersion, artifacts: Path, code: Path, tmp_path: Path) -> None:
    digests = {built(mv, artifacts, tmp_path / "bentos", code).digest}
    digests.add(built(replace(mv, version="4"), artifacts, tmp_path / "bentos", code).digest)
    digests.add(built(mv, artifacts, tmp_path / "bentos", code, BuildPolicy(runtime="pyfunc")).digest)
    (code / "serving" / "helper.py").write_text("def answer(x: int) -> int:\n    return x + 2\n")
    digests.add(built(mv, artifacts, tmp_path / "bentos", code).digest)
    assert len(digests) == 4


def test_two_makers_at_once_end_in_the_same_bento(
    mv: ModelVersion, artifacts: Path, code: Path, tmp_path: Path
) -> None:
    made: list[SealedBento] = []
    makers = [
        threading.Thread(target=lambda: made.append(built(mv, artifacts, tmp_path / "bentos", code))) for _ in range(2)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert len(made) == 2 and made[0] == made[1]
    assert len(list((tmp_path / "bentos").iterdir())) == 1


def test_two_models_built_after_each_other_keep_their_own_files(
    mv: ModelVersion, artifacts: Path, code: Path, tmp_path: Path
) -> None:
    first = built(mv, artifacts, tmp_path / "bentos", code)
    (artifacts / "data" / "model.bin").write_bytes(b"another model")
    other = replace(mv, version="4", digest=tree_digest(artifacts))
    second = built(other, artifacts, tmp_path / "bentos", code)
    assert (first.model / "data" / "model.bin").read_bytes() == bytes(range(256))
    assert (second.model / "data" / "model.bin").read_bytes() == b"another model"


def test_a_failing_build_leaves_nothing_and_shows_its_log(
    mv: ModelVersion, artifacts: Path, code: Path, tmp_path: Path
) -> None:
    (code / "serving" / "service.py").write_text("raise RuntimeError('the service is broken on purpose')\n")
    with pytest.raises(PermanentBuildError, match="the service is broken on purpose"):
        built(mv, artifacts, tmp_path / "bentos", code)
    assert list((tmp_path / "bentos").iterdir()) == []
    with pytest.raises(TransientBuildError, match="longer than 0 s"):
        build(mv, artifacts, BuildPolicy(), LOCK, tmp_path / "bentos", code=code, timeout=0.01)
    assert list((tmp_path / "bentos").iterdir()) == []
    (code / "serving" / "service.py").unlink()
    with pytest.raises(PermanentBuildError, match=r"no serving/service\.py"):
        built(mv, artifacts, tmp_path / "bentos", code)


def test_artifacts_that_are_not_the_versions_are_refused(
    mv: ModelVersion, artifacts: Path, code: Path, tmp_path: Path
) -> None:
    (artifacts / "data" / "model.bin").write_bytes(b"changed after it was resolved")
    with pytest.raises(PermanentBuildError, match="has not the digest"):
        built(mv, artifacts, tmp_path / "bentos", code)
    assert list((tmp_path / "bentos").iterdir()) == []


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("src/model/data/model.bin", "digest is"),
        ("src/bentos/serving/helper.py", "code_digest is"),
        ("src/requirements.lock", "bento_digest is"),
        ("src/shipway.json", "not a sealed bento"),
    ],
)
def test_a_change_after_sealing_is_found_and_mended_by_the_next_build(
    mv: ModelVersion, artifacts: Path, code: Path, tmp_path: Path, file: str, named: str
) -> None:
    sealed = built(mv, artifacts, tmp_path / "bentos", code)
    (sealed.path / file).write_bytes(b"x")
    with pytest.raises(PermanentBuildError, match=named):
        load_sealed(sealed.path)
    assert built(mv, artifacts, tmp_path / "bentos", code) == sealed
    assert load_sealed(sealed.path) == sealed


def test_facts_cannot_be_exchanged(mv: ModelVersion, artifacts: Path, code: Path, tmp_path: Path) -> None:
    sealed = built(mv, artifacts, tmp_path / "bentos", code)
    path = sealed.source / "shipway.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": "99"}))
    with pytest.raises(PermanentBuildError, match="bento_digest is"):
        load_sealed(sealed.path)
    with pytest.raises(PermanentBuildError, match="not a sealed bento"):
        load_sealed(tmp_path)


def test_what_is_sealed_is_the_serving_folder_of_the_installed_code() -> None:
    import bentos

    package = Path(str(bentos.__file__)).parent
    modules = set(serving_modules(package))
    on_disk = {path.relative_to(package).as_posix() for path in (package / "serving").rglob("*.py")}
    assert modules == {"__init__.py", *on_disk} and "serving/launcher.py" in modules


def test_the_sealed_service_runs_from_its_folder(mv: ModelVersion, artifacts: Path, code: Path, tmp_path: Path) -> None:
    sealed = built(mv, artifacts, tmp_path / "bentos", code)
    done = subprocess.run(
        [sys.executable, "-c", "import bentos.serving.helper as h; print(h.__file__, h.answer(1))"],
        cwd=tmp_path, env={"PYTHONPATH": str(sealed.source)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(sealed.source / "bentos" / "serving" / "helper.py"), "2"]
