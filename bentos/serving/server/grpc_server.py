"""The Open Inference Protocol over gRPC by itself, without a gateway: a grpc.aio server on the data plane's event loop.

grpcio is imported in a thread when the server starts, so that HTTP answers before. Messages pass as bytes: what is in them
is read by the data plane, as for every other protocol.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bentos.serving.server import grpc_calls
from bentos.serving.server.dataplane import INFER, Page, Prediction
from bentos.serving.server.heads import request_of
from bentos.serving.server.messages import Answer
from bentos.serving.wire.v2.grpc import CONTENT_TYPE
from bentos.serving.wire.v2.grpc_status import MESSAGE_HEADER, SERVICE, STATUS_HEADER, status_of

if TYPE_CHECKING:
    from bentos.serving.server.dataplane import DataPlane

logger = logging.getLogger("shipway.server")

_FOR_HTTP = (STATUS_HEADER.encode(), MESSAGE_HEADER.encode())  # here the status and the words travel by themselves

Handler = Callable[[bytes, Any], Awaitable[bytes]]


class GrpcServer:
    """Serves *plane* at *addresses*, each ``unix:<path>`` or ``<host>:<port>`` (port 0: a free one).

    *shared*: other servers of the same version may listen on the port too. Everything is called on the plane's event loop.
    """

    def __init__(self, plane: DataPlane, addresses: Sequence[str], *, shared: bool = False) -> None:
        self._plane = plane
        self._shared = shared
        self._addresses = tuple(addresses)
        self._server: Any = None
        self.ports: tuple[int, ...] = ()  # what is listened on, in the order of the addresses; 1 for a unix socket

    @property
    def where(self) -> str:
        """The addresses as they are listened on, in words."""
        pairs = zip(self._addresses, self.ports, strict=True)
        return ", ".join(a if a.startswith("unix:") else f"{a.rpartition(':')[0]}:{port}" for a, port in pairs)

    async def start(self) -> bool:
        """Listens; False, and one line in the log, where grpcio or protobuf is not installed.

        Raises OSError where an address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        try:
            grpc = await loop.run_in_executor(None, import_module, "grpc.aio")
            await loop.run_in_executor(None, import_module, "bentos.serving.wire.v2.grpc_messages")
        except ImportError as error:
            logger.info("no gRPC here: %s. Install grpcio and protobuf beside the model to have it.", error)
            return False
        self._server = grpc.server(options=_options(self._plane.largest_body, shared=self._shared))
        self._server.add_generic_rpc_handlers((_service(self._plane),))
        self.ports = tuple(self._listen(address) for address in self._addresses)
        await self._server.start()
        return True

    def _listen(self, address: str) -> int:
        try:
            port = int(self._server.add_insecure_port(address))
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen on {address}: {error}") from error
        if address.startswith("unix:"):
            Path(address.removeprefix("unix:")).chmod(0o600)  # only its owner, as the other socket
        return port

    async def stop(self, grace: float) -> None:
        """Takes no new calls, and waits up to *grace* seconds for those in flight."""
        if self._server is not None:
            await self._server.stop(grace)
            self._server = None


def _options(largest: int, *, shared: bool) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", largest),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", 1024),
        ("grpc.so_reuseport", int(shared)),
        ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ]


def _service(plane: DataPlane) -> Any:
    grpc = import_module("grpc")

    class Service(grpc.GenericRpcHandler):  # type: ignore[name-defined,misc] # grpcio is there only at run time
        """Finds the handler of a call by its path."""

        def service(self, details: Any) -> Any:
            """None is UNIMPLEMENTED."""
            return handlers.get(details.method)

    calls = _Calls(plane, {code.value[0]: code for code in grpc.StatusCode})
    handlers = {INFER: grpc.unary_unary_rpc_method_handler(calls.infer)}
    for method in grpc_calls.METHODS:
        handlers[SERVICE + method] = grpc.unary_unary_rpc_method_handler(calls.page(SERVICE + method))
    return Service()


class _Calls:
    """The calls as grpc.aio asks for them: a message in, a message out. *codes*: grpcio's statuses by their number."""

    def __init__(self, plane: DataPlane, codes: dict[int, Any]) -> None:
        self._plane = plane
        self._codes = codes

    async def infer(self, body: bytes, context: Any) -> bytes:
        """ModelInfer."""
        route = self._plane.resolve("POST", INFER)
        assert isinstance(route, Prediction)
        request = request_of(route.kind, _headers(context.invocation_metadata()), body)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._plane.predict(
            route.served,
            request._replace(content_type=CONTENT_TYPE, encoding="", seconds=context.time_remaining()),
            lambda found: None if future.done() else future.set_result(found),
        )
        return await self._finish(future.result() if future.done() else await future, context)

    def page(self, path: str) -> Handler:
        """The handler of *path*, one of the others."""

        async def call(body: bytes, context: Any) -> bytes:
            route = self._plane.resolve("POST", path)
            assert isinstance(route, Page)
            return await self._finish(route.answer(body), context)

        return call

    async def _finish(self, found: Answer, context: Any) -> bytes:
        metadata = tuple(
            (name.decode(), value.decode()) for name, value in (*found.server, *found.headers) if name not in _FOR_HTTP
        )
        if found.status == 200:
            if metadata:
                await context.send_initial_metadata(metadata)
            return found.body.data
        trailing = tuple(pair for pair in metadata if pair[0] == "retry-after")
        await context.send_initial_metadata(metadata)
        await context.abort(self._codes[status_of(found.status)], found.reason, trailing)
        raise AssertionError  # abort raises


def _headers(metadata: Any) -> dict[bytes, bytes]:
    """Metadata as HTTP has headers; names are in lower case already."""
    return {
        name.encode(): value if isinstance(value, bytes) else value.encode("latin-1", "replace")
        for name, value in metadata
    }
