"""Pipelines of the acceptance tests."""

import asyncio
from datetime import date
from decimal import Decimal
from typing import Annotated

from pydantic import AwareDatetime, Field

from contracts import Pipeline, PostgresTable, Record, WorkQueue
from pipelines.flights import Flight, process


class Note(Record):
    id: int
    text: Annotated[str, Field(min_length=1)]
    amount: float | None = None


class Price(Record):
    id: int
    price: Decimal
    day: date
    seen: AwareDatetime | None = None


class Slow(Record):
    id: int


async def slowly(record: Slow) -> Slow:
    await asyncio.sleep(0.01)
    return record


notes = Pipeline(name="notes", record=Note, sink=PostgresTable("notes", key=("id",)))
strict_notes = Pipeline(name="strict_notes", record=Note, sink=PostgresTable("strict_notes", key=("id",)))
letters = Pipeline(name="letters", record=Note, sink=PostgresTable("letters", key=("id",)))
appended = Pipeline(name="appended", record=Note, sink=PostgresTable("appended", key=None))
queued = Pipeline(
    name="queued", record=Note, sink=PostgresTable("queued", key=("id",)), queue=WorkQueue("notes-to-store")
)
prices = Pipeline(name="prices", record=Price, sink=PostgresTable("prices", key=("id",)))
slow = Pipeline(name="slow", record=Slow, process=slowly, sink=PostgresTable("slow", key=("id",)))
whole_flights, faulty_flights = (
    Pipeline(
        name=name,
        record=Flight,
        process=process,
        sink=PostgresTable(name, key=("time_hour", "carrier", "flight")),
        absent=("NA",),
    )
    for name in ("whole_flights", "faulty_flights")
)
