"""Serves a sealed bento: ``python -m bentos.serving.launcher --bento DIR (--uds PATH | --host H --port P)``.

``--model`` and ``--version`` name a bare artifact folder. With ``--fd`` it answers on a socket of its parent's; see
bentos/serving/follow/handover.py. With ``--workers`` it becomes the parent of so many servers; see bentos/serving/server/workers.py.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.serving.errors import ShipwayError
from bentos.serving.server.listening import LaunchError, listening, where
from bentos.serving.server.process import tell_failure
from bentos.serving.threads import one_thread_unless_said

if TYPE_CHECKING:
    from bentos.serving.server.dataplane import DataPlane
    from bentos.serving.server.served_model import ServedModel


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the server until SIGTERM or SIGINT; 0 after a drain, 1 with one line of reason where it cannot start."""
    one_thread_unless_said()
    options = parse(arguments)
    # as the first process of a container it would not be ended by a signal that nobody handles
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))  # blocked by bentos.serving.start
    try:
        return run(options)
    except (ShipwayError, OSError) as error:
        reason = " ".join(str(error).split())
        print(f"shipway launcher: {reason}", file=sys.stderr, flush=True)
        if options.parent_fd is not None:
            tell_failure(options.parent_fd, reason)
        return 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; argparse exits with 2 where it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m bentos.serving.launcher", description=__doc__)
    parser.add_argument("--bento", type=Path, required=True, help="sealed bento or artifact folder")
    parser.add_argument("--model", default="", help="name of the model, where --bento is an artifact folder")
    parser.add_argument("--version", default="", help="its version, where --bento is an artifact folder")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--uds", type=Path, help="unix socket to listen on")
    where.add_argument("--port", type=int, help="TCP port to listen on; 0 takes a free one")
    where.add_argument("--fd", type=int, help="descriptor of a bound socket to listen on")
    # This and two more are for bentos.serving.server.workers alone.
    where.add_argument("--connections-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--parent-fd", type=int, help="descriptor of the line to a parent that may replace this server")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on, with --port (127.0.0.1)")
    parser.add_argument("--segments", type=Path, help="folder of the prediction log; none: nothing is logged")
    parser.add_argument("--sample", type=float, default=1.0, help="share of requests logged, 0 to 1 (1)")
    parser.add_argument("--workers", type=int, default=1, help="processes that answer on the same socket (1)")
    parser.add_argument(
        "--batching",
        choices=("auto", "inline", "batched", "off"),
        default="auto",
        help="which requests share a predict (auto)",
    )
    parser.add_argument("--queue", type=int, default=512, help="requests that may wait; more are answered 429 (512)")
    parser.add_argument(
        "--deadline-seconds", type=float, default=30.0, help="a request not answered by then gets 504 (30)"
    )
    parser.add_argument("--largest-body-mb", type=float, default=64.0, help="longer bodies are answered 413 (64)")
    parser.add_argument("--grpc-port", type=int, help="TCP port for gRPC beside HTTP, on --host; 0 takes a free one")
    parser.add_argument("--grpc-uds", type=Path, help="unix socket for gRPC beside HTTP")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--cells-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--deployment", default="", help="name of the deployment, told by /readyz")
    parser.add_argument("--drain-seconds", type=float, default=1.0, help="time between not ready and closing (1)")
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers {options.workers}: expected 1 or more")
    if not options.deadline_seconds > 0:
        parser.error(f"--deadline-seconds {options.deadline_seconds:g}: expected more than 0")
    if options.workers > 1 and (options.grpc_uds or options.grpc_port == 0):
        parser.error(
            "--grpc-uds and --grpc-port 0 go with one worker: several share a port. Use --grpc-port with its number"
        )
    return options


def run(options: argparse.Namespace) -> int:
    """Loads, warms and serves; the exit code. Raises ShipwayError or OSError where that fails before the server is up."""
    if options.workers > 1:
        from bentos.serving.server.workers import run_workers

        arguments = arguments_of(options, without=("uds", "port", "fd", "parent_fd", "workers"))
        return run_workers(options, arguments)
    if options.worker is not None:
        from bentos.serving.server.workers import die_with_parent

        die_with_parent()
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listening(options))  # first, so that a taken address costs no load
        live = _load(options)
        freeze_garbage()
        plane = _plane(options, live)
        stack.callback(plane.close)
        if options.worker is not None:
            from bentos.serving.cells import SharedCells

            plane.state.metrics.share(SharedCells(options.cells_fd), options.worker)
        serve(plane, listener, options)
    if plane.state.predicting():  # it hangs still, and would keep the interpreter from its end
        sys.stdout.flush()
        os._exit(os.EX_SOFTWARE)
    return 0


def arguments_of(options: argparse.Namespace, *, without: Sequence[str]) -> list[str]:
    """*options* as a command line again, but for those *without* which it is to be."""
    given = {name: value for name, value in vars(options).items() if name not in without and value not in (None, "")}
    return [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def freeze_garbage() -> None:
    """Takes everything loaded so far out of the collector's sight: no long pauses while serving."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20000, 50, 50)


def _load(options: argparse.Namespace) -> ServedModel:
    from bentos.serving.server.served_model import ServedModel

    if not options.bento.is_dir():
        raise LaunchError(f"bento {options.bento}: expected a folder; build it again")
    return ServedModel.load(options.bento.absolute(), options.model, options.version)


def _plane(options: argparse.Namespace, live: ServedModel) -> DataPlane:
    from bentos.serving.log.writer import SegmentWriter
    from bentos.serving.server.dataplane import DataPlane

    writer = SegmentWriter(options.segments, sample=options.sample) if options.segments is not None else None
    return DataPlane(
        live,
        writer=writer,
        deployment=options.deployment,
        largest_body=round(options.largest_body_mb * 2**20),
        queue=options.queue,
        deadline=options.deadline_seconds,
        batching=options.batching,
    )


def serve(plane: DataPlane, listener: socket.socket | None, options: argparse.Namespace) -> None:
    """Answers on *listener*, or on the unix socket of *options*, until a signal comes."""
    import logging

    import uvicorn

    from bentos.serving.server.asgi import Asgi
    from bentos.serving.server.drain import DrainingServer
    from bentos.serving.server.http1 import protocol
    from bentos.serving.server.watchdog import Watchdog

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(
        Asgi(plane),
        uds=str(options.uds) if options.uds is not None else None,
        loop="uvloop",
        http=protocol(plane),
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        date_header=False,
        log_config=None,
        timeout_keep_alive=75,
    )
    if options.worker is None:  # workers' parent says it once all of them are
        with contextlib.suppress(OSError):  # a full disk under the log
            print(f"shipway launcher: listening on {where(listener, options)}", flush=True)
    server = DrainingServer(config, plane, options.drain_seconds)
    if options.worker is not None:
        from bentos.serving.server.worker import WorkerServer

        line, given = socket.socket(fileno=options.parent_fd), socket.socket(fileno=options.connections_fd)
        server = WorkerServer(config, plane, options.drain_seconds, line, given)
    elif options.parent_fd is not None:
        from bentos.serving.server.replaceable import ReplaceableServer

        line = socket.socket(fileno=options.parent_fd)
        server = ReplaceableServer(config, plane, options.drain_seconds, line)
    if addresses := _grpc_addresses(options):
        from bentos.serving.server.grpc_server import GrpcServer

        server.grpc = GrpcServer(plane, addresses, shared=options.worker is not None or options.parent_fd is not None)
    server.watchdog = Watchdog(plane)
    server.run(sockets=None if listener is None else [listener])
    if server.failed:
        raise LaunchError(f"gRPC cannot listen on {', '.join(addresses)}: see above")


def _grpc_addresses(options: argparse.Namespace) -> list[str]:
    host = f"[{options.host}]" if ":" in options.host else options.host
    found = [] if options.grpc_port is None else [f"{host}:{options.grpc_port}"]
    return found if options.grpc_uds is None else [*found, f"unix:{options.grpc_uds.absolute()}"]


if __name__ == "__main__":
    sys.exit(main())
