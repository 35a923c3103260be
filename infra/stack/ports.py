"""Ports that the stack wants, checked before anything is started."""

from __future__ import annotations

import socket
from collections.abc import Iterable

import psutil

from infra.stack.part import Part, StackError


class PortTakenError(StackError):
    """A port that another process listens on."""


def check_ports(parts: Iterable[Part], host: str) -> None:
    """Raises PortTakenError naming every port of *parts* that cannot be bound on *host*: who holds it, which setting moves it."""
    problems: list[str] = []
    seen: dict[int, str] = {}
    for part in parts:
        for setting, port in part.ports.items():
            if port in seen:
                problems.append(
                    f"port {port} is wanted by {seen[port]} and by {setting}; choose another for one of them"
                )
            elif not _free(port, host):
                problems.append(f"port {port} for {part.name} is taken by {holder(port)}; set {setting} to a free one")
            seen[port] = setting
    if problems:
        raise PortTakenError("; ".join(problems) + ". Then run 'shipway up' again.")


def _free(port: int, host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def holder(port: int) -> str:
    """Who listens on *port*, as well as this user may know it: ``python3 -m http.server (pid 123)``."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:  # macOS lets only root look
        return "another process (run 'lsof -i' as root to see which)"
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            if connection.pid is None:
                return "a process of another user"
            try:
                command = " ".join(psutil.Process(connection.pid).cmdline()) or "a process"
            except psutil.Error:
                command = "a process"
            return f"{command[:120]} (pid {connection.pid})"
    return "a process that cannot be seen from here"
