"""Rows with a unit each: the path of requests and queue items, built for few round trips.

Guarantee: a row and its receipt are committed together or not at all, and a receipt holds the row as it is in
the table, or `null` where its item had none. One row takes one statement, so that there is no moment at which a
stopped worker holds a lock.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import TYPE_CHECKING

import asyncpg

from contracts.errors import TransientError
from contracts.ports import NO_RECORD, NO_ROW, ItemOutcome
from contracts.table import RECEIPT_COLUMN
from stores.postgres_errors import row_fault
from stores.postgres_tables import RECEIPTS, column_names, listed, quoted, table_name
from stores.postgres_text import print_row, returned_row, stored_row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from asyncpg.pool import PoolConnectionProxy

    from contracts.ports import Item
    from contracts.table import Row, Table

    Connection = PoolConnectionProxy[asyncpg.Record]

ATTEMPTS = 3
SKIPPED = "a trigger of the table skips the row"

# Answers like `one_statement`, for an item without a row.
ONE_RECEIPT = f"""
WITH made AS (
    INSERT INTO {RECEIPTS} (receipt, pipeline, unit, fingerprint, result) VALUES ($1, $2, $3, $4, '{NO_ROW}')
    ON CONFLICT DO NOTHING RETURNING receipt
)
SELECT pipeline, unit, state, fingerprint, result FROM {RECEIPTS} WHERE receipt = $1
UNION ALL SELECT NULL, NULL, NULL, NULL, NULL FROM made"""  # noqa: S608  - constants
REVIVE = f"""
UPDATE {RECEIPTS} AS r SET state = 'stored', result = u.result, committed_at = now()
FROM unnest($1::uuid[], $2::text[]) AS u(receipt, result) WHERE r.receipt = u.receipt AND r.state = 'dead'"""  # noqa: S608  - a constant


class RacedError(Exception):
    """Another attempt committed one of the receipts meanwhile."""


async def write_one(connection: Connection, table: Table, item: Item) -> ItemOutcome | None:
    """Write one item in one round trip, or return None where that cannot tell the whole outcome."""
    proof = (item.unit.receipt, item.unit.pipeline, item.unit.name, item.fingerprint)
    record = None
    try:
        if item.row is None:
            found = await connection.fetchrow(ONE_RECEIPT, *proof)
        else:
            texts = print_row(table, item.row)
            record = table.row_json(stored_row(table, item.row))
            found = await connection.fetchrow(one_statement(table), *proof, record, *texts)
    except Exception as error:
        if row_fault(error) is None:
            raise
        return None
    if found is None:
        return None
    if found["unit"] is None:
        return ItemOutcome(status="stored", record=record)
    return known_outcome(item, found)


async def write_many(
    connection: Connection, table: Table, items: Sequence[Item], *, receipts: bool, records: bool
) -> list[ItemOutcome]:
    """Write rows in one transaction; one outcome for each, in order."""
    for _ in range(ATTEMPTS):
        try:
            async with connection.transaction():
                # What a deferred constraint thinks of a row has to be known while the row can still be told.
                await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
                return await Writing(connection, table, receipts=receipts, records=records).run(items)
        except (RacedError, asyncpg.DeadlockDetectedError):
            continue
    message = "other attempts at the same units keep committing; try again"
    raise TransientError(message)


def known_outcome(item: Item, found: asyncpg.Record) -> ItemOutcome:
    """Answer for an item whose receipt is there. Raises `ReceiptMismatchError`."""
    item.unit.check_receipt(found["pipeline"], found["unit"])
    # The retry of a dead letter may come with a corrected payload, which is no conflict.
    if found["fingerprint"] != item.fingerprint and not item.revive:
        return ItemOutcome(status="conflict")
    if found["state"] != "stored":
        return ItemOutcome(status="dead")
    return ItemOutcome(status="repeat", record=None if found["result"] in {NO_ROW, NO_RECORD} else found["result"])


class Writing:
    """The items of one call to `write`, inside its transaction."""

    def __init__(self, connection: Connection, table: Table, *, receipts: bool, records: bool) -> None:
        """Work on a connection that is in a transaction."""
        self.records = records
        self.connection = connection
        self.table = table
        self.receipts = receipts
        self.revived: set[UUID] = set()

    async def run(self, items: Sequence[Item]) -> list[ItemOutcome]:
        """Write what has no receipt yet, in groups of distinct keys, then the receipts."""
        outcomes = await self.known(items, range(len(items)))
        first_of: dict[UUID, int] = {}
        fresh: list[int] = []
        for index, item in enumerate(items):
            if index in outcomes:
                continue
            if first_of.setdefault(item.unit.receipt, index) == index or not self.receipts:
                fresh.append(index)
        rows = {index: row for index in fresh if (row := items[index].row) is not None}
        outcomes |= {index: ItemOutcome(status="stored") for index in fresh if index not in rows}
        for group in self.groups(rows):
            outcomes |= await self.place(items, rows, group)
        refused = {items[index].unit.receipt for index in fresh if outcomes[index].status == "refused"}
        if refused:
            # What is in the way may be the unit's own row, committed by another attempt since the first look.
            outcomes |= await self.known(items, [i for i, item in enumerate(items) if item.unit.receipt in refused])
        for index, item in enumerate(items):
            if index not in outcomes:
                outcomes[index] = self.again(
                    item, items[first_of[item.unit.receipt]], outcomes[first_of[item.unit.receipt]]
                )
        stored = [index for index in fresh if outcomes[index].status == "stored"]
        if self.receipts and stored:
            await self.insert_receipts([items[index] for index in stored], [outcomes[index] for index in stored])
        return [outcomes[index] for index in range(len(items))]

    async def known(self, items: Sequence[Item], indexes: Sequence[int]) -> dict[int, ItemOutcome]:
        """Answer for those of the items that have a receipt by now. Raises `ReceiptMismatchError`."""
        if not self.receipts:
            return {}
        query = f"SELECT receipt, pipeline, unit, state, fingerprint, result FROM {RECEIPTS} WHERE receipt = ANY($1)"  # noqa: S608  - a constant
        rows = await self.connection.fetch(query, [items[index].unit.receipt for index in indexes])
        found = {row["receipt"]: row for row in rows}
        outcomes = {}
        for index in indexes:
            item = items[index]
            row = found.get(item.unit.receipt)
            if row is None:
                continue
            outcome = known_outcome(item, row)
            if not self.records:
                outcome = dataclasses.replace(outcome, record=None)
            if item.revive and row["state"] == "dead":
                self.revived.add(item.unit.receipt)
            else:
                outcomes[index] = outcome
        return outcomes

    def again(self, item: Item, first: Item, outcome: ItemOutcome) -> ItemOutcome:
        """Answer for an item whose unit occurred earlier in the same call."""
        item.unit.check_receipt(first.unit.pipeline, first.unit.name)
        if outcome.status != "stored":
            return outcome
        if item.fingerprint != first.fingerprint and not item.revive:
            return ItemOutcome(status="conflict")
        return ItemOutcome(status="repeat", record=outcome.record)

    def groups(self, rows: Mapping[int, Row]) -> list[list[int]]:
        """Cut rows, by their items' indexes, into runs without a repeated key: one INSERT cannot touch a row twice."""
        if self.table.key is None:
            return [list(rows)] if rows else []
        places = [column_names(self.table).index(name) for name in self.table.key]
        groups: list[list[int]] = []
        seen: set[Row] = set()
        for index, row in rows.items():
            key = tuple(row[place] for place in places)
            if not groups or key in seen:
                groups.append([])
                seen.clear()
            seen.add(key)
            groups[-1].append(index)
        return groups

    async def place(
        self, items: Sequence[Item], rows: Mapping[int, Row], group: Sequence[int]
    ) -> dict[int, ItemOutcome]:
        """Write the rows of a group of items; halve it until every row that the table refuses stands alone."""
        outcomes: dict[int, ItemOutcome] = {}
        pieces = [list(group)]
        while pieces:
            piece = pieces.pop()
            try:
                texts = [print_row(self.table, rows[index]) for index in piece]
                async with self.connection.transaction():
                    answers = await self.put([items[index] for index in piece], texts)
            except Exception as error:
                fault = row_fault(error)
                if fault is None:
                    raise
                if len(piece) == 1:
                    message = fault.message
                    outcomes[piece[0]] = ItemOutcome(
                        status="refused", code="sink_refused", message=message, column=fault.column
                    )
                else:
                    middle = len(piece) // 2
                    pieces += [piece[middle:], piece[:middle]]
            else:
                outcomes |= dict(zip(piece, answers, strict=True))
        return outcomes

    async def put(self, items: Sequence[Item], texts: Sequence[Sequence[str | None]]) -> list[ItemOutcome]:
        """Write items with distinct keys all or nothing, apart from those whose key is taken."""
        columns = [list(column) for column in zip(*texts, strict=True)]
        receipts = [item.unit.receipt for item in items]
        # Without receipts the same unit may stand here twice; then the rows cannot be told apart, nor need they be.
        rows = await self.connection.fetch(many_statement(self.table), receipts, *columns)
        records = {row[RECEIPT_COLUMN]: self.record(row) for row in rows}
        missing = [index for index, receipt in enumerate(receipts) if receipt not in records]
        kept: dict[int, str] = {}
        if missing and self.table.key is not None and self.table.on_conflict == "ignore":
            places = [column_names(self.table).index(name) for name in self.table.key]
            keys = [[columns[place][index] for index in missing] for place in places]
            found = await self.connection.fetch(kept_statement(self.table), *keys)
            kept = {missing[row["__ordinal__"] - 1]: self.record(row) for row in found}
        outcomes = []
        for index, receipt in enumerate(receipts):
            record = records[receipt] if receipt in records else kept.get(index)
            if record is None:
                outcomes.append(self.not_stored())
            else:
                outcomes.append(ItemOutcome(status="stored", record=record if self.records else None))
        return outcomes

    def not_stored(self) -> ItemOutcome:
        """Answer for a row that the INSERT passed over."""
        if self.table.key is None or self.table.on_conflict != "reject":
            return ItemOutcome(status="refused", code="sink_refused", message=SKIPPED)
        message = f"a row with the same {', '.join(self.table.key)} is already there"
        column = self.table.key[0] if len(self.table.key) == 1 else ""
        return ItemOutcome(status="refused", code="duplicate_key", message=message, column=column)

    def record(self, row: asyncpg.Record) -> str:
        """Print a row that came back from the table, if anybody wants it."""
        if not self.records:
            return NO_RECORD
        return self.table.row_json(returned_row(self.table, (row[name] for name in column_names(self.table))))

    async def insert_receipts(self, items: Sequence[Item], outcomes: Sequence[ItemOutcome]) -> None:
        """Insert the receipts last, or revive them. Raises `RacedError` if another attempt decided one of them."""
        results = {
            # A row that could not be printed must not pass for none: the column takes no NULL.
            item.unit.receipt: NO_RECORD if not self.records else NO_ROW if item.row is None else outcome.record
            for item, outcome in zip(items, outcomes, strict=True)
        }
        revived = sorted(self.revived & results.keys())
        if revived:
            count = await self.connection.execute(REVIVE, revived, [results[receipt] for receipt in revived])
            if int(count.split()[-1]) != len(revived):
                raise RacedError
        items = [item for item in items if item.unit.receipt not in self.revived]
        if not items:
            return
        count = await self.connection.execute(
            f"""INSERT INTO {RECEIPTS} (receipt, pipeline, unit, fingerprint, result)
            SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[]) AS u(r, p, n, f, d)
            ORDER BY r ON CONFLICT DO NOTHING""",  # noqa: S608  - a constant
            [item.unit.receipt for item in items],
            [item.unit.pipeline for item in items],
            [item.unit.name for item in items],
            [item.fingerprint for item in items],
            [results[item.unit.receipt] for item in items],
        )
        if int(count.split()[-1]) != len(items):
            raise RacedError


def conflict_clause(table: Table) -> str:
    """Write what happens to a row whose key is there. `update` returns the row, the others pass it over."""
    if table.key is None:
        return ""
    if table.on_conflict != "update":
        return f"ON CONFLICT ({listed(table.key)}) DO NOTHING"
    names = [*column_names(table), RECEIPT_COLUMN]
    changes = ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in names)
    return f"ON CONFLICT ({listed(table.key)}) DO UPDATE SET {changes}"


@lru_cache(maxsize=256)
def one_statement(table: Table) -> str:
    """Write the statement for one item: receipt, pipeline, unit, fingerprint, record, then the columns as text.

    It returns the receipt that was there, or a row whose `unit` is NULL if the item is stored now, or nothing. The
    record was printed from the given row: where a trigger changed the row, the CASE yields NULL, which the
    receipt's `result` does not take, so that nothing is written and the longer way prints the row as it is.
    """
    names = column_names(table)
    given = [f"${index}::text::{column.type}" for index, column in enumerate(table.columns, start=6)]
    same = " AND ".join(
        f"put.{quoted(name)} IS NOT DISTINCT FROM {text}" for name, text in zip(names, given, strict=True)
    )
    return f"""
WITH put AS (
    INSERT INTO {table_name(table)} AS t ({listed([*names, RECEIPT_COLUMN])})
    SELECT {", ".join(given)}, $1::uuid WHERE NOT EXISTS (SELECT FROM {RECEIPTS} WHERE receipt = $1)
    {conflict_clause(table)} RETURNING {listed(names, "t.")}
), made AS (
    INSERT INTO {RECEIPTS} (receipt, pipeline, unit, fingerprint, result)
    SELECT $1, $2::text, $3::text, $4::text, CASE WHEN {same} THEN $5::text END FROM put RETURNING receipt
)
SELECT pipeline, unit, state, fingerprint, result FROM {RECEIPTS} WHERE receipt = $1
UNION ALL SELECT NULL, NULL, NULL, NULL, NULL FROM made"""  # noqa: S608  - identifiers are quoted


@lru_cache(maxsize=256)
def many_statement(table: Table) -> str:
    """Write the INSERT for many items: arrays of receipts, then of each column as text."""
    names = column_names(table)
    arrays = ", ".join(f"${index}::text[]" for index in range(2, len(names) + 2))
    values = ", ".join(f"u.{quoted(column.name)}::{column.type}" for column in table.columns)
    order = f"ORDER BY {listed(table.key, 'v.')}" if table.key else ""
    return f"""
INSERT INTO {table_name(table)} AS t ({listed([*names, RECEIPT_COLUMN])})
SELECT * FROM (
    SELECT {values}, u.{quoted(RECEIPT_COLUMN)}
    FROM unnest({arrays}, $1::uuid[]) AS u({listed([*names, RECEIPT_COLUMN])})
) AS v({listed([*names, RECEIPT_COLUMN])}) {order}
{conflict_clause(table)} RETURNING {listed([*names, RECEIPT_COLUMN], "t.")}"""  # noqa: S608  - identifiers are quoted


@lru_cache(maxsize=256)
def kept_statement(table: Table) -> str:
    """Write the query for rows that are there already: an array of text for each column of the key."""
    key = table.key or ()
    types = {column.name: column.type for column in table.columns}
    arrays = ", ".join(f"${index}::text[]" for index in range(1, len(key) + 1))
    match = " AND ".join(f"t.{quoted(name)} = u.{quoted(name)}::{types[name]}" for name in key)
    return f"""
SELECT u."__ordinal__" AS "__ordinal__", {listed(column_names(table), "t.")}
FROM unnest({arrays}) WITH ORDINALITY AS u({listed(key)}, "__ordinal__") JOIN {table_name(table)} AS t ON {match}"""  # noqa: S608  - identifiers are quoted
