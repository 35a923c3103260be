"""What the console shows: tables of the stack's state, and progress while it comes up."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.measure import Measurement
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
        Text.assemble(("stack ", "bold"), head),
        Text(f"{found['home']}, logs in logs/", overflow="fold"),
        _parts(found),
    ]
    if found["models"] or found["plans"]:
        shown.append(_models(found))
    shown += [_release(release) for release in found["releases"]]
    if found["deployments"]:
        shown.append(_WhereItFits(_deployments(found, addresses=True), _deployments(found, addresses=False)))
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
    known = {model["name"]: model["aliases"] for model in found["models"]}
    for name in [*known, *(name for name in found["plans"] if name not in known)]:
        aliases, none = known.get(name, {}), "-" if name in known else "?"
        plan = found["plans"].get(name)
        routes = ", ".join(_arm(arm) for arm in plan["arms"]) if plan else "none"
        table.add_row(name, *(aliases.get(alias, none) for alias in ("champion", "challenger", "previous")), routes)
    return table


def _release(release: dict[str, Any]) -> Text:
    """An open release in a few lines that may be wrapped between words."""
    against = f"against {release['baseline']}" if release["baseline"] else "the first version"
    share = f"{release['weight']:g} % of requests"
    if release["mirror_percent"]:
        share += f", copies of {release['mirror_percent']:g} %"
    began = release["stage_since"]
    now, waits = time.time(), release["waiting_until"]
    stage = f"{release['stage']}{f' for {_span(now - began)}' if began is not None else ''}"
    if waits is not None:
        stage += f", a person has {_span(waits - now)} to answer"
    seen = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in release["evidence"].items())
    owner = release["owner"]
    who = f"flow run {owner.get('flow_run_id', 'unknown')}"
    if owner.get("pid") and release["owner_here"]:
        who += f", pid {owner['pid']}"
    gone = "" if release["owner_alive"] or waits is not None else ", which is gone"
    return Text.assemble(
        ("release ", "bold"),
        f"{release['model']}/{release['version']}, {against}: ",
        (stage, "yellow"),
        f"; {share}\n",
        f"  evidence so far: {seen or 'none'}\n",
        f"  open for {_span(now - release['opened_at'])}, by {who}{gone}",
    )


def _span(length: float) -> str:
    """So many seconds, in their two largest units."""
    seconds = max(0, int(length))
    for size, unit, smaller, smaller_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // smaller} {smaller_unit}"
    return f"{seconds} s"


@dataclass(frozen=True)
class _WhereItFits:
    """*wide* where the screen has room for it on lines of its own, else *narrow*."""

    wide: RenderableType
    narrow: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        needed = Measurement.get(console, options.update(max_width=100_000), self.wide).maximum
        yield self.wide if needed <= options.max_width else self.narrow


def _arm(arm: dict[str, Any]) -> str:
    mirror = f" + mirror {arm['mirror_percent']:g} %" if arm["mirror_percent"] else ""
    return f"{arm['name']} v{arm['version']} {arm['weight']} %{mirror}"


def _deployments(found: dict[str, Any], *, addresses: bool) -> Table:
    reasons = any(each["reason"] for each in found["deployments"])
    names = ["deployment", "state", "runtime", "restarts"]
    table = _table(*names, *(["address"] if addresses else []), *(["why"] if reasons else []))
    for each in found["deployments"]:
        row = [each["name"], _colored(each["state"]), each["runtime"], str(each["restarts"])]
        table.add_row(*row, *([each["address"]] if addresses else []), *([each["reason"]] if reasons else []))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _colored(state: str) -> Text:
    return Text(state, style=_STYLE.get(state, ""))
