"""A block of text to rows: split, validate, process; what fails becomes a reject with its physical line.

Guarantee: every record of a block ends up in exactly one of rows, rejects and dropped, and a bad one never
costs its neighbours. Nothing here waits, so that a block can be validated in a thread.
"""

from __future__ import annotations

import asyncio
import csv
import dataclasses
import gc
import io
from typing import TYPE_CHECKING, Any, Protocol

from activities.cells import REJECT_COLUMNS, CellValidator, any_none, field_names, reject_error, row_getter
from activities.process import apply, apply_async
from activities.scan import RECORD_LIMIT, split_records
from activities.validate import parse_json, validate_payload
from contracts.errors import RecordRefusedError
from contracts.loads import Reject, RejectError
from contracts.pipeline import is_async

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pydantic import BaseModel

    from activities.scan import Block
    from contracts.loads import Dialect
    from contracts.pipeline import Pipeline
    from contracts.record import Record
    from contracts.table import Row

# The scanner bounds what can arrive here; csv's own, smaller limit would refuse long but good fields.
csv.field_size_limit(2 * RECORD_LIMIT)

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


@dataclasses.dataclass
class Rows:
    """What became of a block: rows for the sink with their lines, rejects by line, and counts of records."""

    rows: list[Row] = dataclasses.field(default_factory=list)
    lines: Sequence[int] = ()
    rejects: list[Reject] = dataclasses.field(default_factory=list)
    read: int = 0
    dropped: int = 0


@dataclasses.dataclass
class Records:
    """Records between validation and `process`: a value or None each, its line, its text and its cells."""

    values: list[Any]
    lines: Sequence[int]
    texts: Sequence[str]
    cells: Sequence[Sequence[str]] | None
    rejects: list[Reject]

    def reject(self, index: int, errors: tuple[RejectError, ...]) -> None:
        """Turn a record away."""
        cells = None if self.cells is None else tuple(self.cells[index])
        text = self.texts[index].removesuffix("\r")
        self.rejects.append(Reject(line=self.lines[index], errors=errors, row=text, cells=cells))


class Reader(Protocol):
    """Splits and validates the blocks of one format."""

    def read(self, block: Block) -> Records:
        """Give the records of a block, with rejects for those that are not valid."""
        ...


def reject_text(line: int, data: bytes, code: str, message: str) -> Reject:
    """Turn away a row that could not be split, in a form that can be shown."""
    text = data.removesuffix(b"\n").removesuffix(b"\r").decode(errors="backslashreplace")
    return Reject(line=line, errors=(RejectError(column="", code=code, message=message),), row=text)


class CsvReader:
    """Reads CSV blocks of one pipeline and header."""

    def __init__(self, pipeline: Pipeline, dialect: Dialect) -> None:
        self.delimiter = dialect.delimiter
        self.width = len(dialect.columns)
        self.cells = CellValidator(pipeline, dialect.columns)
        self.absent = pipeline.absent
        # A row of a rejects file whose cells are still empty was never corrected; defaults must not fill it.
        corrected = "reject_row" in dialect.columns and "reject_row" not in field_names(pipeline.record)
        self.reject_row = dialect.columns.index("reject_row") if corrected else None

    def read(self, block: Block) -> Records:
        """Split and validate the whole records of a block."""
        rejects: list[Reject] = []
        lines: Sequence[int]
        try:
            text = block.data.decode()
        except UnicodeDecodeError:
            text = None
        plain_ends = text is not None and "\0" not in text and text.count("\r") == text.count("\r\n")
        if text is None or not plain_ends:
            lines, texts, rows = self._split_one_by_one(block, rejects)
            absent = True
        elif '"' in text:
            lines, texts, rows = self._split_quoted(block.line, text)
            absent = True
        else:
            lines, texts, rows = self._split_plain(block.line, text)
            absent = self._may_be_absent(text)
        if rows and (min(map(len, rows)) != self.width or max(map(len, rows)) != self.width):
            lines, texts, rows = self._drop_misfits(lines, texts, rows, rejects)
        if self.reject_row is not None:
            lines, texts, rows = self._drop_uncorrected(lines, texts, rows, rejects)
        values = self.cells.validate(rows, absent=absent)
        records = Records(values=values, lines=lines, texts=texts, cells=rows, rejects=rejects)
        if any_none(values, instances=self.cells.instances):
            for index, value in enumerate(values):
                if value is None:
                    records.reject(index, self.cells.errors(rows[index]))
        return records

    def _split_plain(self, line: int, text: str) -> tuple[Sequence[int], list[str], list[list[str]]]:
        """Split text without any quote."""
        if "\r" in text:
            text = text.replace("\r\n", "\n")
        texts = text.split("\n")
        if not texts[-1]:
            texts.pop()
        lines: Sequence[int] = range(line, line + len(texts))
        if "" in texts:
            kept = [(at, item) for at, item in zip(lines, texts, strict=True) if item]
            lines, texts = [at for at, _ in kept], [item for _, item in kept]
        delimiter = self.delimiter
        return lines, texts, [item.split(delimiter) for item in texts]

    def _split_quoted(self, line: int, text: str) -> tuple[list[int], list[str], list[list[str]]]:
        """Split text with quotes: by `csv.reader` from a line with a quote on, other lines at once."""
        delimiter = self.delimiter
        physical = text.split("\n")
        if not physical[-1]:
            physical.pop()
        lines: list[int] = []
        texts: list[str] = []
        rows: list[list[str]] = []
        size, returns, cursor = len(physical), "\r" in text, 0

        def following() -> Iterator[str]:
            # A record may go on over the lines that follow; the reader takes as many as it needs.
            nonlocal cursor
            while cursor < size:
                cursor += 1
                yield physical[cursor - 1] + "\n"

        reader = csv.reader(following(), delimiter=delimiter)
        while cursor < size:
            at = cursor
            item = physical[at]
            if '"' in item:
                row = next(reader)
                if cursor > at + 1:
                    item = "\n".join(physical[at:cursor])
            else:
                cursor += 1
                if not item or item == "\r":
                    continue
                row = (item[:-1] if returns and item[-1] == "\r" else item).split(delimiter)
            lines.append(line + at)
            texts.append(item)
            rows.append(row)
        return lines, texts, rows

    def _split_one_by_one(self, block: Block, rejects: list[Reject]) -> tuple[list[int], list[str], list[list[str]]]:
        """Split a block that has bytes which some of its rows must be turned away for."""
        lines: list[int] = []
        texts: list[str] = []
        rows: list[list[str]] = []
        line = block.line
        for data in split_records(block.data, self.delimiter):
            at, line = line, line + data.count(b"\n")
            try:
                text = data.removesuffix(b"\n").decode()
            except UnicodeDecodeError:
                rejects.append(reject_text(at, data, "invalid_utf8", "the row is not UTF-8"))
                continue
            if "\0" in text:
                message = "NUL characters cannot be stored"
                rejects.append(reject_text(at, data, "nul_character", message))
                continue
            try:
                found = list(csv.reader(io.StringIO(text, newline="\n"), delimiter=self.delimiter))
            except csv.Error:
                message = "a carriage return stands outside quotes"
                rejects.append(reject_text(at, data, "carriage_return", message))
                continue
            if found and found[0]:
                lines.append(at)
                texts.append(text)
                rows.append(found[0])
        return lines, texts, rows

    def _drop_misfits(
        self, lines: Sequence[int], texts: Sequence[str], rows: Sequence[list[str]], rejects: list[Reject]
    ) -> tuple[list[int], list[str], list[list[str]]]:
        """Turn away rows with a cell too many or too few."""
        fits: list[int] = []
        for index, row in enumerate(rows):
            if len(row) == self.width:
                fits.append(index)
                continue
            error = RejectError(
                column="", code="column_count", message=f"the row has {len(row)} cells, the header {self.width}"
            )
            text = texts[index].removesuffix("\r")
            rejects.append(Reject(line=lines[index], errors=(error,), row=text, cells=tuple(row)))
        return [lines[i] for i in fits], [texts[i] for i in fits], [rows[i] for i in fits]

    def _drop_uncorrected(
        self, lines: Sequence[int], texts: Sequence[str], rows: Sequence[list[str]], rejects: list[Reject]
    ) -> tuple[list[int], list[str], list[list[str]]]:
        """Turn away rows that came back from a rejects file with nothing filled in."""
        fits: list[int] = []
        for index, row in enumerate(rows):
            if any(row[at] for at in self.cells.used):
                fits.append(index)
                continue
            error = RejectError(column="", code="not_corrected", message="the cells of this rejected row are empty")
            text = row[self.reject_row or 0] or texts[index].removesuffix("\r")
            rejects.append(Reject(line=lines[index], errors=(error,), row=text))
        return [lines[i] for i in fits], [texts[i] for i in fits], [rows[i] for i in fits]

    def _may_be_absent(self, text: str) -> bool:
        """Say whether any cell of text without quotes may be absent; cheaper than a look at each."""
        d = self.delimiter
        marks = (d + d, d + "\n", d + "\r", "\n" + d, *self.absent)
        return self.width == 1 or text.startswith(d) or text.endswith(d) or any(mark in text for mark in marks)


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
        self.reader: Reader = CsvReader(pipeline, dialect) if dialect.format == "csv" else NdjsonReader(pipeline)
        self.getter: Callable[[Any], Row] = row_getter(tuple(column.name for column in pipeline.table.columns))
        self.asynchronous = pipeline.process is not None and is_async(pipeline.process)

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
        records = self._records(block)
        if records is None:
            return self._faulty(block)
        if self.pipeline.process is None:
            return self._finish(records, records.values, records.lines, 0)
        return self._collect(
            records, [None if record is None else self._outcome_now(record) for record in records.values]
        )

    def _outcome_now(self, record: Record) -> BaseModel | RecordRefusedError | None:
        try:
            return apply(self.pipeline, record)
        except RecordRefusedError as error:
            return error

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
