"""One real model server for the tests of gRPC: HTTP on a unix socket and gRPC beside it, over one data plane.

    python grpc_host.py <artifact folder> <model> <version> <http socket> <grpc address> <segments>

Prints "ready <port>" once both answer.
"""

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import uvicorn
import uvloop

from bentos.serving.log.writer import SegmentWriter
from bentos.serving.server.dataplane import DataPlane
from bentos.serving.server.grpc_server import GrpcServer
from bentos.serving.server.http1 import protocol
from bentos.serving.server.served_model import ServedModel


async def main(folder, model, version, uds, address, segments):
    live = ServedModel.load(Path(folder), model, version)
    plane = DataPlane(live, writer=SegmentWriter(Path(segments), flush_seconds=0.05), largest_body=48 << 20)
    config = uvicorn.Config(
        None, uds=uds, http=protocol(plane), lifespan="off", log_config=None, server_header=False, date_header=False
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext
    grpc = GrpcServer(plane, [address])
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    assert await grpc.start()
    print("ready", *grpc.ports, flush=True)
    await stopped.wait()
    plane.drain()
    await grpc.stop(5.0)
    server.should_exit = True
    await serving
    plane.close()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
