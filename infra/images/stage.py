"""What the build stage of an image does: makes a virtual environment at its final place and prepares what else is copied
from the stage. Standard library only; run as a script by the base image's python3.

    python3 stage.py env MINOR     /opt/shipway/env from /shipway/requirements.lock, for Python MINOR
    python3 stage.py start MINOR   /opt/shipway/start from /shipway/start.txt; MINOR "any": whichever the base has

Reads INDEX_URL, the proxy variables, and /shipway/ca.pem, an extra certificate authority (empty: none). What it cannot
do ends in one line that begins with "shipway: ".
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

WORK = Path("/shipway")
TARGET = Path("/opt/shipway")
USER = 10001
SYSTEM_CAS = (Path("/etc/ssl/certs/ca-certificates.crt"), Path("/etc/pki/tls/certs/ca-bundle.crt"))

ROOM = 64_000_000
"""Less than this many bytes free is what a step failed of."""

NEVER_IMPORTED = ("tests", "include", "src")
"""Folders of the packages in TRIMMED that only their own developers use."""

TRIMMED = ("numpy", "pandas", "scipy", "sklearn", "pyarrow", "joblib", "skops", "onnxruntime", "xgboost", "lightgbm")

IMPORTED = ("__init__.py", "_natype.py")
"""Files in such folders that stay: numpy.testing of numpy 2.2 imports numpy._core.tests._natype."""

SOURCES = (".pyi", ".pxd", ".pyx", ".c", ".cpp", ".h", ".hpp", ".f90")
"""Files that a compiler or a type checker reads, never an interpreter."""


def main(kind: str, minor: str) -> None:
    """Makes everything that is copied from the stage."""
    check_python(minor)
    environment = certificates(dict(os.environ))
    tools = WORK / "tools"
    run([sys.executable, "-m", "venv", str(tools)], environment, "a virtual environment cannot be made")
    pip = [
        str(tools / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-cache-dir",
        "--no-deps",
        "--retries",
        "2",
    ]
    pip += ["--disable-pip-version-check", "--require-hashes", "--requirement", str(WORK / "start.txt")]
    run(pip, environment, "uv cannot be installed")
    make(kind, str(tools / "bin" / "uv"), environment)
    shutil.copyfile(WORK / "health.py", TARGET / "health.py")
    add_user()


def check_python(minor: str) -> None:
    """Ends with a reason unless this is the Python that the environment is for, with its venv module."""
    found = f"{sys.version_info.major}.{sys.version_info.minor}"
    if minor not in ("any", found):
        stop(f"the base image has Python {found}, the model's lock is for Python {minor}")
    if sys.version_info < (3, 11):  # noqa: UP036 (the base image's Python, not this one)
        stop(f"the base image has Python {found}, expected 3.11 or later")
    try:
        import ensurepip  # noqa: F401 (Debian leaves it out of python3)
        import venv  # noqa: F401
    except ImportError:
        stop("the base image's python3 has no venv module; Debian's package is python3-venv")


def certificates(environment: dict[str, str]) -> dict[str, str]:
    """*environment* with the index and, where an extra authority is given, with it beside the base image's own."""
    for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"):
        if environment.get("INDEX_URL"):
            environment[name] = environment["INDEX_URL"]
    extra = (WORK / "ca.pem").read_text()
    if extra.strip():
        bundle = WORK / "bundle.pem"
        bundle.write_text("\n".join([*(path.read_text() for path in SYSTEM_CAS if path.exists()), extra]))
        environment |= {"PIP_CERT": str(bundle), "SSL_CERT_FILE": str(bundle)}
    return environment


def make(kind: str, uv: str, environment: dict[str, str]) -> None:
    """The virtual environment, trimmed and compiled. Only the packages' own files are in it: no pip, no cache."""
    home = TARGET / kind
    lock = WORK / ("requirements.lock" if kind == "env" else "start.txt")
    python = str(home / "bin" / "python")
    run([uv, "venv", "--quiet", "--no-cache", "--python", sys.executable, str(home)], environment, "no venv")
    install = [uv, "pip", "install", "--quiet", "--no-cache", "--no-deps", "--require-hashes", "--link-mode", "copy"]
    install += ["--python", python, "--requirements", str(lock)]
    run(install, environment, "the environment cannot be made")
    (home / ".lock").unlink(missing_ok=True)  # uv's own, writable by anybody
    trim(next((home / "lib").glob("python*/site-packages")))
    compiled = [python, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash", str(home / "lib")]
    subprocess.run(
        compiled, env=environment, stdout=subprocess.DEVNULL, check=False
    )  # some ship templates that are no Python


def trim(packages: Path) -> None:
    """Removes what no import reaches from the packages whose models are tested without it."""
    for name in TRIMMED:
        for folder in sorted(packages.joinpath(name).rglob("*")):
            if folder.is_dir() and folder.name in NEVER_IMPORTED:
                kept = {path: path.read_bytes() for path in (folder / file for file in IMPORTED) if path.is_file()}
                shutil.rmtree(folder, ignore_errors=True)
                for path, content in kept.items():
                    path.parent.mkdir(exist_ok=True)
                    path.write_bytes(content)
        for file in packages.joinpath(name).rglob("*"):
            if file.suffix in SOURCES:
                file.unlink()


def add_user() -> None:
    """The base image's users and groups with ours among them."""
    etc = WORK / "etc"
    etc.mkdir()
    for name, line in (
        ("passwd", f"shipway:x:{USER}:{USER}:shipway:/tmp:/usr/sbin/nologin\n"),
        ("group", f"shipway:x:{USER}:\n"),
    ):
        present = Path("/etc", name)
        lines = present.read_text() if present.exists() else ""
        (etc / name).write_text(lines + line)


def run(command: list[str], environment: dict[str, str], failed: str) -> None:
    """Runs *command*; ends with what it said where it fails."""
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        said = " ".join(done.stdout.split())[-1500:].rstrip(".")
        full = shutil.disk_usage(WORK).free < ROOM and "no space left on device: "  # not every tool says so
        stop(f"{full or ''}{failed}: {said}")


def stop(reason: str) -> None:
    """Ends the build."""
    print(f"shipway: {reason}", file=sys.stderr, flush=True)
    sys.exit(3)


if __name__ == "__main__":
    main(*sys.argv[1:])
