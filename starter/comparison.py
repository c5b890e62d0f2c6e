"""Compare a table with the file that it was loaded from, by readers that share nothing with the load.

The file is read by the standard library's csv module, the table by a plain SELECT; both become multisets of rows.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import gzip
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import asyncpg

from contracts.pipeline import Pipeline
from contracts.units import Unit

READERS: dict[str, Callable[[str], object]] = {
    "bigint": int,
    "double precision": float,
    "timestamp with time zone": datetime.fromisoformat,
}
"""How a cell of the file becomes what PostgreSQL gives back; every other type is compared as text."""

Rows = collections.Counter[tuple[object, ...]]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Rows of the file, rows of the table that came from it, and rows that only one of them has."""

    file: int
    table: int
    different: int

    @property
    def equal(self) -> bool:
        """Say whether the table holds exactly the file."""
        return self.different == 0


async def compare(dsn: str, pipeline: Pipeline, path: Path, series: str) -> Comparison:
    """Compare all columns of the file with the rows whose receipts are of the load `series`."""
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        reader = csv.reader(file)
        names = next(reader)
        of_file: Rows = collections.Counter(cells(pipeline, names, reader))
    unit = Unit.of_range(pipeline.name, series, 0, 0)
    table = pipeline.table
    columns = ", ".join(f'"{name}"' for name in names)
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            # The names are those of the declaration, which allows letters, digits and underscores only.
            f'SELECT {columns} FROM "{table.schema}"."{table.name}" WHERE receipt BETWEEN $1 AND $2',  # noqa: S608
            unit.first,
            unit.last,
        )
    finally:
        await connection.close()
    of_table: Rows = collections.Counter(tuple(row) for row in rows)
    different = (of_file - of_table) + (of_table - of_file)
    return Comparison(file=of_file.total(), table=of_table.total(), different=different.total())


def cells(pipeline: Pipeline, names: list[str], rows: Iterator[list[str]]) -> Iterator[tuple[object, ...]]:
    """Read the cells of a file as the values that a table with the pipeline's columns has."""
    types = {column.name: column.type for column in pipeline.table.columns}
    readers = [READERS.get(types[name], str) for name in names]
    absent = {"", *pipeline.absent}
    for row in rows:
        yield tuple(None if cell in absent else read(cell) for read, cell in zip(readers, row, strict=True))
