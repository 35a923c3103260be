"""What a page that the receiver serves may do in a browser: show itself, and nothing else.

Reports carry texts of strangers: column names, class labels, reasons. Every page is sandboxed without its origin, loads
nothing, sends nothing, and is shown in no other page. A page with scripts of others (Evidently's charts) stands in a frame
besides, because a script may navigate its own page, with whatever it read in the address: the outer page allows its frame
no address at all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from html import escape

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SHUT = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
STILL = f"{_SHUT}; style-src 'unsafe-inline'; img-src data:; sandbox allow-top-navigation-by-user-activation"
"""A page without scripts, whose links may be followed."""
SCRIPTED = (
    f"{_SHUT}; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:;"
    " frame-src 'none'; sandbox allow-scripts"
)
"""A page around a frame with scripts of others; the frame's document inherits it."""
_POLICY = "content-security-policy"
_ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "DENY",
    "x-dns-prefetch-control": "off",
}


class Protected:
    """An ASGI app whose every answer carries the headers; its own Content-Security-Policy stands, else it is STILL."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers as the app does."""

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault(_POLICY, STILL)
                headers.update(_ALWAYS)
            await send(message)

        await self._app(scope, receive, protected)


async def framed(title: str, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A page called *title* around the HTML document in *blocks* (UTF-8), to be served under SCRIPTED."""
    yield (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>'
        "html, body, iframe { margin: 0; width: 100%; height: 100%; border: 0; display: block; }"
        "</style></head><body>"
        f'<iframe sandbox="allow-scripts" title="{escape(title)}" srcdoc="'
    ).encode()
    async for block in blocks:
        yield block.replace(b"&", b"&amp;").replace(b'"', b"&quot;")
    yield b'"></iframe></body></html>\n'
