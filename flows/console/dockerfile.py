"""`shipway dockerfile`: the Dockerfile of a model version and its context, for builders elsewhere.

The folder is complete: `docker build DIR` makes the image that a target of kind docker would run, with the classic builder
and with BuildKit. Nothing is built here, and no engine is asked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.sealing.lock import lock_for
from bentos.serving.errors import PermanentError

if TYPE_CHECKING:
    from bentos.policy.release import ReleasePolicy
    from bentos.serving.environments.environment import Environments
    from bentos.versions.registry import Registry
    from infra.images.template import Recipe

HOWTO = """\
# {title}
# docker build -t IMAGE .
#   --build-arg BASE=IMAGE     another base: a glibc Linux with python3{python} and its venv module
#   --build-arg INDEX_URL=URL  the package index; only the first stage sees it
#   ca.pem                     put an extra certificate authority of that index here; only the first stage sees it
# docker run --read-only --tmpfs /tmp --cap-drop ALL -p 8080:8080 IMAGE{arguments}
"""


class DockerfileError(PermanentError):
    """The Dockerfile cannot be written as asked."""


def write_dockerfile(
    registry: Registry,
    environments: Environments,
    bentos: Path,
    model: str,
    policy: ReleasePolicy,
    output: Path,
    *,
    version: str | None = None,
    alias: str | None = None,
    base: str,
) -> str:
    """Writes the context of *model*'s version into the folder *output* and says what it holds.

    The version is *version*'s, else *alias*', else the alias champion's. It is sealed below *bentos* as a release would
    seal it, with the scenario of the policy's ``image``. Raises DockerfileError for a folder that is not empty or a policy
    that leaves the image to BentoML, and what registry, environments and build raise.
    """
    from bentos.sealing.bento import build
    from bentos.sealing.runtime import choose_runtime
    from bentos.serving.environments.lock_text import served
    from infra.images.builder import content_of, sources_of
    from infra.images.image_labels import labels_of
    from infra.images.template import whole_recipe

    if policy.image.builder == "bentoml":
        raise DockerfileError(
            f"policy of {model}: image.builder is bentoml, expected shipway. For BentoML's own Dockerfile run"
            " `bentoml containerize` on the sealed bento, or change the policy."
        )
    _empty(output)
    chosen = version or None
    found = registry.resolve(model, version=chosen, alias=None if chosen else alias or "champion")
    artifacts, wanted = registry.fetch(found), policy.build
    if policy.image.model == "pulled" and wanted.runtime == "auto":  # its container fetches the registered files
        wanted = wanted.model_copy(update={"runtime": "native"})
    lock = lock_for(environments, found, wanted, hashed=True)
    runtime = choose_runtime(found, artifacts, wanted, lock, environments, bentos.parent / "runtimes", hashed=True)
    lock = runtime.lock
    bento = build(found, artifacts, wanted, lock, bentos, runtime=runtime.folder)
    content = content_of(bento, lock.text, policy.image)
    text = served(lock.text) if content.kind == "env" else ""
    recipe = whole_recipe(content, base, text, sources_of(bento, content), labels_of(bento, found, content))
    needs = "" if content.model else f" --follow models:/{model}@champion --registry URL"
    python = f" {content.minor}" if content.minor != "any" else ", 3.11 or later,"
    _write(recipe, output, HOWTO.format(title=found.name, python=python, arguments=needs))
    return f"{found.name}: Dockerfile and context in {output}. Build it with `docker build {output}`."


def write_of_stack(
    environ: Mapping[str, str], model: str, output: Path, *, version: str | None, alias: str | None
) -> str:
    """``write_dockerfile`` with the registry, the policy and the base image of the stack that *environ* means."""
    from bentos.policy.load import load_policy
    from bentos.serving.environments.environment import Environments
    from bentos.versions.registry import Registry
    from flows.stack.env import find_stack

    settings, servers = find_stack(environ)
    return write_dockerfile(
        Registry(servers.mlflow, settings.models),
        Environments(settings.envs),
        settings.bentos,
        model,
        load_policy(settings.policies, model)[0],
        output,
        version=version,
        alias=alias,
        base=settings.image_base,
    )


def write_generic(output: Path, *, base: str) -> str:
    """Writes the context of the serving image without a model and without dependencies into the folder *output*.

    Built once, it serves every version: its containers fetch model and packages at their start. Raises DockerfileError.
    """
    import bentos
    from bentos.sealing.bento import serving_modules
    from infra.images.template import Content, whole_recipe

    _empty(output)
    modules = serving_modules(Path(str(bentos.__file__)).parent)
    sources = {f"src/bentos/{relative}": file for relative, file in modules.items()}
    labels = {"org.opencontainers.image.title": "shipway-serving"}
    recipe = whole_recipe(Content("start", model=False), base, "", sources, labels)
    arguments = " --follow models:/NAME@champion --registry URL  # with -v CACHE:/var/cache/shipway"
    _write(recipe, output, HOWTO.format(title="any model", python=", 3.11 or later,", arguments=arguments))
    return f"Serving image without a model: Dockerfile and context in {output}. Build it with `docker build {output}`."


def _empty(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DockerfileError(f"folder {output}: is there and not empty. Name another with --output, or empty it.")


def _write(recipe: Recipe, output: Path, head: str) -> None:
    """All of it or nothing: written beside *output*, then renamed."""
    from bentos.serving.files import writable
    from infra.images.context import lay_out

    output = output.absolute()
    with writable(output.parent, "the Dockerfile and its context"):
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as name:
            made = Path(name) / "context"
            made.mkdir()
            lay_out(recipe, head + recipe.plain(), made)
            made.replace(output)
