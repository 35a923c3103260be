import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from infra.images.interface import ImageSettings
from infra.targets.docker.settings import DockerSettings

PAGE = Path(__file__).parents[4] / "docs" / "docker.md"


@pytest.mark.parametrize("settings", [DockerSettings, ImageSettings])
def test_every_setting_is_documented_as_the_code_describes_it(settings):
    rows = set(re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", PAGE.read_text(), flags=re.MULTILINE))
    assert {(name, field.description) for name, field in settings.model_fields.items()} <= rows


@pytest.mark.parametrize("values", [{"cpu": 1}, {"cpus": 0}, {"memory_mb": 1}, {"restart": "unless-stopped"}])
def test_what_is_unknown_or_too_small_is_refused(values):
    with pytest.raises(ValidationError):
        DockerSettings(**values)
