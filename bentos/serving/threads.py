"""The environment variables by which native libraries are told how many threads to start. Standard library only."""

from __future__ import annotations

import os

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
ONE_THREAD = dict.fromkeys(THREADS, "1")
"""For several processes on one machine: one thread in each serves better than several that compete."""


def one_thread_unless_said() -> None:
    """One thread in this process, where its environment does not say how many. Before numpy is imported: the libraries
    look once, when they are loaded."""
    for name in THREADS:
        os.environ.setdefault(name, "1")
