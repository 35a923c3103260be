"""LedgerReleases: the ledger behind the receiver's index."""

from __future__ import annotations

from dataclasses import dataclass

from infra.pages import run_page
from infra.receiver.releases import ReleaseRow, ReleasesAway
from monitoring.interface import PermanentMonitoringError, TransientMonitoringError
from monitoring.ledger.ledger import Ledger
from monitoring.ledger.release import Release


@dataclass(frozen=True)
class LedgerReleases:
    """The releases of *ledger*; *mlflow* is where browsers reach it."""

    ledger: Ledger
    mlflow: str

    def newest(self, limit: int, model: str | None = None) -> list[ReleaseRow]:
        """The newest *limit* releases. Raises ReleasesAway where MLflow does not answer or refuses."""
        if model is not None and model.endswith("*"):
            return []  # the ledger's sign for every name that begins so
        try:
            found = self.ledger.everything(model, limit)
        except (TransientMonitoringError, PermanentMonitoringError) as error:
            raise ReleasesAway(str(error)) from error
        return [self._row(release) for release in found]

    def _row(self, release: Release) -> ReleaseRow:
        return ReleaseRow(
            model=release.model,
            version=release.candidate,
            attempt=release.attempt,
            outcome=release.outcome,
            reason=release.reason,
            opened_at=release.opened_at,
            closed_at=release.closed_at,
            run_id=release.run_id,
            page=run_page(self.mlflow, release.experiment_id, release.run_id),
        )
