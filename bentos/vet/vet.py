"""Vet: what the files of a model would do when they are loaded, decided before anything loads them.

A first vet, fail-closed: what a scanner cannot read is a refusal, and so are a scanner's crash and its time-out. It runs
in a child process (`python -m bentos.vet.vet FOLDER`, the policy's values on stdin, the report on stdout).

Three scanners: modelscan's deny-list; skops' audit of ``.skops`` files against an allow-list; and ``pickle_walk``, an
allow-list over what a pickle names, makes and calls. A file that MLmodel says is loaded as a pickle is walked whatever it
is called. Python source (``code/``, models from code) is reported, not judged: it runs only in the model's environment.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from bentos.children import ahead
from bentos.children.run import ChildError, run_module
from bentos.policy.gates import VetPolicy
from bentos.serving.fetch.artifact_tree import tree_digest
from bentos.vet.files import scan_files
from bentos.vet.finding import Finding
from bentos.vet.pickle_rules import trusted

MODULE = "bentos.vet.vet"
TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class VetReport:
    """What was found; *scanners* are ``name version`` of those that ran, *files* how many files they saw."""

    findings: tuple[Finding, ...]
    scanners: tuple[str, ...]
    files: int

    @property
    def passed(self) -> bool:
        """True where nothing was refused and something was scanned."""
        return self.files > 0 and not any(finding.severity == "refuse" for finding in self.findings)

    @property
    def reason(self) -> str:
        """The refusals in one line, empty where it passed."""
        refusals = [f"{finding.file}: {finding.what}" for finding in self.findings if finding.severity == "refuse"]
        return "; ".join(refusals) or ("" if self.files else "there was no file to scan")


def vet(folder: Path, policy: VetPolicy, *, timeout: float = TIMEOUT_SECONDS) -> VetReport:
    """Scans the artifact tree *folder* in a child process of at most *timeout* seconds; loads and runs nothing of it."""
    command, code = [MODULE, str(folder.absolute())], Path(__file__).parents[2]
    try:
        printed = run_module(
            Path(sys.executable),
            code,
            command,
            timeout,
            "the scan",
            late="so it is refused",
            given=policy.model_dump_json(),
        )
    except ChildError as error:
        return _failed(str(error))
    try:
        values = json.loads(printed.splitlines()[-1])
        findings = tuple(Finding(**finding) for finding in values["findings"])
        return VetReport(findings, tuple(values["scanners"]), int(values["files"]))
    except (ValueError, IndexError, KeyError, TypeError) as error:
        return _failed(f"the scanner's report cannot be read: {error}")


def start_ahead() -> None:
    """A scanner that imports its libraries before there is a folder to scan."""
    ahead.start(Path(sys.executable), MODULE, ("skops.io", "modelscan.modelscan", "yaml"))


def scanner_digest() -> str:
    """Of everything that decides what the scan finds: our own rules and the versions of the scanners."""
    scanners = f"{metadata.version('modelscan')} {metadata.version('skops')}"
    return hashlib.sha256(f"{tree_digest(Path(__file__).parent, '*.py')} {scanners}".encode()).hexdigest()


def _failed(what: str) -> VetReport:
    return VetReport((Finding(".", what, "refuse"),), (), 0)


def scan(folder: Path, policy: VetPolicy) -> VetReport:
    """The scan itself, in this process. Reads files only."""
    files = sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    findings = [*scan_files(folder, files, policy), *_modelscan(folder, policy)]
    scanners = (f"modelscan {metadata.version('modelscan')}", f"skops {metadata.version('skops')}", "pickle_walk 1")
    return VetReport(tuple(dict.fromkeys(findings)), scanners, len(files))


def _modelscan(folder: Path, policy: VetPolicy) -> Iterator[Finding]:
    import copy
    import logging

    from modelscan.modelscan import ModelScan
    from modelscan.settings import DEFAULT_SETTINGS

    logging.getLogger("modelscan").setLevel(logging.CRITICAL)
    settings: dict[str, Any] = copy.deepcopy(DEFAULT_SETTINGS)
    # Its numpy scanner calls a private function that numpy 2.4 no longer has; files.py reads arrays itself.
    settings["scanners"]["modelscan.scanners.NumpyUnsafeOpScan"]["enabled"] = False
    result = ModelScan(settings=settings).scan(folder)
    for issue in result["issues"]:
        name = f"{issue.get('module')}.{issue.get('operator')}"
        # Honest enumerations and methods need getattr; the walk judges what it is given, and refuses to call the result.
        if name not in ("builtins.getattr", "__builtin__.getattr") and not trusted(name, policy.trusted_types):
            yield Finding(str(issue.get("source", ".")), f"modelscan: {issue['severity']}: {name}", "refuse")
    for error in result["errors"]:
        yield Finding(str(error.get("source", ".")), f"modelscan cannot read it: {error.get('description')}", "refuse")


def main() -> None:
    """Reads a folder from the arguments and a policy from stdin, writes one line of JSON."""
    report = scan(Path(sys.argv[1]), VetPolicy.model_validate_json(sys.stdin.read()))
    sys.stdout.write(json.dumps(asdict(report)) + "\n")


if __name__ == "__main__":
    main()
