"""The files of a store over HTTP, read-only and streamed; pages with scripts of others in a frame that can reach nothing."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from email.utils import formatdate

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from infra.page_policy import SCRIPTED, framed
from infra.stores.interface import (
    MissingFileError,
    Opened,
    OutsideError,
    Store,
    StoreError,
    TransientStoreError,
    checked_key,
    content_type,
)

log = logging.getLogger(__name__)

_CHUNK = 256 * 1024
_HTML = "text/html"
_WITHOUT_SCRIPTS = "report.html"  # the release's own page; every other page of a store may have scripts of others


class StoredFiles:
    """Answers GET and HEAD with the file that the path parameter ``key`` names; a folder's is its ``index.html``."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def answer(self, request: Request) -> Response:
        """200, 304, 404, or 503 while the store cannot be read."""
        key = request.path_params["key"]
        if not key or key.endswith("/"):
            key += "index.html"
        try:
            opened = await run_sync(self._open, key)
        except TransientStoreError as error:
            log.warning("%s", error)
            return PlainTextResponse("the store is away; try again\n", 503, {"retry-after": "5"})
        except StoreError as error:
            log.error("%s", error)
            return PlainTextResponse("the store refuses; the receiver's log says why\n", 503)
        if opened is None:
            return PlainTextResponse("not found\n", 404)
        name, kind = key.rpartition("/")[2], content_type(key)
        scripted = kind.startswith(_HTML) and name != _WITHOUT_SCRIPTS
        tag = f'"{opened.stored.tag}"'
        headers = {"etag": tag, "last-modified": formatdate(opened.stored.modified, usegmt=True)}
        if scripted:
            headers["content-security-policy"] = SCRIPTED
        if request.method == "GET" and request.headers.get("if-none-match") == tag:
            opened.close()
            return Response(status_code=304, headers=headers)
        if not scripted:
            headers["content-length"] = str(opened.stored.size)
        if request.method == "HEAD":
            opened.close()
            return StreamingResponse((), headers=headers, media_type=kind)
        blocks = framed(name, _blocks(opened)) if scripted else _blocks(opened)
        return StreamingResponse(blocks, headers=headers, media_type=kind)

    def _open(self, key: str) -> Opened | None:
        """None where there is no such file, or no file can have that key."""
        try:
            return self._store.open(checked_key(key, self._store))
        except (MissingFileError, OutsideError):
            return None


async def _blocks(opened: Opened) -> AsyncIterator[bytes]:
    try:
        while block := await run_sync(opened.read, _CHUNK):
            yield block
    finally:
        opened.close()
