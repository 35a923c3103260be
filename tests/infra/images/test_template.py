"""Dockerfiles as values: what is in them, and what changes their key."""

import json
from pathlib import Path

import pytest

from bentos.serving.environments.lock_text import served
from infra.images.template import (
    KEY_LABEL,
    STAGE_LABEL,
    Content,
    Recipe,
    app_recipe,
    containerized_recipe,
    environment_recipe,
    labelled,
    repository_of,
    whole_recipe,
)

LOCK = "numpy==2.4.0 \\\n    --hash=sha256:aa\n"
LABELS = {"io.shipway.model": "Flights 2", "org.opencontainers.image.title": "Flights 2"}
ENV = environment_recipe("env", "a-base:1", "sha256:1", LOCK, "3.11")


def app(content: Content, parent: Recipe = ENV, facts=None, labels=None) -> Recipe:
    return app_recipe(content, parent, {"src": Path("/bento/src")}, facts or {"bento": "sha256:2"}, labels or LABELS)


def instruction(text: str, name: str) -> str:
    return [line.removeprefix(f"{name} ") for line in text.splitlines() if line.startswith(f"{name} ")][-1]


@pytest.mark.parametrize(
    ("content", "entrypoint", "source"),
    [
        (Content("env", True, "3.11"),
         ["/opt/shipway/env/bin/python", "-m", "bentos.serving.launcher", "--bento", "/opt/shipway/bento"],
         "/opt/shipway/bento/src"),
        (Content("start", True, "3.11"),
         ["/opt/shipway/start/bin/python", "-m", "bentos.serving.start", "--bento", "/opt/shipway/bento", "--envs", "/var/cache/shipway/envs"],
         "/opt/shipway/bento/src"),
        (Content("env", False, "3.11"),
         ["/opt/shipway/env/bin/python", "-m", "bentos.serving.start", "--models", "/var/cache/shipway/models"],
         "/opt/shipway/code"),
        (Content("start", False),
         ["/opt/shipway/start/bin/python", "-m", "bentos.serving.start", "--models", "/var/cache/shipway/models", "--envs", "/var/cache/shipway/envs"],
         "/opt/shipway/code"),
    ],
)  # fmt: skip
def test_each_scenario_starts_what_it_needs(content: Content, entrypoint: list[str], source: str) -> None:
    text = app(content).dockerfile()
    assert json.loads(instruction(text, "ENTRYPOINT")) == entrypoint
    assert json.loads(instruction(text, "CMD")) == ["--host", "0.0.0.0", "--port", "8080"]
    assert instruction(text, "ENV") == f"PYTHONPATH={source}"
    assert instruction(text, "USER") == "10001:10001"
    assert ("os.chown('/var/cache/shipway', 10001, 10001)" in text) == ("/var/cache/shipway" in " ".join(entrypoint))


def test_whatever_determines_an_image_changes_its_key_and_nothing_else_does() -> None:
    assert environment_recipe("env", "the-same-image:by-another-name", "sha256:1", LOCK, "3.11").key == ENV.key
    others = [
        environment_recipe("env", "a-base:1", "sha256:9", LOCK, "3.11"),
        environment_recipe("env", "a-base:1", "sha256:1", LOCK + "#", "3.11"),
        environment_recipe("env", "a-base:1", "sha256:1", LOCK, "3.12"),
        environment_recipe("start", "a-base:1", "sha256:1", "", "any"),
    ]
    content = Content("env", True, "3.11")
    apps = [
        app(content),
        app(content, others[0]),
        app(content, facts={"bento": "sha256:3"}),
        app(Content("env", False, "3.11")),
        app(content, labels={**LABELS, "io.shipway.version": "2"}),
        containerized_recipe("shipway/bentoml:x", "sha256:2", "sha256:1", LABELS),
    ]
    assert len({recipe.key for recipe in [ENV, *others, *apps]}) == 1 + len(others) + len(apps)
    assert app(content).key == apps[0].key and apps[0].tag == f"shipway/flights-2:{apps[0].key[:16]}"


def test_a_build_is_marked_as_unfinished_until_its_last_instruction() -> None:
    lines = ENV.dockerfile().splitlines()
    stages = [number for number, line in enumerate(lines) if line.startswith("FROM ")]
    assert len(stages) == 2
    assert all(lines[number + 1] == f'LABEL {STAGE_LABEL}="{ENV.key}"' for number in stages)
    assert f'{STAGE_LABEL}=""' in lines[-1] and f'{KEY_LABEL}="{ENV.key}"' in lines[-1]
    assert STAGE_LABEL not in ENV.plain() and KEY_LABEL not in ENV.plain()


def test_only_the_first_stage_knows_of_the_index_and_its_authority() -> None:
    whole = whole_recipe(Content("env", True, "3.11"), "a-base:1", LOCK, {"src": Path("/x")}, LABELS).plain()
    first, _, rest = whole.partition("FROM ${BASE} AS environment")
    assert "ARG INDEX_URL" in first and "ca.pem" in first
    assert "ARG" not in rest and "ca.pem" not in rest and "start.txt" not in rest
    assert whole.startswith("ARG BASE=a-base:1\n") and "FROM environment AS app\n" in rest


def test_labels_cannot_break_out_of_their_quotes() -> None:
    said = labelled({"b": 'a "quoted" $HOME \\ and\nmore', "a": "ü"})
    assert said == 'LABEL a="ü" b="a \\"quoted\\" \\$HOME \\\\ and more"'


@pytest.mark.parametrize(
    ("model", "repository"), [("Flights.v2_", "flights-v2"), ("spaced name", "spaced-name"), ("äöü", "model")]
)
def test_any_model_has_a_repository(model: str, repository: str) -> None:
    assert repository_of(model) == repository


def test_what_batch_scoring_alone_asked_for_is_left_out() -> None:
    marked = f"# for batch scoring alone: pyarrow\n{LOCK}pyarrow==25.0.0 \\\n    --hash=sha256:bb\nsix==1.0 --hash=sha256:cc\n"
    assert served(marked) == f"{LOCK}six==1.0 --hash=sha256:cc\n"
    assert served(LOCK) == LOCK
