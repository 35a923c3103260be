"""Serves a sealed bento: ``python -m bentos.launcher --bento DIR (--uds PATH | --host H --port P)``.

With ``--follow models:/NAME@ALIAS --registry URL`` it follows an alias without a restart; then ``--bento`` may be left
out, and the alias' version is downloaded first. ``--model`` and ``--version`` name a bare artifact folder. With ``--fd`` it
answers on a socket of its parent's; see bentos/handover.py.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.errors import PermanentError, ShipwayError

if TYPE_CHECKING:
    from bentos.dataplane import DataPlane
    from bentos.live import Live
    from bentos.reload import Alias

THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class LaunchError(PermanentError):
    """The server cannot start as asked."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the server until SIGTERM or SIGINT; 0 after a drain, 1 with one line of reason where it cannot start."""
    for (
        name
    ) in THREAD_SETTINGS:  # before numpy is imported: one thread a worker serves better than several that compete
        os.environ.setdefault(name, "1")
    options = parse(arguments)
    # as the first process of a container it would not be ended by a signal that nobody handles
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))  # blocked by bentos.start
    try:
        run(options)
    except (ShipwayError, OSError) as error:
        print(f"shipway launcher: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 1
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; argparse exits with 2 where it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m bentos.launcher", description=__doc__)
    parser.add_argument("--bento", type=Path, help="sealed bento or artifact folder")
    parser.add_argument("--model", default="", help="name of the model, where --bento is an artifact folder")
    parser.add_argument("--version", default="", help="its version, where --bento is an artifact folder")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--uds", type=Path, help="unix socket to listen on")
    where.add_argument("--port", type=int, help="TCP port to listen on; 0 takes a free one")
    where.add_argument("--fd", type=int, help="descriptor of a bound socket to listen on")
    parser.add_argument("--parent-fd", type=int, help="descriptor of the line to a parent that may replace this server")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on, with --port (127.0.0.1)")
    parser.add_argument("--segments", type=Path, help="folder of the prediction log; none: nothing is logged")
    parser.add_argument("--sample", type=float, default=1.0, help="share of requests logged, 0 to 1 (1)")
    parser.add_argument("--deployment", default="", help="name of the deployment, told by /readyz")
    parser.add_argument("--drain-seconds", type=float, default=1.0, help="time between not ready and closing (1)")
    parser.add_argument("--follow", help="models:/NAME@ALIAS to follow")
    parser.add_argument("--registry", help="MLflow server, http://…, for --follow")
    parser.add_argument("--poll-seconds", type=float, default=2.0, help="how often the alias is looked up (2)")
    parser.add_argument("--models", type=Path, help="folder for followed versions; none: a temporary one")
    options = parser.parse_args(arguments)
    if options.bento is None and options.follow is None:
        parser.error("one of --bento and --follow is needed")
    if options.follow and not options.registry:
        parser.error("--follow needs --registry, the address of the MLflow server")
    return options


def run(options: argparse.Namespace) -> None:
    """Loads, warms and serves. Raises ShipwayError or OSError where that fails before the server is up."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listening(options))  # first, so that a taken address costs no load
        alias = _alias(options, stack)
        live = _first(options, alias)
        freeze_garbage()
        plane = _plane(options, live)
        stack.callback(plane.close)
        if alias is not None:
            from bentos.reload import Follower

            stack.enter_context(Follower(alias, plane, poll_seconds=options.poll_seconds))
        serve(plane, listener, options)


def freeze_garbage() -> None:
    """Takes everything loaded so far out of the collector's sight: no long pauses while serving."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20000, 50, 50)


def _alias(options: argparse.Namespace, stack: contextlib.ExitStack) -> Alias | None:
    if options.follow is None:
        return None
    from bentos.reload import Alias

    folder = options.models or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shipway-models-")))
    return Alias.parse(options.follow, options.registry, folder)


def _first(options: argparse.Namespace, alias: Alias | None) -> Live:
    from bentos.live import Live

    if options.bento is not None:
        if not options.bento.is_dir():
            raise LaunchError(f"bento {options.bento}: expected a folder; build it again")
        return Live.load(options.bento.absolute(), options.model, options.version)
    assert alias is not None
    version = alias.resolve()
    return Live.load(alias.first(version), alias.name, version)


def _plane(options: argparse.Namespace, live: Live) -> DataPlane:
    from bentos.dataplane import DataPlane
    from bentos.segments import SegmentWriter

    writer = SegmentWriter(options.segments, sample=options.sample) if options.segments is not None else None
    return DataPlane(live, writer=writer, deployment=options.deployment)


def serve(plane: DataPlane, listener: socket.socket | None, options: argparse.Namespace) -> None:
    """Answers on *listener*, or on the unix socket of *options*, until a signal comes."""
    import logging

    import uvicorn

    from bentos.drain import DrainingServer

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(
        plane,
        uds=str(options.uds) if options.uds is not None else None,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        date_header=False,
        log_config=None,
        timeout_keep_alive=75,
    )
    print(f"shipway launcher: listening on {_where(listener, options)}", flush=True)
    server = DrainingServer(config, plane, options.drain_seconds)
    if options.parent_fd is not None:
        from bentos.replaced import ReplaceableServer

        line = socket.socket(fileno=options.parent_fd)
        server = ReplaceableServer(config, plane, options.drain_seconds, line)
    server.run(sockets=None if listener is None else [listener])


def _where(listener: socket.socket | None, options: argparse.Namespace) -> str:
    name = options.uds if listener is None else listener.getsockname()
    return "http://{}:{}".format(*name[:2]) if isinstance(name, tuple) else f"unix:{name}"


@contextlib.contextmanager
def _listening(options: argparse.Namespace) -> Iterator[socket.socket | None]:
    """The bound TCP socket, the parent's, or None with the way to the unix socket cleared; closed and cleared at the end."""
    if options.fd is not None:
        with socket.socket(fileno=options.fd) as listener:
            yield listener
    elif options.uds is not None:
        clear_socket(options.uds)
        try:
            yield None
        finally:
            options.uds.unlink(missing_ok=True)
    else:
        with bind_port(options.host, options.port) as listener:
            yield listener


def bind_port(host: str, port: int) -> socket.socket:
    """A socket bound to *host* and *port*, not listening yet. Raises LaunchError."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise LaunchError(f"--host {host} --port {port}: cannot listen there: {error}") from error
    return listener


def clear_socket(path: Path) -> None:
    """Makes way for a unix socket at *path*: takes a dead server's away and leaves one that only the owner may use.

    Raises LaunchError where a server answers there, where something else lies there, or where no socket can be.
    """
    bind_socket(path).close()  # uvicorn takes over the mode of the socket it finds


def bind_socket(path: Path) -> socket.socket:
    """A unix socket bound to *path*, which only its owner may use, not listening yet; a dead server's is taken away.

    Raises LaunchError where a server answers there, where something else lies there, or where no socket can be.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise LaunchError(f"--uds {path}: expected nothing or a socket there, found another file")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            path.unlink(missing_ok=True)
        except OSError as error:
            raise LaunchError(f"--uds {path}: {error}; give a shorter path or one that can be written") from error
        else:
            raise LaunchError(f"--uds {path}: another server answers there; stop it first")
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(path))
    path.chmod(0o600)
    return bound


if __name__ == "__main__":
    sys.exit(main())
