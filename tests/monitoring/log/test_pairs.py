"""The reader follows real segments as a server writes them, and joins what both arms answered."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from bentos.serving.inputs.signature import Column, Signature
from bentos.serving.log.segments import Record, block
from bentos.serving.log.writer import SegmentWriter
from monitoring.evidence.evidence import Evidence, load
from monitoring.log.pairs import GRACE_NS, SETTLE_NS, LogReader
from tests.bentos.logged import put

SIGNATURE = Signature((Column("x", "double"), Column("kind", "string")))
SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND


def request(x: Any = 1.5, kind: str = "a", rows: int = 1) -> bytes:
    return json.dumps({"dataframe_split": {"columns": ["x", "kind"], "data": [[x, kind]] * rows}}).encode()


def record(request_id: str, version: str, *, at: float = 0.0, **more: Any) -> Record:
    values = {
        "request_id": request_id,
        "time_ns": T0 + int(at * SECOND),
        "assigned": "baseline/1",
        "mirrored": False,
        "attempt": 1,
        "version": version,
        "status": 200,
        "latency_ns": 3_000_000,
        "kind": "invocations",
        "content_type": "application/json",
        "request_header_length": 0,
        "response_content_type": "application/json",
        "response_header_length": 0,
        "request": request(),
        "response": b'{"predictions": [1]}',
    }
    return Record(**{**values, **more})


class World:
    """Two servers' logs, a clock, and a reader of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, T0
        self.writers = {
            version: SegmentWriter(folder / "segments" / "m" / version, flush_seconds=60) for version in ("1", "2")
        }

    def reader(self, baseline: str | None = "1", **more: Any) -> LogReader:
        return LogReader(
            self.folder,
            model="m",
            baseline=baseline,
            candidate="2",
            since_ns=T0,
            signature=SIGNATURE,
            clock=lambda: self.now,
            **more,
        )

    def log(self, *records: Record) -> None:
        for one in records:
            put(self.writers[one.version], one)
        for writer in self.writers.values():
            writer.flush()

    def pair(self, request_id: str, at: float = 0.0, **more: Any) -> None:
        """A request answered by the baseline and mirrored to the candidate."""
        self.log(record(request_id, "1", at=at), record(request_id, "2", at=at, mirrored=True, **more))

    def label(self, text: str) -> None:
        path = self.folder / "labels" / "2023-11-14T22.jsonl"
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as file:
            file.write(text)


@pytest.fixture
def world(tmp_path: Path) -> Any:
    made = World(tmp_path)
    yield made
    for writer in made.writers.values():
        writer.close()


def only(evidence: Evidence) -> dict[str, Any]:
    assert len(evidence.requests) == 1
    rows = evidence.requests.astype(object).where(evidence.requests.notna(), None)
    return {str(name): rows[name].iloc[0] for name in rows}


def test_pairs_are_joined_in_order_and_keep_their_place(world: World, tmp_path: Path) -> None:
    reader = world.reader()
    world.pair("b", at=1, response=b'{"predictions": [0]}')
    world.pair("a", at=2)
    assert reader.poll() == 4
    first = reader.evidence("shadow", gateway={"candidate": {"requests": 2}})
    assert first.requests["request_id"].tolist() == ["b", "a"]
    assert first.answers[["baseline", "candidate"]].to_numpy().tolist() == [[1, 0], [1, 1]]
    assert first.inputs[["x", "kind", "assigned"]].to_numpy().tolist() == [[1.5, "a", "baseline"]] * 2
    assert first.gateway == {"candidate": {"requests": 2}}
    world.pair("0", at=0.5)  # older, but known later: it goes behind
    assert reader.poll() == 2
    later = reader.evidence("shadow")
    assert later.requests[["seq", "request_id"]].to_numpy().tolist() == [[0, "b"], [1, "a"], [2, "0"]]
    assert reader.poll() == 0
    later.save(tmp_path / "kept")
    assert load(tmp_path / "kept").requests.equals(later.requests)
    assert load(tmp_path / "kept").answers.equals(later.answers)


def test_rotation_and_closing_lose_and_repeat_nothing(world: World) -> None:
    reader = world.reader()
    seen = 0
    for turn in range(4):
        world.pair(f"r{turn}", at=turn)
        if turn % 2:
            seen += reader.poll()
        for version in ("1", "2"):
            world.writers[version].close()  # .open becomes .seg, perhaps after a part of it was read
            world.writers[version] = SegmentWriter(world.folder / "segments" / "m" / version, flush_seconds=60)
        world.pair(f"s{turn}", at=turn + 0.5)
    seen += reader.poll()
    assert seen == 16
    assert sorted(reader.evidence("shadow").requests["request_id"]) == sorted(
        f"{letter}{turn}" for letter in "rs" for turn in range(4)
    )


def test_what_a_server_could_not_log_is_in_the_evidence(world: World, tmp_path: Path) -> None:
    reader = world.reader()
    world.writers["2"].close()
    world.writers["2"] = SegmentWriter(world.folder / "segments" / "m" / "2", max_buffer=300, flush_seconds=60)
    for number in range(4):  # more than the buffer takes before it is written
        put(world.writers["2"], record(f"r{number}", "2", mirrored=True))
    world.log()
    reader.poll()
    lost = world.writers["2"].dropped
    assert 0 < lost < 4
    evidence = reader.evidence("shadow")
    assert evidence.dropped == lost
    assert evidence.notes == (f"{lost} records could not be logged by their server and are missing",)
    evidence.save(tmp_path / "kept")
    assert load(tmp_path / "kept").dropped == lost


def test_a_torn_tail_is_read_once_it_is_whole(world: World) -> None:
    reader = world.reader()
    world.pair("a")
    path = next((world.folder / "segments" / "m" / "1").glob("*.open"))
    whole = path.read_bytes()
    world.log(record("b", "1", at=1))
    grown = path.read_bytes()
    torn = path.with_name(f"{T0}-1-1.seg")
    path.unlink()
    torn.write_bytes(grown[: len(whole) + 9])
    assert reader.poll() == 2
    torn.write_bytes(grown)
    assert reader.poll() == 1


def test_a_segment_cut_behind_the_reader_is_read_on_and_told(world: World) -> None:
    """As a disk leaves it that was full, or lost power: what was read is gone, and other records lie in its place."""
    reader = world.reader()
    world.log(record("a", "1"))
    (path,) = (world.folder / "segments" / "m" / "1").glob("*.open")
    kept = path.stat().st_size
    for name in "bcd":
        world.log(record(name, "1"))
    assert reader.poll() == 4
    later = [block([record(name, "1", response=b"x" * 150)], 1 << 20) for name in "efgh"]
    os.truncate(path, kept)
    assert reader.poll() == 0
    whole = path.read_bytes()
    path.write_bytes(whole + later[0])
    assert reader.poll() == 1
    path.write_bytes(whole + b"".join(later))
    assert reader.poll() == 3
    world.now += GRACE_NS + SECOND
    (note,) = (text for text in reader.evidence("shadow").notes if "lost what was read" in text)
    assert note.startswith("1 segments")


def test_a_segment_cut_and_grown_between_two_looks_is_read_on_and_told(world: World) -> None:
    reader = world.reader()
    world.log(record("a", "1"))
    (path,) = (world.folder / "segments" / "m" / "1").glob("*.open")
    kept = path.read_bytes()
    for name in "bcd":
        world.log(record(name, "1"))
    assert reader.poll() == 4
    later = [block([record(name, "1", response=b"x" * 150)], 1 << 20) for name in "efgh"]
    path.write_bytes(kept + b"".join(later))
    assert reader.poll() >= 2  # from the record on in whose middle the reader stood
    path.write_bytes(kept + b"".join(later) + block([record("i", "1")], 1 << 20))
    assert reader.poll() == 1
    world.now += GRACE_NS + SECOND
    assert [note for note in reader.evidence("shadow").notes if "1 segments had lost" in note]


def test_a_mirrored_request_the_candidate_never_logged(world: World) -> None:
    reader = world.reader()
    world.log(record("a", "1"))
    reader.poll()
    assert len(reader.evidence("shadow").requests) == 0
    world.now += GRACE_NS + SECOND
    row = only(reader.evidence("shadow"))
    assert (row["mirrored"], row["candidate_status"], row["baseline_status"]) == (False, None, 200)
    world.log(record("a", "2", mirrored=True))
    reader.poll()
    assert only(reader.evidence("shadow")) == row
    assert reader.evidence("shadow").notes == ("1 records came after their request was complete",)


def test_a_fallback_is_counted_against_the_candidate(world: World) -> None:
    reader = world.reader()
    reader.mark("split", T0)
    mine = {"assigned": "candidate/2"}
    world.log(
        record("a", "2", at=1, status=500, response=b'{"error": "boom"}', **mine),
        record("a", "1", at=1.01, attempt=2, **mine),
    )
    reader.poll()
    world.now += SETTLE_NS + 2 * SECOND
    row = only(reader.evidence("split"))
    assert (row["assigned"], row["fallback"], row["mirrored"]) == ("candidate", True, False)
    assert (row["baseline_status"], row["candidate_status"]) == (200, 500)
    assert row["error"] == 'candidate 500: {"error": "boom"}'
    assert reader.evidence("split").answers["candidate"].isna().all()


def test_a_look_sees_failures_no_sooner_than_what_came_with_them(world: World) -> None:
    reader = world.reader()
    reader.mark("split", T0)
    mine = {"assigned": "candidate/2"}
    world.log(
        record("good", "2", at=1, **mine),
        record("bad", "2", at=1, status=500, response=b'{"error": "boom"}', **mine),
        record("bad", "1", at=1, attempt=2, **mine),
    )
    seen = []
    for _ in range(10):
        reader.poll()
        found = reader.evidence("split").requests
        seen.append(sorted(found["request_id"]) if len(found) else [])
        world.now += SECOND // 2
    assert [] in seen and ["bad", "good"] in seen
    assert ["bad"] not in seen and ["good"] not in seen


def test_a_dead_candidate_leaves_only_the_fallback(world: World) -> None:
    reader = world.reader()
    reader.mark("split", T0)
    world.log(record("a", "1", assigned="candidate/2"))
    world.now += GRACE_NS + SECOND
    reader.poll()
    row = only(reader.evidence("split"))
    assert (row["fallback"], row["candidate_status"], row["assigned"]) == (True, None, "candidate")


def test_a_late_candidate_joins_its_hedge(world: World) -> None:
    reader = world.reader()
    reader.mark("split", T0)
    world.log(record("a", "2", assigned="candidate/2", latency_ns=900_000_000))
    world.now += SECOND
    reader.poll()
    assert reader.evidence("split").requests.empty  # a second answer may still come
    world.log(record("a", "1", at=0.5, assigned="candidate/2", attempt=2))
    reader.poll()
    world.now += SETTLE_NS
    row = only(reader.evidence("split"))
    assert (row["fallback"], row["candidate_status"], row["candidate_ms"]) == (True, 200, 900.0)


def test_split_requests_settle_alone_beside_the_pairs_of_the_shadow(world: World) -> None:
    reader = world.reader()
    world.pair("shadowed", at=1)
    reader.mark("split", T0 + 2 * SECOND)
    world.log(record("mine", "2", at=3, assigned="candidate/2"), record("his", "1", at=3))
    world.now = T0 + 3 * SECOND + SETTLE_NS + SECOND
    reader.poll()
    split = reader.evidence("split")
    assert split.requests[["request_id", "stage", "assigned", "fallback"]].to_numpy().tolist() == [
        ["shadowed", "shadow", "baseline", False],
        ["his", "split", "baseline", False],
        ["mine", "split", "candidate", False],
    ]
    assert split.started_ns == T0 + 2 * SECOND
    assert set(split.answers["request_id"]) == {"shadowed", "mine", "his"}
    assert set(split.inputs["request_id"]) == {"mine", "his"}
    assert only(reader.evidence("shadow"))["request_id"] == "shadowed"
    assert only(reader.evidence("split", since_ns=T0 + 4 * SECOND))["request_id"] == "shadowed"


def test_the_worst_of_repeated_candidate_records_counts(world: World) -> None:
    reader = world.reader()
    for status in (200, 500, 200):
        world.log(record("a", "2", mirrored=True, status=status))
    world.log(record("a", "1"))
    reader.poll()
    assert only(reader.evidence("shadow"))["candidate_status"] == 500


def test_a_first_version_has_no_baseline(world: World) -> None:
    reader = world.reader(baseline=None, stage="split")
    world.log(record("a", "2", assigned="baseline/2"))
    reader.poll()
    row = only(reader.evidence("split"))
    assert (row["assigned"], row["baseline_status"], row["candidate_status"]) == ("candidate", None, 200)


def test_rows_of_one_request_are_expanded_and_labelled(world: World) -> None:
    reader = world.reader()
    two: dict[str, Any] = {"request": request(rows=2)}
    world.log(
        record("a", "1", response=b'{"predictions": [1, 0]}', **two),
        record("a", "2", mirrored=True, response=b'{"predictions": [1, 1]}', **two),
    )
    world.label('{"request_id": "b", "value": 1, "received_ns": 1}\n')
    world.label('{"request_id": "a", "value": [1, 0], "received_ns": 2}\n{"request_id": "c", "val')
    assert reader.poll() == 4
    world.pair("b", at=1)
    world.label('ue": 5, "received_ns": 3}\nnot json\n{"request_id": "a", "value": [0, 0], "received_ns": 4}\n')
    assert reader.poll() == 4
    evidence = reader.evidence("shadow")
    columns = ["request_id", "row", "baseline", "candidate", "label", "label_seq"]
    assert evidence.answers[columns].to_numpy().tolist() == [
        ["a", 0, 1, 1, 1, 0],
        ["a", 1, 0, 1, 0, 1],
        ["b", 0, 1, 1, 1, 2],
    ]
    assert evidence.requests["rows"].tolist() == [2, 1]
    assert len(evidence.inputs) == 3
    assert evidence.notes == (
        "1 labels came for requests that had one, or with another number of rows",
        "1 lines of the labels are no labels",
    )


def test_bodies_that_cannot_be_read_are_counted(world: World) -> None:
    reader = world.reader()
    bad: dict[str, Any] = {"request": b"{"}
    world.log(record("a", "1", response=b"what", **bad), record("a", "2", mirrored=True, **bad))
    refused: dict[str, Any] = {"request": request(x="tall"), "status": 400, "response": b"{}"}
    world.log(record("b", "1", at=1, **refused), record("b", "2", at=1, mirrored=True, **refused))
    reader.poll()
    evidence = reader.evidence("shadow")
    assert len(evidence.requests) == 2
    assert evidence.answers["request_id"].tolist() == ["a"]
    assert evidence.invalid_rows == 1
    assert evidence.notes == ("1 answers could not be decoded", "1 requests could not be decoded")


def test_nothing_logged_is_empty_evidence(world: World) -> None:
    evidence = world.reader().evidence("shadow")
    assert evidence.requests.empty and evidence.answers.empty and evidence.inputs.empty
    assert "candidate_status" in evidence.requests and "label_seq" in evidence.answers


def test_records_from_before_the_release_do_not_count(world: World) -> None:
    world.pair("old", at=-5)
    world.pair("new", at=5)
    reader = world.reader()
    assert reader.poll() == 2
    assert only(reader.evidence("shadow"))["request_id"] == "new"


def test_ten_thousand_records_are_joined_in_seconds(world: World) -> None:
    for number in range(5000):
        one = record(f"r{number}", "1", at=number / 1000)
        put(world.writers["1"], one)
        put(world.writers["2"], one._replace(version="2", mirrored=True))
    world.log()
    reader = world.reader()
    began = time.process_time()
    assert reader.poll() == 10_000
    assert len(reader.evidence("shadow").requests) == 5000
    assert time.process_time() - began < 3.0  # measured 0.4; the bound is for a crowded machine
