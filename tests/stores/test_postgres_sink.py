"""What only the real server can show: crashes, zombies, constraints, tables that differ, outages."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import asyncpg
import pytest
from pydantic import BaseModel

from contracts.errors import DeclarationError, TableMismatchError, UnavailableError
from contracts.ports import Item, ItemOutcome, LoadOutcome
from contracts.table import OnConflict, PostgresTable, Row, Table
from contracts.units import Unit
from stores.postgres_blocks import PIECE_ROWS
from stores.postgres_load import Loading
from stores.postgres_sink import PostgresSink
from stores.postgres_write import Writing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from stores.settings import Settings

pytestmark = pytest.mark.asyncio


class Order(BaseModel):
    id: int
    note: str | None


@pytest.fixture
def dsn(settings: Settings) -> str:
    return settings.database_url.get_secret_value()


@pytest.fixture
async def sink(dsn: str) -> AsyncIterator[PostgresSink]:
    async with PostgresSink.open(dsn, patience=0.5) as opened:
        yield opened


@pytest.fixture
async def reader(dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


def orders(on_conflict: OnConflict = "update", key: tuple[str, ...] | None = ("id",)) -> Table:
    return Table.from_model(PostgresTable(f"orders_{uuid.uuid4().hex[:12]}", key=key, on_conflict=on_conflict), Order)


def unit() -> Unit:
    return Unit.of_range("orders", uuid.uuid4().hex, 0, 9)


async def given(*blocks: Sequence[Row]) -> AsyncIterator[Sequence[Row]]:
    for block in blocks:
        yield block


async def settle(outcome: LoadOutcome) -> str:
    return repr(outcome)


async def count(reader: asyncpg.Connection[asyncpg.Record], table: Table) -> int:
    found: int = await reader.fetchval(f'SELECT count(*) FROM "{table.name}"')
    return found


async def test_a_connection_cut_in_the_middle_leaves_nothing(
    sink: PostgresSink, reader: asyncpg.Connection[asyncpg.Record]
) -> None:
    table, work = orders(key=None), unit()
    await sink.prepare(table)

    async def cut() -> AsyncIterator[Sequence[Row]]:
        yield [(1, "a")] * PIECE_ROWS
        await reader.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE relation = $1::text::regclass", table.name
        )
        yield [(2, "b")]

    with pytest.raises(UnavailableError):
        await sink.load(table, work, cut(), settle)
    assert await count(reader, table) == 0
    assert await sink.find_receipt(work) is None
    assert not (await sink.load(table, work, given([(1, "a")]), settle)).repeat
    assert await count(reader, table) == 1


async def test_a_zombie_that_wakes_after_its_retry_is_fenced(
    dsn: str, sink: PostgresSink, reader: asyncpg.Connection[asyncpg.Record]
) -> None:
    table, work = orders(key=None), unit()
    await sink.prepare(table)
    awake, asleep = asyncio.Event(), asyncio.Event()

    async def sleeping() -> AsyncIterator[Sequence[Row]]:
        yield [(1, "zombie")] * PIECE_ROWS
        asleep.set()
        await awake.wait()
        yield [(2, "zombie")]

    async with PostgresSink.open(dsn) as other:
        zombie = asyncio.create_task(other.load(table, work, sleeping(), settle))
        await asleep.wait()
        assert not (await sink.load(table, work, given([(1, "retry")]), settle)).repeat
        awake.set()
        with pytest.raises(UnavailableError):
            await zombie
    assert [tuple(row)[:2] for row in await reader.fetch(f'SELECT * FROM "{table.name}"')] == [(1, "retry")]


async def test_the_receipt_fences_even_where_the_claim_does_not(
    sink: PostgresSink, reader: asyncpg.Connection[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_claim(*_: object) -> None:
        return

    monkeypatch.setattr(sink, "claim", no_claim)
    table, work = orders(key=None), unit()
    await sink.prepare(table)

    async def overtaken() -> AsyncIterator[Sequence[Row]]:
        yield [(1, "slow")] * PIECE_ROWS
        await sink.load(table, work, given([(1, "fast")]), settle)
        yield [(2, "slow")]

    settled = await sink.load(table, work, overtaken(), settle)
    assert settled.repeat
    assert "written=1" in settled.result
    assert await count(reader, table) == 1


@pytest.mark.parametrize("staged", [True, False])
async def test_constraints_and_triggers_refuse_single_rows(
    sink: PostgresSink, reader: asyncpg.Connection[asyncpg.Record], *, staged: bool
) -> None:
    table = orders()
    await sink.prepare(table)
    await reader.execute(f"""
        CREATE TABLE "{table.name}_notes" (note text PRIMARY KEY);
        INSERT INTO "{table.name}_notes" VALUES ('known'), ('raise');
        ALTER TABLE "{table.name}" ADD CONSTRAINT small CHECK (id < 1000),
            ADD FOREIGN KEY (note) REFERENCES "{table.name}_notes" DEFERRABLE INITIALLY DEFERRED;
        CREATE FUNCTION "{table.name}_f"() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF new.note = 'raise' THEN RAISE EXCEPTION 'the trigger says no'; END IF; RETURN new; END $$;
        CREATE TRIGGER no BEFORE INSERT ON "{table.name}" FOR EACH ROW EXECUTE FUNCTION "{table.name}_f"();
    """)
    rows: list[Row] = [(number, "known") for number in range(900)]
    rows[10] = (5000, "known")
    rows[400] = (400, "unknown")
    rows[401] = (401, "raise")
    if staged:
        await sink.load(table, unit(), given([(0, "known")]), settle)
    seen: list[LoadOutcome] = []

    async def keep(outcome: LoadOutcome) -> str:
        seen.append(outcome)
        return ""

    await sink.load(table, unit(), given(rows[:450], rows[450:]), keep)
    assert [refusal.index for refusal in seen[0].refused] == [10, 400, 401]
    assert "small" in seen[0].refused[0].message
    assert "foreign key" in seen[0].refused[1].message
    assert seen[0].refused[2].message == "the trigger says no"
    assert (seen[0].written, await count(reader, table)) == (897, 897)
    for row in (rows[10], rows[400], rows[401]):
        [outcome] = await sink.write(table, [Item(Unit.alone("orders", uuid.uuid4().hex), "f", row)])
        assert (outcome.status, outcome.code) == ("refused", "sink_refused")


async def test_a_record_is_the_row_as_a_trigger_left_it(
    sink: PostgresSink, reader: asyncpg.Connection[asyncpg.Record]
) -> None:
    table = orders()
    await sink.prepare(table)
    await reader.execute(f"""
        CREATE FUNCTION "{table.name}_f"() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN new.note := upper(new.note); RETURN CASE WHEN new.id > 5 THEN NULL ELSE new END; END $$;
        CREATE TRIGGER up BEFORE INSERT ON "{table.name}" FOR EACH ROW EXECUTE FUNCTION "{table.name}_f"();
    """)
    items = [Item(Unit.alone("orders", uuid.uuid4().hex), "f", (number, "a")) for number in (1, 9)]
    for _ in range(2):
        [outcome] = await sink.write(table, items[:1])
        assert outcome.record == '{"id":1,"note":"A"}'
    assert outcome.status == "repeat"
    [skipped] = await sink.write(table, items[1:])
    assert (skipped.status, skipped.message) == ("refused", "a trigger of the table skips the row")
    refused: list[int] = []

    async def keep(outcome: LoadOutcome) -> str:
        refused.extend(refusal.index for refusal in outcome.refused)
        return ""

    await sink.load(table, unit(), given([(2, "b"), (7, "c"), (3, "d")]), keep)
    assert refused == [1]


async def test_concurrent_workers_create_a_table_once(dsn: str) -> None:
    table = orders()

    async def start() -> None:
        async with PostgresSink.open(dsn) as worker:
            await worker.prepare(table)

    await asyncio.gather(*(start() for _ in range(8)))


async def test_a_table_that_differs_is_refused_with_every_difference(
    sink: PostgresSink, reader: asyncpg.Connection[asyncpg.Record]
) -> None:
    table = orders()
    await reader.execute(
        f'CREATE TABLE "{table.name}" (id integer, extra text NOT NULL, fine text, receipt uuid NOT NULL)'
    )
    with pytest.raises(TableMismatchError) as caught:
        await sink.prepare(table)
    message = str(caught.value)
    for part in (
        "column id is integer, the model needs bigint",
        "column id may be NULL, in the model it may not be",
        "column note (text) is missing",
        "column extra (text) is not in the model",
        "no primary key or unique index is on (id)",
    ):
        assert part in message
    assert "fine" not in message
    keyed = orders()
    await sink.prepare(keyed)
    appending = Table.from_model(PostgresTable(keyed.name, key=None), Order)
    with pytest.raises(TableMismatchError, match="key=None"):
        await sink.prepare(appending)


async def test_names_are_quoted(sink: PostgresSink, reader: asyncpg.Connection[asyncpg.Record]) -> None:
    class Keywords(BaseModel):
        select: int
        order: str
        ordinal: int

    schema = f"group_{uuid.uuid4().hex[:8]}"
    table = Table.from_model(PostgresTable(f"{schema}.user", key=("select", "order")), Keywords)
    await sink.prepare(table)
    await sink.load(table, unit(), given([(1, "a", 1)], [(1, "a", 2)]), settle)
    await sink.write(table, [Item(Unit.alone("orders", uuid.uuid4().hex), "f", (2, "b", 3))])
    ignoring = Table.from_model(
        PostgresTable(f"{schema}.user", key=("select", "order"), on_conflict="ignore"), Keywords
    )
    [kept] = await sink.write(ignoring, [Item(Unit.alone("orders", uuid.uuid4().hex), "f", (2, "b", 4))])
    assert kept.record == '{"select":2,"order":"b","ordinal":3}'
    assert await reader.fetchval(f'SELECT count(*) FROM "{schema}"."user"') == 2


async def test_a_dropped_table_is_made_again_by_the_next_attempt(
    sink: PostgresSink, reader: asyncpg.Connection[asyncpg.Record]
) -> None:
    table, work = orders(), unit()
    await sink.prepare(table)
    await reader.execute(f'DROP TABLE "{table.name}"')
    with pytest.raises(Exception, match="does not exist"):
        await sink.load(table, work, given([(1, "a")]), settle)
    await sink.prepare(table)
    await sink.load(table, work, given([(1, "a")]), settle)
    assert await count(reader, table) == 1


async def test_an_outage_names_the_address_and_no_secret() -> None:
    async with PostgresSink.open("postgresql://someone:hunter2@127.0.0.1:9/nowhere") as sink:
        with pytest.raises(UnavailableError) as caught:
            await sink.prepare(orders())
    assert "PostgreSQL at 127.0.0.1:9" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "someone" not in str(caught.value)


async def test_a_wrong_connection_string_is_not_shown() -> None:
    with pytest.raises(DeclarationError) as caught:
        async with PostgresSink.open("mysql://someone:hunter2@127.0.0.1/nowhere") as sink:
            await sink.prepare(orders())
    assert "hunter2" not in repr(caught.value)


async def test_concurrent_chunks_with_the_same_keys_all_arrive(
    sink: PostgresSink, reader: asyncpg.Connection[asyncpg.Record]
) -> None:
    table, series = orders(), uuid.uuid4().hex
    await sink.prepare(table)

    async def load(place: int) -> None:
        rows = [(number, str(place)) for number in range(2000)]
        rows = rows if place % 2 else rows[::-1]
        while True:
            try:
                work = Unit.of_range("orders", series, place, place + 1)
                await sink.load(table, work, given(rows[:1000], rows[1000:]), settle)
            except Exception as error:  # noqa: BLE001  - what it is does not matter, only that a retry helps
                assert "deadlock" in str(error)  # noqa: PT017  - the loop is the point
            else:
                return

    await asyncio.gather(*(load(place) for place in range(4)))
    assert await reader.fetchval(f'SELECT array_agg(DISTINCT note) FROM "{table.name}"') == ["3"]
    assert await count(reader, table) == 2000


async def test_a_zombie_stopped_inside_a_copy_is_ended_by_its_retry(
    dsn: str, sink: PostgresSink, reader: asyncpg.Connection[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    table, work = orders(), unit()
    await sink.prepare(table)
    inside = asyncio.Event()

    async def stuck(_: Loading, text: bytes) -> AsyncIterator[bytes]:
        yield text
        inside.set()
        await asyncio.Event().wait()

    async with PostgresSink.open(dsn) as other:
        with monkeypatch.context() as patch:
            patch.setattr(Loading, "sending", stuck)
            zombie = asyncio.create_task(other.load(table, work, given([(1, "zombie")] * 1), settle))
            await inside.wait()
        assert not (await sink.load(table, work, given([(1, "retry")]), settle)).repeat
        zombie.cancel()
        await asyncio.gather(zombie, return_exceptions=True)
    assert await reader.fetchval(f'SELECT note FROM "{table.name}"') == "retry"


@pytest.mark.parametrize(("faster", "statuses"), [("f", ["repeat", "conflict"]), ("g", ["conflict", "repeat"])])
@pytest.mark.parametrize("key", [("id",), None])
async def test_an_attempt_overtaken_after_its_look_for_receipts_is_not_refused(
    sink: PostgresSink,
    reader: asyncpg.Connection[asyncpg.Record],
    monkeypatch: pytest.MonkeyPatch,
    faster: str,
    statuses: list[str],
    key: tuple[str, ...] | None,
) -> None:
    table = orders("reject", key)
    await sink.prepare(table)
    if key is None:
        await reader.execute(f'CREATE UNIQUE INDEX ON "{table.name}" (id)')
    items = [Item(Unit.alone("orders", uuid.uuid4().hex), "f", (number, "a")) for number in range(2)]
    # The same unit twice in one call: what is said of the first must not be said of the second.
    items.append(Item(items[0].unit, "g", items[0].row))
    place = Writing.place

    async def overtaken(
        writing: Writing, given: Sequence[Item], rows: Mapping[int, Row], group: Sequence[int]
    ) -> dict[int, ItemOutcome]:
        monkeypatch.setattr(Writing, "place", place)
        [outcome] = await sink.write(table, [Item(items[0].unit, faster, items[0].row)])
        assert outcome.status == "stored"
        return await place(writing, given, rows, group)

    monkeypatch.setattr(Writing, "place", overtaken)
    outcomes = await sink.write(table, items)
    assert [outcome.status for outcome in outcomes] == [statuses[0], "stored", statuses[1]]
    assert await count(reader, table) == 2
