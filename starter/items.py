"""A file as items of a queue: read once, as a stream, in bounded memory, whatever its size.

Guarantee: every record of the file becomes one item or one reject, with the line that it began on. The same file
makes the same items with the same ids, packed or not, so sending it again by mistake makes no second item where
the queue, or the receipts of whoever consumes it, can tell.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from activities.csv_reader import CsvReader
from activities.files import HEAD_BYTES
from activities.header import read_header
from activities.records import reject_text
from activities.rows import FAULTS
from activities.scan import Block, Scanner
from activities.unpack import MAGIC, unpack
from activities.validate import parse_json, validate_payload
from contracts.errors import FileRefusedError, RecordRefusedError
from contracts.loads import Dialect, Reject, RejectError
from contracts.queue import ItemRefusedError, QueueItem

if TYPE_CHECKING:
    from pydantic import BaseModel

    from contracts.pipeline import Pipeline

ID_CHARACTERS = 32


@dataclasses.dataclass(frozen=True)
class Naming:
    """Where the ids of items come from: a field of the record, or the record itself and its line.

    `series` tells one sending of a file from another on purpose.
    """

    field: str | None = None
    series: str = ""

    def name(self, body: bytes, line: int) -> str:
        """Give the id of the record on a line. Raises `ItemRefusedError` if it has none."""
        if self.field is None:
            # With the line, because a file may hold the same record twice and mean it.
            digest = hashlib.sha256(body).hexdigest()[:ID_CHARACTERS]
            return f"{digest}-{line}{self.series}"
        try:
            value = json.loads(body)[self.field]
        except (ValueError, LookupError, TypeError, RecursionError):
            value = None
        if isinstance(value, bool) or not isinstance(value, str | int):
            message = f"the record has no text or whole number in its field {self.field}, which is to be the item's id"
            raise ItemRefusedError(message)
        return f"{value}{self.series}"


class ItemReader:
    """Turns the blocks of a file into items. Without `raw` the file has to be NDJSON, or CSV of the pipeline.

    NDJSON goes as it stands, line by line, unvalidated: what is wrong with it is the consumer's to find, and to
    keep. CSV has to be understood to become JSON, so its rows are validated here. With `raw` every line goes, even
    an empty one.
    """

    def __init__(self, pipeline: Pipeline, naming: Naming, *, raw: bool) -> None:
        self.pipeline = pipeline
        self.naming = naming
        self.raw = raw

    async def read(self, blocks: AsyncIterator[bytes]) -> AsyncIterator[tuple[list[QueueItem], list[Reject]]]:
        """Read a whole file, plain or gzip. Raises `FileRefusedError` if it is not what it should be."""
        plain = unpacked(blocks)
        head = bytearray()
        ended = True
        async for piece in plain:
            head += piece
            if len(head) >= HEAD_BYTES:
                ended = False
                break
        dialect, start, line = self._dialect(bytes(head), whole=ended)
        reader = None if dialect.format == "ndjson" else CsvItems(self.pipeline, dialect)
        scanner = Scanner(None if reader is None else dialect.delimiter, start, line)
        scanner.feed(bytes(head[start:]))
        del head
        while (block := scanner.take()) is not None:
            yield self._items(block, reader)
        async for piece in plain:
            scanner.feed(piece)
            while (block := scanner.take()) is not None:
                yield self._items(block, reader)
        scanner.end()
        while (block := scanner.take()) is not None:
            yield self._items(block, reader)

    def _dialect(self, head: bytes, *, whole: bool) -> tuple[Dialect, int, int]:
        if self.raw:
            if not head:
                raise FileRefusedError(code="empty_file", message="the file is empty")
            return Dialect(format="ndjson"), 0, 1
        header = read_header(self.pipeline, head, whole=whole)
        return header.dialect, header.start, header.line

    def _items(self, block: Block, reader: CsvItems | None) -> tuple[list[QueueItem], list[Reject]]:
        if block.kind == "rest":
            return [], []
        if block.kind != "records":
            return [], [reject_text(block.line, block.data, block.kind, FAULTS[block.kind])]
        rejects: list[Reject] = []
        items: list[QueueItem] = []
        for line, body in self._lines(block) if reader is None else reader.read(block, rejects):
            try:
                items.append(QueueItem(body, self.naming.name(body, line)))
            except ItemRefusedError as error:
                rejects.append(reject_text(line, body, error.code, str(error)))
        return items, rejects

    def _lines(self, block: Block) -> Iterator[tuple[int, bytes]]:
        lines = block.data.split(b"\n")
        if not lines[-1]:
            lines.pop()
        for line, data in enumerate(lines, block.line):
            if self.raw or data.strip():
                yield line, data.removesuffix(b"\r")


class CsvItems:
    """Reads CSV rows by the reader of loads, and prints each record as the JSON that a consumer validates."""

    def __init__(self, pipeline: Pipeline, dialect: Dialect) -> None:
        self.pipeline = pipeline
        # The reader gives records, not rows of the table, to a pipeline with a `process`.
        self.reader = CsvReader(pipeline if pipeline.process else with_process(pipeline), dialect)
        self.checked = False

    def read(self, block: Block, rejects: list[Reject]) -> Iterator[tuple[int, bytes]]:
        """Give line and body of the block's valid rows, and add the others to `rejects`."""
        records = self.reader.read(block)
        rejects += records.rejects
        for line, record in zip(records.lines, records.values, strict=True):
            if record is not None:
                body = self._print(record)
                yield line, body

    def _print(self, record: BaseModel) -> bytes:
        body = record.model_dump_json(by_alias=True).encode()
        if not self.checked:
            try:
                validate_payload(self.pipeline, parse_json(body))
            except RecordRefusedError as error:
                message = (
                    f"records of pipeline {self.pipeline.name} do not validate any more once they are printed as JSON "
                    f"({error}): send NDJSON instead"
                )
                raise FileRefusedError(code="not_json", message=message) from error
            self.checked = True
        return body


def with_process(pipeline: Pipeline) -> Pipeline:
    """Give a pipeline a `process` that does nothing."""

    def keep(record: BaseModel) -> BaseModel:
        return record

    keep.__annotations__ = {"return": pipeline.record}
    return dataclasses.replace(pipeline, process=keep)


async def unpacked(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pass bytes on, unpacked if they are gzip."""
    first = b""
    async for block in blocks:
        first += block
        if len(first) >= len(MAGIC):
            break

    async def whole() -> AsyncIterator[bytes]:
        if first:
            yield first
        async for block in blocks:
            yield block

    async for piece in unpack(whole(), lambda _: None) if first.startswith(MAGIC) else whole():
        yield piece


def describe(reject: Reject) -> str:
    """Say in a line why a record was not sent."""
    errors: tuple[RejectError, ...] = reject.errors
    return "; ".join(f"line {reject.line}: {item.column or 'record'}: {item.message} [{item.code}]" for item in errors)
