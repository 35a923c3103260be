"""``shipway verify``: the release records against themselves and their evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monitoring.ledger.tracking import UnknownRunError

if TYPE_CHECKING:
    from flows.stack.parts import Servers
    from infra.settings import StackSettings

RUN_ID_LENGTH = 32


def check_records(settings: StackSettings, servers: Servers, what: str | None) -> tuple[str, bool]:
    """What was found of a model's releases, of one run or of everything, and whether all of it holds.

    Raises UnknownRunError where *what* is neither a model with releases nor the run of one.
    """
    from monitoring.ledger.ledger import Ledger
    from monitoring.ledger.verify import verify

    ledger = Ledger(servers.mlflow, settings.root / "releases" / "files")
    run_id = what if what is not None and len(what) == RUN_ID_LENGTH and not ledger.releases(what, limit=1) else None
    model = what if run_id is None else None
    releases = [ledger.get(run_id)] if run_id is not None else ledger.everything(model)
    if not releases and what is not None:
        raise UnknownRunError(f"{what}: no release of such a model, and no such run. See 'shipway status'.")
    findings = verify(ledger, model=model, run_id=run_id)
    broken = {finding.run_id for finding in findings}
    lines = [
        f"{'BROKEN' if release.run_id in broken else 'open' if release.open else 'holds':6}  {release.name}  "
        f"{release.outcome or '-'}  run {release.run_id}"
        for release in releases
    ]
    lines += [str(finding) for finding in findings]
    lines.append(f"{len(releases)} releases, {len(findings)} findings")
    return "\n".join(lines), not findings
