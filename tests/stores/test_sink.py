"""The contract of the `Sink` port, on the double and on the real server."""

from __future__ import annotations

import asyncio
import enum
import json
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from pydantic import BaseModel, NaiveDatetime

from contracts.errors import ReceiptMismatchError, TableMismatchError
from contracts.ports import Item, ItemOutcome, LoadOutcome, Receipt, Refusal, Settled, Sink
from contracts.table import OnConflict, PostgresTable, Row, Table
from contracts.units import Unit
from stores.memory_sink import MemorySink
from stores.postgres_sink import PostgresSink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

pytestmark = pytest.mark.asyncio


class Order(BaseModel):
    id: int
    note: str | None


class Bench:
    """A sink under test and a way to read its tables that is not the sink's own."""

    def __init__(self, sink: Any, dsn: str | None) -> None:
        self.sink: Sink = sink
        self.dsn = dsn
        self.suffix = uuid.uuid4().hex[:12]

    def table(self, on_conflict: OnConflict = "update", *, key: tuple[str, ...] | None = ("id",)) -> Table:
        return Table.from_model(PostgresTable(f"orders_{self.suffix}", key=key, on_conflict=on_conflict), Order)

    def unit(self, name: str) -> Unit:
        return Unit.alone("orders", f"{self.suffix}/{name}")

    def chunk(self, start: int, end: int, series: str = "file") -> Unit:
        return Unit.of_range("orders", f"{self.suffix}/{series}", start, end)

    async def rows(self, table: Table) -> list[Row]:
        names = [column.name for column in table.columns]
        if self.dsn is None:
            assert isinstance(self.sink, MemorySink)
            return [tuple(row[name] for name in names) for row in self.sink.rows(table.name)]
        connection = await asyncpg.connect(self.dsn)
        try:
            return [tuple(row)[:-1] for row in await connection.fetch(f'SELECT * FROM "{table.name}" ORDER BY 1')]
        finally:
            await connection.close()

    async def load(self, table: Table, unit: Unit, *blocks: Sequence[Row]) -> tuple[Settled, LoadOutcome | None]:
        seen: list[LoadOutcome] = []

        async def settle(outcome: LoadOutcome) -> str:
            seen.append(outcome)
            return f"{outcome.written} written"

        settled = await self.sink.load(table, unit, given(*blocks), settle)
        assert len(seen) == (0 if settled.repeat else 1)
        return settled, seen[0] if seen else None


async def given(*blocks: Sequence[Row]) -> AsyncIterator[Sequence[Row]]:
    for block in blocks:
        yield block


async def untouchable() -> AsyncIterator[Sequence[Row]]:
    pytest.fail("the blocks of a repeated unit were touched")
    yield []


@pytest.fixture(params=["memory", "postgres"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    if request.param == "memory":
        yield Bench(MemorySink(), None)
        return
    dsn = request.getfixturevalue("settings").database_url.get_secret_value()
    async with PostgresSink.open(dsn) as sink:
        yield Bench(sink, dsn)


@pytest.fixture
async def control(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    dsn = request.getfixturevalue("settings").database_url.get_secret_value()
    async with PostgresSink.open(dsn, receipts=False) as sink:
        yield Bench(sink, dsn)


async def test_a_load_is_stored_with_its_result_and_a_repeat_touches_nothing(bench: Bench) -> None:
    table, unit = bench.table(key=None), bench.chunk(0, 9)
    await bench.sink.prepare(table)
    assert await bench.sink.find_receipt(unit) is None
    settled, outcome = await bench.load(table, unit, [(1, "a"), (2, None)], [(1, "a")])
    assert settled == Settled(result="3 written", repeat=False)
    assert outcome == LoadOutcome(written=3, duplicates=0)

    async def settle(_: LoadOutcome) -> str:
        pytest.fail("settle was called again")

    assert await bench.sink.load(table, unit, untouchable(), settle) == Settled("3 written", repeat=True)
    assert await bench.rows(table) == [(1, "a"), (1, "a"), (2, None)] or await bench.rows(table) == [
        (1, "a"),
        (2, None),
        (1, "a"),
    ]
    receipt = await bench.sink.find_receipt(unit)
    assert receipt is not None
    assert (receipt.unit, receipt.result) == (unit.name, "3 written")


async def test_without_receipts_the_same_load_appends_twice(control: Bench) -> None:
    table = control.table(key=None)
    await control.sink.prepare(table)
    for _ in range(2):
        await control.load(table, control.chunk(0, 9), [(1, "a")])
    assert await control.rows(table) == [(1, "a"), (1, "a")]


@pytest.mark.parametrize("other", [(10, 15), (10, 25), (15, 20), (15, 40), (5, 11), (0, 40), (12, 13), (29, 31)])
@pytest.mark.parametrize("key", [("id",), None])
async def test_bytes_that_were_loaded_in_other_chunks_are_not_loaded_again(
    bench: Bench, key: tuple[str] | None, other: tuple[int, int]
) -> None:
    table = bench.table(key=key)
    await bench.sink.prepare(table)
    for start in (10, 20):
        await bench.load(table, bench.chunk(start, start + 10), [(start, "a")])

    async def settle(_: LoadOutcome) -> str:
        pytest.fail("settle was called")

    with pytest.raises(ReceiptMismatchError, match=r"file/\d+-\d+, which was loaded before.*chunk size"):
        await bench.sink.load(table, bench.chunk(*other), untouchable(), settle)
    assert await bench.rows(table) == [(10, "a"), (20, "a")]
    if other[0] != 10:
        assert await bench.sink.find_receipt(bench.chunk(*other)) is None


async def test_chunks_that_only_touch_and_chunks_of_other_files_are_loaded(bench: Bench) -> None:
    table = bench.table(key=None)
    await bench.sink.prepare(table)
    for start, end in ((10, 20), (30, 40), (20, 30), (0, 10), (40, 41)):
        assert not (await bench.load(table, bench.chunk(start, end), [(start, "a")]))[0].repeat
    assert (await bench.load(table, bench.chunk(20, 30), [(20, "a")]))[0].repeat
    assert not (await bench.load(table, bench.chunk(5, 35, "another file"), [(50, "a")]))[0].repeat
    assert sorted(row[0] for row in await bench.rows(table)) == [0, 10, 20, 30, 40, 50]


async def test_without_receipts_other_chunks_of_the_same_file_append_twice(control: Bench) -> None:
    table = control.table(key=None)
    await control.sink.prepare(table)
    for start, end in ((0, 9), (5, 9)):
        await control.load(table, control.chunk(start, end), [(5, "a")])
    assert await control.rows(table) == [(5, "a"), (5, "a")]


async def test_an_empty_load_leaves_a_receipt(bench: Bench) -> None:
    table = bench.table()
    await bench.sink.prepare(table)
    assert (await bench.load(table, bench.chunk(0, 1)))[1] == LoadOutcome(0, 0)
    assert (await bench.load(table, bench.chunk(0, 1), [(1, "a")]))[0].repeat


async def test_concurrent_attempts_at_one_unit_have_one_effect(bench: Bench) -> None:
    table, unit = bench.table(key=None), bench.chunk(0, 9)
    await bench.sink.prepare(table)
    rows = [(number, "a") for number in range(500)]
    answers = await asyncio.gather(*(bench.load(table, unit, rows, rows) for _ in range(5)))
    assert sorted(settled.repeat for settled, _ in answers) == [False, True, True, True, True]
    assert {settled.result for settled, _ in answers} == {"1000 written"}
    assert len(await bench.rows(table)) == 1000


@pytest.mark.parametrize("fails", ["blocks", "settle"])
async def test_a_load_that_fails_leaves_nothing(bench: Bench, fails: str) -> None:
    table, unit = bench.table(), bench.chunk(0, 9)
    await bench.sink.prepare(table)

    async def blocks() -> AsyncIterator[Sequence[Row]]:
        yield [(1, "a")]
        if fails == "blocks":
            raise OSError(MINE)

    async def settle(_: LoadOutcome) -> str:
        raise OSError(MINE)

    with pytest.raises(OSError, match="the caller's own"):
        await bench.sink.load(table, unit, blocks(), settle)
    assert await bench.rows(table) == []
    assert await bench.sink.find_receipt(unit) is None
    assert not (await bench.load(table, unit, [(1, "a")]))[0].repeat


MINE = "the caller's own"
EXPECTED = {
    "update": [(1, "c2"), (2, "b"), (3, "c1"), (9, "c1")],
    "ignore": [(1, "a"), (2, "b"), (3, "c1"), (9, "old")],
}


@pytest.mark.parametrize("on_conflict", ["update", "ignore"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
async def test_chunks_have_the_outcome_of_file_order(
    bench: Bench, on_conflict: OnConflict, order: tuple[int, ...]
) -> None:
    table = bench.table(on_conflict)
    await bench.sink.prepare(table)
    await bench.load(table, bench.chunk(0, 1, "an older file"), [(9, "old")])
    chunks = [[(1, "a"), (2, "b")], [(1, "b1")], [(1, "c1"), (3, "c1"), (9, "c1"), (1, "c2")]]
    outcomes = [(await bench.load(table, bench.chunk(place, place + 1), chunks[place]))[1] for place in order]
    assert sorted(await bench.rows(table)) == EXPECTED[on_conflict]
    # Under `ignore` the older file's row stays; the file wrote three keys then, four otherwise.
    written = 4 if on_conflict == "update" else 3
    assert sum(outcome.written for outcome in outcomes if outcome) == written
    assert sum(outcome.duplicates for outcome in outcomes if outcome) == 7 - written


async def test_a_later_file_overwrites_an_earlier_one_whatever_their_positions(bench: Bench) -> None:
    table = bench.table()
    await bench.sink.prepare(table)
    await bench.load(table, bench.chunk(500, 600, "first"), [(1, "first")])
    for series in ("second", "third", "fourth"):
        assert (await bench.load(table, bench.chunk(0, 9, series), [(1, series)]))[1] == LoadOutcome(1, 0)
        assert await bench.rows(table) == [(1, series)]


async def test_duplicates_across_blocks_of_one_unit(bench: Bench) -> None:
    table = bench.table()
    await bench.sink.prepare(table)
    outcome = (await bench.load(table, bench.chunk(0, 9), [(1, "a"), (2, "a")], [(2, "b")], [(2, "c"), (3, "c")]))[1]
    assert outcome == LoadOutcome(written=3, duplicates=2)
    assert await bench.rows(table) == [(1, "a"), (2, "c"), (3, "c")]


async def test_reject_refuses_every_row_but_the_first(bench: Bench) -> None:
    table = bench.table("reject")
    await bench.sink.prepare(table)
    await bench.load(table, bench.chunk(0, 1), [(1, "a")])
    outcome = (await bench.load(table, bench.chunk(1, 9), [(2, "b"), (1, "b")], [(3, "b"), (3, "c"), (2, "c")]))[1]
    message = "a row with the same id is already there"
    refusals = tuple(Refusal(index, "duplicate_key", message, "id") for index in (1, 3, 4))
    assert outcome == LoadOutcome(written=2, duplicates=0, refused=refusals)
    assert await bench.rows(table) == [(1, "a"), (2, "b"), (3, "b")]


@pytest.mark.parametrize("key", [("id",), None])
async def test_rows_that_cannot_be_held_cost_none_of_their_neighbours(bench: Bench, key: tuple[str] | None) -> None:
    table = bench.table(key=key)
    await bench.sink.prepare(table)
    rows: list[Row] = [(number, f"row {number}") for number in range(3000)]
    rows[0] = (2**63, "too large")
    rows[7] = (7, "NUL \0")
    rows[8] = (8, "surrogate \ud800")
    rows[1500] = (None, "no key")
    rows[1501] = ("text", "no integer")
    rows[2999] = (-(2**63) - 1, "too small")
    outcome = (await bench.load(table, bench.chunk(0, 9), rows[:1000], rows[1000:2000], rows[2000:]))[1]
    assert outcome is not None
    assert [refusal.index for refusal in outcome.refused] == [0, 7, 8, 1500, 1501, 2999]
    assert {refusal.code for refusal in outcome.refused} == {"sink_refused"}
    assert all(refusal.message for refusal in outcome.refused)
    assert (outcome.written, outcome.duplicates) == (2994, 0)
    assert len(await bench.rows(table)) == 2994


async def test_a_receipt_of_another_unit_is_a_mismatch(bench: Bench) -> None:
    table, unit = bench.table(), bench.unit("a")
    other = unit.model_copy(update={"name": "another"})
    await bench.sink.prepare(table)
    await bench.load(table, unit, [(1, "a")])
    with pytest.raises(ReceiptMismatchError, match="another"):
        await bench.load(table, other, [(2, "a")])
    with pytest.raises(ReceiptMismatchError, match="another"):
        await bench.sink.write(table, [Item(other, "f", (2, "a"))])
    with pytest.raises(ReceiptMismatchError, match="another"):
        await bench.sink.find_receipt(other)
    assert await bench.rows(table) == [(1, "a")]


async def test_items_repeat_and_conflict(bench: Bench) -> None:
    table, item = bench.table(), Item(bench.unit("a"), "f", (1, "a"))
    await bench.sink.prepare(table)
    [first] = await bench.sink.write(table, [item])
    assert (first.status, json.loads(first.record or "")) == ("stored", {"id": 1, "note": "a"})
    [repeat] = await bench.sink.write(table, [item])
    assert (repeat.status, repeat.record) == ("repeat", first.record)
    [conflict] = await bench.sink.write(table, [Item(item.unit, "other", (1, "b"))])
    assert (conflict.status, conflict.record) == ("conflict", None)
    # A conflict is one even if the other payload could not be stored at all.
    [conflict] = await bench.sink.write(table, [Item(item.unit, "other", (2**63, "b"))])
    assert conflict.status == "conflict"
    assert await bench.rows(table) == [(1, "a")]
    receipt = await bench.sink.find_receipt(item.unit)
    assert receipt is not None
    assert (receipt.fingerprint, receipt.result) == ("f", first.record)


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize(
    ("on_conflict", "status", "record", "stored"),
    [("update", "stored", "b", "b"), ("ignore", "stored", "a", "a"), ("reject", "refused", None, "a")],
)
async def test_items_whose_key_is_taken(
    bench: Bench, on_conflict: OnConflict, status: str, record: str | None, stored: str, *, single: bool
) -> None:
    table = bench.table(on_conflict)
    await bench.sink.prepare(table)
    await bench.sink.write(table, [Item(bench.unit("a"), "f", (1, "a"))])
    items = [Item(bench.unit("b"), "f", (1, "b")), Item(bench.unit("c"), "f", (2, "c"))]
    outcome = (await bench.sink.write(table, items[:1] if single else items))[0]
    assert outcome.status == status
    assert (json.loads(outcome.record)["note"] if outcome.record else None) == record
    assert (await bench.rows(table))[0] == (1, stored)
    assert (await bench.sink.find_receipt(items[0].unit) is None) == (status == "refused")
    if status == "refused":
        assert (outcome.code, outcome.column) == ("duplicate_key", "id")


async def test_many_items_have_an_outcome_each(bench: Bench) -> None:
    table = bench.table()
    await bench.sink.prepare(table)
    old = Item(bench.unit("old"), "f", (100, "old"))
    await bench.sink.write(table, [old])
    items = [Item(bench.unit(str(number)), "f", (number, "x")) for number in range(20)]
    items[3] = Item(items[3].unit, "f", (3, "NUL \0"))
    items[5] = Item(items[5].unit, "f", (2**64, "x"))
    items += [old, Item(old.unit, "g", (1, "x")), items[0], Item(items[0].unit, "g", (5, "x"))]
    items += [Item(bench.unit("later"), "f", (1, "later"))]
    outcomes = await bench.sink.write(table, items)
    wanted = ["stored"] * 20 + ["repeat", "conflict", "repeat", "conflict", "stored"]
    wanted[3] = wanted[5] = "refused"
    assert [outcome.status for outcome in outcomes] == wanted
    assert [json.loads(outcomes[index].record or "")["note"] for index in (1, 24)] == ["x", "later"]
    assert outcomes[3].code == "sink_refused"
    assert sorted(await bench.rows(table))[1] == (1, "later")
    assert len(await bench.rows(table)) == 19
    repeats = await bench.sink.write(table, items)
    assert [outcome.status for outcome in repeats][:3] == ["repeat"] * 3
    assert repeats[3].status == "refused"


async def test_concurrent_writes_of_one_item_store_it_once(bench: Bench) -> None:
    for on_conflict in ("update", "ignore", "reject"):
        table, item = bench.table(on_conflict), Item(bench.unit(on_conflict), "f", (hash(on_conflict) % 999, "a"))
        await bench.sink.prepare(table)
        answers = await asyncio.gather(*(bench.sink.write(table, [item]) for _ in range(8)))
        assert sorted(outcome.status for [outcome] in answers) == ["repeat"] * 7 + ["stored"]
        assert len({outcome.record for [outcome] in answers}) == 1


@pytest.mark.parametrize("on_conflict", ["update", "ignore", "reject"])
async def test_concurrent_writes_of_many_items_are_repeats_or_conflicts(bench: Bench, on_conflict: OnConflict) -> None:
    table = bench.table(on_conflict)
    await bench.sink.prepare(table)
    for start in range(0, 30, 3):
        items = [Item(bench.unit(str(number)), "f", (number, "a")) for number in range(start, start + 3)]
        others = [Item(item.unit, "g", item.row) for item in items]
        answers = await asyncio.gather(*(bench.sink.write(table, given) for given in [items, others] * 4))
        for outcomes in zip(*answers, strict=True):
            assert sorted(outcome.status for outcome in outcomes) == ["conflict"] * 4 + ["repeat"] * 3 + ["stored"]
    assert len(await bench.rows(table)) == 30


@pytest.mark.parametrize("single", [True, False])
async def test_an_item_without_a_row_leaves_its_receipt_only(bench: Bench, *, single: bool) -> None:
    table, empty = bench.table("reject"), Item(bench.unit("empty"), "f", None)
    await bench.sink.prepare(table)
    neighbours = [] if single else [Item(bench.unit(name), "f", (number, name)) for number, name in enumerate("ab")]
    first, *others = await bench.sink.write(table, [empty, *neighbours])
    assert first == ItemOutcome("stored")
    assert [json.loads(outcome.record or "")["note"] for outcome in others] == ([] if single else ["a", "b"])
    # What `process` makes of the payload now does not matter: what was committed counts.
    for row in (None, (9, "a row by now")):
        again = [Item(empty.unit, "f", row), *neighbours]
        assert [outcome.status for outcome in await bench.sink.write(table, again)] == ["repeat"] * len(again)
        assert (await bench.sink.write(table, again))[0].record is None
        other = [Item(empty.unit, "g", row), *neighbours]
        assert (await bench.sink.write(table, other))[0] == ItemOutcome("conflict")
    assert await bench.rows(table) == [item.row for item in neighbours]
    receipt = await bench.sink.find_receipt(empty.unit)
    assert receipt == Receipt(unit=empty.unit.name, result="null", fingerprint="f")


@pytest.mark.parametrize("single", [True, False])
async def test_a_stored_item_stays_stored_when_it_comes_without_a_row(bench: Bench, *, single: bool) -> None:
    table, item = bench.table(), Item(bench.unit("a"), "f", (1, "a"))
    await bench.sink.prepare(table)
    [first] = await bench.sink.write(table, [item])
    empty = [Item(item.unit, "f", None), Item(item.unit, "g", None)]
    wanted = [ItemOutcome("repeat", record=first.record), ItemOutcome("conflict")]
    if single:
        assert [*await bench.sink.write(table, empty[:1]), *await bench.sink.write(table, empty[1:])] == wanted
    else:
        assert await bench.sink.write(table, empty) == wanted
    assert await bench.rows(table) == [(1, "a")]


async def test_concurrent_writes_without_a_row_leave_one_receipt(bench: Bench) -> None:
    table = bench.table()
    await bench.sink.prepare(table)
    for count in (1, 2):
        items = [Item(bench.unit(f"{count}/{number}"), "f", None) for number in range(count)]
        answers = await asyncio.gather(*(bench.sink.write(table, items) for _ in range(8)))
        for outcomes in zip(*answers, strict=True):
            assert sorted(outcome.status for outcome in outcomes) == ["repeat"] * 7 + ["stored"]


async def test_items_without_a_key_are_appended(bench: Bench) -> None:
    table = bench.table(key=None)
    await bench.sink.prepare(table)
    outcomes = await bench.sink.write(table, [Item(bench.unit(name), "f", (1, "a")) for name in "abc"])
    assert [outcome.status for outcome in outcomes] == ["stored"] * 3
    assert await bench.rows(table) == [(1, "a")] * 3


async def test_an_empty_write_is_nothing(bench: Bench) -> None:
    table = bench.table()
    await bench.sink.prepare(table)
    assert await bench.sink.write(table, []) == []


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Inner(BaseModel):
    at: datetime
    tags: list[str]


class Everything(BaseModel):
    number: int
    truth: bool
    ratio: float
    text: str
    raw: bytes
    at: datetime
    naive: NaiveDatetime
    day: date
    hour: time
    span: timedelta
    amount: Decimal
    ident: uuid.UUID
    color: Color
    level: Level
    inner: Inner
    items: list[int]
    mapping: dict[str, float]
    maybe: str | None
    maybe_at: datetime | None


EVERYTHING = [
    Everything(
        number=number,
        truth=number % 2 == 0,
        ratio=ratio,
        text=text,
        raw=b"plain \\ text",
        at=datetime(2013, 1, 1, 12, 30, 1, 5, tzinfo=timezone(timedelta(hours=-5))),
        naive=datetime(1999, 12, 31, 23, 59, 59, 999999),  # noqa: DTZ001  - the naive type is tested
        day=date(1, 1, 1),
        hour=time(23, 59, 59, 999999),
        span=timedelta(days=-3, seconds=5, microseconds=7),
        amount=Decimal("12345678901234567890.1200"),
        ident=uuid.UUID(int=number % 2**64),
        color=Color.RED,
        level=Level.HIGH,
        inner=Inner(at=datetime(2020, 2, 2, tzinfo=UTC), tags=["a\\b", "tab\t", 'quote"', "line\n"]),
        items=[1, 2, 3],
        mapping={"a": 0.5},
        maybe=maybe,
        maybe_at=None if maybe is None else datetime(2020, 2, 2, tzinfo=UTC),
    )
    for number, ratio, text, maybe in [
        (1, 0.1 + 0.2, "tab\t, line\n, CR\r, backslash \\, \\N, \\.", None),
        (-(2**63), 5e-324, "", ""),
        (2**63 - 1, -1.7976931348623157e308, "\\.", r"\N"),
        (4, 1e22, "Ünïcödé 🚀 \u2028", "NULL"),
    ]
]


@pytest.mark.parametrize("path", ["load", "staged", "write one", "write many"])
async def test_every_type_comes_back_as_it_was(bench: Bench, path: str) -> None:
    table = Table.from_model(PostgresTable(f"everything_{bench.suffix}", key=("number",)), Everything)
    rows = [table.row_of(instance) for instance in EVERYTHING]
    await bench.sink.prepare(table)
    wanted = [json.loads(instance.model_dump_json()) for instance in EVERYTHING]
    for value in wanted:
        value["at"] = "2013-01-01T17:30:01.000005Z"
    if path in {"load", "staged"}:
        assert (await bench.load(table, bench.chunk(0, 1), rows))[1] == LoadOutcome(4, 0)
        if path == "staged":
            assert (await bench.load(table, bench.chunk(0, 2, "again"), rows))[1] == LoadOutcome(4, 0)
    else:
        items = [Item(bench.unit(str(row[0])), "f", row) for row in rows]
        if path == "write one":
            outcomes = [outcome for item in items for outcome in await bench.sink.write(table, [item])]
        else:
            outcomes = await bench.sink.write(table, items)
        assert [json.loads(outcome.record or "") for outcome in outcomes] == wanted
    found = {row[0]: row for row in await bench.rows(table)}
    for row in rows:
        stored = found[row[0]]
        plain = [value.value if isinstance(value, enum.Enum) else value for value in row]
        for name, before, after in zip(Everything.model_fields, plain, stored, strict=True):
            if name in {"inner", "items", "mapping"}:
                value = json.loads(after) if isinstance(after, str) else after
                assert value == json.loads(table.row_json(row))[name]
            else:
                assert after == before, name


async def test_zones_are_neither_given_nor_dropped(bench: Bench) -> None:
    class Times(BaseModel):
        id: int
        at: datetime
        naive: NaiveDatetime
        hour: time

    table = Table.from_model(PostgresTable(f"times_{bench.suffix}", key=("id",)), Times)
    await bench.sink.prepare(table)
    at = datetime(2020, 1, 1, tzinfo=UTC)
    plain = at.replace(tzinfo=None)
    rows: list[Row] = [
        (1, at, plain, time(1)),
        (2, plain, plain, time(1)),
        (3, at, at, time(1)),
        (4, at, plain, time(1, tzinfo=UTC)),
    ]
    outcome = (await bench.load(table, bench.chunk(0, 1), rows))[1]
    assert outcome is not None
    assert [refusal.index for refusal in outcome.refused] == [1, 2, 3]
    items = [Item(bench.unit(str(row[0])), "f", row) for row in rows]
    assert [item.status for item in await bench.sink.write(table, items)] == ["stored"] + ["refused"] * 3


async def test_a_table_of_another_shape_is_refused(bench: Bench) -> None:
    class Other(BaseModel):
        id: int
        note: int

    await bench.sink.prepare(bench.table())
    with pytest.raises(TableMismatchError, match="does not match the model"):
        await bench.sink.prepare(Table.from_model(PostgresTable(f"orders_{bench.suffix}", key=("id",)), Other))
    await bench.sink.prepare(bench.table())


@pytest.mark.parametrize("on_conflict", ["update", "ignore", "reject"])
@pytest.mark.parametrize("key", [("id",), None])
async def test_without_records_every_item_has_the_same_outcome_as_with_them(
    bench: Bench, on_conflict: OnConflict, key: tuple[str] | None
) -> None:
    statuses, contents = [], []
    for records in (True, False):
        suffix = f"{bench.suffix}_{records}".lower()
        sink = PostgresTable(f"windows_{suffix}", key=key, on_conflict=on_conflict)
        table = Table.from_model(sink, Order)
        await bench.sink.prepare(table)

        def made(name: str, row: Row | None, fingerprint: str = "f", *, records: bool = records) -> Item:
            return Item(bench.unit(f"{records}/{name}"), fingerprint, row)

        good = [made(str(number), (number, "a")) for number in range(10)]
        windows = [
            good[:5],
            good[3:8],
            [made("0", (0, "b"), "g"), *good[:9]],
            [made("taken", (1, "b")), made("new", (50, "b"))],
            [made("nothing", None), made("one", (60, None))],
            [made("nothing", (61, "c")), made("twice", (62, "a")), made("twice", (62, "a")), made("key", (62, "z"))],
            [made("bad", (2**63, "a")), made("other", (70, "a")), made("nul", (71, "a\0"))],
            [made("single", (80, "a"))],
            [made("single", (80, "a"))],
        ]
        found = []
        for window in windows:
            outcomes = await bench.sink.write(table, window, records=records)
            if not records:
                assert {outcome.record for outcome in outcomes} == {None}
            found.append([(outcome.status, outcome.code, outcome.column) for outcome in outcomes])
        statuses.append(found)
        contents.append(sorted(await bench.rows(table), key=repr))
    assert statuses[0] == statuses[1]
    assert contents[0] == contents[1]


async def test_concurrent_windows_that_overlap_store_every_item_once(bench: Bench) -> None:
    for key in (("id",), None):
        table = Table.from_model(PostgresTable(f"overlap_{bench.suffix}_{bool(key)}".lower(), key=key), Order)
        await bench.sink.prepare(table)
        items = [Item(bench.unit(f"{key}/{number}"), "f", (number, "a")) for number in range(200)]
        windows = [items[:150], items[50:][::-1], items[100:] + items[:20], items[::-1]] * 2
        answers = await asyncio.gather(*(bench.sink.write(table, window, records=False) for window in windows))
        stored = [outcome.status for outcomes in answers for outcome in outcomes].count("stored")
        assert stored == len(items)
        assert sorted(row[0] for row in await bench.rows(table)) == list(range(200))


async def test_an_item_written_without_a_record_is_repeated_without_one(bench: Bench) -> None:
    table, item = bench.table(), Item(bench.unit("a"), "f", (1, "a"))
    await bench.sink.prepare(table)
    assert await bench.sink.write(table, [item], records=False) == [ItemOutcome("stored")]
    assert await bench.sink.write(table, [item]) == [ItemOutcome("repeat")]
    assert await bench.sink.find_receipt(item.unit) == Receipt(item.unit.name, "{}", "f")
