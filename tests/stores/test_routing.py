"""Two databases behind one port: each keeps its rows, its receipts and its failures, and its outages to itself."""

from __future__ import annotations

import pytest

from contracts import Pipeline, PostgresTable, Record
from contracts.errors import UnavailableError
from contracts.ports import Burial, Failure, Item
from contracts.units import Unit
from stores.memory_failures import MemoryFailureLedger
from stores.memory_sink import MemorySink
from stores.routing import RoutingFailureLedger, RoutingSink, logged_elsewhere


class Note(Record):
    id: int


NOTES = Pipeline("notes", Note, PostgresTable("notes", key=("id",)))
LOGS = Pipeline("logs", Note, PostgresTable("logs", key=("id",), database="request_log"))


class Bench:
    def __init__(self) -> None:
        self.application, self.request_log = MemorySink(), MemorySink()
        logs = logged_elsewhere({pipeline.name: pipeline for pipeline in (NOTES, LOGS)})
        self.sink = RoutingSink(self.application, self.request_log, logs)
        self.ledgers = MemoryFailureLedger(self.application), MemoryFailureLedger(self.request_log)
        self.failures = RoutingFailureLedger(*self.ledgers, logs)

    async def write(self, pipeline: Pipeline, number: int) -> None:
        await self.sink.prepare(pipeline.table)
        await self.sink.write(pipeline.table, [Item(Unit.alone(pipeline.name, str(number)), "f", (number,))])


async def test_rows_and_receipts_are_in_the_database_of_their_table() -> None:
    bench = Bench()
    for pipeline in (NOTES, LOGS):
        await bench.write(pipeline, 1)
        assert await bench.sink.find_receipt(Unit.alone(pipeline.name, "1")) is not None
    assert (bench.application.rows("notes"), bench.request_log.rows("notes")) == ([{"id": 1}], [])
    assert (bench.application.rows("logs"), bench.request_log.rows("logs")) == ([], [{"id": 1}])
    assert [len(sink.proofs) for sink in (bench.application, bench.request_log)] == [1, 1]


@pytest.mark.parametrize(("down", "up"), [(NOTES, LOGS), (LOGS, NOTES)])
async def test_an_outage_of_one_database_is_none_of_the_other(down: Pipeline, up: Pipeline) -> None:
    bench = Bench()
    (bench.request_log if down is LOGS else bench.application).down = True
    await bench.write(up, 1)
    unit = Unit.alone(up.name, "2")
    assert [count.attempts for count in await bench.failures.count_failures([Failure(unit, "E", "m")])] == [1]
    assert await bench.failures.bury([Burial(unit, "f", "{}")]) == ["dead"]
    assert await bench.failures.discard(unit, "{}") == "discarded"
    await bench.failures.forget_failures([unit])
    with pytest.raises(UnavailableError):
        await bench.write(down, 1)
    with pytest.raises(UnavailableError):
        await bench.failures.bury([Burial(Unit.alone(down.name, "2"), "f", "{}")])


async def test_answers_come_in_the_order_of_the_questions() -> None:
    bench = Bench()
    units = [Unit.alone(pipeline.name, str(number)) for number in range(3) for pipeline in (LOGS, NOTES)]
    await bench.failures.count_failures([Failure(units[3], "E", "m")])
    counts = await bench.failures.count_failures([Failure(unit, "E", "m") for unit in units])
    assert [count.attempts for count in counts] == [1, 1, 1, 2, 1, 1]
    await bench.failures.discard(units[2], "{}")
    states = await bench.failures.bury([Burial(unit, "", "{}") for unit in units])
    assert states == ["dead", "dead", "discarded", "dead", "dead", "dead"]
    assert [len(ledger.sink.proofs) for ledger in bench.ledgers] == [3, 3]
