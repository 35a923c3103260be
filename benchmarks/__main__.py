"""``python -m benchmarks``: model servers on this machine, Shipway and its peers, one worker each.

Prints a table and writes ``.shipway/bench/serving.json``; ``python -m benchmarks.report`` puts it into docs/benchmarks.md.
The peers' environments are made once, below ``.shipway/bench/envs``.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import peers_started, shipway
from benchmarks.batch import BatchRunError
from benchmarks.load import generator
from benchmarks.measure import FULL, QUICK, BenchError, Effort, light, machine, measure
from benchmarks.models import BenchModel, estimators, trained
from benchmarks.peers_started import PEERS, TUNED, PeerEnvironmentError, Peers
from benchmarks.processes import SERVERS_CORE, Processes, ServerEndedError, pin
from benchmarks.report import table
from benchmarks.servers import Server, WrongAnswerError
from benchmarks.stalls import stalls

ROOT = Path(".shipway/bench")
RESULT = ROOT / "serving.json"
DEFAULT_MODELS = [key for key in estimators() if key != "xgboost"]
SERVERS = [*shipway.DIRECT, *shipway.GATEWAYS, *shipway.BARE, *PEERS, *TUNED]
EVERYWHERE = {"shipway", "shipway-gateway", *PEERS, *TUNED}
"""Servers that every model is measured with; the others only where their difference is the largest."""

WORKERS = ("random_forest", "hist_gradient_boosting_native")
"""Models that cost so much that a generator beside two workers hardly counts."""

CHEAP = ("logistic_regression", "logistic_regression_onnx")
OURS = ("shipway", "mlflow", "scikit-learn", "lightgbm", "onnxruntime", "numpy", "uvicorn", "uvloop", "httptools")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, writes."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        Bench(options).run(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (BatchRunError, BenchError, ServerEndedError, WrongAnswerError) as error:
        raise SystemExit(f"benchmarks: {error}") from error


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; argparse exits with 2 where it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: whether it works, not how fast")
    parser.add_argument("--models", nargs="+", choices=list(estimators()), default=DEFAULT_MODELS, metavar="MODEL")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=SERVERS, metavar="SERVER")
    parser.add_argument(
        "--parts", nargs="+", choices=("serving", "start", "batch"), default=["serving", "start", "batch"]
    )
    return parser.parse_args(arguments)


class Bench:
    """One run: which peers can be had, then one model after the other."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._effort: Effort = QUICK if options.quick else FULL
        self._began = time.monotonic()
        self._peers = Peers(ROOT / "envs")
        self._out: dict[str, Any] = {"results": [], "light": [], "costs": {}, "runtimes": {}, "start": [], "batch": []}

    def run(self, arguments: list[str]) -> None:
        """All of it."""
        try:
            versions = {package: version(package) for package in OURS}
        except PackageNotFoundError as error:
            raise BenchError(
                f"{error.name} is not installed here: `make bench` installs what the benchmarks need"
            ) from error
        at = datetime.now(UTC)
        head = {
            "command": " ".join(["python -m benchmarks", *arguments]),
            "at": at.timestamp(),
            "date": at.date().isoformat(),
            "machine": machine(),
            "stalls": stalls(),
            "load": generator(),
        }
        servers, left_out = self._servers()
        with tempfile.TemporaryDirectory(prefix="shipway-bench-") as name:
            for key in self._options.models:
                self._model(key, servers, Path(name))
        versions |= {peer: peers_started.versions(peer) for peer in PEERS if peer in servers}
        seconds = round(time.monotonic() - self._began)
        found = {**head, "seconds": seconds, "versions": versions, "left_out": left_out, **self._out}
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(found, indent=1))
        print(table(found))
        print(f"written to {RESULT}")

    def _servers(self) -> tuple[list[str], list[dict[str, str]]]:
        """The servers asked for, and those that cannot be had with the reason."""
        servers: list[str] = []
        left_out: dict[str, str] = {}
        for name in self._options.servers if "serving" in self._options.parts else []:
            peer = name.removesuffix("-batching")
            if peer in PEERS and peer not in left_out and peer not in servers:
                self._tell(f"environment of {peer}")
                try:
                    self._peers.ensure(peer)
                except PeerEnvironmentError as error:
                    left_out[peer] = str(error)
                    print(f"{peer} is LEFT OUT, its environment cannot be made: {error}", file=sys.stderr, flush=True)
            if peer not in left_out:
                servers.append(name)
        return servers, [{"server": peer, "reason": reason} for peer, reason in left_out.items()]

    def _model(self, key: str, servers: list[str], folder: Path) -> None:
        self._tell(f"{key}: training, sealing")
        model = trained(key, folder / key)
        ready = shipway.prepared(model, ROOT / "envs" / "models", folder / "bentos")
        self._out["runtimes"][key] = shipway.runtime_of(ready)
        parts = self._options.parts
        if "serving" in parts:
            names = [name for name in servers if _measured(name, key)]
            self._serving(model, ready, names, folder / key)
        if "start" in parts and key in (*CHEAP, "random_forest"):
            self._start(model, ready, folder)
        if "batch" in parts and not model.is_tensor and not key.endswith("_native"):
            self._batch(model, ready.bento.path, folder)

    def _serving(self, model: BenchModel, ready: Any, names: list[str], folder: Path) -> None:
        with Processes(folder) as processes:
            servers = self._started(model, ready, names, processes, folder)
            for server in servers:
                server.wait(model, processes)
                if server.pinned:
                    pin(server.pids, SERVERS_CORE)
            self._out["results"] += measure(model, servers, self._effort, folder, self._tell)
            if model.key == CHEAP[0]:
                compared = [server for server in servers if server.name in ("shipway", *shipway.GATEWAYS)]
                self._out["light"] += light(model, compared, self._effort, folder)
        if model.key in CHEAP:
            from benchmarks.costs import costs
            from benchmarks.protocols import SCORING

            body = SCORING.request(model, 1)
            self._out["costs"][model.key] = costs(str(ready.python), ready.bento.path, body, folder)

    def _started(
        self, model: BenchModel, ready: Any, names: list[str], processes: Processes, folder: Path
    ) -> list[Server]:
        servers = [self._peers.start(name, model, processes, folder) for name in names if name in (*PEERS, *TUNED)]
        servers += [shipway.direct(name, ready, processes, folder) for name in names if name in shipway.DIRECT]
        servers += [shipway.bare(name, processes) for name in names if name in shipway.BARE]
        if behind := [name for name in names if name in shipway.GATEWAYS]:
            servers += shipway.gateways(behind, ready, processes, folder)
        return sorted(servers, key=lambda server: SERVERS.index(server.name))

    def _start(self, model: BenchModel, ready: Any, folder: Path) -> None:
        from benchmarks.start import start

        self._tell(f"{model.key}: start")
        ways = [ready]
        if shipway.runtime_of(ready)["runtime"] != "native":
            ways.append(shipway.prepared(model, ROOT / "envs" / "models", folder / "bentos", runtime="native"))
        for way in ways:
            with Processes(model.folder) as processes:
                self._out["start"].append(start(model, way, processes, folder, 1 if self._options.quick else 5))

    def _batch(self, model: BenchModel, bento: Path, folder: Path) -> None:
        from benchmarks.batch import WAYS, batch

        self._tell(f"{model.key}: batch")
        rows = 20_000 if self._options.quick else 200_000
        self._out["batch"] += batch(model, bento, rows, folder)
        if model.key == CHEAP[0]:  # whether memory grows with the file
            self._out["batch"] += batch(model, bento, 10 * rows, folder, ("shipway-file",))
        if model.key == "random_forest":  # whether a second process pays, once loading is small beside it
            self._out["batch"] += batch(model, bento, 5 * rows, folder, WAYS[-2:])

    def _tell(self, what: str) -> None:
        print(f"{time.monotonic() - self._began:6.0f} s  {what}", file=sys.stderr, flush=True)


def _measured(server: str, model: str) -> bool:
    """Whether *server* is measured with *model*."""
    if server == "shipway-workers":
        return model in WORKERS
    return server in EVERYWHERE or model in CHEAP


if __name__ == "__main__":
    main()
