"""Blocks of CSV to records: split into cells, then validated; what fails becomes a reject with its line.

Guarantee: rows are split as `csv.reader` splits them, and a bad one never costs its neighbours.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from activities.cells import CellValidator, any_none, field_names
from activities.records import Records, reject_text
from activities.scan import RECORD_LIMIT, split_records
from contracts.loads import Reject, RejectError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from activities.scan import Block
    from contracts.loads import Dialect
    from contracts.pipeline import Pipeline

# The scanner bounds what can arrive here; csv's own, smaller limit would refuse long but good fields.
csv.field_size_limit(2 * RECORD_LIMIT)


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
        if any_none(values):
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
