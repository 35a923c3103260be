"""What `shipway dockerfile` writes: complete, and nothing where it cannot."""

import json
from pathlib import Path

import pytest

from bentos.policy.build import ImagePolicy
from bentos.policy.release import ReleasePolicy
from bentos.serving.environments.environment import Environments
from bentos.versions.registry import PermanentRegistryError, Registry
from flows.console.dockerfile import DockerfileError, write_dockerfile, write_generic
from tests.bentos.conftest import registered  # noqa: F401 (a fixture)

BASE = "a-base:1"


@pytest.fixture(scope="module")
def parts(mlflow_server, registered, tmp_path_factory):  # noqa: F811 (the fixture above)
    folder = tmp_path_factory.mktemp("dockerfile")
    return Registry(mlflow_server, folder / "models"), Environments(folder / "envs"), folder / "bentos"


def test_a_versions_context_is_complete(parts, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "context"
    said = write_dockerfile(*parts, "with-reference", ReleasePolicy(), out, version="1", base=BASE)
    assert "with-reference/1" in said and f"docker build {out}" in said
    text = (out / "Dockerfile").read_text()
    assert f"ARG BASE={BASE}\n" in text and 'io.shipway.version="1"' in text and "bentos.serving.launcher" in text
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ") and "--from" not in line]
    assert copied and all((out / name).exists() for names in copied for name in names)
    assert json.loads((out / "src" / "shipway.json").read_text())["model"] == "with-reference"
    assert (out / "src" / "model" / "MLmodel").is_file() and (
        out / "src" / "bentos" / "serving" / "launcher.py"
    ).is_file()
    lock = (out / "requirements.lock").read_text()
    assert "onnxruntime==" in lock and "--hash=sha256:" in lock  # converted: served without the library that trained it
    assert "scikit-learn==" not in lock and "pyarrow" not in lock
    assert (out / "ca.pem").read_bytes() == b""
    with pytest.raises(DockerfileError, match="is there and not empty"):
        write_dockerfile(*parts, "with-reference", ReleasePolicy(), out, version="1", base=BASE)


def test_the_policy_chooses_what_the_image_holds(parts, tmp_path: Path) -> None:
    policy = ReleasePolicy(image=ImagePolicy(model="pulled", dependencies="resolved"))
    write_dockerfile(*parts, "with-reference", policy, tmp_path / "a", version="1", base=BASE)
    assert sorted(path.name for path in (tmp_path / "a" / "src").iterdir()) == ["bentos"]
    assert "bentos.serving.start" in (tmp_path / "a" / "Dockerfile").read_text()
    theirs = ReleasePolicy(image=ImagePolicy(builder="bentoml"))
    with pytest.raises(DockerfileError, match=r"image\.builder is bentoml"):
        write_dockerfile(*parts, "with-reference", theirs, tmp_path / "b", version="1", base=BASE)
    with pytest.raises(PermanentRegistryError, match="champion"):
        write_dockerfile(*parts, "with-reference", ReleasePolicy(), tmp_path / "b", base=BASE)
    assert not (tmp_path / "b").exists()


def test_the_generic_image_needs_no_registry(tmp_path: Path) -> None:
    write_generic(tmp_path / "out", base=BASE)
    text = (tmp_path / "out" / "Dockerfile").read_text()
    assert '"-m", "bentos.serving.start", "--models"' in text and "io.shipway.model" not in text
    assert (tmp_path / "out" / "src" / "bentos" / "serving" / "launcher.py").is_file()
    assert not (tmp_path / "out" / "src" / "model").exists()
