"""The sink in memory: for tests of workflows and activities, and to try a pipeline without a server.

Guarantee: outcome for outcome what `PostgresSink` does, as `tests/stores/test_sink.py` proves on both.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

from contracts.errors import TableMismatchError, UnavailableError
from contracts.ports import NO_RECORD, NO_ROW, ItemOutcome, LoadOutcome, Receipt, Refusal, Settled
from contracts.record import INT64_MAX, INT64_MIN
from stores.postgres_text import print_row, stored_row

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
    from uuid import UUID

    from contracts.ports import Item
    from contracts.table import Row, Table
    from contracts.units import Unit


@dataclasses.dataclass
class Stored:
    """A row that is in a table, and the receipt of the unit that put it there."""

    row: Row
    receipt: UUID


@dataclasses.dataclass
class MemoryTable:
    """A table: its rows by key, or by a running number where there is no key."""

    table: Table
    rows: dict[Any, Stored] = dataclasses.field(default_factory=dict)

    def copy(self) -> MemoryTable:
        """Copy what a transaction may change."""
        return MemoryTable(self.table, dict(self.rows))

    def key_of(self, row: Row) -> Any:
        """Take the key out of a row."""
        if self.table.key is None:
            return len(self.rows)
        names = [column.name for column in self.table.columns]
        return tuple(hashable(row[names.index(name)]) for name in self.table.key)


def hashable(value: Any) -> Any:
    """Make a value of JSON fit for a key."""
    if isinstance(value, list):
        return tuple(hashable(item) for item in value)
    if isinstance(value, dict):
        return frozenset((name, hashable(item)) for name, item in value.items())
    return value


class MemorySink:
    """The `Sink` port in memory. Set `down` to let every call fail as if PostgreSQL did not answer."""

    def __init__(self, *, receipts: bool = True) -> None:
        """Start empty; `receipts=False` is for negative controls, as in `PostgresSink.open`."""
        self.down = False
        self.receipts = receipts
        self.tables: dict[tuple[str, str], MemoryTable] = {}
        self.proofs: dict[UUID, tuple[str, Receipt]] = {}
        self.lock = asyncio.Lock()

    def rows(self, table_name: str) -> list[dict[str, Any]]:
        """List the rows of `table` or `schema.table`, each with the model's columns, in the order they came."""
        schema, _, name = table_name.rpartition(".")
        found = self.tables.get((schema or "public", name))
        if found is None:
            return []
        names = [column.name for column in found.table.columns]
        return [dict(zip(names, stored.row, strict=True)) for stored in found.rows.values()]

    async def prepare(self, table: Table) -> None:
        """Create the table if it is absent. Raises `TableMismatchError` if it has other columns or another key."""
        self.answer()
        found = self.tables.setdefault((table.schema, table.name), MemoryTable(table)).table
        if (found.columns, found.key) != (table.columns, table.key):
            message = f"table {table.schema}.{table.name} does not match the model: its columns or its key are others"
            raise TableMismatchError(message)
        self.tables[table.schema, table.name].table = table

    async def find_receipt(self, unit: Unit) -> Receipt | None:
        """Look a receipt up, or return None. Raises `ReceiptMismatchError`."""
        self.answer()
        return self.proof(unit)

    async def write(self, table: Table, items: Sequence[Item], *, records: bool = True) -> list[ItemOutcome]:
        """Write rows that have a unit each, all at once; one outcome per item, in order."""
        self.answer()
        async with self.lock:
            target = self.open_table(table)
            fresh: dict[UUID, tuple[str, Receipt]] = {}
            outcomes = [self.write_item(target, item, fresh, records=records) for item in items]
            self.tables[table.schema, table.name] = target
            self.proofs |= fresh
        return outcomes

    def write_item(
        self, target: MemoryTable, item: Item, fresh: dict[UUID, tuple[str, Receipt]], *, records: bool
    ) -> ItemOutcome:
        """Decide about one item."""
        known = self.proof(item.unit, fresh)
        if known is not None and not (item.revive and known.state == "dead"):
            if known.fingerprint != item.fingerprint and not item.revive:
                return ItemOutcome(status="conflict")
            if known.state != "stored":
                return ItemOutcome(status="dead")
            kept = None if known.result in {NO_ROW, NO_RECORD} else known.result
            return ItemOutcome(status="repeat", record=kept if records else None)
        outcome = ItemOutcome(status="stored") if item.row is None else put_row(target, item.unit, item.row)
        result = NO_ROW if item.row is None else outcome.record or NO_ROW
        if not records:
            outcome, result = dataclasses.replace(outcome, record=None), NO_RECORD
        if self.receipts and outcome.status == "stored":
            fingerprint = item.fingerprint if known is None else known.fingerprint
            receipt = Receipt(item.unit.name, result, fingerprint)
            fresh[item.unit.receipt] = (item.unit.pipeline, receipt)
        return outcome

    async def load(
        self,
        table: Table,
        unit: Unit,
        blocks: AsyncIterable[Sequence[Row]],
        settle: Callable[[LoadOutcome], Awaitable[str]],
    ) -> Settled:
        """Write many rows under one unit, all at once."""
        self.answer()
        known = self.load_proof(unit)
        if known is not None:
            return Settled(result=known.result, repeat=True)
        given = [list(block) async for block in blocks]
        async with self.lock:
            self.answer()
            known = self.load_proof(unit)
            if known is not None:
                return Settled(result=known.result, repeat=True)
            target = self.open_table(table)
            result = await settle(load_rows(target, unit, given))
            self.answer()
            self.tables[table.schema, table.name] = target
            if self.receipts:
                self.proofs[unit.receipt] = (unit.pipeline, Receipt(unit.name, result, ""))
        return Settled(result=result, repeat=False)

    def answer(self) -> None:
        """Raise `UnavailableError` while the sink is down."""
        if self.down:
            reason = "it is down"
            service = "memory sink"
            raise UnavailableError(service, "this process", reason)

    def open_table(self, table: Table) -> MemoryTable:
        """Copy a table for one transaction."""
        found = self.tables.get((table.schema, table.name))
        if found is None:
            message = f"table {table.schema}.{table.name} is not prepared"
            raise TableMismatchError(message)
        return MemoryTable(table, found.copy().rows)

    def proof(self, unit: Unit, fresh: dict[UUID, tuple[str, Receipt]] | None = None) -> Receipt | None:
        """Find the receipt of a unit, also among those about to be committed. Raises `ReceiptMismatchError`."""
        found = (fresh or {}).get(unit.receipt) or self.proofs.get(unit.receipt)
        if found is None:
            return None
        pipeline, receipt = found
        unit.check_receipt(pipeline, receipt.unit)
        return receipt

    def load_proof(self, unit: Unit) -> Receipt | None:
        """Find the receipt of a load's unit. Raises `ReceiptMismatchError`, also if others have some of its bytes."""
        for receipt, (_, known) in self.proofs.items():
            if unit.first <= receipt <= unit.last:
                unit.check_neighbour(known.unit)
        return self.proof(unit)


def put_row(target: MemoryTable, unit: Unit, row: Row) -> ItemOutcome:
    """Put the row of one item into a table, as `on_conflict` says."""
    table = target.table
    fault = find_fault(table, row)
    if fault is not None:
        return ItemOutcome(status="refused", code="sink_refused", message=fault[0], column=fault[1])
    stored = Stored(stored_row(table, row), unit.receipt)
    key = target.key_of(stored.row)
    existing = target.rows.get(key)
    if existing is not None and table.on_conflict == "reject":
        code, message, column = taken_reason(table)
        return ItemOutcome(status="refused", code=code, message=message, column=column)
    if existing is None or table.on_conflict == "update":
        target.rows[key] = existing = stored
    return ItemOutcome(status="stored", record=table.row_json(existing.row))


def load_rows(target: MemoryTable, unit: Unit, blocks: Sequence[Sequence[Row]]) -> LoadOutcome:
    """Put the rows of a load into a table and count them."""
    table = target.table
    written = duplicates = index = 0
    refused: list[Refusal] = []
    for block in blocks:
        for row in block:
            fault = find_fault(table, row)
            if fault is not None:
                refused.append(Refusal(index, "sink_refused", *fault))
            else:
                stored = Stored(stored_row(table, row), unit.receipt)
                key = target.key_of(stored.row)
                existing = target.rows.get(key)
                if existing is None:
                    target.rows[key] = stored
                    written += 1
                elif table.on_conflict == "reject":
                    refused.append(Refusal(index, *taken_reason(table)))
                else:
                    of_series = unit.first <= existing.receipt <= unit.last
                    later = of_series and existing.receipt > unit.receipt
                    if later == (table.on_conflict == "ignore"):
                        target.rows[key] = stored
                    takes_over = table.on_conflict == "update" and not of_series
                    written += takes_over
                    duplicates += not takes_over
            index += 1
    return LoadOutcome(written=written, duplicates=duplicates, refused=tuple(refused))


def taken_reason(table: Table) -> tuple[str, str, str]:
    """Explain why a row whose key is taken is refused: code, message, column."""
    key = table.key or ()
    return (
        "duplicate_key",
        f"a row with the same {', '.join(key)} is already there",
        key[0] if len(key) == 1 else "",
    )


def find_fault(table: Table, row: Row) -> tuple[str, str] | None:
    """Say why PostgreSQL would refuse a row, as message and column, or return None."""
    try:
        texts = print_row(table, row)
    except ValueError as error:
        return str(error), ""
    for column, value, text in zip(table.columns, row, texts, strict=True):
        if text is None and not column.nullable:
            return f"column {column.name} may not be NULL", column.name
        if column.type == "bigint" and text is not None and not INT64_MIN <= int(value) <= INT64_MAX:
            return f"value {text} is out of range for type bigint", column.name
        if column.type == "jsonb" and text is not None and ("\\u0000" in text or "NaN" in text or "Infinity" in text):
            return "JSON cannot hold a NUL character, NaN or an infinity", column.name
    return None
