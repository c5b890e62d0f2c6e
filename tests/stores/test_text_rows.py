"""Rows that come as text: both sinks make of them what they make of the values."""

from __future__ import annotations

import random
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from pydantic import NaiveDatetime

from activities.csv_reader import CsvReader
from activities.scan import Block
from activities.text_reader import TextReader
from contracts import Pipeline, PostgresTable, Record
from contracts.blocks import TextRows
from contracts.loads import Dialect
from contracts.ports import LoadOutcome, Sink
from contracts.units import Unit
from stores.memory_sink import MemorySink
from stores.postgres_sink import PostgresSink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from contracts.table import OnConflict, Row
    from stores.settings import Settings

pytestmark = pytest.mark.asyncio


class Reading(Record):
    id: int
    name: str
    price: Decimal
    share: float
    at: datetime
    local: NaiveDatetime
    day: date
    flag: bool
    u: uuid.UUID
    note: str | None = None
    missing: str | None = None


HEADER = ("note", *(name for name in Reading.model_fields if name not in {"note", "missing"}))
TEXTS = ["plain", "NULL", "\\N", "\\.", "a\\b", 'say "hi"', "with, comma", "tab\t", " spaces ", "é", "\u2028", "0"]
ODD = {"note": "two\nlines", "flag": "yes"}
"""What the pattern does not accept though it is good: these rows go as values, in their places among the text."""


def cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if set(text) & set('",\r\n') else text


def reading(number: int, chance: random.Random) -> str:
    zone = timezone(timedelta(minutes=chance.choice([0, 120, -300, 345, 840])))
    at = datetime(1950, 1, 1, tzinfo=UTC) + timedelta(seconds=chance.randrange(4 * 10**9), microseconds=number)
    odd = ODD if number % 20 == 7 else {}
    cells = [
        odd.get("note", chance.choice(["", *TEXTS])),
        str(number),
        chance.choice(TEXTS),
        f"{chance.randrange(-(10**9), 10**9)}.{chance.randrange(10**6):06d}",
        repr(chance.uniform(-1e6, 1e6)),
        at.astimezone(zone).isoformat(sep=chance.choice("T ")),
        at.replace(tzinfo=None).isoformat(),
        at.date().isoformat(),
        odd.get("flag", chance.choice(["true", "false"])),
        str(uuid.UUID(int=chance.getrandbits(128))),
    ]
    return ",".join(map(cell, cells))


def read(pipeline: Pipeline, lines: Sequence[str]) -> tuple[TextRows, list[Row]]:
    """The rows of some lines: as text, and as values."""
    dialect = Dialect(format="csv", columns=HEADER)
    by_value = CsvReader(pipeline, dialect)
    block = Block(start=0, line=1, data="".join(f"{line}\n" for line in lines).encode())
    found = TextReader(pipeline, dialect, by_value).read(block)
    assert found is not None
    assert isinstance(found.rows, TextRows)
    assert any(isinstance(piece, bytes) for piece in found.rows.pieces)
    return found.rows, [row for row in by_value.read(block).values if row is not None]


class Bench:
    """A sink, and how to look into its tables."""

    def __init__(self, sink: Any, reader: asyncpg.Connection[asyncpg.Record] | None) -> None:
        self.sink: Sink = sink
        self.reader = reader

    def pipeline(self, on_conflict: OnConflict = "update", key: tuple[str, ...] | None = ("id",)) -> Pipeline:
        table = PostgresTable(f"readings_{uuid.uuid4().hex[:12]}", key=key, on_conflict=on_conflict)
        return Pipeline(name="readings", record=Reading, sink=table)

    async def load(self, pipeline: Pipeline, *blocks: Sequence[Row]) -> LoadOutcome:
        outcomes: list[LoadOutcome] = []

        async def settle(outcome: LoadOutcome) -> str:
            outcomes.append(outcome)
            return ""

        async def given() -> AsyncIterator[Sequence[Row]]:
            for block in blocks:
                yield block

        await self.sink.prepare(pipeline.table)
        await self.sink.load(pipeline.table, Unit.of_range("readings", uuid.uuid4().hex, 0, 9), given(), settle)
        return outcomes[0]

    async def rows(self, pipeline: Pipeline) -> list[Row]:
        names = list(Reading.model_fields)
        if self.reader is None:
            assert isinstance(self.sink, MemorySink)
            return [tuple(row[name] for name in names) for row in self.sink.rows(pipeline.table.name)]
        query = f"SELECT {', '.join(names)} FROM {pipeline.table.name} ORDER BY id"
        return [tuple(row) for row in await self.reader.fetch(query)]


@pytest.fixture(params=["memory", "postgres"])
async def bench(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[Bench]:
    if request.param == "memory":
        yield Bench(MemorySink(), None)
        return
    dsn = settings.database_url.get_secret_value()
    reader = await asyncpg.connect(dsn)
    async with PostgresSink.open(dsn) as sink:
        yield Bench(sink, reader)
    await reader.close()


async def test_text_and_values_are_stored_alike(bench: Bench) -> None:
    chance = random.Random(7)
    lines = [reading(number, chance) for number in range(1000)]
    as_text, as_values = bench.pipeline(), bench.pipeline()
    text, values = read(as_text, lines)
    assert await bench.load(as_text, text) == LoadOutcome(1000, 0)
    assert await bench.load(as_values, values) == LoadOutcome(1000, 0)
    stored = await bench.rows(as_text)
    assert stored == await bench.rows(as_values)
    # Both are what a reader of the file expects, not only the same.
    assert [row[0] for row in stored] == list(range(1000))
    assert {row[1] for row in stored} == set(TEXTS)
    assert {row[9] for row in stored} == {None, *TEXTS, ODD["note"]}
    assert [str(row[2]) for row in stored] == [str(row[2]) for row in values]


@pytest.mark.parametrize(("on_conflict", "kept"), [("update", "last"), ("ignore", "first")])
async def test_of_a_key_that_stands_twice_the_right_row_stays(bench: Bench, on_conflict: OnConflict, kept: str) -> None:
    chance = random.Random(1)
    lines = [reading(number, chance) for number in range(200)]
    # An odd row among the text, which is written as values: its place in the file still counts.
    twice = []
    for note in ("first", '"mid\ndle"', "last"):
        cells = reading(300, random.Random(2)).split(",")
        twice.append(",".join([note, *cells[-9:]]))
    pipeline = bench.pipeline(on_conflict)
    text, values = read(pipeline, [*lines[:50], twice[0], *lines[50:100], twice[1], *lines[100:], twice[2]])
    assert len(values) == 203
    assert await bench.load(pipeline, text) == LoadOutcome(201, 2)
    notes = {row[0]: row[9] for row in await bench.rows(pipeline)}
    assert notes[300] == kept
    assert len(notes) == 201


async def test_under_reject_the_taken_keys_are_refused_by_their_place(bench: Bench) -> None:
    chance = random.Random(3)
    pipeline = bench.pipeline("reject")
    text, _ = read(pipeline, [reading(number, chance) for number in (1, 2, 1, 3, 2)])
    outcome = await bench.load(pipeline, text)
    assert outcome.written == 3
    assert [(refusal.index, refusal.code) for refusal in outcome.refused] == [
        (2, "duplicate_key"),
        (4, "duplicate_key"),
    ]


@pytest.mark.parametrize("bench", ["postgres"], indirect=True)
async def test_a_row_that_the_table_refuses_costs_no_neighbour(bench: Bench) -> None:
    assert bench.reader is not None
    chance = random.Random(4)
    pipeline = bench.pipeline(key=None)
    await bench.sink.prepare(pipeline.table)
    await bench.reader.execute(f"ALTER TABLE {pipeline.table.name} ADD CHECK (id <> 70 AND id <> 500)")
    text, _ = read(pipeline, [reading(number, chance) for number in range(1000)])
    outcome = await bench.load(pipeline, text)
    assert outcome.written == 998
    assert [refusal.index for refusal in outcome.refused] == [70, 500]
    assert [row[0] for row in await bench.rows(pipeline)] == [n for n in range(1000) if n not in {70, 500}]


@pytest.mark.parametrize("bench", ["postgres"], indirect=True)
async def test_a_column_that_the_file_lacks_is_absent_whatever_the_table_s_default(bench: Bench) -> None:
    assert bench.reader is not None
    pipeline = bench.pipeline()
    await bench.sink.prepare(pipeline.table)
    await bench.reader.execute(f"ALTER TABLE {pipeline.table.name} ALTER missing SET DEFAULT 'by the table'")
    text, _ = read(pipeline, [reading(number, random.Random(5)) for number in range(10)])
    assert await bench.load(pipeline, text) == LoadOutcome(10, 0)
    assert {row[10] for row in await bench.rows(pipeline)} == {None}
