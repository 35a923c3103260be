"""The reconcile flow on demand, without paying for a process each time: one JSON line for every line read."""

from __future__ import annotations

import json
import sys

from flows.reconcile import reconcile


def main(model: str) -> None:
    for _ in sys.stdin:
        print(json.dumps(reconcile(model=model)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
