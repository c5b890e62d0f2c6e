"""The rows of one load, on their way into a table inside one transaction.

Guarantee: every row is written, a duplicate or refused, and counted as exactly that; a row that the table does
not take costs none of its neighbours. Rows go straight in by COPY until a key is taken; from then on through a
staging table.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from contracts.blocks import TextRows
from contracts.ports import LoadOutcome, Refusal
from contracts.table import RECEIPT_COLUMN
from stores.postgres_csv import csv_columns, csv_text
from stores.postgres_errors import row_fault
from stores.postgres_tables import column_names, listed, quoted, table_name
from stores.postgres_text import copy_text, staged_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from asyncpg.pool import PoolConnectionProxy

    from contracts.table import Row, Table
    from contracts.units import Unit

STAGING = "pipeline_staging"
# Long names, since a model's columns live beside them in the staging table.
ORDINAL = "__ordinal__"
COUNT_STAGED = f"SELECT count(*) FROM pg_temp.{quoted(STAGING)}"  # noqa: S608  - a constant
# After a refused row the rest goes on in slices, so that the next one costs a slice and not the block again.
SLICE_ROWS = 500
SEND_BYTES = 256 * 1024
COPY_SECONDS = 300.0


class Loading:
    """Takes blocks of rows for one unit; `outcome` then tells what became of them."""

    def __init__(self, connection: PoolConnectionProxy[asyncpg.Record], table: Table, unit: Unit) -> None:
        """Work on a connection that is in a transaction."""
        self.connection = connection
        self.table = table
        self.unit = unit
        self.written = 0
        self.duplicates = 0
        self.refused: list[Refusal] = []
        self.seen = 0
        self.staged = False
        self.sent = asyncio.Event()
        self.ahead: bytes | None = None

    def outcome(self) -> LoadOutcome:
        """Count the rows taken so far."""
        refused = tuple(sorted(self.refused, key=lambda refusal: refusal.index))
        return LoadOutcome(written=self.written, duplicates=self.duplicates, refused=refused)

    def printed(self, block: Sequence[Row]) -> bytes | None:
        """Print a block ahead, while PostgreSQL is busy with the one before; None if `put` has to see to it."""
        if self.staged or not block:
            return None
        try:
            return self.text_of(block)
        except ValueError:
            return None

    def text_of(self, block: Sequence[Row]) -> bytes:
        """Print a block for COPY, as CSV if it is text already. Raises `ValueError`."""
        if isinstance(block, TextRows):
            return csv_text(self.table, block, str(self.unit.receipt))
        return copy_text(self.table, block, suffix=str(self.unit.receipt))

    async def add(self, block: Sequence[Row], text: bytes | None = None) -> None:
        """Write a block of rows, whose text may be known. `sent` is set once the caller may use the CPU again."""
        self.ahead = text
        first = self.seen
        self.seen += len(block)
        try:
            await self.place(first, block)
        finally:
            self.sent.set()

    async def place(self, first: int, block: Sequence[Row]) -> None:
        """Write a block whose first row has the index `first`; isolate every row that the table refuses."""
        pieces = [(first, block)]
        while pieces:
            start, piece = pieces.pop()
            if not piece:
                continue
            if self.staged and isinstance(piece, TextRows):
                # Made into values off the loop, on which requests may wait.
                piece = await asyncio.to_thread(piece.__getitem__, slice(None))
            try:
                written, refused = await self.put(piece)
            except Exception as error:
                taken = isinstance(error, asyncpg.UniqueViolationError) and self.table.key is not None
                if taken and not self.staged:
                    self.staged = True
                    pieces.append((start, piece))
                    continue
                fault = row_fault(error)
                if fault is None:
                    raise
                if isinstance(piece, TextRows):
                    # Which of its rows it was is found among their values; a line of the text may be any of them.
                    pieces.append((start, await asyncio.to_thread(piece.__getitem__, slice(None))))
                    continue
                line = 1 if len(piece) == 1 else fault.line
                if line is None or not 1 <= line <= len(piece):
                    middle = len(piece) // 2
                    pieces += [(start + middle, piece[middle:]), (start, piece[:middle])]
                    continue
                self.refused.append(Refusal(start + line - 1, "sink_refused", fault.message, fault.column))
                # The rows before it are known to be readable; they go first, to keep the order of the file.
                ends = range(line, len(piece), SLICE_ROWS)
                pieces += reversed([(start + end, piece[end : end + SLICE_ROWS]) for end in ends])
                pieces.append((start, piece[: line - 1]))
            else:
                self.written += written
                self.duplicates += len(piece) - written - len(refused)
                self.refused += [Refusal(start + ordinal, *self.taken_reason()) for ordinal in refused]

    def taken_reason(self) -> tuple[str, str, str]:
        """Explain why a row whose key is taken is refused: code, message, column."""
        key = self.table.key or ()
        message = f"a row with the same {', '.join(key)} is already there"
        return "duplicate_key", message, key[0] if len(key) == 1 else ""

    async def put(self, piece: Sequence[Row]) -> tuple[int, list[int]]:
        """Write rows all or nothing; return how many were written, and the ordinals whose key was taken."""
        if self.staged:
            text = staged_text(self.table, piece)
            async with self.connection.transaction():
                await self.stage(text)
                return await self.merge()
        # The first piece of a block is the block itself; its text is good once.
        ahead, self.ahead = self.ahead, None
        text = ahead or self.text_of(piece)
        columns, delimiter = [*column_names(self.table), RECEIPT_COLUMN], None
        if isinstance(piece, TextRows):
            columns, delimiter = csv_columns(self.table, piece), piece.delimiter
        async with self.connection.transaction():
            status = await self.connection.copy_to_table(
                self.table.name,
                schema_name=self.table.schema,
                columns=columns,
                source=self.sending(text),
                format="csv" if delimiter else "text",
                delimiter=delimiter,
                timeout=COPY_SECONDS,
            )
            if int(status.split()[-1]) != len(piece):
                # A trigger that returns NULL drops rows in silence; nobody may be told that they are stored.
                message = "a trigger of the table skips the row"
                raise ValueError(message)
        return len(piece), []

    async def sending(self, text: bytes) -> AsyncIterator[bytes]:
        """Hand out the bytes of a COPY and note when the last of them has left."""
        view = memoryview(text)
        for start in range(0, len(text), SEND_BYTES):
            yield bytes(view[start : start + SEND_BYTES])
        self.sent.set()

    async def stage(self, text: bytes) -> None:
        """Fill the staging table, which ends with the transaction."""
        columns = [f"{quoted(ORDINAL)} bigint NOT NULL"] + [
            f"{quoted(column.name)} {column.type}{'' if column.nullable else ' NOT NULL'}"
            for column in self.table.columns
        ]
        # Both each time, in one round trip: rolling back to a savepoint may have removed the table again.
        create = f"CREATE TEMPORARY TABLE IF NOT EXISTS {quoted(STAGING)} ({', '.join(columns)}) ON COMMIT DROP"
        await self.connection.execute(f"{create}; TRUNCATE pg_temp.{quoted(STAGING)}")
        await self.connection.copy_to_table(
            STAGING,
            schema_name="pg_temp",
            columns=[ORDINAL, *column_names(self.table)],
            source=self.sending(text),
            format="text",
            timeout=COPY_SECONDS,
        )

    async def merge(self) -> tuple[int, list[int]]:
        """Move rows from the staging table into the table, as `on_conflict` says."""
        if self.table.on_conflict == "reject":
            rows = await self.connection.fetch(reject_statement(self.table), self.unit.receipt, timeout=COPY_SECONDS)
            total = await self.connection.fetchval(COUNT_STAGED)
            return total - len(rows), [row[0] for row in rows]
        bounds = (self.unit.receipt, self.unit.first, self.unit.last)
        written = await self.connection.fetchval(merge_statement(self.table), *bounds, timeout=COPY_SECONDS)
        return written, []


def merge_statement(table: Table) -> str:
    """Write the INSERT for `update` and `ignore`. Parameters: the unit's receipt, first, last.

    Within one series a row gives way only to its successor (`update`) or predecessor (`ignore`) in file order,
    whichever came first. Of the rows of a key only the first to arrive counts as written; a row that takes the
    place of another of its series counts as a duplicate, so that the totals do not depend on the order either.
    Keys are inserted in order, so that two chunks with the same keys do not wait for each other in a circle.
    """
    if table.key is None:
        message = "a table without a key has no conflicts"
        raise ValueError(message)
    names = column_names(table)
    later = "t.receipt > excluded.receipt AND t.receipt <= $3"
    if table.on_conflict == "update":
        pick, fence, counted = "DESC", f"NOT ({later})", "was IS NULL OR was < $2 OR was > $3"
    else:
        pick, fence, counted = "ASC", later, "was IS NULL AND $2::uuid IS NOT NULL"
    changes = ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in [*names, RECEIPT_COLUMN])
    return f"""
WITH picked AS (
    SELECT DISTINCT ON ({listed(table.key)}) {listed(names)} FROM pg_temp.{quoted(STAGING)}
    ORDER BY {listed(table.key)}, {quoted(ORDINAL)} {pick}
), put AS (
    INSERT INTO {table_name(table)} AS t ({listed([*names, RECEIPT_COLUMN])})
    SELECT {listed(names)}, $1::uuid FROM picked ORDER BY {listed(table.key)}
    ON CONFLICT ({listed(table.key)}) DO UPDATE SET {changes} WHERE {fence}
    RETURNING old.receipt AS was
) SELECT count(*) FILTER (WHERE {counted}) FROM put"""  # noqa: S608  - identifiers are quoted


def reject_statement(table: Table) -> str:
    """Write the INSERT for `reject`; it returns the ordinals of the rows whose key was taken."""
    if table.key is None:
        message = "a table without a key has no conflicts"
        raise ValueError(message)
    names = column_names(table)
    return f"""
WITH picked AS (
    SELECT DISTINCT ON ({listed(table.key)}) * FROM pg_temp.{quoted(STAGING)}
    ORDER BY {listed(table.key)}, {quoted(ORDINAL)}
), put AS (
    INSERT INTO {table_name(table)} ({listed([*names, RECEIPT_COLUMN])})
    SELECT {listed(names)}, $1::uuid FROM picked ORDER BY {listed(table.key)}
    ON CONFLICT ({listed(table.key)}) DO NOTHING RETURNING {listed(table.key)}
)
SELECT {quoted(ORDINAL)} FROM pg_temp.{quoted(STAGING)} WHERE {quoted(ORDINAL)} NOT IN (
    SELECT picked.{quoted(ORDINAL)} FROM picked JOIN put USING ({listed(table.key)})
) ORDER BY 1"""  # noqa: S608  - identifiers are quoted
