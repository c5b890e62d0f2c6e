"""One contract suite for every queue: the double in memory, the real NATS server, and SQS as moto emulates it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from contracts import WorkQueue
from contracts.errors import UnavailableError
from contracts.queue import Depth, ItemTooLargeError, Queue, QueueItem
from stores.memory_queue import MemoryQueue
from stores.nats_queue import NatsQueue
from stores.sqs_queue import SqsQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from contracts.queue import Delivery
    from stores.settings import Settings

pytestmark = pytest.mark.asyncio

NOW = timedelta()
SECOND = timedelta(seconds=1)
PATIENCE = 30.0
"""Seconds after which what is waited for will not come."""


@dataclasses.dataclass(frozen=True)
class Broker:
    """One kind of queue, and what its kind can do."""

    kind: str
    queue: Queue
    body_limit: int
    dedupes: bool
    fences_nothing: bool
    """A stale acknowledgement removes the item; otherwise nothing is promised about it."""


@pytest_asyncio.fixture(params=["memory", "nats", "sqs"])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    async with opened(request) as found:
        yield found


@pytest_asyncio.fixture(params=["memory", "nats"])
async def fast_broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    """Of the kinds that promise more than SQS."""
    async with opened(request) as found:
        yield found


@contextlib.asynccontextmanager
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    kind: str = request.param
    if kind == "memory":
        yield Broker(kind, MemoryQueue(), 8 << 20, dedupes=True, fences_nothing=True)
        return
    settings: Settings = request.getfixturevalue("settings")
    if kind == "nats":
        async with NatsQueue.open(settings) as nats:
            yield Broker(kind, nats, 8 << 20, dedupes=True, fences_nothing=True)
        return
    endpoint = request.getfixturevalue("sqs_endpoint")
    async with SqsQueue.open(settings.model_copy(update={"sqs_endpoint_url": endpoint})) as sqs:
        yield Broker(kind, sqs, 1 << 20, dedupes=False, fences_nothing=False)


@pytest.fixture
def work() -> WorkQueue:
    """A queue that does not exist yet, with a lease that outlives its test."""
    return WorkQueue(f"test-{uuid.uuid4().hex[:12]}", lease=timedelta(minutes=5))


def leased(work: WorkQueue, lease: timedelta) -> WorkQueue:
    return dataclasses.replace(work, lease=lease)


def items(*bodies: bytes) -> list[QueueItem]:
    return [QueueItem(body) for body in bodies]


def numbered(count: int, first: int = 0) -> list[QueueItem]:
    return [QueueItem(f"body {number}".encode(), f"item {number}") for number in range(first, first + count)]


async def taken(queue: Queue, work: WorkQueue, count: int) -> list[Delivery]:
    """Fetch until that many deliveries came."""
    found: list[Delivery] = []
    deadline = time.monotonic() + PATIENCE
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} came"
        found += await queue.fetch(work, count - len(found), SECOND)
    return found


async def emptied(queue: Queue, work: WorkQueue) -> list[Delivery]:
    """Fetch and acknowledge until nothing is left."""
    found: list[Delivery] = []
    deadline = time.monotonic() + PATIENCE
    while (await queue.depth(work)) != Depth(0, 0):
        assert time.monotonic() < deadline
        batch = await queue.fetch(work, 1000, SECOND)
        await queue.acknowledge(work, batch)
        found += batch
    return found


async def test_what_was_sent_is_delivered_with_its_id_and_time(broker: Broker, work: WorkQueue) -> None:
    await broker.queue.prepare(work)
    before = datetime.now(UTC)
    assert await broker.queue.send(work, [QueueItem(b'{"a": 1}', "order 7 / ü")]) == 1
    [delivery] = await taken(broker.queue, work, 1)
    assert (delivery.id, delivery.body, delivery.deliveries) == ("order 7 / ü", b'{"a": 1}', 1)
    assert abs(delivery.sent - before) < timedelta(seconds=5)
    assert delivery.handle
    await broker.queue.acknowledge(work, [delivery])
    assert await broker.queue.depth(work) == Depth(0, 0)
    assert await broker.queue.fetch(work, 10, NOW) == []


async def test_nothing_to_fetch_is_an_empty_batch(broker: Broker, work: WorkQueue) -> None:
    assert await broker.queue.fetch(work, 10, NOW) == []
    began = time.monotonic()
    assert await broker.queue.fetch(work, 10, SECOND) == []
    assert 0.9 < time.monotonic() - began < 10
    for limit in (0, 1001):
        with pytest.raises(ValueError, match="a batch has 1 to 1,000 items"):
            await broker.queue.fetch(work, limit, NOW)


async def test_empty_calls_do_nothing(broker: Broker, work: WorkQueue) -> None:
    assert await broker.queue.send(work, []) == 0
    await broker.queue.acknowledge(work, [])
    await broker.queue.extend(work, [])
    await broker.queue.release(work, [], SECOND)
    assert await broker.queue.depth(work) == Depth(0, 0)


async def test_a_waiting_fetch_returns_when_the_first_item_comes(broker: Broker, work: WorkQueue) -> None:
    await broker.queue.prepare(work)
    fetching = asyncio.create_task(broker.queue.fetch(work, 10, timedelta(seconds=PATIENCE / 2)))
    await asyncio.sleep(0.2)  # so that it probably waits by now; it has to return either way
    began = time.monotonic()
    await broker.queue.send(work, items(b"late"))
    assert [delivery.body for delivery in await fetching] == [b"late"]
    assert time.monotonic() - began < PATIENCE / 3


BODIES = {
    "empty": b"",
    "space": b" ",
    "all_bytes": bytes(range(256)),
    "not_utf8": b"\xff\xfe{}",
    "nul": b"\0",
    "carriage_returns": b"a\r\nb\rc\n",
    "text": "snow ☃, \U0001f600 and \u00a0".encode(),
    "no_character": "\ufffe\uffff".encode(),
    "equals": b"=",
    "markup": b"<a>&amp;</a> %41 +",
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_of_any_bytes_survives(broker: Broker, work: WorkQueue, name: str) -> None:
    await broker.queue.send(work, items(BODIES[name]))
    [delivery] = await taken(broker.queue, work, 1)
    assert delivery.body == BODIES[name]


@pytest.mark.parametrize("body", [b"x" * 1_000_000, os.urandom(700_000)], ids=["text", "binary"])
async def test_bodies_of_a_megabyte_survive_several_at_once(broker: Broker, work: WorkQueue, body: bytes) -> None:
    await broker.queue.send(work, [QueueItem(body + b"%d" % number, str(number)) for number in range(12)])
    found = await taken(broker.queue, work, 12)
    assert {delivery.id: delivery.body for delivery in found} == {str(n): body + b"%d" % n for n in range(12)}


async def test_an_item_that_is_too_large_is_refused_for_good_and_nothing_is_sent(
    broker: Broker, work: WorkQueue
) -> None:
    largest = QueueItem(b"x" * (broker.body_limit - 200), "largest")
    assert await broker.queue.send(work, [largest]) == 1
    too_large = QueueItem(b"x" * (broker.body_limit + 1), "huge")
    with pytest.raises(ItemTooLargeError, match=rf"the item huge of .* the queue {work.name}"):
        await broker.queue.send(work, [QueueItem(b"small"), too_large])
    assert [delivery.id for delivery in await emptied(broker.queue, work)] == ["largest"]


async def test_an_item_without_an_id_is_named_the_same_in_every_delivery(broker: Broker, work: WorkQueue) -> None:
    work = leased(work, timedelta(milliseconds=300))
    await broker.queue.send(work, items(b"1", b"2", b"1"))
    names: dict[str, set[str]] = {}
    first = await taken(broker.queue, work, 3)
    second = await taken(broker.queue, work, 3)
    for delivery in (*first, *second):
        names.setdefault(delivery.id, set()).add(delivery.handle)
    assert len(names) == 3
    assert all(len(handles) == 2 for handles in names.values())
    assert {delivery.sent for delivery in first} == {delivery.sent for delivery in second}


async def test_an_item_comes_again_when_its_lease_runs_out(broker: Broker, work: WorkQueue) -> None:
    work = leased(work, timedelta(milliseconds=500))
    await broker.queue.send(work, numbered(1))
    for deliveries in (1, 2, 3):
        [delivery] = await taken(broker.queue, work, 1)
        assert (delivery.id, delivery.body, delivery.deliveries) == ("item 0", b"body 0", deliveries)
    await broker.queue.acknowledge(work, [delivery])
    assert await broker.queue.fetch(work, 1, 2 * SECOND) == []


async def test_a_leased_item_is_nobody_elses(broker: Broker, work: WorkQueue) -> None:
    await broker.queue.send(work, numbered(1))
    [_] = await taken(broker.queue, work, 1)
    assert await broker.queue.fetch(work, 10, SECOND) == []


async def test_consumers_never_share_a_live_lease(broker: Broker, work: WorkQueue) -> None:
    await broker.queue.send(work, numbered(100))
    found: list[Delivery] = []

    async def consume() -> None:
        while len(found) < 100:
            found.extend(await broker.queue.fetch(work, 17, SECOND))

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(consume() for _ in range(4)))
    assert sorted(delivery.id for delivery in found) == sorted(item.id or "" for item in numbered(100))


async def test_an_extended_lease_holds_for_as_long_as_it_is_extended(broker: Broker, work: WorkQueue) -> None:
    work = leased(work, SECOND)
    await broker.queue.send(work, numbered(2))
    held = await taken(broker.queue, work, 2)
    stop = asyncio.Event()

    async def keep() -> None:
        while not stop.is_set():
            await broker.queue.extend(work, held)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.2)

    keeping = asyncio.create_task(keep())
    assert await broker.queue.fetch(work, 10, 3 * SECOND) == []
    stop.set()
    await keeping
    assert {delivery.deliveries for delivery in await taken(broker.queue, work, 2)} == {2}


async def test_released_items_come_back_at_once_or_after_their_delay(broker: Broker, work: WorkQueue) -> None:
    await broker.queue.send(work, numbered(4))
    held = await taken(broker.queue, work, 4)
    await broker.queue.release(work, held[:2], NOW)
    back = await taken(broker.queue, work, 2)
    assert {(delivery.id, delivery.deliveries) for delivery in back} == {(delivery.id, 2) for delivery in held[:2]}
    began = time.monotonic()
    await broker.queue.release(work, held[2:], 2 * SECOND)
    assert await broker.queue.fetch(work, 4, NOW) == []
    assert (await broker.queue.depth(work)).in_flight == 4
    late = await taken(broker.queue, work, 2)
    assert {delivery.id for delivery in late} == {delivery.id for delivery in held[2:]}
    assert time.monotonic() - began > 1.5


async def test_batches_are_fetched_and_acknowledged_whole(broker: Broker, work: WorkQueue) -> None:
    assert await broker.queue.send(work, numbered(130)) == 130
    batch = await broker.queue.fetch(work, 110, SECOND)
    assert len(batch) == 110
    await broker.queue.acknowledge(work, batch)
    assert await broker.queue.depth(work) == Depth(waiting=20, in_flight=0)
    rest = await emptied(broker.queue, work)
    assert {delivery.id for delivery in (*batch, *rest)} == {item.id for item in numbered(130)}
    assert len(rest) == 20


async def test_some_of_a_batch_can_be_acknowledged(broker: Broker, work: WorkQueue) -> None:
    await broker.queue.send(work, numbered(20))
    batch = await taken(broker.queue, work, 20)
    await broker.queue.acknowledge(work, batch[5:])
    await broker.queue.release(work, batch[:5], NOW)
    again = await taken(broker.queue, work, 5)
    assert {delivery.id for delivery in again} == {delivery.id for delivery in batch[:5]}


async def test_depth_tells_what_waits_and_what_is_in_flight(broker: Broker, work: WorkQueue) -> None:
    await broker.queue.prepare(work)
    assert await broker.queue.depth(work) == Depth(0, 0)
    await broker.queue.send(work, numbered(7))
    assert await broker.queue.depth(work) == Depth(waiting=7, in_flight=0)
    held = await taken(broker.queue, work, 3)
    assert await broker.queue.depth(work) == Depth(waiting=4, in_flight=3)
    await broker.queue.acknowledge(work, held[:2])
    assert await broker.queue.depth(work) == Depth(waiting=4, in_flight=1)


async def test_an_acknowledgement_can_be_repeated(broker: Broker, work: WorkQueue) -> None:
    await broker.queue.send(work, numbered(3))
    batch = await taken(broker.queue, work, 3)
    for _ in range(2):
        await broker.queue.acknowledge(work, batch)
    await broker.queue.extend(work, batch)
    await broker.queue.release(work, batch, NOW)
    assert await broker.queue.fetch(work, 10, SECOND) == []
    assert await broker.queue.depth(work) == Depth(0, 0)


async def test_a_delivery_can_be_acknowledged_over_another_connection(
    broker: Broker, work: WorkQueue, settings: Settings, sqs_endpoint: str
) -> None:
    await broker.queue.send(work, numbered(1))
    batch = await taken(broker.queue, work, 1)
    other: Queue = broker.queue
    async with contextlib.AsyncExitStack() as stack:
        if broker.kind == "nats":
            other = await stack.enter_async_context(NatsQueue.open(settings))
        if broker.kind == "sqs":
            update = {"sqs_endpoint_url": sqs_endpoint}
            other = await stack.enter_async_context(SqsQueue.open(settings.model_copy(update=update)))
        await other.acknowledge(work, batch)
    assert await broker.queue.depth(work) == Depth(0, 0)


async def test_an_acknowledgement_after_the_lease_removes_an_item_that_nobody_took(
    fast_broker: Broker, work: WorkQueue
) -> None:
    queue, work = fast_broker.queue, leased(work, timedelta(milliseconds=200))
    await queue.send(work, numbered(1))
    stale = await taken(queue, work, 1)
    await asyncio.sleep(0.4)  # the passing of the lease itself is what is tested
    await queue.acknowledge(work, stale)
    assert await queue.depth(work) == Depth(0, 0)
    assert await queue.fetch(work, 1, SECOND) == []


async def test_no_broker_fences_a_stale_acknowledgement(broker: Broker, work: WorkQueue) -> None:
    """Whoever stores an item must leave a receipt first: this is why."""
    queue, short = broker.queue, leased(work, timedelta(milliseconds=300))
    await queue.send(short, numbered(1))
    [stale] = await taken(queue, short, 1)
    [live] = await taken(queue, short, 1)
    assert (stale.id, live.deliveries) == (live.id, 2)
    await queue.acknowledge(short, [stale])
    if broker.fences_nothing:
        assert await queue.depth(short) == Depth(0, 0)
        assert await queue.fetch(short, 1, SECOND) == []
    await queue.acknowledge(short, [live])
    assert await queue.depth(short) == Depth(0, 0)


async def test_no_broker_fences_a_stale_release(fast_broker: Broker, work: WorkQueue) -> None:
    queue, short = fast_broker.queue, leased(work, timedelta(milliseconds=200))
    await queue.send(short, numbered(1))
    [stale] = await taken(queue, short, 1)
    long = leased(work, timedelta(minutes=5))
    await queue.prepare(long)
    await queue.release(long, [stale], NOW)
    [live] = await taken(queue, long, 1)
    await queue.release(long, [stale], NOW)
    [third] = await taken(queue, long, 1)
    assert third.deliveries > live.deliveries > stale.deliveries


async def test_an_item_that_is_sent_twice_is_one_where_the_broker_can_tell(broker: Broker, work: WorkQueue) -> None:
    assert await broker.queue.send(work, numbered(10)) == 10
    assert await broker.queue.send(work, numbered(15)) == (5 if broker.dedupes else 15)
    found = await emptied(broker.queue, work)
    assert {delivery.id for delivery in found} == {item.id for item in numbered(15)}
    assert len(found) == (15 if broker.dedupes else 25)
    # Acknowledged ones are remembered, too.
    assert await broker.queue.send(work, numbered(15)) == (0 if broker.dedupes else 15)


async def test_the_same_id_twice_in_one_call_is_one_item_where_the_broker_can_tell(
    fast_broker: Broker, work: WorkQueue
) -> None:
    assert await fast_broker.queue.send(work, [QueueItem(b"1", "a"), QueueItem(b"2", "a"), QueueItem(b"3")]) == 2
    assert sorted(delivery.body for delivery in await emptied(fast_broker.queue, work)) == [b"1", b"3"]


async def test_queues_do_not_mix(broker: Broker, work: WorkQueue) -> None:
    other = WorkQueue(f"{work.name}-other")
    await broker.queue.send(work, numbered(2))
    assert await broker.queue.send(other, numbered(2)) == 2
    await broker.queue.acknowledge(work, await taken(broker.queue, work, 2))
    assert (await broker.queue.depth(other)).waiting == 2


async def test_a_cancelled_fetch_leases_nothing(fast_broker: Broker, work: WorkQueue) -> None:
    await fast_broker.queue.prepare(work)
    fetching = asyncio.create_task(fast_broker.queue.fetch(work, 10, timedelta(seconds=PATIENCE)))
    await asyncio.sleep(0.2)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    await fast_broker.queue.send(work, numbered(1))
    assert len(await taken(fast_broker.queue, work, 1)) == 1


async def test_a_lease_that_is_declared_anew_holds_from_the_next_delivery_on(broker: Broker, work: WorkQueue) -> None:
    await broker.queue.prepare(leased(work, timedelta(milliseconds=300)))
    await broker.queue.prepare(work)
    await broker.queue.send(work, numbered(1))
    [_] = await taken(broker.queue, work, 1)
    assert await broker.queue.fetch(work, 1, 2 * SECOND) == []


async def test_a_broker_that_is_down_is_named_without_secrets(settings: Settings, work: WorkQueue) -> None:
    memory = MemoryQueue()
    await memory.send(work, numbered(1))
    [delivery] = await memory.fetch(work, 1, NOW)
    memory.down = True
    dead = settings.model_copy(
        update={"nats_url": "nats://user:hidden@127.0.0.1:9", "sqs_endpoint_url": "http://user:hidden@127.0.0.1:9"}
    )
    async with NatsQueue.open(dead) as nats, SqsQueue.open(dead) as sqs:
        for queue, words in (
            (memory, "queue at memory cannot be reached"),
            (nats, "NATS at 127.0.0.1:9 cannot be reached: the connection is refused"),
            (sqs, "SQS at 127.0.0.1:9 cannot be reached: the connection"),
        ):
            held = delivery if queue is memory else dataclasses.replace(delivery, handle=handle_for(work))
            errors = await asyncio.gather(
                queue.prepare(work), queue.send(work, numbered(1)), queue.fetch(work, 1, SECOND),
                queue.acknowledge(work, [held]), queue.extend(work, [held]), queue.release(work, [held], SECOND),
                queue.depth(work), return_exceptions=True,
            )  # fmt: skip
            for error in errors:
                assert isinstance(error, UnavailableError), error
                assert str(error).startswith(words)
                assert "hidden" not in str(error)
    memory.down = False
    assert await memory.depth(work) == Depth(0, 1)


def handle_for(work: WorkQueue) -> str:
    return f"$JS.ACK.queue_{work.name}.workers.1.1.1.1.0"


async def test_the_bodies_of_a_queue_are_no_business_of_its_broker(broker: Broker, work: WorkQueue) -> None:
    bodies = [json.dumps({"n": n, "text": "é" * n}).encode() for n in range(50)]
    await broker.queue.send(work, items(*bodies))
    assert sorted(delivery.body for delivery in await emptied(broker.queue, work)) == sorted(bodies)
