"""How long this machine itself keeps a process from its core: what no server on it can be faster than.

A process that does nothing but look at the clock, on the server's core and with every other core as busy, sees the gaps in
which it did not run. Whoever comes within a gap waits for its end, so that the share of time from which on more than *t* of a gap is left is the share of
requests that wait longer than *t* for the machine alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.processes import CORES, SERVERS_CORE

SECONDS = 4.0
LEAST = 20e-6  # seconds; shorter gaps are interrupts, and nobody's latency


def stalls() -> dict[str, float]:
    """``share_percent`` of the time in gaps, ``wait_p99_ms`` that one of a hundred waits for the machine alone."""
    looking = [
        subprocess.Popen([sys.executable, "-m", "benchmarks.stalls", str(core)], stdout=subprocess.PIPE, text=True)
        for core in CORES
    ]
    told = [process.communicate()[0] for process in looking]
    found: dict[str, float] = json.loads(told[CORES.index(*SERVERS_CORE)])
    return found


def gaps(seconds: float) -> list[float]:
    """Every gap of LEAST or more within *seconds* from now, in seconds."""
    clock = time.perf_counter
    last = clock()
    end, found = last + seconds, []
    while last < end:
        now = clock()
        if now - last >= LEAST:
            found.append(now - last)
        last = now
    return found


def waited(found: Sequence[float], seconds: float, percent: float) -> float:
    """The seconds that all but *percent* of 100 moments in *seconds* wait at most, given the gaps *found*; 0 where more
    than that never wait."""
    allowed = seconds * percent / 100
    low, high = 0.0, max(found, default=0.0)
    if sum(found) <= allowed:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        if sum(max(0.0, gap - middle) for gap in found) > allowed:
            low = middle
        else:
            high = middle
    return high


def main() -> None:
    """Measures in this process, on the core that the command line names; JSON."""
    os.sched_setaffinity(0, {int(sys.argv[1])})
    found = gaps(SECONDS)
    print(json.dumps({"share_percent": 100 * sum(found) / SECONDS, "wait_p99_ms": 1e3 * waited(found, SECONDS, 1)}))


if __name__ == "__main__":
    main()
