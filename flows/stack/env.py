"""``shipway env``: which stack a command talks to, and the exports that point Prefect's and MLflow's own commands at it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from flows.stack.parts import Servers, choose_servers, client_environment
from infra.settings import PREFIX, StackSettings, load_settings
from infra.stack.state import read_state


def find_stack(environ: Mapping[str, str]) -> tuple[StackSettings, Servers]:
    """The settings and servers of the stack that *environ* means.

    A running stack knows its own ports and servers; what it was started with counts, so that a shell needs to know its
    home folder only. Raises SettingsError, StackError.
    """
    settings = load_settings(environ)
    state = read_state(settings.stack)
    if state is None or not state.running:
        return settings, choose_servers(settings, environ)
    recorded = dict(state.settings)
    running = load_settings({name: value for name, value in recorded.items() if name.startswith(PREFIX)})
    return running, choose_servers(running, recorded)


def exports(environ: Mapping[str, str]) -> str:
    """``export NAME=value`` lines, quoted for a POSIX shell."""
    values = client_environment(*find_stack(environ))
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in sorted(values.items()))
