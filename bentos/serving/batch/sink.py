"""Sink: a Parquet file that is there complete or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bentos.serving.batch.parquet_join import ParquetJoin
from bentos.serving.batch.source import BatchError

WIDTHS = {"INT32": 4, "INT64": 8, "FLOAT": 4, "DOUBLE": 8, "INT96": 12, "BOOLEAN": 1}  # bytes a value, by physical type


class Sink:
    """A Parquet file written aside and renamed into place by ``commit``; left without commit, nothing remains of it.

    ``like`` is the metadata of the file that the rows come from: it says which columns of numbers repeat themselves.
    """

    def __init__(self, path: Path, like: pq.FileMetaData | None = None) -> None:
        self._path = path
        self._aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._like = like
        self._schema: pa.Schema | None = None
        self._writer: pq.ParquetWriter | None = None
        self._join: ParquetJoin | None = None

    def __enter__(self) -> Sink:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self

    @property
    def began(self) -> bool:
        """Whether anything was written, and so the schema is set."""
        return self._schema is not None

    def write(self, table: pa.Table) -> None:
        """Append rows; the first table sets the schema. Raises BatchError if a later one cannot be cast to it."""
        if self._writer is None:
            self._schema = table.schema
            self._writer = self._open(self._aside, table.schema)
        if table.num_rows:
            self._put(self._writer, table)

    def append(self, part: Path) -> None:
        """Append the file of another sink as it lies: no row of it is read unless its types are not the first part's.

        Raises BatchError if they cannot be cast to them. ``write`` is not for the same sink.
        """
        if self._join is None:
            self._join = ParquetJoin(self._aside)
            self._schema = pq.read_schema(part)
        if self._join.append(part):
            return
        cast = part.with_suffix(".cast")
        with pq.ParquetFile(part) as file, self._open(cast, self._schema) as writer:
            for group in range(file.num_row_groups):
                self._put(writer, file.read_row_group(group))
        if not self._join.append(cast):
            raise BatchError(f"{self._path}: a part of it was written with another schema than the first")

    def finish(self, empty: pa.Table) -> None:
        """Close the file; ``empty`` is its schema if nothing was written."""
        if not self.began:
            self.write(empty.slice(0, 0))
        self._close()

    def commit(self) -> None:
        """Put the finished file in its place."""
        self._aside.replace(self._path)

    def __exit__(self, *_: object) -> None:
        self._close()
        self._aside.unlink(missing_ok=True)

    def _open(self, path: Path, schema: pa.Schema) -> pq.ParquetWriter:
        return pq.ParquetWriter(path, schema, use_dictionary=repeating(schema, self._like))

    def _put(self, writer: pq.ParquetWriter, table: pa.Table) -> None:
        try:
            writer.write_table(table.cast(writer.schema), row_group_size=table.num_rows)
        except (pa.ArrowInvalid, ValueError) as error:
            raise BatchError(f"{self._path}: a later chunk has other types than the first: {error}") from error

    def _close(self) -> None:
        for file in (self._writer, self._join):
            if file is not None:
                file.close()


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
