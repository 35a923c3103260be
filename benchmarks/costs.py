"""``python -m benchmarks.costs BENTO BODY``: what decoding and checking one request costs inside the server, in microseconds.

There is no server without the schema check to compare with, so its cost is measured in-process: what the server does from
a request's bytes to checked inputs, less what any server does: parsing the bytes and making one array of the values.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import timeit
from pathlib import Path
from typing import Any

CALLS = 2_000


def costs(python: str, bento: Path, body: bytes, folder: Path) -> dict[str, float]:
    """Measured in a process of the model's environment; *folder* is for its own files."""
    sent = folder / "costs.json"
    sent.write_bytes(body)
    command = [python, str(Path(__file__).resolve()), str(bento), str(sent)]
    environment = {**os.environ, "PYTHONPATH": str(bento / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def microseconds(call: Any) -> float:
    """One *call*, the best of seven times CALLS."""
    return 1e6 * min(timeit.repeat(call, number=CALLS, repeat=7)) / CALLS


def main(bento: Path, body: bytes) -> dict[str, float]:
    """Both costs and their difference."""
    import numpy as np
    import orjson

    from bentos.serving.server.formats import read
    from bentos.serving.server.messages import Request
    from bentos.serving.server.served_model import ServedModel

    live = ServedModel.load(bento, "", "")
    request = Request("invocations", "application/json", "", "", body)

    def unchecked() -> object:
        given = orjson.loads(body)
        return np.asarray(given["dataframe_split"]["data"] if "dataframe_split" in given else given["inputs"], float)

    whole, parsed = microseconds(lambda: read(live, request)), microseconds(unchecked)
    return {"decode_and_check_us": whole, "parse_us": parsed, "check_us": max(0.0, whole - parsed)}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]).read_bytes())))
