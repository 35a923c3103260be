"""The real promote-model flow, killed with SIGKILL right after one of its effects.

``python -m tests.e2e.kill_after MODEL`` reads lines ``VERSION N``. For each it forks, and the fork runs the flow and
kills itself after its N-th step (0: never). One JSON line answers: the steps that were carried out, how the process
ended (a negative signal number, or 0) and what the flow returned. Forking spares every run the imports; the parent
itself runs no flow.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from importlib import import_module

from flows.promote import promote_model
from flows.release.drive import Drive
from flows.release.machine import Step


def run(model: str, version: str, last: int, told: int) -> None:
    """In the fork: the flow, telling each step on the file descriptor *told*."""
    effect_of, done = Drive.effect, 0

    def tell(**values: str) -> None:
        os.write(told, json.dumps(values).encode() + b"\n")

    def effect(self: Drive, step: Step) -> str:
        nonlocal done
        said = effect_of(self, step)
        done += 1
        tell(step=str(step))
        if done == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return said

    Drive.effect = effect
    try:
        tell(said=promote_model(model=model, version=version))
    except BaseException:
        tell(said=traceback.format_exc())


def forked(model: str, version: str, last: int) -> dict[str, object]:
    """One run of the flow in a fork, to its end or its kill."""
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        os.close(reads)
        run(model, version, last, writes)
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as told:
        lines = [json.loads(line) for line in told]
    _, status = os.waitpid(child, 0)
    said = next((line["said"] for line in lines if "said" in line), "")
    steps = [line["step"] for line in lines if "step" in line]
    return {"steps": steps, "ended": os.waitstatus_to_exitcode(status), "said": said}


def main(model: str) -> None:
    for name in (
        "flows.release.check",
        "flows.telling.report",
        "monitoring.evidence.evidence",
        "monitoring.log.pairs",
        "monitoring.verdict",
    ):
        import_module(name)  # what the flow imports when it gets there, imported once
    for line in sys.stdin:
        version, last = line.split()
        print(json.dumps(forked(model, version, int(last))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
