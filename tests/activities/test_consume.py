"""One turn of a consumer, over services in memory."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from activities.consume import ConsumeActivities
from contracts import Pipeline, PostgresTable, Record
from contracts.consume import ConsumeCounts, ConsumeTurn, TurnResult
from contracts.dead_letters import (
    INLINE_BYTES,
    Breakdown,
    DeadLetterFilter,
    DeadLetterInput,
    DeadLetterPage,
    RetryOutcome,
)
from contracts.errors import RecordRefusedError, TransientError, UnavailableError
from contracts.ports import Burial
from contracts.queue import Delivery, QueueItem, WorkQueue
from contracts.record import FieldError
from contracts.units import Unit
from stores.memory_failures import MemoryFailureLedger
from stores.memory_objects import MemoryObjectStore
from stores.memory_queue import MemoryQueue
from stores.memory_sink import MemorySink

WORDS = "a word of the user"


class Order(Record):
    number: int


class MemoryParking:
    """Parks in a dictionary; fails while `down` is set."""

    def __init__(self) -> None:
        self.letters: dict[str, DeadLetterInput] = {}
        self.down = False

    async def park(self, letter: DeadLetterInput) -> None:
        if self.down:
            service, reason = "Temporal", "down"
            raise UnavailableError(service, "memory", reason)
        self.letters.setdefault(letter.item, letter)

    async def find(self, letters: DeadLetterFilter, page_size: int, token: str = "") -> DeadLetterPage:
        raise NotImplementedError

    async def retry(self, ticket: str, name: str = "") -> RetryOutcome:
        raise NotImplementedError


class Bench:
    """Everything that a consumer needs, and short ways to use it."""

    def __init__(self, process: Callable[[Order], Any] | None = None, **declared: Any) -> None:
        self.work_queue = WorkQueue(
            "orders", **{"retry_first": timedelta(seconds=100), "lease": timedelta(seconds=30), **declared}
        )
        self.process: Callable[[Order], Any] = process or (lambda order: order)
        self.seen: list[int] = []
        self.sink = MemorySink()
        self.failures = MemoryFailureLedger(self.sink)
        self.objects = MemoryObjectStore()
        self.parking = MemoryParking()
        self.queue = MemoryQueue()
        self.use(self.run_process)

    def run_process(self, order: Order) -> Order | None:
        self.seen.append(order.number)
        result: Order | None = self.process(order)
        return result

    def use(self, process: Callable[[Order], Any]) -> None:
        self.pipeline = Pipeline(
            name="orders",
            record=Order,
            process=process,
            sink=PostgresTable("orders", key=None),
            queue=self.work_queue,
        )
        self.activities = ConsumeActivities(
            {"orders": self.pipeline}, self.queue, self.sink, self.failures, self.objects, self.parking
        )

    async def send(self, *bodies: bytes | int, prefix: str = "") -> None:
        items = [
            QueueItem(json.dumps({"number": body}).encode() if isinstance(body, int) else body, f"{prefix}{index}")
            for index, body in enumerate(bodies)
        ]
        assert await self.queue.send(self.work_queue, items) == len(items)

    async def turn(self, seconds: float = 0.2, **options: Any) -> TurnResult:
        """Consume what is there now."""
        turn = ConsumeTurn(pipeline="orders", batch=500, seconds=seconds, **options)
        return await self.activities.consume_items(turn)

    def unit(self, name: str) -> Unit:
        return Unit.alone("orders", f"item/orders/{name}")

    def stored(self) -> list[int]:
        return sorted(row["number"] for row in self.sink.rows("orders"))

    async def left(self) -> int:
        depth = await self.queue.depth(self.work_queue)
        return depth.waiting + depth.in_flight

    async def waiting(self) -> int:
        return (await self.queue.depth(self.work_queue)).waiting


async def test_items_are_committed_with_receipts_and_then_acknowledged() -> None:
    bench = Bench()
    await bench.send(*range(250))
    result = await bench.turn()
    assert result == TurnResult(counts=ConsumeCounts(read=250, written=250))
    assert bench.stored() == list(range(250))
    assert await bench.left() == 0
    receipt = await bench.sink.find_receipt(bench.unit("7"))
    assert receipt is not None
    assert receipt.state == "stored"


async def test_every_item_has_an_outcome_of_its_own() -> None:
    def process(order: Order) -> Order | None:
        if order.number == 3:
            raise ValueError(order.number)
        return None if order.number == 4 else order

    bench = Bench(process)
    deep = b"[" * 100_000
    await bench.send(1, b"", b"no json", b'{"number": "5"}', b'{"other": 1}', b"x" * (1 << 20), deep, 3, 4, 5)
    result = await bench.turn()
    assert result.counts == ConsumeCounts(read=10, written=2, dropped=1, rejected=6, retried=1)
    assert bench.stored() == [1, 5]
    assert await bench.left() == 1
    letters = bench.parking.letters
    assert sorted(letters) == ["1", "2", "3", "4", "5", "6"]
    assert {letter.breakdown.error_type for letter in letters.values()} == {"Rejected"}
    assert letters["4"].breakdown.errors[0].field in {"other", "number"}
    assert letters["2"].body == b"no json"
    assert letters["1"].body == b""
    # A large body goes by reference.
    assert letters["5"].body is None
    assert await bench.objects.get(letters["5"].body_key or "") == b"x" * (1 << 20)
    assert len(deep) > INLINE_BYTES
    assert {(await bench.sink.find_receipt(bench.unit(name))).state for name in letters} == {"dead"}  # type: ignore[union-attr]


async def test_failures_come_back_with_growing_delays_and_end_as_a_dead_letter() -> None:
    def process(order: Order) -> Order:
        secret = order.number * 111
        raise ValueError(WORDS, secret - order.number * 110)

    bench = Bench(process, max_attempts=3)
    await bench.send(7)
    for attempt, delay in enumerate((100, 200), start=1):
        assert (await bench.turn()).counts == ConsumeCounts(read=1, retried=1)
        bench.queue.advance(timedelta(seconds=delay * 0.7))
        assert (await bench.turn()).counts == ConsumeCounts()
        bench.queue.advance(timedelta(seconds=delay * 0.6))
        assert len(bench.seen) == attempt
    assert (await bench.turn()).counts == ConsumeCounts(read=1, rejected=1)
    letter = bench.parking.letters["0"]
    assert (letter.breakdown.error_type, letter.breakdown.message) == ("ValueError", str((WORDS, 7)))
    assert letter.breakdown.attempts == 3
    assert letter.breakdown.first_failure < letter.breakdown.last_failure
    assert "in process" in letter.breakdown.trace
    assert "777" not in letter.breakdown.trace
    assert await bench.left() == 0
    # What is settled leaves no counts behind.
    assert bench.failures.counts == {}


async def test_what_succeeds_in_the_end_is_stored_and_its_failures_are_forgotten() -> None:
    failing = [True]

    def process(order: Order) -> Order:
        if failing[0]:
            raise TransientError(WORDS)
        return order

    bench = Bench(process)
    await bench.send(1)
    await bench.turn()
    assert len(bench.failures.counts) == 1
    failing[0] = False
    bench.queue.advance(timedelta(minutes=5))
    assert (await bench.turn()).counts == ConsumeCounts(read=1, written=1)
    assert bench.failures.counts == {}


class WorseError(ValueError):
    pass


async def test_policies_decide_by_the_closest_class() -> None:
    refusal = RecordRefusedError((FieldError(field="", code="c", message="m"),))
    errors: dict[int, Exception] = {
        1: ValueError("a"),
        2: WorseError("b"),
        3: KeyError("c"),
        4: refusal,
        5: OSError("d"),
    }

    def process(order: Order) -> Order:
        raise errors[order.number]

    policies = {ValueError: "dead-letter", WorseError: "discard", LookupError: "retry", OSError: "discard"}
    bench = Bench(process, policies=policies)
    await bench.send(*errors)
    result = await bench.turn()
    assert result.counts == ConsumeCounts(read=5, rejected=2, discarded=2, retried=1)
    assert sorted(bench.parking.letters) == ["0", "3"]
    receipt = await bench.sink.find_receipt(bench.unit("1"))
    assert receipt is not None
    assert receipt.state == "discarded"
    assert await bench.left() == 1


async def test_an_async_process_runs_many_at_once() -> None:
    async def process(order: Order) -> Order | None:
        await asyncio.sleep(0.05)
        if order.number == 13:
            raise ValueError(WORDS)
        return None if order.number == 14 else order

    bench = Bench()
    bench.use(process)
    await bench.send(*range(60))
    result = await bench.turn(0.3)
    assert result.counts == ConsumeCounts(read=60, written=58, dropped=1, retried=1)


async def test_a_sync_process_in_a_thread_does_not_stop_the_leases() -> None:
    def process(order: Order) -> Order:
        time.sleep(0.6)
        return order

    bench = Bench(process, lease=timedelta(milliseconds=200))
    await bench.send(1)
    first, second = await asyncio.gather(bench.turn(0.2), bench.turn(0.2))
    assert first.counts + second.counts == ConsumeCounts(read=1, written=1)
    assert bench.seen == [1]


async def test_an_outage_of_the_sink_gives_everything_back_and_counts_nothing() -> None:
    bench = Bench()
    await bench.send(*range(20))
    bench.sink.down = True
    result = await bench.turn()
    assert result.counts == ConsumeCounts()
    assert result.error_type == "UnavailableError"
    assert "down" in result.reason
    # While it is down nothing is even taken.
    assert bench.seen == []
    assert await bench.waiting() == 20


async def test_an_outage_in_the_middle_of_a_window_gives_everything_back() -> None:
    bench = Bench()

    def process(order: Order) -> Order:
        bench.sink.down = True
        return order

    bench.process = process
    await bench.send(*range(20))
    result = await bench.turn()
    assert (result.counts, result.error_type) == (ConsumeCounts(), "UnavailableError")
    assert await bench.waiting() == 20
    bench.sink.down, bench.process = False, lambda order: order
    assert (await bench.turn()).counts == ConsumeCounts(read=20, written=20)


async def test_an_outage_of_the_parking_leaves_the_item_in_the_queue_until_it_is_parked() -> None:
    bench = Bench()
    await bench.send(1, b"no json")
    bench.parking.down = True
    result = await bench.turn()
    assert "Temporal" in result.reason
    assert result.counts == ConsumeCounts(read=1, written=1)
    assert await bench.waiting() == 1
    bench.parking.down = False
    assert (await bench.turn()).counts == ConsumeCounts(read=1, rejected=1)
    assert list(bench.parking.letters) == ["1"]


async def test_an_item_found_dead_is_parked_and_acknowledged_even_if_it_would_succeed_now() -> None:
    bench = Bench()
    await bench.send(1, 2)
    when = datetime(2026, 1, 1, tzinfo=UTC)
    breakdown = Breakdown(error_type="ValueError", message="m", attempts=5, first_failure=when, last_failure=when)
    reason = breakdown.model_dump_json()
    fingerprints = [hashlib.sha256(json.dumps({"number": number}).encode()).hexdigest() for number in (1, 2)]
    await bench.failures.bury(
        [
            Burial(bench.unit("0"), fingerprints[0], reason),
            Burial(bench.unit("1"), fingerprints[1], reason, state="discarded"),
        ]
    )
    assert (await bench.turn()).counts == ConsumeCounts(read=2, duplicates=2)
    assert list(bench.parking.letters) == ["0"]
    assert bench.parking.letters["0"].breakdown.attempts == 5
    assert (bench.stored(), await bench.left()) == ([], 0)


async def test_many_transient_failures_open_the_breaker_and_count_against_no_item() -> None:
    def process(order: Order) -> Order:
        if order.number >= 10:
            raise OSError(WORDS)
        return order

    bench = Bench(process)
    await bench.send(*range(40))
    result = await bench.turn()
    assert "30 of the last 40 items failed" in result.reason
    # What succeeded beside the failures is done.
    assert result.counts == ConsumeCounts(read=10, written=10)
    assert bench.failures.counts == {}
    assert await bench.waiting() == 30
    # A probe judges by its own window alone.
    probe = await bench.turn(probe=True)
    assert (probe.error_type, probe.counts) == ("TransientFailures", ConsumeCounts())
    bench.process = lambda order: order
    probe = await bench.turn(probe=True)
    assert (probe.reason, probe.counts) == ("", ConsumeCounts(read=10, written=10))


async def test_records_at_fault_do_not_open_the_breaker() -> None:
    def process(order: Order) -> Order:
        raise ValueError(WORDS)

    bench = Bench(process)
    await bench.send(*range(40))
    assert (await bench.turn()).counts == ConsumeCounts(read=40, retried=40)


async def test_a_probe_of_an_empty_queue_succeeds() -> None:
    bench = Bench()
    assert await bench.turn(5, probe=True) == TurnResult()


async def test_a_drain_ends_when_nothing_is_left_not_even_in_flight() -> None:
    bench = Bench()
    await bench.send(*range(10))
    result = await bench.turn(30, drain=True)
    assert (result.empty, result.counts.written) == (True, 10)
    await bench.send(1, prefix="more")
    [other] = await bench.queue.fetch(bench.work_queue, 1, timedelta())
    draining = asyncio.create_task(bench.turn(30, drain=True))
    await asyncio.sleep(2.5)
    assert not draining.done()
    await bench.queue.release(bench.work_queue, [other], timedelta())
    assert (await draining).counts.written == 1


async def test_a_turn_that_is_told_to_stop_finishes_its_window_and_gives_the_rest_back() -> None:
    def process(order: Order) -> Order:
        time.sleep(0.02)
        return order

    bench = Bench(process)
    await bench.send(*range(100))
    running = asyncio.create_task(bench.turn(30))
    await asyncio.sleep(0.3)
    running.cancel()
    result = await running
    assert 0 < result.counts.written < 100
    assert result.counts.written == len(bench.stored())
    assert await bench.waiting() == 100 - result.counts.written


async def test_the_same_item_twice_in_a_window_is_stored_once() -> None:
    bench = Bench()
    await bench.queue.send(bench.work_queue, [QueueItem(b'{"number": 1}', "a")])
    bench.queue.advance(timedelta(minutes=3))
    await bench.queue.send(bench.work_queue, [QueueItem(b'{"number": 1}', "a")])
    assert (await bench.turn()).counts == ConsumeCounts(read=2, written=1, duplicates=1)
    bench.queue.advance(timedelta(minutes=3))
    await bench.queue.send(bench.work_queue, [QueueItem(b'{"number": 2}', "a")])
    assert (await bench.turn()).counts == ConsumeCounts(read=1, duplicates=1)
    assert (bench.stored(), await bench.left()) == ([1], 0)


async def deliver(bench: Bench, times: int) -> None:
    """Deliver everything that often, as if each time a worker had died or a service was away."""
    for _ in range(times):
        deliveries: Sequence[Delivery] = await bench.queue.fetch(bench.work_queue, 1000, timedelta())
        await bench.queue.release(bench.work_queue, deliveries, timedelta())


async def test_many_deliveries_alone_make_no_dead_letter() -> None:
    bench = Bench()
    await bench.send(1, 2, 3)
    await deliver(bench, 200)
    assert (await bench.turn()).counts == ConsumeCounts(read=3, written=3)
    assert bench.failures.counts == {}


class Death(BaseException):
    """What SIGKILL is to a worker."""


async def test_an_item_that_kills_its_workers_is_found_and_its_neighbours_are_not_harmed() -> None:
    def process(order: Order) -> Order:
        if order.number == 2:
            raise Death
        return order

    bench = Bench(process, max_deliveries=20)
    await bench.send(1, 2, 3)
    deaths = 0
    while await bench.left():
        try:
            await bench.turn(0.05)
        except Death:
            deaths += 1
            # Its leases run out.
            bench.queue.advance(timedelta(minutes=1))
        assert deaths < 30
    assert bench.stored() == [1, 3]
    assert list(bench.parking.letters) == ["1"]
    assert bench.parking.letters["1"].breakdown.error_type == "TooManyDeliveriesError"
    assert 20 <= deaths <= 24


async def test_an_unknown_pipeline_and_a_wrong_table_are_reasons_to_wait() -> None:
    bench = Bench()
    await bench.send(1)
    bench.activities.pipelines = {}
    assert (await bench.turn()).error_type == "UnknownPipelineError"
    assert await bench.waiting() == 1


async def test_a_broker_that_is_down_is_a_reason_to_wait() -> None:
    bench = Bench()
    await bench.send(1)
    bench.queue.down = True
    assert (await bench.turn()).error_type == "UnavailableError"
    bench.queue.down = False
    assert (await bench.turn()).counts.written == 1


async def test_rows_that_the_sink_refuses_are_dead_letters_and_their_neighbours_are_stored() -> None:
    bench = Bench()
    bench.pipeline = dataclasses.replace(
        bench.pipeline, sink=PostgresTable("orders", key=("number",), on_conflict="reject")
    )
    bench.activities.pipelines = {"orders": bench.pipeline}
    await bench.send(1, 2, 1)
    assert (await bench.turn()).counts == ConsumeCounts(read=3, written=2, rejected=1)
    assert bench.parking.letters["2"].breakdown.errors[0].code == "duplicate_key"


@pytest.mark.parametrize("order", ["store", "bury"])
async def test_two_consumers_with_the_same_item_store_it_or_park_it(order: str) -> None:
    """A zombie and whoever got its item next disagree: whoever is first decides, and both acknowledge."""
    bench, gate = Bench(), asyncio.Event()

    async def slow(record: Order) -> Order:
        if not gate.is_set():
            gate.set()
            await asyncio.sleep(0.3)
            if order == "store":
                raise RecordRefusedError((FieldError(field="", code="c", message="m"),))
            return record
        if order == "bury":
            raise RecordRefusedError((FieldError(field="", code="c", message="m"),))
        return record

    bench.use(slow)
    await bench.send(1)
    zombie = asyncio.create_task(bench.turn(0.1))
    await gate.wait()
    bench.queue.advance(timedelta(minutes=5))
    second = await bench.turn(0.05)
    first = await zombie
    if order == "store":
        assert (bench.stored(), list(bench.parking.letters)) == ([1], [])
        assert second.counts.written == 1
    else:
        assert (bench.stored(), list(bench.parking.letters)) == ([], ["0"])
        assert second.counts.rejected == 1
    assert first.counts.read == 1
    assert await bench.left() == 0
