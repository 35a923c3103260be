"""The labels' reader beside the labels' writer."""

from __future__ import annotations

import os
from pathlib import Path

from monitoring.log.label_files import LabelReader


def line(request_id: str, value: str = "1") -> str:
    return f'{{"request_id": "{request_id}", "value": {value}, "received_ns": 7}}\n'


def test_lines_are_read_once_as_they_come(tmp_path: Path) -> None:
    reader = LabelReader(tmp_path / "labels")
    assert reader.poll() == []
    (tmp_path / "labels").mkdir()
    first = tmp_path / "labels" / "2013-01-01T00.jsonl"
    first.write_text(line("a") + line("b", '"late"') + line("c", "[1, 0]"))
    assert [(label.request_id, label.value, label.received_ns) for label in reader.poll()] == [
        ("a", 1, 7),
        ("b", "late", 7),
        ("c", [1, 0], 7),
    ]
    assert reader.poll() == []
    (tmp_path / "labels" / "2013-01-01T01.jsonl").write_text(line("e"))
    with first.open("a") as file:
        file.write(line("d"))
    assert [label.request_id for label in reader.poll()] == ["d", "e"]
    assert reader.broken == 0


def test_a_torn_line_waits_until_it_is_whole(tmp_path: Path) -> None:
    reader, path = LabelReader(tmp_path), tmp_path / "h.jsonl"
    whole = line("é")
    for at in range(1, len(whole.encode())):
        path.write_bytes(whole.encode()[:at])
        assert reader.poll() == []
    path.write_text(whole)
    assert [label.request_id for label in reader.poll()] == ["é"]


def test_what_is_no_label_is_counted(tmp_path: Path) -> None:
    reader = LabelReader(tmp_path)
    (tmp_path / "h.jsonl").write_text('not json\n{"request_id": "a"}\n\n[1]\n' + line("b"))
    assert [label.request_id for label in reader.poll()] == ["b"]
    assert reader.broken == 3


def test_files_from_before_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "old.jsonl").write_text(line("a"))
    os.utime(tmp_path / "old.jsonl", (100, 100))
    (tmp_path / "new.jsonl").write_text(line("b"))
    reader = LabelReader(tmp_path, since_ns=200_000_000_000)
    assert [label.request_id for label in reader.poll()] == ["b"]


def test_the_receivers_own_lines_are_read(tmp_path: Path) -> None:
    from infra.receiver.late_labels import Label, LabelLog

    log = LabelLog(tmp_path)
    log.append([Label("a", 1.5), Label("b", ["x", "y"])])
    assert [(label.request_id, label.value) for label in LabelReader(tmp_path).poll()] == [
        ("a", 1.5),
        ("b", ["x", "y"]),
    ]
