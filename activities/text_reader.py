"""Blocks of CSV to rows that stay text: what the canonical pattern accepts is passed on as it stands in the file.

Guarantee: the same rows and rejects, in the same order, as if every row had been validated value by value.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from activities.canonical import canonical_rows
from activities.cells import field_names
from activities.records import Rows
from activities.scan import Block, grammar
from contracts.blocks import TextRows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from activities.csv_reader import CsvReader
    from contracts.loads import Dialect, Reject
    from contracts.pipeline import Pipeline
    from contracts.table import Row

FEW = 64
SHARE = 8
"""At most one odd row in so many is worth it: each costs as much as several that are validated together."""


class TextReader:
    """Reads blocks of one pipeline and header, by pattern where it can, else by the `reader` of values."""

    def __init__(self, pipeline: Pipeline, dialect: Dialect, reader: CsvReader) -> None:
        self.reader = reader
        self.delimiter = dialect.delimiter
        self.pattern = canonical_rows(pipeline, dialect.columns, dialect.delimiter)
        names = field_names(pipeline.record)
        self.fields = tuple(names.get(column, column) for column in dialect.columns)

    def read(self, block: Block) -> Rows | None:
        """Read a block, or return None to leave it to the reader of values, with all that follow if few rows fit."""
        if self.pattern is None:
            return None
        if not is_utf8(block.data):
            # The row that is not has to be found; the pattern reads bytes.
            return None
        # A row follows a newline, which the grammar looks back at.
        data = b"\n" + block.data
        pieces: list[bytes | Sequence[Row]] = []
        lines: list[Iterable[int]] = []
        rejects: list[Reject] = []
        count = odd = 0
        at, line, end = 1, block.line, len(data)
        while at < end:
            found = self.pattern.match(data, at)
            if found is not None:
                text = found[0]
                rows = text.count(b"\n")
                pieces.append(text.replace(b"\r\n", b"\n") if b"\r" in text else text)
                lines.append(range(line, line + rows))
                count += rows
                line += rows
                at = found.end()
                continue
            after = self._record_end(data, at)
            odd += 1
            if odd > FEW + count // SHARE:
                self.pattern = None
                return None
            values, places, refused = self._odd(block, at - 1, after - 1, line)
            if values:
                pieces.append(values)
                lines.append(places)
                count += len(values)
            rejects += refused
            line += data.count(b"\n", at, after)
            at = after
        rows_of = TextRows(
            pieces, columns=self.fields, delimiter=self.delimiter, count=count, parse=lambda: self._parse(block)
        )
        return Rows(rows=rows_of, lines=chain.from_iterable(lines), rejects=rejects, read=count + len(rejects))

    def _record_end(self, data: bytes, at: int) -> int:
        decision = grammar(self.delimiter).first_record(data, at, ended=True)
        return len(data) if decision is None else max(decision[1], at + 1)

    def _odd(self, block: Block, start: int, end: int, line: int) -> tuple[Sequence[Row], Sequence[int], list[Reject]]:
        """Validate one record that is not canonical."""
        records = self.reader.read(Block(start=block.start + start, line=line, data=block.data[start:end]))
        return (*kept(records.values, records.lines), records.rejects)

    def _parse(self, block: Block) -> Sequence[Row]:
        records = self.reader.read(block)
        return kept(records.values, records.lines)[0]


def kept(values: Sequence[Row | None], lines: Sequence[int]) -> tuple[list[Row], list[int]]:
    """Leave out the rows that are not valid."""
    pairs = [(value, line) for value, line in zip(values, lines, strict=True) if value is not None]
    return [value for value, _ in pairs], [line for _, line in pairs]


def is_utf8(data: bytes) -> bool:
    """Say whether bytes are text."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
