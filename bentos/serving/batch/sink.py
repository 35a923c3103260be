"""Sink: a Parquet file, or a folder of them, that is there complete or not at all."""

from __future__ import annotations

import os
import shutil
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bentos.serving.batch.source import READ_AHEAD, BatchError

WIDTHS = {"INT32": 4, "INT64": 8, "FLOAT": 4, "DOUBLE": 8, "INT96": 12, "BOOLEAN": 1}  # bytes a value, by physical type
PART_BYTES = 256 << 20  # in memory, after which one process begins the next part of a folder


class Sink:
    """Parquet written aside and renamed into place by ``commit``; left without commit, nothing remains of it.

    A path that ends in .parquet is a file, and replaced; one without a suffix or with a slash at its end is a folder of
    ``part-00000.parquet`` and so on, in the order of the rows: it must be empty or not be there. ``like`` is the metadata
    of the file that the rows come from: it says which columns of numbers repeat themselves. Raises BatchError for another
    path.
    """

    def __init__(self, path: Path | str, like: pq.FileMetaData | None = None) -> None:
        self.path = Path(path)
        self.folder = is_folder(path)
        if not self.folder and self.path.suffix.lower() != ".parquet":
            raise BatchError(
                f"{path}: answers and rejects are written as Parquet; name the file .parquet, or end a folder with a slash"
            )
        self._aside = self.path.parent / f".{self.path.name}.{os.getpid()}.tmp"
        self._like = like
        self._schema: pa.Schema | None = None
        self._writer: pq.ParquetWriter | None = None
        self._parts = self._bytes = 0  # parts of a folder, and what was written of the last

    def __enter__(self) -> Sink:
        if self.folder and self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise BatchError(f"{self.path} is there already: delete it, or name a folder that is new or empty")
        if not self.folder and self.path.is_dir():
            raise BatchError(f"{self.path} is a folder: expected a file, or a path with a slash at its end")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.folder:
            shutil.rmtree(self._aside, ignore_errors=True)  # of a killed process that had this one's number
            self._aside.mkdir()
        return self

    @property
    def began(self) -> bool:
        """Whether anything was written, and so the schema is set."""
        return self._schema is not None

    def write(self, table: pa.Table) -> None:
        """Append rows; the first table sets the schema. Raises BatchError if a later one cannot be cast to it."""
        if self.folder and self._bytes >= PART_BYTES:
            self._close()
        if self._schema is None:
            self._schema = table.schema
        if self._writer is None:
            repeats = repeating(self._schema, self._like)
            self._writer = pq.ParquetWriter(self._next(), self._schema, use_dictionary=repeats)
        if table.num_rows:
            try:
                self._writer.write_table(table.cast(self._schema), row_group_size=table.num_rows)
            except (pa.ArrowInvalid, ValueError) as error:
                raise BatchError(f"{self.path}: a later chunk has other types than the first: {error}") from error
        self._bytes += table.nbytes

    def append(self, part: Path) -> None:
        """Take over the file of another sink. A folder has it as it lies, unless its types are not those of the first part:
        it is then cast to them, a row group at a time, or BatchError raised. ``part`` is gone afterwards.
        """
        schema = pq.read_schema(part)
        if self.folder and (self._schema is None or self._schema.equals(schema, check_metadata=True)):
            self._schema = schema
            shutil.move(part, self._next())  # which may be another file system
            return
        with pq.ParquetFile(part, buffer_size=READ_AHEAD, pre_buffer=False) as file:
            for group in range(file.num_row_groups):
                self.write(file.read_row_group(group, use_threads=False))
        if self.folder:
            self._close()
        part.unlink()

    def finish(self, empty: pa.Table) -> None:
        """Close what was written; ``empty`` is its schema if that is nothing."""
        if not self.began:
            self.write(empty.slice(0, 0))
        self._close()

    def commit(self) -> None:
        """Put what is finished in its place. Raises BatchError where another folder has come there meanwhile."""
        try:
            self._aside.rename(self.path)
        except OSError as error:
            raise BatchError(f"{self.path} cannot be put in its place: {error}") from error

    def __exit__(self, *_: object) -> None:
        self._close()
        if self.folder:
            shutil.rmtree(self._aside, ignore_errors=True)
        else:
            self._aside.unlink(missing_ok=True)

    def _next(self) -> Path:
        """The file to be written next."""
        if not self.folder:
            return self._aside
        self._parts += 1
        return self._aside / f"part-{self._parts - 1:05}.parquet"

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._bytes = None, 0


def is_folder(path: Path | str) -> bool:
    """Whether a batch writes a folder of parts at ``path``: it has no suffix, or a slash at its end."""
    return str(path).endswith("/") or not Path(path).suffix


def check_apart(source: Path | str, output: Path | str, rejects: Path | str) -> None:
    """Raises BatchError where two of a batch's paths are one place, or lie in each other, however they are spelled."""
    named = {"input": source, "output": output, "rejects": rejects}
    places = {name: Path(os.path.realpath(path)) for name, path in named.items()}
    for one, other in combinations(places, 2):
        if places[one] == places[other] or {places[one], places[other]} & {
            *places[one].parents,
            *places[other].parents,
        }:
            raise BatchError(
                f"{one} {named[one]} and {other} {named[other]} lie in each other, at {places[one]} and {places[other]}:"
                " name places apart"
            )


def rejects_of(output: str) -> str:
    """Where the rejects of ``output`` go if nobody says: beside it, a file or a folder as it is."""
    if is_folder(output):
        return f"{output.rstrip('/')}.rejects/"
    return str(Path(output).with_suffix(".rejects.parquet"))


def repeating(schema: pa.Schema, like: pq.FileMetaData | None) -> list[str]:
    """The leaf columns of ``schema`` to write with a dictionary, which costs eight times the plain encoding.

    Text and bytes always; numbers where the file ``like`` holds the column in under half of its plain size; numbers
    that it does not hold unless they are floats.
    """
    held = {}
    if like is not None and like.num_row_groups:
        group = like.row_group(0)
        held = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}

    def repeats(path: str, kind: str) -> bool:
        if kind not in WIDTHS:
            return True
        if (chunk := held.get(path)) is None:
            return kind not in ("FLOAT", "DOUBLE")
        return bool(chunk.total_uncompressed_size < chunk.num_values * WIDTHS[kind] / 2)

    buffer = pa.BufferOutputStream()
    pq.ParquetWriter(buffer, schema).close()
    leaves = pq.ParquetFile(pa.BufferReader(buffer.getvalue())).schema
    found = [leaves.column(i) for i in range(len(leaves))]
    return [leaf.path for leaf in found if repeats(leaf.path, leaf.physical_type)]
