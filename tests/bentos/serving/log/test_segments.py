"""The prediction log: what is appended is read back, and nothing but the last flush can be lost."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bentos.serving.log import segments as log
from bentos.serving.log import writer as segment_writer
from bentos.serving.log.segments import Record, abandoned, block, scan_segment, segments
from bentos.serving.log.writer import SegmentWriter
from tests.bentos.logged import put
from tests.small_disk import SmallDisk


def record(number: int = 0, request: bytes = b"{}", response: bytes = b"[]") -> Record:
    return Record(
        f"id-{number}", 1_700_000_000_000_000_000 + number, "candidate/4", number % 2 == 1, 1, "4", 200, 1234,
        "invocations", "application/json", 0, "application/json", 0, request, response,
    )  # fmt: skip


def everything(folder: Path) -> list[Record]:
    return [found for path in segments(folder) for found in scan_segment(path).records]


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    sent = [record(number, b"x" * number, b"y" * (number * 7)) for number in range(50)]
    writer = SegmentWriter(tmp_path)
    for one in sent:
        put(writer, one)
    writer.close()
    assert everything(tmp_path) == sent
    assert [path.suffix for path in segments(tmp_path)] == [".seg"]
    assert writer.written == 50


@given(
    st.tuples(st.text(max_size=40), st.text(max_size=20), st.text(max_size=9), st.text(max_size=20)),
    st.binary(max_size=300),
    st.binary(max_size=300),
    st.integers(0, 2**32 - 1),
    st.sampled_from(log.KINDS),
)
def test_any_texts_and_bodies_survive(tmp_path_factory, texts, request, response, header, kind) -> None:
    request_id, assigned, version, content_type = (text.encode("utf-8", "replace").decode() for text in texts)
    one = Record(request_id, 1, assigned, True, 2, version, 599, 3, kind, content_type, header, "a/b", 9, request, response)  # fmt: skip
    path = tmp_path_factory.mktemp("segment") / "1-1-1.seg"
    path.write_bytes(log.MAGIC + block([one], 1 << 20))
    assert scan_segment(path).records == [one]


def test_reading_goes_on_where_it_stopped_and_through_the_rename(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path)
    put(writer, record(1))
    writer.flush()
    [path] = segments(tmp_path)
    assert path.suffix == ".open"
    first, _, offset = scan_segment(path)
    assert [one.request_id for one in first] == ["id-1"]
    assert scan_segment(path, offset) == ([], 0, offset)
    put(writer, record(2))
    writer.close()
    second, *_ = scan_segment(path, offset)
    assert [one.request_id for one in second] == ["id-2"]


def test_an_idle_server_shows_its_records_within_a_second(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path)
    put(writer, record(1))
    deadline = time.monotonic() + 1.0
    while not everything(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(everything(tmp_path)) == 1
    writer.close()


def test_every_torn_tail_is_ignored(tmp_path: Path) -> None:
    whole = log.MAGIC + block([record(1)], 1 << 20)
    tail = block([record(2, b"longer body")], 1 << 20)
    path = tmp_path / "1-1-1.open"
    for cut in range(len(tail)):
        path.write_bytes(whole + tail[:cut])
        assert scan_segment(path) == ([record(1)], 0, len(whole))
    path.write_bytes(whole + tail[:-1] + bytes([tail[-1] ^ 1]))
    assert scan_segment(path) == ([record(1)], 0, len(whole))
    path.write_bytes(whole + tail)
    assert len(scan_segment(path).records) == 2


def test_rotates_by_size_and_by_time(tmp_path: Path) -> None:
    by_size = SegmentWriter(tmp_path / "size", rotate_bytes=2000, flush_seconds=0.01)
    for number in range(20):
        put(by_size, record(number, b"x" * 500))
        time.sleep(0.01)
    by_size.close()
    assert len(segments(tmp_path / "size")) > 2
    assert [one.request_id for one in everything(tmp_path / "size")] == [f"id-{number}" for number in range(20)]

    by_time = SegmentWriter(tmp_path / "time", rotate_seconds=0.05, flush_seconds=0.01)
    put(by_time, record(1))
    deadline = time.monotonic() + 2
    while not list((tmp_path / "time").glob("*.seg")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(list((tmp_path / "time").glob("*.seg"))) == 1, "an idle segment is closed too"
    by_time.close()


def test_a_long_body_is_cut_and_marked(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, max_body=10)
    put(writer, record(1, b"0123456789abc", b"short"))
    writer.close()
    [found] = everything(tmp_path)
    assert (found.request, found.request_truncated) == (b"0123456789", True)
    assert (found.response, found.response_truncated) == (b"short", False)


def test_sampling_keeps_the_same_requests_in_both_arms(tmp_path: Path) -> None:
    for arm in ("baseline", "candidate"):
        writer = SegmentWriter(tmp_path / arm, sample=0.3)
        for number in range(1000):
            put(writer, record(number))
        writer.close()
    baseline, candidate = ([one.request_id for one in everything(tmp_path / arm)] for arm in ("baseline", "candidate"))
    assert baseline == candidate
    assert 200 < len(baseline) < 400


def test_a_full_buffer_drops_counts_and_tells_the_next_segment(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, max_buffer=1000, flush_seconds=60)
    for number in range(10):
        put(writer, record(number, b"x" * 400))
    assert writer.dropped >= 7
    writer.close()
    scans = [scan_segment(path) for path in segments(tmp_path)]
    assert sum(scan.dropped for scan in scans) == writer.dropped
    assert sum(len(scan.records) for scan in scans) == 10 - writer.dropped


def test_a_full_disk_drops_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SegmentWriter(tmp_path, flush_seconds=60)
    put(writer, record(0))
    writer.flush()
    real = os.write

    def full(file: int, data: bytes) -> int:
        if len(data) > 20:
            return real(file, data[:20])  # a disk takes what fits before it says no
        raise OSError(errno.ENOSPC, "No space left on device")

    # The operating system is the seam: filling a real disk needs a mount.
    with monkeypatch.context() as patch:
        patch.setattr(
            segment_writer.os,
            "write",
            lambda file, data: (patch.setattr(segment_writer.os, "write", _no_space), full(file, data))[1],
        )
        put(writer, record(1))
        writer.flush()
    assert writer.dropped == 1
    assert "No space left" in writer.error
    put(writer, record(2))
    writer.close()
    assert [one.request_id for one in everything(tmp_path)] == ["id-0", "id-2"]
    assert sum(scan_segment(path).dropped for path in segments(tmp_path)) == 1
    assert writer.error == ""


def _no_space(file: int, data: bytes) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_keeps_what_a_reader_may_have(small_disk: SmallDisk) -> None:
    folder = small_disk.folder / "segments"
    writer = SegmentWriter(folder, flush_seconds=60, rotate_seconds=600)
    put(writer, record(0))
    writer.flush()
    (path,) = segments(folder)
    small_disk.fill()
    for number in range(1, 201):  # three frames and a short one, less than what is written at once
        put(writer, record(number, os.urandom(1000)))
    with (small_disk.folder / "ballast").open("r+b") as ballast:  # room for one of them and a half
        ballast.truncate(ballast.seek(0, os.SEEK_END) - 26 * 4096)
    seen: list[Record] = []
    real = os.ftruncate

    def read_first(file: int, size: int) -> None:
        seen.extend(scan_segment(path).records)  # as a reader that polls just then
        real(file, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_writer.os, "ftruncate", read_first)
        writer.flush()
    assert 65 <= len(seen) < 200
    assert scan_segment(path).records == seen
    assert writer.written == len(seen)
    assert writer.written + writer.dropped == 201
    small_disk.free()
    put(writer, record(201))
    writer.close()
    assert everything(folder) == [*seen, record(201)]
    assert sum(scan_segment(found).dropped for found in segments(folder)) == writer.dropped
    assert writer.error == ""


@pytest.mark.parametrize("folder_too", [False, True])
def test_a_segment_removed_under_the_writer_is_counted_and_another_begun(tmp_path: Path, folder_too: bool) -> None:
    folder = tmp_path / "segments"
    writer = SegmentWriter(folder, flush_seconds=60)
    for number in range(3):
        put(writer, record(number))
    writer.flush()
    for path in segments(folder):
        path.unlink()
    if folder_too:
        folder.rmdir()
    put(writer, record(3))
    writer.flush()
    assert everything(folder) == [record(3)]
    assert writer.dropped == 3
    writer.close()
    assert sum(scan_segment(path).dropped for path in segments(folder)) == 3


def test_a_folder_that_cannot_be_made_drops_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    writer = SegmentWriter(tmp_path / "file" / "folder")
    put(writer, record(1))
    writer.close()
    assert writer.dropped == 1
    assert "file" in writer.error


APPENDER = """
import sys, time
from pathlib import Path
from bentos.serving.log.writer import SegmentWriter
from bentos.serving.log.segments import Record
writer = SegmentWriter(Path(sys.argv[1]), flush_seconds=0.2)
number = 0
while True:
    one = Record(f"id-{number}", time.time_ns(), "", False, 1, "1", 200, 1, "v2", "", 0, "", 0, b"q" * 300, b"a")
    writer.defer(Record._make, one, 301)
    number += 1
    print(number, time.time_ns(), flush=True)
    time.sleep(0.001)
"""


def test_kill_9_loses_at_most_the_last_flush(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", APPENDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[4],
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line.split()[0]) == 800:
                break
        [path] = segments(tmp_path)
        assert not abandoned(path)
        child.send_signal(signal.SIGKILL)
        killed_ns = time.time_ns()
        child.stdout.read()
    [path] = segments(tmp_path)
    assert path.suffix == ".open"
    assert abandoned(path)
    found, *_ = scan_segment(path)
    assert [one.request_id for one in found] == [f"id-{number}" for number in range(len(found))]
    assert killed_ns - found[-1].time_ns < 1_000_000_000
    SegmentWriter(tmp_path).close()
    assert [left.suffix for left in segments(tmp_path)] == [".seg"], "the next server closes what a dead one left"


def test_a_record_costs_microseconds(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, max_buffer=1 << 30)
    one = record(1, b"x" * 400, b"y" * 60)
    best = min(_microseconds(writer, one) for _ in range(5))
    writer.close()
    print(f"a record: {best:.2f} µs")
    assert best < 30


def _microseconds(writer: SegmentWriter, one: Record) -> float:
    started = time.perf_counter()
    for _ in range(2000):
        put(writer, one)
    return (time.perf_counter() - started) / 2000 * 1e6


def test_what_is_no_segment_has_no_records(tmp_path: Path) -> None:
    path = tmp_path / "1-1-1.seg"
    for data in (b"", b"SHP", b"SHPSEG01" + bytes(60), b"something else entirely, of some length"):
        path.write_bytes(data)
        assert scan_segment(path) == log.Scan([], 0, 0)


def test_a_deferred_record_is_made_once_and_within_a_flush(tmp_path: Path) -> None:
    made: list[int] = []

    def record_of(number: int) -> Record:
        made.append(number)
        return record(number)

    writer = SegmentWriter(tmp_path, flush_seconds=0.05)
    for number in range(3):
        writer.defer(record_of, number, 10)
    deadline = time.monotonic() + 5
    while writer.written < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert everything(tmp_path) == [record(number) for number in range(3)]
    for number in range(3, 500):
        writer.defer(record_of, number, 10)
    writer.close()
    assert made == list(range(500))
    assert everything(tmp_path) == [record(number) for number in range(500)]
