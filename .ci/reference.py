"""How fast this machine is: a piece of work like the tests' own, against what it takes on a quiet machine.

.ci/reference.py      prints its seconds, and the factor by which budgets are scaled
"""

from __future__ import annotations

import subprocess
import sys
import time

# What the tests mostly do: start processes that load these.
WORK = (sys.executable, "-c", "import numpy, pandas, sklearn.ensemble")
AT_ONCE = 2  # one on each core of the machine that budgets are stated for
ROUNDS = 2
# What `seconds` gave on such a machine (Xeon, 2 vCPU, Python 3.11): 2.5 at the start of a build, 4.5 processor seconds.
QUIET_SECONDS = 2.5


def seconds() -> float:
    """Seconds that the work takes here, the best of two rounds."""
    _round()  # from the disk
    return min(_round() for _ in range(ROUNDS))


def factor(found: float) -> float:
    """How many times longer than on a quiet machine *found* seconds are; at least 1: no budget is less than stated."""
    return max(1.0, found / QUIET_SECONDS)


def _round() -> float:
    """Seconds until all of it is done. RuntimeError: a process failed."""
    began = time.monotonic()
    processes = [subprocess.Popen(WORK) for _ in range(AT_ONCE)]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise RuntimeError(
            f"{WORK[0]} ended with {codes}, not 0: numpy, pandas or sklearn is missing; run make .venv/.dev"
        )
    return time.monotonic() - began


if __name__ == "__main__":
    found = seconds()
    print(f"{found:.2f} s, budgets x {factor(found):.2f}")
