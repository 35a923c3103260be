"""A server that reads a request and answers a constant: the limit of what a server in Python can answer here.

``python -m benchmarks.bare http1|uvicorn PORT``: on Shipway's own protocol, or as an ASGI app on uvicorn with uvloop and
httptools.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

BODY = b'{"predictions":[1]}'


async def application(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI app."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


class Constant:
    """What bentos/serving/server/http1.py asks of a data plane, answering a constant."""

    largest_body = 1 << 26

    def __init__(self) -> None:
        from bentos.serving.server.dataplane import Prediction
        from bentos.serving.server.messages import Answer
        from bentos.serving.wire.interface import Body

        self.state = SimpleNamespace(draining=False)
        self._answer = Answer(200, Body(BODY, "application/json"))
        self._route = Prediction("invocations", None)  # type: ignore[arg-type] # no model answers here

    def resolve(self, *_: object) -> Any:
        """No page but the one."""
        return self._route

    def predict(self, served: Any, request: Any, done: Callable[[Any], None]) -> None:
        """Answers at once."""
        done(self._answer)


def main() -> None:
    """Serves until SIGTERM."""
    import uvicorn

    protocol: Any = "httptools"
    if sys.argv[1] == "http1":
        from bentos.serving.server.http1 import protocol as own

        protocol = own(Constant())  # type: ignore[arg-type]
    uvicorn.run(
        application,
        host="127.0.0.1",
        port=int(sys.argv[2]),
        loop="uvloop",
        http=protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        server_header=False,
        date_header=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
