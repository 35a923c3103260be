"""``shipway down``: ends the stack, whatever state it is in, and leaves no process."""

from __future__ import annotations

import time

import psutil

from infra.settings import StackSettings
from infra.stack import part_process
from infra.stack.part import StackError
from infra.stack.state import read_state, take_lock
from infra.targets.interface import TransientTargetError

_SUPERVISOR_SECONDS = 60.0  # it drains the gateway, ends its parts and the model servers in this time


def take_down(settings: StackSettings) -> bool:
    """Ends every process of the stack at ``settings.root``; whether there was any.

    Works on a whole stack, on what a killed supervisor left, and on nothing at all. Raises StackError if a process
    survives.
    """
    if not settings.root.exists():
        return False
    supervised = _end_supervisor(settings)
    left = part_process.marked(settings.root)
    part_process.end((one for one in left if not part_process.is_keeper(one)), grace=3.0)
    away = _stop_servers(settings)
    part_process.end(part_process.marked(settings.root), grace=3.0)
    survivors = part_process.marked(settings.root)
    if survivors:
        names = ", ".join(f"{one.pid}" for one in survivors)
        raise StackError(f"processes {names} of the stack at {settings.root} do not end; look at them with 'ps -fp'.")
    if away:
        raise StackError(f"the processes of the stack are ended, but containers may be left: {away}")
    return supervised or bool(left)


def _end_supervisor(settings: StackSettings) -> bool:
    state = read_state(settings.stack)
    if state is None or not state.running:
        return False
    try:
        supervisor = psutil.Process(state.pid)
        supervisor.terminate()
        supervisor.wait(_SUPERVISOR_SECONDS)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        supervisor.kill()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:  # the lock goes with the last process that held it
        lock = take_lock(settings.stack)
        if lock is not None:
            lock.close()
            return True
        time.sleep(0.05)
    raise StackError(f"the lock in {settings.stack} is still held after the supervisor was ended; who holds it?")


def _stop_servers(settings: StackSettings) -> str:
    """Model servers have keepers or an engine of their own and outlive a killed supervisor; why some could not be stopped."""
    from flows.release.line import every_target

    try:
        every_target(settings).stop_all()
    except TransientTargetError as away:
        return str(away)
    return ""
