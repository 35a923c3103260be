"""Images by a real engine's classic builder. The packages are small and come from an index of the tests' own."""

import contextlib
import json
import shutil
import socket
import subprocess
import tarfile
import threading

import docker
import pytest

from bentos.policy.build import ImagePolicy
from infra.images.builder import ImageBuilder
from infra.images.interface import PermanentImageError, TransientImageError
from infra.images.template import KEY_LABEL, STAGE_LABEL
from tests.infra.images.conftest import MINOR, SECRET
from tests.infra.images.oci_registry import LOGIN, needs_registry, serve

pytestmark = pytest.mark.long("images")  # a real build each

EVERYTHING = [ImagePolicy(model=m, dependencies=d) for m in ("included", "pulled") for d in ("included", "resolved")]


@pytest.fixture
def builder(small_settings, tmp_path):
    return ImageBuilder(small_settings, tmp_path / "images")


@pytest.fixture(autouse=True)
def recorded(shared, tmp_path):
    """Images that tests share, as their packages are the same, go at the end of the session."""
    yield
    for path in (tmp_path / "images").glob("*.json"):
        if not path.name.endswith(".cdx.json"):
            shared.add(json.loads(path.read_text())["tag"])


def unfinished(engine, records):
    """What the builds of this test left: dangling images and containers with the mark of a build that is not finished."""
    keys = {path.stem for path in records.glob("*.lock")}
    images = engine.api.images(filters={"dangling": True, "label": STAGE_LABEL})
    containers = engine.api.containers(all=True, filters={"label": STAGE_LABEL})
    marks = [(entry["Labels"] or {}).get(STAGE_LABEL, "") for entry in [*images, *containers]]
    return [mark for mark in marks if mark[:16] in keys]


def files_of(engine, image, tmp_path):
    """The final file system of *image* as an open archive."""
    container = engine.api.create_container(image, ["true"])["Id"]
    try:
        with (tmp_path / "image.tar").open("wb") as file:
            for part in engine.api.export(container):
                file.write(part)
    finally:
        engine.api.remove_container(container)
    return tarfile.open(tmp_path / "image.tar")


def test_the_image_says_what_it_is_and_runs_as_nobody_special(builder, seal, engine):
    bento, version = seal()
    image = builder.ensure(bento, version, ImagePolicy())
    found = engine.api.inspect_image(image.reference)
    labels = found["Config"]["Labels"]
    assert image.reference == found["Id"] and image.size == found["Size"]
    assert found["Config"]["User"] == "10001:10001"
    assert labels["org.opencontainers.image.title"] == labels["io.shipway.model"] == version.model
    assert labels["org.opencontainers.image.version"] == labels["io.shipway.version"] == "1"
    assert labels["org.opencontainers.image.revision"] == "c0ffee"
    assert labels["io.shipway.model-digest"] == version.digest
    assert labels["io.shipway.bento-digest"] == bento.digest
    assert labels["io.shipway.lock-digest"] == bento.facts["lock_digest"]
    assert labels["io.shipway.run-id"] == "run-1" and labels[STAGE_LABEL] == ""
    assert image.tag == f"shipway/{version.model}:{labels[KEY_LABEL][:16]}"
    assert found["Config"]["Healthcheck"]["Test"][1:] == ["python3", "-I", "-S", "/opt/shipway/health.py"]
    assert json.loads(image.sbom.read_text())["bomFormat"] == "CycloneDX"
    assert '"tiny"' in image.sbom.read_text() and "libc6" in image.sbom.read_text()


def test_nothing_of_the_build_is_in_the_image(builder, seal, engine, tmp_path, small_settings):
    image = builder.ensure(*seal(), ImagePolicy())
    history = json.dumps(engine.api.history(image.reference))
    assert "INDEX_URL" not in history and SECRET not in history and "127.0.0.1" not in history
    with files_of(engine, image.reference, tmp_path) as tar:
        entries = {entry.name: entry for entry in tar}
        for entry in entries.values():
            if entry.isfile():
                content = tar.extractfile(entry).read()
                assert SECRET.encode() not in content, entry.name
        passwd = tar.extractfile("etc/passwd").read().decode()
    own = [name for name in entries if name.startswith("opt/")]
    site = f"opt/shipway/env/lib/python{MINOR}/site-packages"
    assert f"{site}/tiny/__init__.py" in own
    assert any(name.startswith(f"{site}/tiny/__pycache__/__init__.cpython") for name in own)
    assert any(name.startswith("opt/shipway/bento/src/bentos/serving/__pycache__/service") for name in own)
    assert not [name for name in own if "/pip/" in name or name.endswith(("/uv", "/pip", "start.txt"))]
    assert not [name for name in entries if name.startswith(("shipway", "root/.cache", "var/cache/shipway"))]
    assert not [name for name in entries if name.endswith(("bin/gcc", "bin/cc", "bin/ld"))]
    assert "shipway:x:10001:10001:" in passwd and passwd.startswith("root:")
    assert {(e.uid, e.mode & 0o022) for name, e in entries.items() if name.startswith("opt/") and not e.issym()} == {
        (0, 0)
    }
    assert unfinished(engine, tmp_path / "images") == []


def test_equal_inputs_are_built_once_by_whoever_comes_first(small_settings, seal, engine, tmp_path):
    bento, version = seal()
    images = []
    builders = [ImageBuilder(small_settings, tmp_path / "images") for _ in range(2)]
    workers = [
        threading.Thread(target=lambda b=b: images.append(b.ensure(bento, version, ImagePolicy()))) for b in builders
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(images) == 2 and images[0] == images[1]
    nowhere = small_settings.model_copy(update={"index_url": "http://127.0.0.1:9/simple", "ca_file": None})
    assert ImageBuilder(nowhere, tmp_path / "images").ensure(bento, version, ImagePolicy()) == images[0]
    # another stack on the same engine takes what is there
    assert (
        ImageBuilder(nowhere, tmp_path / "other").ensure(bento, version, ImagePolicy()).reference == images[0].reference
    )
    engine.api.remove_image(images[0].tag, noprune=True)
    assert builders[0].ensure(bento, version, ImagePolicy()).reference != ""


@needs_registry
def test_an_image_is_pushed_once_for_each_repository(small_settings, seal, tmp_path, made):
    (tmp_path / "registry").mkdir()
    registry = serve(tmp_path / "registry")
    try:
        made(f"{registry.host}/team/shipway/{seal.model}")
        pushing = small_settings.model_copy(update={"repository": f"{registry.host}/team"})
        builder = ImageBuilder(pushing, tmp_path / "images", login=LOGIN)
        bento, version = seal()
        image = builder.ensure(bento, version, ImagePolicy())
    finally:
        registry.stop()
    assert image.reference.startswith(f"{registry.host}/team/shipway/{version.model}@sha256:")
    assert builder.ensure(bento, version, ImagePolicy()) == image  # with nothing there that takes a push
    elsewhere = small_settings.model_copy(update={"repository": f"{registry.host}/other"})
    with pytest.raises(TransientImageError, match=r"other/shipway.*does not answer"):
        ImageBuilder(elsewhere, tmp_path / "images", login=LOGIN).ensure(bento, version, ImagePolicy())


def test_the_next_version_adds_only_the_app_layer(small_settings, seal, engine, tmp_path):
    first = ImageBuilder(small_settings, tmp_path / "images").ensure(*seal("1"), ImagePolicy())
    nowhere = small_settings.model_copy(update={"index_url": "http://127.0.0.1:9/simple", "network": "none"})
    second = ImageBuilder(nowhere, tmp_path / "images").ensure(*seal("2"), ImagePolicy())
    layers = [engine.api.inspect_image(image.reference)["RootFS"]["Layers"] for image in (first, second)]
    assert first.reference != second.reference
    assert layers[0][:-2] == layers[1][:-2] and layers[0][-2:] != layers[1][-2:]


def test_the_four_scenarios_hold_what_they_should(builder, seal, engine, tmp_path):
    bento, version = seal()
    found = {}
    for policy in EVERYTHING:
        image = builder.ensure(bento, version, policy)
        listed = engine.containers.run(
            image.reference, entrypoint="find", network_mode="none", remove=True,
            command=["/opt/shipway", "/var/cache", "-maxdepth", "3", "!", "-readable", "-prune", "-o", "-printf", "%p %U %m\\n"],
        ).decode()  # fmt: skip
        names = {path: (int(uid), mode) for path, uid, mode in map(str.split, listed.splitlines())}
        found[policy.model, policy.dependencies] = {
            part for part in ("bento/src/model", "bento/src/bentos", "code/bentos", "env", "start") if f"/opt/shipway/{part}" in names
        }  # fmt: skip
        fetches = (policy.model, policy.dependencies) != ("included", "included")
        assert names.get("/var/cache/shipway") == ((10001, "700") if fetches else None)
        labels = engine.api.inspect_image(image.reference)["Config"]["Labels"]
        assert ("io.shipway.version" in labels) == (policy.model == "included")
    assert found == {
        ("included", "included"): {"bento/src/model", "bento/src/bentos", "env"},
        ("included", "resolved"): {"bento/src/model", "bento/src/bentos", "start"},
        ("pulled", "included"): {"code/bentos", "env"},
        ("pulled", "resolved"): {"code/bentos", "start"},
    }
    pulled = [builder.ensure(*seal("2"), policy).reference for policy in EVERYTHING[2:]]
    assert pulled == [builder.ensure(bento, version, policy).reference for policy in EVERYTHING[2:]]


def test_what_resolves_at_start_brings_uv_and_little_else(builder, seal, engine):
    image = builder.ensure(*seal(), EVERYTHING[3])
    code = "import packaging, yaml, bentos, sys; print(sys.prefix)"
    said = engine.containers.run(
        image.reference, entrypoint="sh", network_mode="none", read_only=True, remove=True,
        command=["-c", f"/opt/shipway/start/bin/python -c '{code}'; /opt/shipway/start/bin/uv --version; id -un"],
    ).decode().split()  # fmt: skip
    assert said[0] == "/opt/shipway/start" and said[1] == "uv" and said[-1] == "shipway"
    names = {part["name"] for part in json.loads(image.sbom.read_text())["components"]}
    assert {"uv", "packaging", "pyyaml"} <= names and "tiny" not in names


def test_a_tampered_image_is_named_with_the_recorded_one(builder, seal, engine):
    bento, version = seal()
    image = builder.ensure(bento, version, ImagePolicy())
    container = engine.api.create_container(image.reference, entrypoint="true", user="0")["Id"]
    repository, _, tag = image.tag.rpartition(":")
    forged = engine.api.commit(container, repository=repository, tag=tag)["Id"]
    engine.api.remove_container(container)
    with pytest.raises(PermanentImageError) as told:
        builder.ensure(bento, version, ImagePolicy())
    assert forged in str(told.value) and image.reference in str(told.value)
    engine.api.remove_image(image.tag, force=True)


def test_a_record_that_was_changed_is_refused(builder, seal, tmp_path):
    bento, version = seal()
    image = builder.ensure(bento, version, ImagePolicy())
    path = tmp_path / "images" / f"{image.tag.rpartition(':')[2]}.json"
    before = path.read_text()
    path.write_text(before.replace(image.reference, "sha256:" + "0" * 64))
    with pytest.raises(PermanentImageError, match="Somebody changed it"):
        builder.ensure(bento, version, ImagePolicy())
    path.write_text(before)
    assert builder.ensure(bento, version, ImagePolicy()) == image


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("hash", PermanentImageError, "Hash mismatch"),
        ("index", TransientImageError, "the package index cannot be reached from the build"),
        ("minor", PermanentImageError, rf"the base image has Python {MINOR}, the model's lock is for Python 3\.39"),
        ("authority", PermanentImageError, "Correct SHIPWAY_IMAGE_CA_FILE"),
        ("unhashed", PermanentImageError, "is not one with hashes"),
    ],
)
def test_a_build_that_cannot_end_well_leaves_nothing(small_settings, seal, engine, tmp_path, fault, kind, words):
    bento, version = seal()
    settings = small_settings
    if fault == "hash":
        bento, version = seal("2", lock=f"{seal.lock[: seal.lock.index('sha256:')]}sha256:{'0' * 64}\n")
    if fault == "index":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            settings = settings.model_copy(update={"index_url": f"http://127.0.0.1:{probe.getsockname()[1]}/simple"})
        bento, version = seal("2", lock=f"# nobody has this yet\n{seal.lock}")
    if fault == "minor":
        bento, version = seal("2", minor="3.39")
    if fault == "authority":
        settings = settings.model_copy(update={"ca_file": tmp_path / "none.pem"})
        bento, version = seal("2", lock=f"# nor this\n{seal.lock}")
    if fault == "unhashed":
        facts = {**bento.facts, "lock_digest": "sha256:" + "0" * 64}
        bento = type(bento)(bento.path, bento.digest, bento.tag, facts)
    with pytest.raises(kind, match=words) as told:
        ImageBuilder(settings, tmp_path / "images").ensure(bento, version, ImagePolicy())
    assert SECRET not in str(told.value)
    assert engine.api.images(name=f"shipway/{version.model}") == [] and unfinished(engine, tmp_path / "images") == []
    assert list((tmp_path / "images").glob("*.json")) == []


def test_a_base_that_is_not_there_or_has_no_python_is_explained(small_settings, seal, engine, tmp_path, made):
    bento, version = seal()
    missing = small_settings.model_copy(update={"base": "127.0.0.1:9/no-such-base:1"})
    with pytest.raises(
        PermanentImageError, match=r"no-such-base:1: not on the Docker engine.*SHIPWAY_IMAGE_BASE.*make base-image"
    ):
        ImageBuilder(missing, tmp_path / "images").ensure(bento, version, ImagePolicy())
    empty = tmp_path / "empty.tar"
    with tarfile.open(empty, "w") as tar:
        tar.add(__file__, "only-this")
    name = f"shipway-test/{version.model}-empty"
    engine.api.import_image_from_file(str(empty), repository=made(name), tag="1")
    bare = small_settings.model_copy(update={"base": f"{name}:1"})
    with pytest.raises(PermanentImageError, match=r"has no python3.*make base-image"):
        ImageBuilder(bare, tmp_path / "images").ensure(bento, version, ImagePolicy())
    assert unfinished(engine, tmp_path / "images") == []


def test_what_a_dead_build_left_is_cleared_by_the_next(builder, seal, engine, tmp_path):
    bento, version = seal()
    image = builder.ensure(bento, version, ImagePolicy())
    key = engine.api.inspect_image(image.reference)["Config"]["Labels"][KEY_LABEL]
    left = engine.api.create_container(image.reference, ["true"], labels={STAGE_LABEL: key})["Id"]
    engine.api.commit(left)
    assert len(unfinished(engine, tmp_path / "images")) == 2
    shutil.rmtree(tmp_path / "images")
    engine.api.remove_image(image.tag, force=True)
    builder.ensure(bento, version, ImagePolicy())
    assert unfinished(engine, tmp_path / "images") == []


def test_a_full_context_is_built_by_a_plain_docker_build(builder, seal, engine, made, tmp_path, small_settings):
    """What `shipway dockerfile` writes, by the docker command."""
    from infra.images.builder import content_of, sources_of
    from infra.images.context import lay_out
    from infra.images.image_labels import labels_of
    from infra.images.template import whole_recipe

    bento, version = seal()
    lock = (bento.source / "requirements.lock").read_text()
    content = content_of(bento, lock, ImagePolicy())
    recipe = whole_recipe(
        content, small_settings.base, lock, sources_of(bento, content), labels_of(bento, version, content)
    )
    folder = tmp_path / "context"
    folder.mkdir()
    lay_out(recipe, recipe.plain(), folder)
    tag = made(f"shipway-test/{version.model}")
    command = [
        "docker",
        "build",
        "--quiet",
        "--network",
        "host",
        "--build-arg",
        f"INDEX_URL={small_settings.index_url}",
    ]
    if shutil.which("docker") is None:
        pytest.skip("no docker command here")
    done = subprocess.run([*command, "-t", tag, str(folder)], capture_output=True, text=True, check=False, env={"DOCKER_BUILDKIT": "0", "PATH": "/usr/bin:/bin"})  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    built = engine.api.inspect_image(tag)
    ours = engine.api.inspect_image(builder.ensure(bento, version, ImagePolicy()).reference)
    for name in ("User", "Env", "Entrypoint", "Cmd", "ExposedPorts", "Healthcheck"):
        assert built["Config"][name] == ours["Config"][name]
    for image in engine.api.images(filters={"dangling": True}):  # the first stage, which the docker command leaves
        with contextlib.suppress(docker.errors.APIError):
            if SECRET in json.dumps(engine.api.history(image["Id"])):
                engine.api.remove_image(image["Id"])
