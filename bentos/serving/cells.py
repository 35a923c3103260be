"""What servers count, as whole numbers in cells: a list for one process, a block of shared memory for several workers.

A worker writes to its own cells alone, eight bytes at once, so that nobody waits for anybody; whoever is asked adds them up.
A worker that takes a dead one's place goes on with its cells: no sum ever falls.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from typing import TypeAlias

KINDS = ("invocations", "v2", "grpc")
STATUSES = (200, 400, 404, 405, 408, 413, 415, 429, 500, 503, 504)
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096, 65536)
OUTCOMES = ("taken", "refused", "kept")

# of one version and kind: how many by status and one for others, how many by latency and one above all, their sum in ns
STATUS_AT, LATENCY_AT = 0, len(STATUSES) + 1
LATENCY_SUM_AT = LATENCY_AT + len(SECONDS) + 1
KIND_CELLS = LATENCY_SUM_AT + 1
VERSION_CELLS = len(KINDS) * KIND_CELLS

# of the server: batches by rows and one above all, their sum, and the rest
BATCH_AT = 0
BATCH_SUM_AT = BATCH_AT + len(ROWS) + 1
OUTCOME_AT = BATCH_SUM_AT + 1
REJECTED_AT = OUTCOME_AT + len(OUTCOMES)
LATE_AT, LOG_AT, QUEUE_AT, PID_AT = REJECTED_AT + 1, REJECTED_AT + 2, REJECTED_AT + 4, REJECTED_AT + 5
CLOSED_AT = PID_AT + 1  # connections that came to their end, of this process alone
SERVER_CELLS = CLOSED_AT + 1

WORKER_CELLS = SERVER_CELLS + VERSION_CELLS


Cells: TypeAlias = "list[int] | memoryview[int]"
"""Whole numbers of at most 63 bits."""


class SharedCells:
    """The cells of all workers behind one socket, in the memory of the file descriptor *fd*."""

    def __init__(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        view = memoryview(mmap.mmap(fd, size)).cast("q")
        self._workers = [view[at : at + WORKER_CELLS] for at in range(0, size // 8, WORKER_CELLS)]

    @staticmethod
    def create(workers: int) -> int:
        """The descriptor of new cells for so many workers, all zero; inherited where it is passed on."""
        fd = os.memfd_create("shipway-counts")
        os.ftruncate(fd, workers * WORKER_CELLS * 8)
        return fd

    def server(self, worker: int) -> memoryview:
        """What *worker* counts of itself."""
        return self._workers[worker][:SERVER_CELLS]

    def version(self, worker: int) -> memoryview:
        """What *worker* counts of the version that all of them serve."""
        return self._workers[worker][SERVER_CELLS:]

    def servers(self) -> list[Cells]:
        """What each worker counts of itself."""
        return [self.server(worker) for worker in range(len(self._workers))]

    def versions(self) -> list[Cells]:
        """What each worker counts of the version."""
        return [self.version(worker) for worker in range(len(self._workers))]


def totals(cells: Sequence[Cells], start: int, count: int) -> list[int]:
    """*count* numbers from *start* on, added up over *cells*."""
    return [sum(each[index] for each in cells) for index in range(start, start + count)]
