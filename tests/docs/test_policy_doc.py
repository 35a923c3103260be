"""docs/policy.md, its schema and the settings' table say what the code says."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from bentos.policy.load import PolicyError, parse_policy
from bentos.policy.release import ReleasePolicy
from infra.settings import variables

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def render() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "render.py"))


def first_cells(name: str, table: str) -> list[str]:
    text = (DOCS / name).read_text(encoding="utf-8")
    found = re.search(rf"<!-- table:{table} -->\n(.*?)<!-- /table -->", text, flags=re.DOTALL)
    assert found is not None, f"{name} has no table {table}"
    return re.findall(r"^\| `([^`]+)`", found[1], flags=re.MULTILINE)


def test_what_is_written_from_the_code_is_fresh(render: dict[str, Any]) -> None:
    wanted = render["rendered"]()
    assert {path.name for path in wanted} >= {"policy.schema.json", "policy.md", "operations.md"}
    stale = [path.name for path, text in wanted.items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"{stale}: run '.venv/bin/python docs/render.py' and commit what it wrote"


def test_every_key_of_the_policy_is_in_the_table_and_can_be_set() -> None:
    keys = first_cells("policy.md", "policy")
    values = ReleasePolicy().model_dump(mode="json")

    def leaves(value: dict[str, Any], prefix: str = "") -> list[str]:
        found = []
        for name, inner in value.items():
            found += leaves(inner, f"{prefix}{name}.") if isinstance(inner, dict) else [f"{prefix}{name}"]
        return found

    assert keys == leaves(values)
    for key in keys:
        value: Any = values
        for part in key.split("."):
            value = value[part]
        for part in reversed(key.split(".")):
            value = {part: value}
        assert parse_policy(value, where=key) == ReleasePolicy()


def test_every_variable_is_in_the_table() -> None:
    assert first_cells("operations.md", "settings") == variables()


def test_the_schema_refuses_what_the_policy_refuses() -> None:
    schema = json.loads((DOCS / "policy.schema.json").read_text(encoding="utf-8"))
    groups = [schema, *schema["$defs"].values()]
    assert all(group["additionalProperties"] is False for group in groups)
    with pytest.raises(PolicyError, match=r"docs/policy\.md"):
        parse_policy({"shadow": {"percentage": 10}}, where="a test")


def test_the_example_is_a_policy() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", (DOCS / "policy.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert examples
    for example in examples:
        assert parse_policy(yaml.safe_load(example), where="docs/policy.md") != ReleasePolicy()
