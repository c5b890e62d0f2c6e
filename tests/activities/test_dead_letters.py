"""A dead letter that is tried again is stored once, and its receipt never says two things."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
from temporalio.exceptions import ApplicationError

from activities.dead_letters import DeadLetterActivities
from activities.redrives import RedriveActivities, count_parked
from contracts import Pipeline, PostgresTable, Record
from contracts.dead_letters import (
    Breakdown,
    DeadLetterFilter,
    DeadLetterInput,
    DeadLetterPage,
    GiveUpDeadLetter,
    RetryCounts,
    RetryDeadLetters,
    RetryOutcome,
    TryDeadLetter,
)
from contracts.errors import UnavailableError
from contracts.ports import Burial
from contracts.requests import REJECTED, RequestResult
from stores.memory_failures import MemoryFailureLedger
from stores.memory_objects import MemoryObjectStore
from stores.memory_sink import MemorySink


class Order(Record):
    id: int
    name: str


def process(order: Order) -> Order | None:
    return None if order.name == "drop" else order


def refuse(_: Order) -> Order | None:
    message = "stricter now"
    raise ValueError(message)


SINK = PostgresTable("orders", key=None)
ORDERS = Pipeline(name="orders", record=Order, sink=SINK, process=process)
STRICT = Pipeline(name="orders", record=Order, sink=SINK, process=refuse)
NOW = datetime(2026, 1, 31, tzinfo=UTC)


class Room:
    """Stores, and activities over them."""

    def __init__(self) -> None:
        self.sink = MemorySink()
        self.failures = MemoryFailureLedger(self.sink)
        self.objects = MemoryObjectStore()

    def activities(self, pipeline: Pipeline = ORDERS) -> DeadLetterActivities:
        return DeadLetterActivities({"orders": pipeline}, self.sink, self.failures, self.objects)

    async def bury(self, body: bytes | None, body_key: str | None = None) -> DeadLetterInput:
        letter = DeadLetterInput(
            pipeline="orders",
            queue="orders",
            item="1",
            unit="queue/orders/1",
            fingerprint="f",
            body=None if body is None else base64.b64encode(body),
            body_key=body_key,
            sent=NOW,
            breakdown=Breakdown(error_type="Rejected", message="no", first_failure=NOW, last_failure=NOW),
        )
        await self.failures.bury([Burial(letter.work, letter.fingerprint, "{}")])
        return letter

    async def state(self, letter: DeadLetterInput) -> str | None:
        receipt = await self.sink.find_receipt(letter.work)
        return receipt.state if receipt else None


GOOD = b'{"id": 1, "name": "a"}'


async def test_a_try_stores_the_item_and_turns_its_receipt_and_a_repeat_writes_nothing() -> None:
    room = Room()
    letter = await room.bury(GOOD)
    asked = TryDeadLetter(letter=letter)
    first = await room.activities().store_letter(asked)
    assert first == RequestResult(record={"id": 1, "name": "a"})
    assert await room.state(letter) == "stored"
    again = await room.activities().store_letter(asked)
    assert again == RequestResult(record=first.record, repeat=True)
    # If the try that committed was not heard of, what is stored counts, whatever became of the code since.
    assert await room.activities(STRICT).store_letter(asked) == again
    assert len(room.sink.rows("orders")) == 1


async def test_a_corrected_record_takes_the_items_place() -> None:
    room = Room()
    letter = await room.bury(b"no json")
    done = await room.activities().store_letter(TryDeadLetter(letter=letter, record={"id": 2, "name": "b"}))
    assert done.record == {"id": 2, "name": "b"}
    receipt = await room.sink.find_receipt(letter.work)
    assert receipt is not None
    assert (receipt.state, receipt.fingerprint) == ("stored", "f")


async def test_a_record_that_is_dropped_leaves_its_receipt_only() -> None:
    room = Room()
    letter = await room.bury(b'{"id": 1, "name": "drop"}')
    assert await room.activities().store_letter(TryDeadLetter(letter=letter)) == RequestResult(record=None)
    assert (await room.state(letter), room.sink.rows("orders")) == ("stored", [])


async def test_a_large_body_is_read_where_it_is_kept() -> None:
    room = Room()
    letter = await room.bury(None, "dead/1")
    with pytest.raises(ApplicationError) as caught:
        await room.activities().store_letter(TryDeadLetter(letter=letter))
    assert (caught.value.type, caught.value.non_retryable) == ("ObjectMissingError", True)
    await room.objects.put("dead/1", GOOD)
    assert (await room.activities().store_letter(TryDeadLetter(letter=letter))).record == json.loads(GOOD)


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b'{"id": "1", "name": "a"}', b"\xff"])
async def test_what_is_wrong_stays_dead(body: bytes) -> None:
    room = Room()
    letter = await room.bury(body)
    with pytest.raises(ApplicationError) as caught:
        await room.activities().store_letter(TryDeadLetter(letter=letter))
    assert (caught.value.type, caught.value.non_retryable) == (REJECTED, True)
    assert (await room.state(letter), room.sink.rows("orders")) == ("dead", [])


async def test_what_was_given_up_is_never_stored_and_what_was_stored_is_never_given_up() -> None:
    room = Room()
    letter = await room.bury(GOOD)
    give_up = GiveUpDeadLetter(pipeline="orders", unit=letter.unit, reason='{"discarded": "a test"}')
    assert (await room.activities().give_up_letter(give_up)).state == "discarded"
    assert (await room.activities().give_up_letter(give_up)).state == "discarded"
    with pytest.raises(ApplicationError) as caught:
        await room.activities().store_letter(TryDeadLetter(letter=letter))
    assert (caught.value.type, caught.value.non_retryable) == ("GivenUpError", True)
    assert room.sink.rows("orders") == []

    other = Room()
    letter = await other.bury(GOOD)
    await other.activities().store_letter(TryDeadLetter(letter=letter))
    assert (await other.activities().give_up_letter(give_up)).state == "stored"


async def test_an_outage_is_tried_again() -> None:
    room = Room()
    letter = await room.bury(GOOD)
    room.sink.down = True
    for step in (
        room.activities().store_letter(TryDeadLetter(letter=letter)),
        room.activities().give_up_letter(GiveUpDeadLetter(pipeline="orders", unit=letter.unit, reason="{}")),
    ):
        with pytest.raises(ApplicationError) as caught:
            await step
        assert (caught.value.type, caught.value.non_retryable) == ("UnavailableError", False)


class MemoryParking:
    """A `Parking` of tickets, of which those in `failing` fail again; all lookups come in small pages."""

    def __init__(self, tickets: list[str], failing: set[str]) -> None:
        self.tickets, self.failing, self.down = tickets, failing, False
        self.tried: list[tuple[str, str]] = []

    async def park(self, letter: DeadLetterInput) -> None:
        self.tickets.append(letter.ticket)

    async def find(self, letters: DeadLetterFilter, page_size: int, token: str = "") -> DeadLetterPage:
        assert letters == DeadLetterFilter()
        start, size = int(token or 0), min(page_size, 2)
        end = start + size
        return DeadLetterPage(tickets=tuple(self.tickets[start:end]), token=str(end) if end < len(self.tickets) else "")

    async def retry(self, ticket: str, name: str = "") -> RetryOutcome:
        if self.down:
            service, reason = "Temporal", "it is down"
            raise UnavailableError(service, "memory", reason)
        self.tried.append((ticket, name))
        return RetryOutcome(status="parked" if ticket in self.failing else "stored")


async def test_a_redrives_steps_count_page_by_page_and_try_each_under_its_name() -> None:
    parking = MemoryParking([f"dead-letter/orders/{n}" for n in range(5)], {"dead-letter/orders/3"})
    assert await count_parked(parking, DeadLetterFilter()) == 5
    asked = RetryDeadLetters(tickets=tuple(parking.tickets), name="redrive/1")
    assert await RedriveActivities(parking).retry_letters(asked) == RetryCounts(stored=4, failed=1)
    assert parking.tried == [(ticket, "redrive/1") for ticket in parking.tickets]
    parking.down = True
    with pytest.raises(ApplicationError) as caught:
        await RedriveActivities(parking).retry_letters(asked)
    assert not caught.value.non_retryable
