"""The replay in a process of its own, so that nothing else delays its clock; told what to do line by line.

``python -m examples.flights.replay_process`` reads one JSON command a line on stdin and answers ``counts`` with one line
on stdout. It ends on ``stop`` or when stdin closes, and then has written what every request came to.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bentos.serving.errors import PermanentError
from examples.flights.replay import Replay, Scene
from examples.flights.sent import write_sent


class ReplayError(PermanentError):
    """The replay's process ended or could not be told; the message ends with what it wrote."""


class ReplayProcess:
    """The handle that the demo holds. *flights* is a Parquet file of ``load_flights()``; *sent* is written at ``stop``."""

    def __init__(self, *, flights: Path, sent: Path, gateway: str, receiver: str, rate: float, model: str) -> None:
        self._log = sent.with_suffix(".log")
        command = [sys.executable, "-m", "examples.flights.replay_process", "--flights", str(flights)]
        command += ["--sent", str(sent), "--gateway", gateway, "--receiver", receiver]
        command += ["--rate", str(rate), "--model", model]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=_root(), text=True
            )

    def play(self, scene: Scene) -> None:
        """Goes on with *scene*."""
        self._tell({"do": "play", "scene": asdict(scene)})

    def pause(self) -> None:
        """No requests until the next ``play``."""
        self._tell({"do": "pause"})

    def counts(self) -> dict[str, dict[str, Any]]:
        """The tally of every period so far."""
        self._tell({"do": "counts"})
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ReplayError(f"the replay has ended: {self._end_of_log()}")
        found: dict[str, dict[str, Any]] = json.loads(line)
        return found

    def stop(self, timeout: float = 60.0) -> None:
        """Ends it; every request is in the file then. Raises ReplayError where it failed."""
        if self._process.poll() is None:
            self._tell({"do": "stop"})
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise ReplayError(f"the replay did not end within {timeout:g} s: {self._end_of_log()}") from error
        self._close()
        if code:
            raise ReplayError(f"the replay ended with {code}: {self._end_of_log()}")

    def kill(self) -> None:
        """Ends it at once, nothing written; for when the demo itself fails."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._close()

    def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None and not stream.closed:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue  # it died with a command unread; its log has why

    def _tell(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ReplayError(f"the replay has ended: {self._end_of_log()}") from error

    def _end_of_log(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:]) or "it wrote nothing"


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


async def obey(replay: Replay, commands: asyncio.StreamReader) -> None:
    """Runs *replay* and does what comes in line by line, until ``stop`` or the end of the stream."""
    running = asyncio.create_task(replay.run())
    reading = asyncio.create_task(_read(replay, commands))
    await asyncio.wait({running, reading}, return_when=asyncio.FIRST_COMPLETED)
    replay.stop()
    if reading.done():
        reading.result()  # a command that cannot be obeyed ends the replay with its error
    reading.cancel()
    await running


async def _read(replay: Replay, commands: asyncio.StreamReader) -> None:
    while line := await commands.readline():
        command = json.loads(line)
        match command["do"]:
            case "play":
                replay.play(Scene(**command["scene"]))
            case "pause":
                replay.pause()
            case "counts":
                print(json.dumps({name: tally.to_json() for name, tally in replay.tallies.items()}), flush=True)
            case "stop":
                return
            case unknown:
                raise ReplayError(f"command {unknown!r}: expected play, pause, counts or stop")


async def _main(options: argparse.Namespace) -> None:
    import pandas as pd

    flights = pd.read_parquet(options.flights)
    replay = Replay(flights, gateway=options.gateway, receiver=options.receiver, rate=options.rate, model=options.model)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    gc.collect()
    gc.freeze()  # what was loaded is never garbage, and a full collection would hold up the clock
    await obey(replay, commands)
    write_sent(replay.sent, options.sent)


def main() -> None:
    """The child's entry."""
    parser = argparse.ArgumentParser(description="Replays flights as live traffic, told what to do on stdin.")
    for name in ("flights", "sent"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("gateway", "receiver", "model"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rate", type=float, required=True)
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
