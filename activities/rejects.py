"""Reject objects: one per chunk, NDJSON of `Reject`, in file order; and their printing as a file to correct.

Guarantee: names sort as the chunks do, so that all rejects under a prefix are read in the order of their lines.
"""

from __future__ import annotations

import csv
import heapq
import io
import json
import zlib
from typing import TYPE_CHECKING

from activities.cells import REJECT_COLUMNS
from activities.validate import parse_json
from contracts.errors import RecordRefusedError
from contracts.loads import Reject

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence

    from contracts.loads import Dialect
    from contracts.ports import ObjectStore

PART_BYTES = 1 << 20


def reject_key(prefix: str, start: int) -> str:
    """Name the object of the chunk that starts at byte `start`."""
    return f"{prefix}{start:020d}.ndjson"


class RejectLog:
    """Collects the rejects of one chunk. They are kept packed: a chunk may consist of nothing else."""

    def __init__(self) -> None:
        self.count = 0
        self._packed: list[bytes] = []

    def add(self, rejects: Sequence[Reject]) -> None:
        """Add the rejects of the next block, sorted by line."""
        if rejects:
            self.count += len(rejects)
            text = "".join(f"{reject.model_dump_json()}\n" for reject in rejects)
            self._packed.append(zlib.compress(text.encode(), 1))

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        for packed in self._packed:
            for text in zlib.decompress(packed).splitlines(keepends=True):
                yield int(text[len(b'{"line":') : text.index(b",")]), text

    async def write(self, objects: ObjectStore, key: str, refused: Iterable[Reject] = ()) -> str | None:
        """Store the object, with rows that the sink refused (sorted by line) in their places; None if all is well."""
        later = [(reject.line, f"{reject.model_dump_json()}\n".encode()) for reject in refused]
        if not self.count and not later:
            # An earlier try, which never committed, may have left rejects that are none any more.
            await objects.delete(key)
            return None
        await objects.put_stream(key, parts(heapq.merge(self._lines(), later)))
        return key


async def parts(lines: Iterable[tuple[int, bytes]]) -> AsyncIterator[bytes]:
    """Join lines into pieces of about 1 MiB."""
    held: list[bytes] = []
    size = 0
    for _, text in lines:
        held.append(text)
        size += len(text)
        if size >= PART_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


async def read_rejects(objects: ObjectStore, prefix: str) -> AsyncIterator[Reject]:
    """Read all rejects under a prefix, in the order of the file's lines."""
    async for key in objects.list(prefix):
        found = await objects.find(key)
        if found is None:
            continue
        rest = b""
        async for piece in objects.read(key, etag=found.etag):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield Reject.model_validate_json(line)
        if rest:
            yield Reject.model_validate_json(rest)


async def print_rejects(
    rejects: AsyncIterable[Reject], dialect: Dialect, fields: Sequence[str] = ()
) -> AsyncIterator[str]:
    """Print rejects as CSV, line by line: the original columns, then what is wrong.

    For NDJSON, whose dialect has no columns, `fields` names them (the model's fields). A row that could not be
    split into the original columns has its text in `reject_row` only: guessing could make a wrong row pass.
    """
    columns = [name for name in (dialect.columns or tuple(fields)) if name not in REJECT_COLUMNS]
    keep = [at for at, name in enumerate(dialect.columns) if name not in REJECT_COLUMNS]
    yield csv_line([*columns, *REJECT_COLUMNS])
    async for reject in rejects:
        if dialect.format == "ndjson":
            cells = json_cells(reject.row, columns)
        elif reject.cells is not None and len(reject.cells) == len(dialect.columns):
            cells = [reject.cells[at] for at in keep]
        else:
            cells = [""] * len(columns)
        first = reject.errors[0]
        message = "; ".join(
            f"{error.column}: {error.message}" if error.column else error.message for error in reject.errors
        )
        yield csv_line([*cells, str(reject.line), first.column, first.code, message, reject.row])


def json_cells(row: str, columns: Sequence[str]) -> list[str]:
    """Show a JSON object's values as cells; a row that is no object has none."""
    try:
        payload = parse_json(row)
    except RecordRefusedError:
        return [""] * len(columns)
    values = [payload.get(name) for name in columns]
    return ["" if v is None else v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]


def csv_line(cells: Sequence[str]) -> str:
    """Print one CSV record, with its line end."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
