"""The contract of the `FailureLedger` port and of the receipts' states, on the double and on the real server."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from pydantic import BaseModel

from contracts.errors import ReceiptMismatchError, TransientError, UnavailableError
from contracts.ports import Burial, Failure, FailureLedger, Item, ItemOutcome, Receipt, Sink
from contracts.table import OnConflict, PostgresTable, Row, Table
from contracts.units import Unit
from stores.memory_failures import MemoryFailureLedger
from stores.memory_sink import MemorySink
from stores.postgres_failures import PostgresFailureLedger
from stores.postgres_sink import PostgresSink
from stores.postgres_tables import RECEIPTS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio

REASON = '{"error_type":"ValueError"}'


class Order(BaseModel):
    id: int
    note: str


class Bench:
    """A sink and its ledger under test."""

    def __init__(self, sink: Any, ledger: FailureLedger, dsn: str | None) -> None:
        self.sink: Sink = sink
        self.ledger = ledger
        self.dsn = dsn
        self.suffix = uuid.uuid4().hex[:12]

    async def table(self, on_conflict: OnConflict = "update", key: tuple[str, ...] | None = None) -> Table:
        table = Table.from_model(PostgresTable(f"letters_{self.suffix}", key=key, on_conflict=on_conflict), Order)
        await self.sink.prepare(table)
        return table

    def unit(self, name: str) -> Unit:
        return Unit.alone("orders", f"item/{self.suffix}/{name}")

    async def rows(self, table: Table) -> list[Row]:
        if self.dsn is None:
            assert isinstance(self.sink, MemorySink)
            return [tuple(row.values()) for row in self.sink.rows(table.name)]
        connection = await asyncpg.connect(self.dsn)
        try:
            return [tuple(row)[:-1] for row in await connection.fetch(f'SELECT * FROM "{table.name}" ORDER BY 1')]
        finally:
            await connection.close()

    async def state(self, unit: Unit) -> str | None:
        receipt = await self.sink.find_receipt(unit)
        return None if receipt is None else receipt.state


@pytest.fixture
def dsn(request: pytest.FixtureRequest) -> str:
    value: str = request.getfixturevalue("settings").database_url.get_secret_value()
    return value


@pytest.fixture(params=["memory", "postgres"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    if request.param == "memory":
        memory = MemorySink()
        yield Bench(memory, MemoryFailureLedger(memory), None)
        return
    dsn = request.getfixturevalue("settings").database_url.get_secret_value()
    async with PostgresSink.open(dsn) as sink:
        yield Bench(sink, PostgresFailureLedger(sink), dsn)


async def test_failures_are_counted_by_unit_and_forgotten(bench: Bench) -> None:
    first, second = bench.unit("a"), bench.unit("b")
    [count] = await bench.ledger.count_failures([Failure(first, "ValueError", "no\0 good \ud800")])
    assert (count.attempts, count.first) == (1, count.last)
    assert count.first.tzinfo is not None
    counts = await bench.ledger.count_failures(
        [
            Failure(second, "OSError", "down"),
            Failure(first, "OSError", "down"),
            Failure(first, "KeyError", "x" * 5000),
        ]
    )
    assert [count.attempts for count in counts] == [1, 2, 3]
    assert counts[1].first == count.first
    assert counts[2].last >= count.last
    await bench.ledger.forget_failures([first, bench.unit("unknown")])
    counts = await bench.ledger.count_failures([Failure(unit, "OSError", "") for unit in (first, second)])
    assert [count.attempts for count in counts] == [1, 2]
    assert await bench.ledger.count_failures([]) == []
    await bench.ledger.forget_failures([])


async def test_concurrent_failures_all_count(bench: Bench) -> None:
    units = [bench.unit(str(number)) for number in range(20)]
    failures = [Failure(unit, "OSError", "down") for unit in units]
    orders = [failures, failures[::-1]] * 4
    answers = await asyncio.gather(*(bench.ledger.count_failures(order) for order in orders))
    assert sorted(counts[0].attempts for counts in answers[::2] + [order[::-1] for order in answers[1::2]]) == list(
        range(1, 9)
    )


@pytest.mark.parametrize("single", [True, False])
async def test_a_unit_that_was_buried_first_is_not_stored(bench: Bench, *, single: bool) -> None:
    table, item = await bench.table(), Item(bench.unit("a"), "f", (1, "a"))
    assert await bench.ledger.bury([Burial(item.unit, "f", REASON)]) == ["dead"]
    neighbours = [] if single else [Item(bench.unit("b"), "f", (2, "b"))]
    outcomes = await bench.sink.write(table, [item, *neighbours])
    assert [outcome.status for outcome in outcomes] == ["dead"] + ["stored"] * len(neighbours)
    assert (await bench.sink.write(table, [Item(item.unit, "f", None), *neighbours]))[0] == ItemOutcome("dead")
    other = await bench.sink.write(table, [Item(item.unit, "another payload", (1, "b")), *neighbours])
    assert other[0] == ItemOutcome("conflict")
    assert await bench.rows(table) == [given.row for given in neighbours]
    assert await bench.sink.find_receipt(item.unit) == Receipt(item.unit.name, REASON, "f", "dead")


async def test_a_unit_that_was_stored_first_is_not_buried(bench: Bench) -> None:
    table, item = await bench.table(), Item(bench.unit("a"), "f", (1, "a"))
    await bench.sink.write(table, [item])
    others = [Burial(bench.unit("b"), "f", REASON), Burial(bench.unit("c"), "f", REASON, state="discarded")]
    burials = [Burial(item.unit, "f", REASON), *others, Burial(item.unit, "f", REASON, state="discarded")]
    assert await bench.ledger.bury(burials) == ["stored", "dead", "discarded", "stored"]
    assert await bench.ledger.bury(burials) == ["stored", "dead", "discarded", "stored"]
    assert await bench.ledger.discard(item.unit, REASON) == "stored"
    assert await bench.state(item.unit) == "stored"
    assert await bench.ledger.bury([]) == []


@pytest.mark.parametrize("key", [("id",), None])
@pytest.mark.parametrize("count", [1, 4])
async def test_of_storing_and_burying_at_once_exactly_one_happens(
    bench: Bench, count: int, key: tuple[str] | None
) -> None:
    table = await bench.table(key=key)
    for start in range(40):
        items = [Item(bench.unit(f"{start}/{n}"), "f", (start * 10 + n, "a")) for n in range(count)]
        burials = [Burial(item.unit, "f", REASON) for item in reversed(items)]
        storing, burying = bench.sink.write(table, items), bench.ledger.bury(burials)
        if start % 2:
            states, outcomes = await asyncio.gather(burying, storing)
        else:
            outcomes, states = await asyncio.gather(storing, burying)
        decided = list(zip([outcome.status for outcome in outcomes], reversed(states), strict=True))
        assert set(decided) <= {("stored", "stored"), ("dead", "dead")}
        stored = {row[0] for row in await bench.rows(table)}
        assert [item.row[0] in stored for item in items if item.row] == [status == "stored" for status, _ in decided]


async def hold(dsn: str, unit: Unit, state: str) -> tuple[asyncpg.Connection[asyncpg.Record], Any]:
    """Insert a receipt as another process would, and leave its transaction open."""
    other = await asyncpg.connect(dsn)
    transaction = other.transaction()
    await transaction.start()
    await other.execute(
        f"""INSERT INTO {RECEIPTS} (receipt, pipeline, unit, fingerprint, result, state)
        VALUES ($1, $2, $3, 'f', $4, $5)""",
        unit.receipt,
        unit.pipeline,
        unit.name,
        REASON,
        state,
    )
    return other, transaction


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("count", [1, 3])
async def test_a_write_waits_for_a_burial_that_is_not_committed_yet(dsn: str, count: int, *, commits: bool) -> None:
    async with PostgresSink.open(dsn) as sink:
        bench = Bench(sink, PostgresFailureLedger(sink), dsn)
        table = await bench.table(key=("id",))
        items = [Item(bench.unit(str(n)), "f", (n, "a")) for n in range(count)]
        other, transaction = await hold(dsn, items[0].unit, "dead")
        writing = asyncio.create_task(sink.write(table, items))
        await asyncio.sleep(0.2)
        assert not writing.done()
        await (transaction.commit() if commits else transaction.rollback())
        await other.close()
        outcomes = await writing
        assert outcomes[0].status == ("dead" if commits else "stored")
        assert {outcome.status for outcome in outcomes[1:]} <= {"stored"}
        assert len(await bench.rows(table)) == (count - 1 if commits else count)


@pytest.mark.parametrize("commits", [True, False])
async def test_a_burial_waits_for_a_write_that_is_not_committed_yet(dsn: str, *, commits: bool) -> None:
    async with PostgresSink.open(dsn) as sink:
        bench = Bench(sink, PostgresFailureLedger(sink), dsn)
        await bench.table()
        unit = bench.unit("a")
        other, transaction = await hold(dsn, unit, "stored")
        burying = asyncio.create_task(bench.ledger.bury([Burial(unit, "f", REASON)]))
        await asyncio.sleep(0.2)
        assert not burying.done()
        await (transaction.commit() if commits else transaction.rollback())
        await other.close()
        assert await burying == ["stored" if commits else "dead"]


@pytest.mark.parametrize("single", [True, False])
async def test_a_dead_letter_is_revived_with_its_row(bench: Bench, *, single: bool) -> None:
    table, unit = await bench.table(), bench.unit("a")
    await bench.ledger.bury([Burial(unit, "f", REASON)])
    corrected = Item(unit, "of the corrected payload", (1, "corrected"), revive=True)
    neighbours = [] if single else [Item(bench.unit("b"), "f", (2, "b"), revive=True), Item(bench.unit("c"), "f", None)]
    outcomes = await bench.sink.write(table, [corrected, *neighbours])
    assert [outcome.status for outcome in outcomes] == ["stored"] * (1 + len(neighbours))
    assert json.loads(outcomes[0].record or "") == {"id": 1, "note": "corrected"}
    assert await bench.sink.find_receipt(unit) == Receipt(unit.name, outcomes[0].record or "", "f", "stored")
    [repeat] = await bench.sink.write(table, [corrected])
    assert repeat == ItemOutcome("repeat", record=outcomes[0].record)
    # The item itself, should it come once more, is what it was.
    assert (await bench.sink.write(table, [Item(unit, "f", (1, "a"))]))[0].status == "repeat"
    assert await bench.ledger.discard(unit, REASON) == "stored"
    assert len(await bench.rows(table)) == (1 if single else 2)


async def test_a_dead_letter_that_process_drops_is_revived_without_a_row(bench: Bench) -> None:
    table, unit = await bench.table(), bench.unit("a")
    await bench.ledger.bury([Burial(unit, "f", REASON)])
    assert await bench.sink.write(table, [Item(unit, "f", None, revive=True)]) == [ItemOutcome("stored")]
    assert await bench.sink.find_receipt(unit) == Receipt(unit.name, "null", "f", "stored")
    assert await bench.rows(table) == []


async def test_a_discarded_unit_is_neither_stored_nor_revived(bench: Bench) -> None:
    table, unit = await bench.table(), bench.unit("a")
    await bench.ledger.bury([Burial(unit, "f", REASON)])
    assert await bench.ledger.discard(unit, '"given up"') == "discarded"
    assert await bench.ledger.discard(unit, '"again"') == "discarded"
    assert await bench.sink.find_receipt(unit) == Receipt(unit.name, '"given up"', "f", "discarded")
    for revive in (True, False):
        item = Item(unit, "f", (1, "a"), revive=revive)
        assert await bench.sink.write(table, [item]) == [ItemOutcome("dead")]
        assert (await bench.sink.write(table, [item, Item(bench.unit("b"), "f", None)]))[0] == ItemOutcome("dead")
    assert await bench.ledger.bury([Burial(unit, "f", REASON)]) == ["discarded"]
    assert await bench.ledger.discard(bench.unit("unknown"), REASON) == "discarded"
    assert await bench.rows(table) == []


async def test_a_revival_that_the_sink_refuses_leaves_the_letter_dead(bench: Bench) -> None:
    table, unit = await bench.table(), bench.unit("a")
    await bench.ledger.bury([Burial(unit, "f", REASON)])
    [outcome] = await bench.sink.write(table, [Item(unit, "f", (2**63, "too large"), revive=True)])
    assert outcome.status == "refused"
    assert await bench.state(unit) == "dead"


async def test_concurrent_revivals_and_discards_have_one_effect(bench: Bench) -> None:
    table = await bench.table()
    stored = 0
    for number in range(20):
        unit = bench.unit(str(number))
        await bench.ledger.bury([Burial(unit, "f", REASON)])
        item = Item(unit, "f", (number, "a"), revive=True)
        first, second, state = await asyncio.gather(
            bench.sink.write(table, [item]), bench.sink.write(table, [item]), bench.ledger.discard(unit, REASON)
        )
        statuses = sorted([first[0].status, second[0].status])
        assert statuses in (["repeat", "stored"], ["dead", "dead"])
        assert state == ("stored" if "stored" in statuses else "discarded")
        stored += "stored" in statuses
    assert len(await bench.rows(table)) == stored


async def test_a_receipt_of_another_unit_is_a_mismatch(bench: Bench) -> None:
    unit = bench.unit("a")
    other = unit.model_copy(update={"name": "another"})
    await bench.table()
    await bench.ledger.bury([Burial(unit, "f", REASON)])
    await bench.ledger.count_failures([Failure(unit, "ValueError", "")])
    with pytest.raises(ReceiptMismatchError, match="another"):
        await bench.ledger.bury([Burial(other, "f", REASON)])
    with pytest.raises(ReceiptMismatchError, match="another"):
        await bench.ledger.discard(other, REASON)
    assert await bench.state(unit) == "dead"


async def test_the_ledger_needs_no_pipeline_to_be_prepared_first(dsn: str) -> None:
    async with PostgresSink.open(dsn) as sink:
        bench = Bench(sink, PostgresFailureLedger(sink), dsn)
        assert await bench.ledger.bury([Burial(bench.unit("a"), "f", REASON)]) == ["dead"]


async def test_an_outage_is_one() -> None:
    async with PostgresSink.open("postgresql://u:secret@127.0.0.1:1/x") as sink:
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1"):
            await PostgresFailureLedger(sink).bury([Burial(Unit.alone("orders", "a"), "f", REASON)])
    memory = MemorySink()
    memory.down = True
    with pytest.raises(TransientError):
        await MemoryFailureLedger(memory).count_failures([])


@pytest.mark.parametrize("column", ["kind text NOT NULL DEFAULT 'stored',", ""])
async def test_receipts_of_an_earlier_version_are_migrated_by_workers_that_start_together(
    dsn: str, column: str
) -> None:
    name = f"old_{uuid.uuid4().hex[:12]}"
    admin = await asyncpg.connect(dsn)
    await admin.execute(f"CREATE DATABASE {name}")
    old = dsn.rpartition("/")[0] + f"/{name}"
    connection = await asyncpg.connect(old)
    try:
        unit = Unit.alone("orders", "old")
        await connection.execute(
            f"""CREATE TABLE {RECEIPTS} (
            receipt uuid PRIMARY KEY, pipeline text NOT NULL, unit text NOT NULL, {column} fingerprint text NOT NULL,
            result text NOT NULL, committed_at timestamptz NOT NULL DEFAULT now())"""
        )
        await connection.execute(
            f"""INSERT INTO {RECEIPTS} (receipt, pipeline, unit, fingerprint, result)
            VALUES ($1, 'orders', 'old', 'f', '1')""",
            unit.receipt,
        )

        async def start() -> None:
            async with PostgresSink.open(old) as sink:
                await sink.prepare(Table.from_model(PostgresTable("orders", key=None), Order))

        await asyncio.gather(*(start() for _ in range(4)))
        async with PostgresSink.open(old) as sink:
            assert await sink.find_receipt(unit) == Receipt("old", "1", "f", "stored")
            assert await PostgresFailureLedger(sink).bury([Burial(unit, "f", REASON)]) == ["stored"]
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(f"UPDATE {RECEIPTS} SET state = 'mangled'")
    finally:
        await connection.close()
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()
