from infra.targets.interface import DeploymentSpec
from infra.targets.known_deployments import KnownDeployments, spec_of, values_of

SPEC = DeploymentSpec("a model/with: odd signs", "1", "/bento", "sha256:" + "1" * 64, "python", {"A": "1"})


def test_looking_makes_nothing(tmp_path):
    records = KnownDeployments(tmp_path / "none")
    assert (list(records.names()), records.read("x")) == ([], None)
    assert not (tmp_path / "none").exists()


def test_what_is_written_is_found_by_others_and_forgotten_without_a_trace(tmp_path):
    with KnownDeployments(tmp_path).lock(SPEC.name):
        KnownDeployments(tmp_path).write(SPEC.name, {"spec": values_of(SPEC), "wanted": "running"})
        assert KnownDeployments(tmp_path).names() == [SPEC.name]
        assert spec_of(KnownDeployments(tmp_path).read(SPEC.name)) == SPEC
        assert KnownDeployments(tmp_path).home(SPEC.name).parent == tmp_path
        KnownDeployments(tmp_path).forget(SPEC.name)
    assert list(tmp_path.iterdir()) == []
