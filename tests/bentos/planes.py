"""Data planes over small predictors, answering on a real socket in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

from bentos.serving.inputs.plan import InputPlan
from bentos.serving.inputs.rows import InputRows
from bentos.serving.inputs.signature import Column, Signature
from bentos.serving.model.interface import Prediction, Predictor
from bentos.serving.model.runner import ModelRunner
from bentos.serving.server.asgi import Asgi
from bentos.serving.server.dataplane import DataPlane
from bentos.serving.server.drain import DrainingServer
from bentos.serving.server.http1 import protocol
from bentos.serving.server.served_model import ServedModel

NUMBERS = Signature((Column("a", "double", True, "a"), Column("b", "double", True, "b")))
BODY = b'{"instances":[[1.5,2.0]]}'


class Sums:
    """Answers a + b. Sleeps *seconds* a call; raises for rows whose a is 13; keeps how many rows each call had."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.calls: list[int] = []

    def predict(self, data: InputRows, params: Mapping[str, Any], *, probabilities: bool = False) -> Prediction:
        """As a model does."""
        self.calls.append(data.rows)
        time.sleep(self.seconds)
        rows = data.matrix(np.float64)
        if (rows[:, 0] == 13).any():
            raise ValueError("thirteen")
        return Prediction(rows.sum(axis=1))


def live(predictor: Predictor, curve: Mapping[int, float], *, rowwise: bool = True) -> ServedModel:
    """A version "3" of a model "m" over two doubles."""
    runner = ModelRunner(Path("model"), "m", "3", "test", NUMBERS, InputPlan.compile(NUMBERS), predictor)
    return ServedModel(runner, "m", "3", "3.0", False, curve, rowwise)


@contextlib.contextmanager
def served(plane: DataPlane) -> Iterator[int]:
    """The port of 127.0.0.1 that *plane* answers on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            Asgi(plane), http=protocol(plane), loop="uvloop", ws="none", lifespan="on", log_config=None, server_header=False, date_header=False
        )  # fmt: skip
        server = DrainingServer(config, plane, 0.0)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)


def post(body: bytes = BODY, path: str = "/invocations", more: str = "") -> bytes:
    """A request as it goes over the wire."""
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


class Client:
    """A connection that is read answer by answer."""

    def __init__(self, port: int, timeout: float = 10.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._rest = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> Client:
        """Sends *data* as it is."""
        self.socket.sendall(data)
        return self

    def answer(self, *, head: bool = False) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, body. Raises EOFError where the server closed instead."""
        while b"\r\n\r\n" not in self._rest:
            self._more()
        start, _, self._rest = self._rest.partition(b"\r\n\r\n")
        line, *lines = start.decode().split("\r\n")
        headers = dict(item.split(": ", 1) for item in lines)
        length = 0 if head or line.split()[1] == "100" else int(headers["content-length"])
        while len(self._rest) < length:
            self._more()
        body, self._rest = self._rest[:length], self._rest[length:]
        return int(line.split()[1]), headers, body

    def closed(self) -> bool:
        """Whether the server has closed; waits for it, or for the time-out."""
        try:
            return not self._rest and not self.socket.recv(1)
        except TimeoutError:
            return False

    def _more(self) -> None:
        found = self.socket.recv(1 << 16)
        if not found:
            raise EOFError
        self._rest += found
