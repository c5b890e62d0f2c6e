"""A block of text to rows: split, validate, process; what fails becomes a reject with its physical line.

Guarantee: every record of a block ends up in exactly one of rows, rejects and dropped, and a bad one never
costs its neighbours. Nothing here waits, so that a block can be validated in a thread.
"""

from __future__ import annotations

import asyncio
import csv
import gc
import io
from typing import TYPE_CHECKING, Any

from activities.cells import REJECT_COLUMNS, field_names, reject_error, row_getter
from activities.csv_reader import CsvReader
from activities.process import apply_all, apply_async
from activities.records import Reader, Records, Rows, reject_text
from activities.scan import WINDOW
from activities.text_reader import TextReader
from activities.validate import parse_json, validate_payload
from contracts.errors import RecordRefusedError
from contracts.loads import Reject
from contracts.pipeline import is_async

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic import BaseModel

    from activities.scan import Block
    from contracts.loads import Dialect
    from contracts.pipeline import Pipeline
    from contracts.record import Record
    from contracts.table import Row

SMALL_WINDOW = 128 << 10
ASYNC_AT_ONCE = 64
FAULTS = {
    "unclosed_quote": "a quoted field is not closed within 1 MiB",
    "record_too_long": "the record is longer than 4 MiB",
}


def tune_collector() -> None:
    """Spare the cyclic garbage collector the work that validation would cause; call once in a worker at start.

    Blocks are many small acyclic objects: each one counts towards a collection that finds nothing. Measured, that
    is more than half of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 50, 100)


class NdjsonReader:
    """Reads NDJSON blocks of one pipeline, by the same functions that validate a request."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        names = field_names(pipeline.record)
        self.ignored = tuple(name for name in REJECT_COLUMNS if name not in names)
        columns = tuple(column.name for column in pipeline.table.columns)
        self.getter = row_getter(columns) if pipeline.process is None else None

    def read(self, block: Block) -> Records:
        """Parse and validate the lines of a block."""
        records = Records(values=[], lines=[], texts=[], cells=None, rejects=[])
        lines: list[int] = []
        texts: list[str] = []
        for line, data in enumerate(block.data.split(b"\n"), block.line):
            if not data.strip():
                continue
            try:
                value = self._validate(data)
            except RecordRefusedError as error:
                errors = tuple(map(reject_error, error.errors))
                text = data.removesuffix(b"\r").decode(errors="backslashreplace")
                records.rejects.append(Reject(line=line, errors=errors, row=text))
                continue
            records.values.append(value)
            lines.append(line)
            texts.append(data.decode())
        records.lines, records.texts = lines, texts
        return records

    def _validate(self, data: bytes) -> Any:
        payload = parse_json(data)
        for name in self.ignored:
            payload.pop(name, None)
        record: Record = validate_payload(self.pipeline, payload)
        return record if self.getter is None else self.getter(record.__dict__)


class BlockValidator:
    """Turns blocks into rows for one pipeline and dialect."""

    def __init__(self, pipeline: Pipeline, dialect: Dialect) -> None:
        self.pipeline = pipeline
        self.reader: Reader
        self.text: TextReader | None = None
        if dialect.format == "csv":
            self.reader = reader = CsvReader(pipeline, dialect)
            self.text = TextReader(pipeline, dialect, reader)
        else:
            self.reader = NdjsonReader(pipeline)
        self.getter: Callable[[Any], Row] = row_getter(tuple(column.name for column in pipeline.table.columns))
        self.asynchronous = pipeline.process is not None and is_async(pipeline.process)

    @property
    def window(self) -> int:
        """Bytes of a block: few where each row becomes many objects, which should be used while they are cached."""
        return WINDOW if self.text is not None and self.text.pattern is not None else SMALL_WINDOW

    def cells_of(self, text: str) -> tuple[str, ...] | None:
        """Split one record again, for a reject; NDJSON has no cells."""
        if not isinstance(self.reader, CsvReader):
            return None
        return next(
            (tuple(row) for row in csv.reader(io.StringIO(text, newline="\n"), delimiter=self.reader.delimiter)), None
        )

    async def validate(self, block: Block) -> Rows:
        """Validate and process a block. Raises what `process` raises for a service that does not answer."""
        if not self.asynchronous:
            return await asyncio.to_thread(self.validate_now, block)
        records = await asyncio.to_thread(self._records, block)
        if records is None:
            return self._faulty(block)
        results: list[BaseModel | RecordRefusedError | None] = []
        for first in range(0, len(records.values), ASYNC_AT_ONCE):
            batch = records.values[first : first + ASYNC_AT_ONCE]
            results.extend(await asyncio.gather(*(self._outcome(record) for record in batch)))
        return self._collect(records, results)

    def validate_now(self, block: Block) -> Rows:
        """Do the same without a loop, for a pipeline whose `process` is not async."""
        if self.text is not None and block.kind == "records" and (rows := self.text.read(block)) is not None:
            return rows
        records = self._records(block)
        if records is None:
            return self._faulty(block)
        if self.pipeline.process is None:
            return self._finish(records, records.values, records.lines, 0)
        return self._collect(records, apply_all(self.pipeline, records.values))

    def _records(self, block: Block) -> Records | None:
        return self.reader.read(block) if block.kind == "records" else None

    def _faulty(self, block: Block) -> Rows:
        """Turn away the line that a faulty record began with; the rest of such a line is passed over."""
        if block.kind == "rest":
            return Rows()
        return Rows(rejects=[reject_text(block.line, block.data, block.kind, FAULTS[block.kind])], read=1)

    async def _outcome(self, record: Record | None) -> BaseModel | RecordRefusedError | None:
        if record is None:
            return None
        try:
            return await apply_async(self.pipeline, record)
        except RecordRefusedError as error:
            return error

    def _collect(self, records: Records, results: Sequence[BaseModel | RecordRefusedError | None]) -> Rows:
        """Sort processed records into rows, rejects and dropped ones."""
        if set(map(type, results)) == {self.pipeline.row}:
            getter = self.getter
            return self._finish(records, [getter(result.__dict__) for result in results], records.lines, 0)
        rows: list[Row] = []
        lines: list[int] = []
        dropped = 0
        for index, result in enumerate(results):
            if records.values[index] is None:
                continue
            if result is None:
                dropped += 1
            elif isinstance(result, RecordRefusedError):
                records.reject(index, tuple(map(reject_error, result.errors)))
            else:
                rows.append(self.getter(result.__dict__))
                lines.append(records.lines[index])
        return self._finish(records, rows, lines, dropped)

    def _finish(self, records: Records, values: list[Any], lines: Sequence[int], dropped: int) -> Rows:
        rejects = records.rejects
        if rejects:
            rejects.sort(key=lambda reject: reject.line)
            if self.pipeline.process is None:
                kept = [index for index, value in enumerate(values) if value is not None]
                values, lines = [values[i] for i in kept], [lines[i] for i in kept]
        return Rows(
            rows=values, lines=lines, rejects=rejects, read=len(values) + len(rejects) + dropped, dropped=dropped
        )
