"""Starts a server whose model or environment is not there yet: ``python -m bentos.serving.start … (--uds PATH | --host H --port P)``.

    --bento DIR --envs DIR                            the model is there, its environment is made from the bento's lock
    --models DIR --model N --version V --digest D …   the model is pulled and checked; the environment is this one
    --models DIR --envs DIR …                         both: the environment is made from --lock, or from what the model asks for

``--follow models:/NAME@ALIAS`` in place of ``--model`` follows an alias without a restart: this process owns the socket and
hands it from one version's server to the next one's. Without ``--envs`` versions run in this interpreter, and one that asks for
packages it has not is refused. What is made is kept below the
folders for the next start. Every other argument is the launcher's (``python -m bentos.serving.launcher --help``). Runs with the
standard library, packaging, pyyaml and uv alone.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from bentos.serving import launcher
from bentos.serving.errors import ShipwayError, TransientError
from bentos.serving.fetch.download import split_alias
from bentos.serving.fetch.model_store import ModelStore
from bentos.serving.server.listening import bound

AWAY = os.EX_TEMPFAIL  # exit code 75: a later try may succeed
POLL_SECONDS = 2.0  # between two looks at a followed alias
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
SECRETS = re.compile(r"MLFLOW_TRACKING_(USERNAME|PASSWORD|TOKEN)|(UV|PIP)_.*")
"""What a server does not need once its model and its packages are here, and its model should not read."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Becomes the server. Returns only where there is none: 1 with one line of reason, 75 where a later try may succeed;
    with --follow it stays beside its servers, and 0 is the end of a drain."""
    options, rest = parse(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):  # a container's first process ends by none that it does not handle
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return run(options, rest)
    except (ShipwayError, OSError) as error:
        print(f"shipway start: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return AWAY if isinstance(error, TransientError) else 1


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The command line, and what of it is the launcher's; argparse exits with 2 where either is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m bentos.serving.start",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--bento", type=Path, help="sealed bento that holds the model")
    what.add_argument("--model", help="name of the registered model to pull")
    what.add_argument("--follow", help="models:/NAME@ALIAS to pull and follow")
    parser.add_argument("--version", help="version to pull, with --model")
    parser.add_argument("--digest", help="sha256:… that its artifact tree must have, with --model")
    parser.add_argument("--registry", help="MLflow server to pull from, http://…")
    parser.add_argument("--models", type=Path, help="folder that pulled models are kept in")
    parser.add_argument(
        "--envs", type=Path, help="folder that environments are kept in; none: this environment is used"
    )
    parser.add_argument("--lock", type=Path, help="hashed lock of the environment; none: resolved from the model's own")
    parser.add_argument("--poll-seconds", type=float, help="how often the alias is looked up, with --follow (2)")
    options, rest = parser.parse_known_args(arguments)
    if reason := _wrong(options):
        parser.error(reason)
    launcher.parse(["--bento", ".", *rest])  # now, not when everything has been made
    return options, rest


def _wrong(options: argparse.Namespace) -> str:
    """What is wrong with the command line; "" where nothing is."""
    needed: dict[str, tuple[str, ...]] = {
        "bento": ("envs",),
        "model": ("version", "digest", "registry", "models"),
        "follow": ("registry", "models"),
    }
    for what, others in needed.items():
        if getattr(options, what) is not None:
            if missing := [f"--{other}" for other in others if getattr(options, other) is None]:
                return f"--{what} needs {', '.join(missing)}"
            without = {"version", "digest", "registry", "models"} - set(others)
            if odd := [f"--{other}" for other in sorted(without) if getattr(options, other) is not None]:
                return f"--{what} goes without {', '.join(odd)}"
    if options.lock is not None and (options.model is None or options.envs is None):
        return "--lock goes with --model and --envs: a bento has its own, and followed versions may need others"
    if options.digest is not None and not DIGEST.fullmatch(options.digest):
        return f"--digest {options.digest!r}: expected sha256: and 64 hexadecimal digits"
    if options.poll_seconds is not None and (options.follow is None or options.poll_seconds <= 0):
        return f"--poll-seconds {options.poll_seconds:g}: expected --follow beside it, and more than 0"
    return ""


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Pulls, makes, and becomes the server. Raises ShipwayError or OSError."""
    here = Path(__file__).resolve().parents[2]
    if options.bento is not None:
        source = options.bento.absolute() / "src"
        python = _python(options.envs, source / "requirements.lock", source / "model")
        become(python, ["--bento", str(options.bento), *rest], source, os.environ)
    if options.model is not None:
        models = ModelStore(options.models)  # holds the tree, beyond the exec
        tree = models.pull(options.registry, options.model, options.version, options.digest)
        named = ["--bento", str(tree), "--model", options.model, "--version", options.version]
        become(_python(options.envs, options.lock, tree), [*named, *rest], here, without_secrets())
    return _follow(options, rest, here)


def _python(envs: Path | None, lock: Path | None, tree: Path) -> Path:
    """The interpreter to serve *tree* with: this one, or one made below *envs* from *lock*, or from what the model asks."""
    if envs is None:
        return Path(sys.executable)
    from bentos.serving.environments.interpreter import environments, interpreter, lock_in, lock_of

    where = environments(envs)
    return interpreter(lock_in(lock) if lock is not None else lock_of(tree, where), where)


def _follow(options: argparse.Namespace, rest: Sequence[str], code: Path) -> int:
    """Stays as the parent of the servers."""
    from bentos.serving.environments.interpreter import environments
    from bentos.serving.follow.handover import Handover
    from bentos.serving.follow.upcoming import Followed

    address = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("--uds", "--host", "--port", "--fd"):
        address.add_argument(name)
    given = launcher.parse(["--bento", ".", *rest])
    _, others = address.parse_known_args(rest)
    with bound(given) as listener:
        made = environments(options.envs) if options.envs is not None else None
        followed = Followed(*split_alias(options.follow), options.registry, ModelStore(options.models), made)
        first = followed.prepare(followed.version())
        env = {**without_secrets(), "PYTHONPATH": str(code)}
        with Handover(followed, listener, others, env, poll_seconds=options.poll_seconds or POLL_SECONDS) as handover:
            return handover.run(first)


def without_secrets() -> dict[str, str]:
    """The environment variables of this process but those of SECRETS."""
    return {name: value for name, value in os.environ.items() if not SECRETS.fullmatch(name)}


def become(python: Path, arguments: Sequence[str], code: Path, environment: Mapping[str, str]) -> NoReturn:
    """Replaces this process by the launcher run by *python*, with the serving code in the folder *code*."""
    sys.stdout.flush()
    # a signal that comes while one program becomes the other waits until the launcher can handle it
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    command = [str(python), "-m", "bentos.serving.launcher", *arguments]
    os.execve(python, command, {**environment, "PYTHONPATH": str(code)})  # noqa: S606 no shell is wanted


if __name__ == "__main__":
    sys.exit(main())
