"""Reads the prediction log of a release as it grows and joins both arms' records by request id."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bentos.serving.errors import PermanentError
from bentos.serving.inputs.signature import Signature
from bentos.serving.log.segments import Record
from monitoring.evidence.evidence import Evidence
from monitoring.interface import Stage
from monitoring.log.bodies import Answer, Bodies, WireBodies
from monitoring.log.label_files import Label, LabelReader
from monitoring.log.tables import Tables
from monitoring.log.tail import SegmentTail

SECOND = 1_000_000_000
SETTLE_NS = 1_500_000_000  # a second answer to the same request (hedge, retry) is in the log by then
GRACE_NS = 5 * SECOND  # a record that is expected and not there after this long does not come


@dataclass
class _Pair:
    """What is known of one request so far."""

    baseline: Record | None = None
    candidate: Record | None = None

    def ends_ns(self) -> int:
        return max(record.time_ns + record.latency_ns for record in (self.baseline, self.candidate) if record)


class LogReader:
    """The growing window of one release: ``poll`` reads what is new, ``evidence`` freezes what is complete.

    A request gets its ``seq`` once its facts are complete and keeps it: both records are there; or the one that was
    expected did not come within GRACE; or, where no second one was expected, SETTLE passed. What arrives later is
    counted in the notes and changes nothing. *predictions* is the folder of segments/ and labels/; *signature* is the
    candidate's and names input columns; *output* is ``Metrics.output``; *clock* gives unix time in ns.
    """

    def __init__(
        self,
        predictions: Path,
        *,
        model: str,
        baseline: str | None,
        candidate: str,
        since_ns: int,
        signature: Signature,
        output: str | None = None,
        bodies: Bodies | None = None,
        stage: Stage = "shadow",
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        folder = predictions / "segments" / model
        self.model, self.baseline, self.candidate = model, baseline, candidate
        self.stages: list[tuple[int, Stage]] = [(since_ns, stage)]
        self._tails = {
            version: SegmentTail(folder / version, since_ns=since_ns)
            for version in (baseline, candidate)
            if version is not None
        }
        self._labels = LabelReader(predictions / "labels", since_ns=since_ns)
        self._bodies: Bodies = bodies if bodies is not None else WireBodies(signature, output)
        self._clock = clock
        self._pending: dict[str, _Pair] = {}
        self._unlabelled: dict[str, Label] = {}
        self._tables = Tables()
        self._counts: Counter[str] = Counter()

    def mark(self, stage: Stage, now_ns: int) -> None:
        """Requests that arrive from *now_ns* on belong to *stage*."""
        self.stages.append((now_ns, stage))
        self.stages.sort(key=lambda mark: mark[0])

    def poll(self) -> int:
        """Reads what was logged since the last poll; returns how many records and labels that was."""
        records = [(version, record) for version, tail in self._tails.items() for record in tail.poll()]
        for version, record in records:
            self._take(record, candidate=version == self.candidate)
        self._settle(self._clock())
        labels = self._labels.poll()
        self._label(labels)
        return len(records) + len(labels)

    def evidence(
        self,
        stage: Stage,
        *,
        gateway: Mapping[str, Mapping[str, int]] | None = None,
        now_ns: int | None = None,
        since_ns: int = 0,
    ) -> Evidence:
        """The complete requests of *stage* (that arrived at or after *since_ns*) up to now."""
        now = self._clock() if now_ns is None else now_ns
        self._settle(now)
        starts = [start for start, name in self.stages if name == stage]
        requests, answers, inputs, invalid = self._tables.window(stage, since_ns)
        return Evidence(
            model=self.model,
            stage=stage,
            baseline=self.baseline,
            candidate=self.candidate,
            started_ns=max(min(starts, default=now), since_ns),
            ended_ns=now,
            requests=requests,
            answers=answers,
            inputs=inputs,
            invalid_rows=invalid,
            gateway=gateway or {},
            dropped=self._dropped(),
            notes=self._notes(),
        )

    def _take(self, record: Record, *, candidate: bool) -> None:
        if self._tables.knows(record.request_id):
            self._counts["records came after their request was complete"] += 1
            return
        pair = self._pending.setdefault(record.request_id, _Pair())
        if candidate:
            pair.candidate = record if pair.candidate is None else max(pair.candidate, record, key=_badness)
        else:
            pair.baseline = record if pair.baseline is None else min(pair.baseline, record, key=_badness)

    def _settle(self, now_ns: int) -> None:
        """Gives every request that is complete by *now_ns* its place in the tables."""
        ready = []
        for request_id, pair in self._pending.items():
            wait, end = self._wait(pair), pair.ends_ns()
            if not wait or now_ns >= end + wait:
                ready.append((end, request_id))
        for _, request_id in sorted(ready):
            self._complete(request_id, self._pending.pop(request_id))

    def _wait(self, pair: _Pair) -> int:
        """How long after the last record of *pair* another one may still come, in ns."""
        if self.baseline is None:
            return 0
        if pair.baseline is not None and pair.candidate is not None:
            # what fell back waits as long as what did not: else a look would see failures before their contemporaries
            return 0 if pair.candidate.mirrored else SETTLE_NS
        live = pair.baseline or pair.candidate
        assert live is not None
        if pair.baseline is not None:
            missing = self._assigned(live) == "candidate" or self._stage(live.time_ns) == "shadow"
        else:
            missing = live.mirrored or live.status >= 500 or live.status == 429
        return GRACE_NS if missing else SETTLE_NS

    def _complete(self, request_id: str, pair: _Pair) -> None:
        copy = pair.candidate is not None and pair.candidate.mirrored
        live = pair.candidate if pair.baseline is None else pair.baseline
        if live is None or (pair.baseline is None and copy):
            self._counts["mirrored copies have no live answer in the log"] += 1
            return
        assigned = self._assigned(live)
        stage = self._stage(live.time_ns)
        columns, invalid = self._inputs(live)
        baseline, candidate = self._answer(pair.baseline), self._answer(pair.candidate)
        rows = max(len(next(iter(columns.values()), ())), len(baseline.values), len(candidate.values))
        request = {
            "request_id": request_id,
            "time_ns": live.time_ns,
            "stage": stage,
            "assigned": assigned,
            "fallback": assigned == "candidate" and pair.baseline is not None,
            "mirrored": copy,
            "rows": rows,
            "baseline_status": pair.baseline.status if pair.baseline else None,
            "candidate_status": pair.candidate.status if pair.candidate else None,
            "baseline_ms": pair.baseline.latency_ns / 1e6 if pair.baseline else None,
            "candidate_ms": pair.candidate.latency_ns / 1e6 if pair.candidate else None,
            "error": _error(pair),
        }
        self._tables.add(request, columns, baseline, candidate, invalid)
        label = self._unlabelled.pop(request_id, None)
        if label is not None:
            self._tables.label(request_id, label.value)

    def _label(self, labels: Iterable[Label]) -> None:
        for label in labels:
            if self._tables.knows(label.request_id):
                if not self._tables.label(label.request_id, label.value):
                    self._counts["labels came for requests that had one, or with another number of rows"] += 1
            else:
                self._unlabelled.setdefault(label.request_id, label)

    def _inputs(self, record: Record) -> tuple[Mapping[str, Sequence[Any]], int]:
        """Input columns, and how many rows break the signature: a server answers those with 4xx."""
        refused = 400 <= record.status < 500 and record.status != 429
        try:
            return self._bodies.inputs(record), self._bodies.invalid(record) if refused else 0
        except PermanentError:
            if not refused:
                self._counts["requests could not be decoded"] += 1
            return {}, 0

    def _answer(self, record: Record | None) -> Answer:
        if record is None or record.status >= 400:
            return Answer(())
        try:
            return self._bodies.answer(record)
        except PermanentError:
            self._counts["answers could not be decoded"] += 1
            return Answer(())

    def _assigned(self, record: Record) -> str:
        """The arm the gateway chose; a record from no gateway was assigned to whoever answered."""
        version = record.assigned.partition("/")[2] or record.version
        return "candidate" if version == self.candidate else "baseline"

    def _stage(self, time_ns: int) -> Stage:
        at = bisect_right([start for start, _ in self.stages], time_ns)
        return self.stages[max(at - 1, 0)][1]

    def _dropped(self) -> int:
        """Records of both versions that their servers could not log since the release began."""
        return sum(tail.dropped for tail in self._tails.values())

    def _notes(self) -> tuple[str, ...]:
        counts = Counter(self._counts)
        counts["records could not be logged by their server and are missing"] += self._dropped()
        counts["lines of the labels are no labels"] += self._labels.broken
        counts["segments were deleted before they were read"] += sum(tail.lost for tail in self._tails.values())
        cut = sum(tail.cut for tail in self._tails.values())
        counts["segments had lost what was read of them, and records with it (a full or broken disk)"] += cut
        return tuple(f"{number} {what}" for what, number in sorted(counts.items()) if number)


def _badness(record: Record) -> tuple[bool, int, int]:
    return record.status >= 500 or record.status == 429, record.status, record.latency_ns


def _error(pair: _Pair) -> str | None:
    """What the failing arm said, the candidate's first."""
    for arm, record in (("candidate", pair.candidate), ("baseline", pair.baseline)):
        if record is not None and record.status >= 400:
            return f"{arm} {record.status}: {record.response[:200].decode('utf-8', 'replace')}"
    return None
