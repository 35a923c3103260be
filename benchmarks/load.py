"""A closed-loop HTTP client: some connections, each sending its next request when the answer to the last is whole."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """What one measurement saw; latencies in milliseconds."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    failed: int


async def closed_loop(host: str, port: int, path: str, body: bytes, *, connections: int, seconds: float) -> Load:
    """Posts *body* as JSON to *path* over keep-alive *connections* for *seconds*; answers other than 200 are failures."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    latencies: list[float] = []
    failed = 0
    end = time.perf_counter() + seconds

    async def one() -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection(host, port)
        while (began := time.perf_counter()) < end:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.partition(b":")[2])
                for line in answer.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            )
            await reader.readexactly(length)
            latencies.append(1e3 * (time.perf_counter() - began))
            failed += not answer.startswith(b"HTTP/1.1 200")
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    latencies.sort()
    return Load(len(latencies) / seconds, latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)], failed)
