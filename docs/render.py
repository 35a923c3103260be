"""Writes what the documentation takes from the code: docs/policy.schema.json, and the tables between markers.

    python docs/render.py            writes
    python docs/render.py --check    writes nothing; names what is stale and ends with 1

A table stands between ``<!-- table:NAME -->`` and ``<!-- /table -->``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bentos.policy.release import ReleasePolicy
from infra.settings import PREFIX, StackSettings

DOCS = Path(__file__).resolve().parent

# What a field's name does not say by its ending.
UNITS = {
    "alpha": "probability",
    "check.rows": "rows",
    "check.tolerance": "as the answers",
    "limits.max_connections": "connections",
    "limits.max_pending": "requests",
    "limits.requests_per_second": "requests/s",
    "metrics.disagreement.max_mean_difference": "sd of the baseline",
    "metrics.drift.max_prediction_drift": "PSI",
    "metrics.drift.min_rows": "rows",
    "metrics.drift.threshold": "PSI",
    "metrics.labels.margin": "loss",
    "metrics.labels.min_pairs": "pairs",
    "metrics.labels.scale": "as the labels",
    "metrics.latency.max_ratio": "ratio",
    "metrics.latency.quantile": "quantile, 0 to 1",
    "serving.largest_body_mb": "MiB",
    "serving.queue": "requests",
    "serving.workers": "processes",
    "shadow.min_pairs": "pairs",
    "split.min_requests": "requests",
    "signature.certificate_chain": "files",
    "signature.public_key": "file",
    "split.steps": "percent",
}


class Key(NamedTuple):
    """One policy key, as documented."""

    name: str
    unit: str
    default: str
    meaning: str


def policy_keys(model: type[BaseModel] = ReleasePolicy, prefix: str = "") -> Iterator[Key]:
    """Every key of the policy that holds a value, by its dotted name, in the order of the code."""
    for name, field in model.model_fields.items():
        dotted = f"{prefix}{name}"
        group = _group(field)
        if group is not None:
            yield from policy_keys(group, f"{dotted}.")
            continue
        meaning = field.description
        if not meaning:
            raise SystemExit(f"{dotted}: no description of it in bentos/policy")
        yield Key(dotted, _unit(dotted, field), _plain(field.get_default(call_default_factory=True)), meaning)


def _group(field: FieldInfo) -> type[BaseModel] | None:
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _unit(dotted: str, field: FieldInfo) -> str:
    if dotted in UNITS:
        return UNITS[dotted]
    if dotted.endswith("seconds"):
        return "seconds"
    if dotted.endswith("_ms"):
        return "milliseconds"
    if dotted.endswith("percent"):
        return "percent"
    if any(getattr(bound, "le", None) == 1.0 for bound in field.metadata):
        return "share, 0 to 1"
    if get_origin(field.annotation) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(field.annotation))
    if field.annotation is bool:
        return "true or false"
    if field.annotation in (str, str | None):
        return "text"
    if get_origin(field.annotation) is tuple:
        return "list of texts"
    raise SystemExit(f"{dotted}: say its unit in UNITS of {__file__}")


def _plain(value: Any) -> str:
    """A default as YAML writes it."""
    if isinstance(value, str) and value:
        return f"`{value}`"
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def policy_table() -> str:
    """The keys as a Markdown table."""
    rows = [f"| `{key.name}` | {key.unit} | {key.default} | {_cell(key.meaning)} |" for key in policy_keys()]
    return "\n".join(["| key | unit or choices | default | meaning |", "|---|---|---|---|", *rows])


def settings_table() -> str:
    """Every SHIPWAY_ variable as a Markdown table."""
    rows = []
    for name, field in StackSettings.model_fields.items():
        default = "none" if field.default is None else f"`{field.default}`"
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {_cell(field.description or '')} |")
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def schema() -> str:
    """The JSON schema of a policy file."""
    values = ReleasePolicy.model_json_schema()
    values = {"$schema": "https://json-schema.org/draft/2020-12/schema", **values}
    return json.dumps(values, indent=2) + "\n"


def rendered() -> dict[Path, str]:
    """Every file that holds something of the code, with the text it should have."""
    tables = {"policy": policy_table(), "settings": settings_table()}
    wanted = {DOCS / "policy.schema.json": schema()}
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text(encoding="utf-8")

        def put(found: re.Match[str]) -> str:
            return f"{found[1]}\n{tables[found[2]]}\n{found[3]}"

        again = re.sub(r"(<!-- table:(\w+) -->)\n.*?(<!-- /table -->)", put, text, flags=re.DOTALL)
        if "<!-- table:" in text:
            wanted[path] = again
    return wanted


def main(arguments: list[str]) -> int:
    """Writes, or with --check says what is stale."""
    stale = []
    for path, text in rendered().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if "--check" not in arguments:
                path.write_text(text, encoding="utf-8")
    if stale:
        print(f"{'stale' if '--check' in arguments else 'written'}: {', '.join(stale)}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
