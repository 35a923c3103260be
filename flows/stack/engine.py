"""``python -m flows.stack.engine``: Prefect's engine, which runs one flow run, without half of the time of its imports.

Prefect imports jsonschema, and that, where its optional formats are installed, compiles a grammar of IRIs. No flow has a
parameter of such a format; Prefect's server, which checks parameters, has the grammar as before. The vet of a release imports
its scanners meanwhile.
"""

from __future__ import annotations

import os
import runpy
import sys

GRAMMAR = "rfc3987_syntax"
VETS = "promote-model"  # the flow that vets first of all


def main() -> None:
    """Runs the flow run that the environment names."""
    if os.environ.get("PREFECT__FLOW_NAME") == VETS:  # set by Prefect's worker
        from bentos.vet.vet import start_ahead

        start_ahead()
    sys.modules[GRAMMAR] = None  # type: ignore[assignment] # an import of it is an ImportError: as if not installed
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
