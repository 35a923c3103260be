"""Labels are checked one by one and appended whole."""

from __future__ import annotations

import json
import os
import resource

import pytest

from infra.receiver.late_labels import MAX_LABELS, Label, LabelError, LabelLog, LabelLogError, parse_labels


def test_labels_are_appended_to_the_file_of_their_utc_hour(tmp_path):
    times = iter([1_000_000_000, 3_600_000_000_000, 3_601_000_000_000])
    log = LabelLog(tmp_path / "labels", lambda: next(times))
    first = log.append([Label("a", 1), Label("b", "late")])
    second = log.append([Label("c", [0.5, 1.5])])
    assert log.append([Label("d", True)]) == second
    assert [first.name, second.name] == ["1970-01-01T00.jsonl", "1970-01-01T01.jsonl"]
    lines = [json.loads(line) for path in (first, second) for line in path.read_text().splitlines()]
    assert lines[0] == {"request_id": "a", "value": 1, "received_ns": 1_000_000_000}
    assert [line["value"] for line in lines] == [1, "late", [0.5, 1.5], True]


def test_labels_are_their_owner_s_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        path = LabelLog(tmp_path / "predictions" / "labels").append([Label("a", 1)])
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert {folder.stat().st_mode & 0o777 for folder in (path.parent, path.parent.parent)} == {0o700}


def test_one_label_or_many():
    assert parse_labels({"request_id": "a", "value": 0}) == [Label("a", 0)]
    many = [{"request_id": str(n), "value": n} for n in range(3)]
    assert parse_labels({"labels": many}) == [Label("0", 0), Label("1", 1), Label("2", 2)]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (None, r"labels\[0\]: expected an object"),
        ([], r"labels\[0\]: expected an object"),
        ({"labels": []}, f"list of 1 to {MAX_LABELS}"),
        ({"labels": {"request_id": "a"}}, f"list of 1 to {MAX_LABELS}"),
        ({"labels": [{"request_id": "a", "value": 1}] * (MAX_LABELS + 1)}, f"list of 1 to {MAX_LABELS}"),
        ({"request_id": "a"}, "request_id and value alone"),
        ({"request_id": "a", "value": 1, "extra": 2}, "request_id and value alone"),
        ({"labels": [{"request_id": "a", "value": 1}, {"request_id": 7, "value": 1}]}, r"labels\[1\]\.request_id.*7"),
        ({"request_id": "", "value": 1}, "1 to 256 characters"),
        ({"request_id": "x" * 257, "value": 1}, "1 to 256 characters"),
        ({"request_id": "a", "value": None}, r"labels\[0\]\.value.*None"),
        ({"request_id": "a", "value": float("nan")}, "finite"),
        ({"request_id": "a", "value": [1, float("inf")]}, "finite"),
        ({"request_id": "a", "value": []}, "finite"),
        ({"request_id": "a", "value": {"x": 1}}, "finite"),
    ],
)
def test_what_is_no_label_is_refused_by_name(body, says):
    with pytest.raises(LabelError, match=says):
        parse_labels(body)


def test_a_full_disk_keeps_whole_batches_only(tmp_path):
    log = LabelLog(tmp_path)
    path = log.append([Label("a", 1)])
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
    try:
        with pytest.raises(LabelLogError, match="send them again"):
            log.append([Label("b", 2)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    log.append([Label("c", 3)])
    assert [json.loads(line)["request_id"] for line in path.read_text().splitlines()] == ["a", "c"]
