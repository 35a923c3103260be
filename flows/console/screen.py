"""What the console shows: tables of the stack's state, and progress while it comes up."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from infra.stack.part import PartState
from infra.stack.state import StackState

_STYLE = {
    "ready": "green",
    "done": "green",
    "external": "cyan",
    "starting": "yellow",
    "waiting": "dim",
    "backoff": "red",
    "failed": "red",
    "draining": "yellow",
    "stopped": "dim",
}


class Progress:
    """A live table on a terminal; one line per change elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._told: dict[str, PartState] = {}

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, state: StackState) -> None:
        """Shows *state*."""
        if self._live is not None:
            table = Table.grid(padding=(0, 2))
            for part in state.parts:
                table.add_row(part.name, _colored(part.state.value), part.last_exit, part.url)
            self._live.update(table)
            return
        for part in state.parts:
            if self._told.get(part.name) != part.state:
                self._told[part.name] = part.state
                self._console.print(f"{part.name}: {part.state.value} {part.last_exit}".rstrip(), highlight=False)


def status_view(found: dict[str, Any]) -> RenderableType:
    """What ``flows.console.status.look`` found, for people."""
    head = "up" if found["up"] else "running, not all parts are up" if found["running"] else "down"
    shown: list[RenderableType] = [
        Text.assemble(("stack ", "bold"), head, f" at {found['home']}, logs in {found['home']}/logs"),
        _parts(found),
    ]
    if found["models"]:
        shown.append(_models(found))
    if found["deployments"]:
        shown.append(_deployments(found))
    shown += [Text(f"{what}: {why}", style="red") for what, why in found["problems"].items()]
    return Group(*shown)


def _parts(found: dict[str, Any]) -> Table:
    table = _table("part", "state", "pid", "restarts", "url")
    for part in found["parts"]:
        state = part["state"]
        note = f" ({part['last_exit']}, next try in {part['next_try_in']} s)" if state == "backoff" else ""
        table.add_row(
            part["name"],
            Text.assemble(_colored(state), note),
            str(part["pid"] or ""),
            _restarts(part),
            part["url"],
        )
    return table


def _restarts(part: dict[str, Any]) -> str:
    return f"{part['restarts']} (last: {part['last_exit']})" if part["restarts"] else "0"


def _models(found: dict[str, Any]) -> Table:
    table = _table("model", "champion", "challenger", "previous", "live routes")
    for model in found["models"]:
        aliases = model["aliases"]
        plan = found["plans"].get(model["name"])
        routes = ", ".join(_arm(arm) for arm in plan["arms"]) if plan else "none"
        names = (aliases.get("champion", "-"), aliases.get("challenger", "-"), aliases.get("previous", "-"))
        table.add_row(model["name"], *names, routes)
    return table


def _arm(arm: dict[str, Any]) -> str:
    mirror = f" + mirror {arm['mirror_percent']:g} %" if arm["mirror_percent"] else ""
    return f"{arm['name']} v{arm['version']} {arm['weight']} %{mirror}"


def _deployments(found: dict[str, Any]) -> Table:
    table = _table("deployment", "state", "runtime", "restarts", "address", "why")
    for each in found["deployments"]:
        state = _colored(each["state"])
        table.add_row(each["name"], state, each["runtime"], str(each["restarts"]), each["address"], each["reason"])
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _colored(state: str) -> Text:
    return Text(state, style=_STYLE.get(state, ""))
