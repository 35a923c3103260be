"""``python -m benchmarks``: one model server, bare and behind the gateway, on this machine.

A logistic regression over 20 columns, one worker, one row a request, prediction log and schema check on. Prints a table
and writes ``.shipway/bench/serving.json``. The client runs on the same cores and costs about as much as the server, so
the numbers are a floor.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.load import Load, closed_loop

ROUNDS, SECONDS, CONNECTIONS, COLUMNS = 5, 3.0, 8, 20
RESULT = Path(".shipway/bench/serving.json")


def main() -> None:
    """Measures, prints, writes."""
    from infra.gateways.envoy import EnvoyGateway
    from infra.targets.interface import Address
    from infra.traffic import Arm, TrafficPlan

    with tempfile.TemporaryDirectory(prefix="shipway-bench-") as name:
        folder = Path(name)
        model = _save_model(folder / "model")
        ports = [_free_port() for _ in range(3)]
        gateway = EnvoyGateway(folder / "gateway", host="127.0.0.1", port=ports[1], admin_port=ports[2])
        gateway.bootstrap()
        server = [sys.executable, "-m", "bentos.launcher", "--bento", str(model), "--host", "127.0.0.1"]
        server += ["--port", str(ports[0]), "--segments", str(folder / "segments"), "--deployment", "bench"]
        with (
            (folder / "server.log").open("wb") as log,
            subprocess.Popen(server, stdout=log, stderr=log) as launched,
            subprocess.Popen(gateway.command(), stdout=log, stderr=log) as envoy,
        ):
            try:
                _wait(ports[0], launched, folder / "server.log")
                arm = Arm("baseline", "1", "bench", Address(host="127.0.0.1", port=ports[0]), 100)
                gateway.apply(TrafficPlan("bench", (arm,)), timeout=30)
                results = measure(
                    {"shipway": (ports[0], "/invocations"), "shipway-gateway": (ports[1], "/models/bench/invocations")}
                )
            finally:
                envoy.terminate()
                launched.terminate()
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"command": "make bench", "at": time.time(), "results": results}, indent=2))
    for result in results:
        rate = result["requests_per_second"]
        print(
            f"{result['model']:20} {result['server']:16} {rate['median']:8.0f} requests/s ({rate['min']:.0f} to {rate['max']:.0f})"
            f"  p50 {result['p50_ms']:.2f} ms  p99 {result['p99_ms']:.2f} ms"
        )
    print(f"written to {RESULT}")


def measure(servers: dict[str, tuple[int, str]]) -> list[dict[str, Any]]:
    """Every server in turn, ROUNDS times, so that a noisy moment falls on all of them."""
    row = [[float(column) / 10 for column in range(COLUMNS)]]
    split = {"columns": [f"c{column}" for column in range(COLUMNS)], "data": row}
    body = json.dumps({"dataframe_split": split}).encode()
    loads: dict[str, list[Load]] = {name: [] for name in servers}
    for turn in range(ROUNDS + 1):
        for name, (port, path) in servers.items():
            load = asyncio.run(
                closed_loop("127.0.0.1", port, path, body, connections=CONNECTIONS, seconds=SECONDS if turn else 1.0)
            )
            if load.failed:
                raise SystemExit(f"{name}: {load.failed} requests failed; the numbers would mean nothing")
            if turn:  # the first round warms
                loads[name].append(load)
    return [_result(name, found) for name, found in loads.items()]


def _result(server: str, loads: list[Load]) -> dict[str, Any]:
    rates = [load.requests_per_second for load in loads]
    return {
        "model": "logistic_regression",
        "server": server,
        "rows": 1,
        "requests_per_second": {"min": min(rates), "median": median(rates), "max": max(rates)},
        "p50_ms": median(load.p50_ms for load in loads),
        "p99_ms": median(load.p99_ms for load in loads),
        "rounds": [asdict(load) for load in loads],
    }


def _save_model(folder: Path) -> Path:
    import mlflow.sklearn
    import numpy as np
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(0)
    rows = pd.DataFrame(generator.normal(size=(2000, COLUMNS)), columns=[f"c{column}" for column in range(COLUMNS)])
    classes = (rows.sum(axis=1) > 0).astype(int)
    model = LogisticRegression().fit(rows, classes)
    mlflow.sklearn.save_model(model, folder, signature=infer_signature(rows, model.predict(rows)), pip_requirements=[])
    return folder


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    import httpx

    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode}:\n{log.read_text()[-2000:]}")
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit("the server was not ready within 60 s")


if __name__ == "__main__":
    main()
