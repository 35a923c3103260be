"""What a build's log means, and how BuildKit is asked. Whole builds are in test_builder.py."""

from pathlib import Path

import pytest

from infra.images.build import arguments, buildkit_command, failure, uses_buildkit
from infra.images.interface import ImageSettings, PermanentImageError, TransientImageError

PRIVATE = "http://me:s3cret@127.0.0.1:9/simple"
SETTINGS = ImageSettings(base="a-base:1", index_url=PRIVATE, proxy="http://127.0.0.1:3128", network="host")


@pytest.mark.parametrize(
    ("log", "kind", "words"),
    [
        ("Step 5\n\x1b[91mshipway: uv cannot be installed: Temporary failure in name resolution\x1b[0m\nreturned 3",
         TransientImageError, "index cannot be reached from the build: uv cannot be installed"),
        ("shipway: the environment cannot be made: error: Failed to fetch: http://me:s3cret@127.0.0.1:9/simple/x",
         TransientImageError, "Failed to fetch: …/x"),
        ("shipway: the environment cannot be made: Hash mismatch for numpy", PermanentImageError, "Hash mismatch"),
        ("#8 0.3 shipway: the base image has Python 3.9, the model's lock is for Python 3.11", PermanentImageError,
         "image x: the base image has Python 3.9, .*Set SHIPWAY_IMAGE_BASE"),
        ('exec: "python3": executable file not found in $PATH', PermanentImageError, "a-base:1 has no python3.*make base-image"),
        ("write /opt/x: no space left on device", PermanentImageError, "is full: write /opt/x"),
        ("Cannot connect to the Docker daemon at unix:///x. Is it running?", TransientImageError, "does not answer"),
        ("Step 1\nsomething new", PermanentImageError, "the build failed: something new. Its log ends:\nStep 1"),
        ("returned a non-zero code: 137", TransientImageError, "the build was killed: .*was stopped, or has not enough memory"),
        ("", PermanentImageError, "no word of why"),
    ],
)  # fmt: skip
def test_a_failed_build_says_why(log: str, kind: type[Exception], words: str) -> None:
    import re

    error = failure(log, SETTINGS, "image x")
    assert type(error) is kind and re.search(words, str(error))
    assert "s3cret" not in str(error)


def test_buildkit_gets_no_value_on_its_command_line(tmp_path: Path) -> None:
    command = buildkit_command(SETTINGS, tmp_path / "id")
    assert command[:3] == ["docker", "buildx", "build"] and command[-1] == "-"
    assert {"--load", "--provenance=false"} <= set(command)
    assert command[command.index("--network") + 1] == "host" and "network.host" in command
    assert command[command.index("--iidfile") + 1] == str(tmp_path / "id")
    asked = {command[at + 1] for at, word in enumerate(command) if word == "--build-arg"}
    assert asked == set(arguments(SETTINGS)) == {"INDEX_URL", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"}
    assert PRIVATE not in " ".join(command)
    plain = buildkit_command(ImageSettings(), tmp_path / "id")
    assert "--network" not in plain and "--build-arg" not in plain


def test_the_builder_is_the_one_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "docker"
    command.write_text('#!/bin/sh\n[ "$*" = "buildx version" ]\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert uses_buildkit(ImageSettings()) and not uses_buildkit(ImageSettings(builder="classic"))
    command.write_text("#!/bin/sh\nexit 1\n")
    assert not uses_buildkit(ImageSettings())
    with pytest.raises(PermanentImageError, match="Install Docker's buildx"):
        uses_buildkit(ImageSettings(builder="buildkit"))
    command.unlink()
    assert not uses_buildkit(ImageSettings())
