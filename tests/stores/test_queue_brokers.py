"""What only one kind of queue can show: a broker that is killed, found as others left it, or fed by others."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import subprocess
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import nats
import pytest
import pytest_asyncio

from contracts import WorkQueue
from contracts.errors import UnavailableError
from contracts.queue import Depth, QueueItem, QueueMismatchError
from starter.stack.server import binary
from stores import connect
from stores.memory_queue import MemoryQueue
from stores.nats_queue import NatsQueue
from stores.sqs_queue import SqsQueue
from tests.stores.conftest import free_port
from tests.stores.test_queue import NOW, PATIENCE, SECOND, emptied, numbered, taken

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from nats.js.client import JetStreamContext

    from stores.settings import Settings

pytestmark = pytest.mark.asyncio


@pytest.fixture
def work() -> WorkQueue:
    return WorkQueue(f"test-{uuid.uuid4().hex[:12]}", lease=timedelta(minutes=5))


class Server:
    """A NATS server of the test's own, which it may kill."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.command = [binary("nats-server"), "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(folder)]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


async def until_up(queue: NatsQueue, work: WorkQueue) -> None:
    """Wait until the broker answers."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(UnavailableError):
                await queue.depth(work)
                return
            await asyncio.sleep(0.05)


@pytest_asyncio.fixture
async def js(settings: Settings) -> AsyncIterator[JetStreamContext]:
    """Someone else's connection to the broker."""
    client = await nats.connect(settings.nats_url)
    yield client.jetstream()
    await client.close()


async def test_a_broker_that_is_killed_keeps_what_was_sent_and_forgets_what_was_acknowledged(
    settings: Settings, server: Server, work: WorkQueue
) -> None:
    work = dataclasses.replace(work, lease=2 * SECOND)
    async with NatsQueue.open(settings.model_copy(update={"nats_url": server.url})) as queue:
        with pytest.raises(UnavailableError, match="the connection is refused"):
            await queue.send(work, numbered(1))
        server.start()
        await until_up(queue, work)
        assert await queue.send(work, numbered(500)) == 500
        batch = await taken(queue, work, 200)
        await queue.acknowledge(work, batch[:100])
        server.kill()
        with pytest.raises(UnavailableError, match=f"NATS at 127.0.0.1:{server.port} cannot be reached"):
            await queue.acknowledge(work, batch[100:])
        server.start()
        await until_up(queue, work)
        # The server wrote down what was sent and what is gone, but perhaps not what it had delivered.
        with contextlib.suppress(UnavailableError):
            await queue.acknowledge(work, batch[100:150])
        # The ids of what it still holds are remembered, too.
        assert await queue.send(work, numbered(351, 150)) in range(1, 52)
        rest = await emptied(queue, work)
        gone = {delivery.id for delivery in batch[:100]}
        perhaps = {delivery.id for delivery in batch[100:150]}
        assert {delivery.id for delivery in rest} | perhaps == {item.id for item in numbered(501)} - gone


async def test_a_broker_that_goes_away_ends_a_waiting_fetch(
    settings: Settings, server: Server, work: WorkQueue
) -> None:
    server.start()
    async with NatsQueue.open(settings.model_copy(update={"nats_url": server.url})) as queue:
        await until_up(queue, work)
        fetching = asyncio.create_task(queue.fetch(work, 10, timedelta(seconds=PATIENCE)))
        await asyncio.sleep(0.2)
        server.kill()
        async with asyncio.timeout(PATIENCE / 2):
            with pytest.raises(UnavailableError, match="the connection was lost"):
                await fetching


async def test_nothing_is_lost_and_all_of_it_comes_while_the_broker_is_killed_again_and_again(
    settings: Settings, server: Server, work: WorkQueue
) -> None:
    work = dataclasses.replace(work, lease=SECOND)
    server.start()
    sent: set[str] = set()
    found: set[str] = set()
    async with (
        NatsQueue.open(settings.model_copy(update={"nats_url": server.url})) as producer,
        NatsQueue.open(settings.model_copy(update={"nats_url": server.url})) as consumer,
    ):

        async def produce() -> None:
            for first in range(0, 3000, 100):
                batch = numbered(100, first)
                while True:
                    try:
                        await producer.send(work, batch)
                        break
                    except UnavailableError:
                        await asyncio.sleep(0.05)
                sent.update(item.id or "" for item in batch)
                await asyncio.sleep(0.03)

        async def consume() -> None:
            while len(sent) < 3000 or found != sent:
                try:
                    batch = await consumer.fetch(work, 100, SECOND)
                    await consumer.acknowledge(work, batch)
                    found.update(delivery.id for delivery in batch)
                except UnavailableError:
                    await asyncio.sleep(0.05)

        async def kill() -> None:
            for _ in range(2):
                await asyncio.sleep(0.4)
                server.kill()
                server.start()
                await until_up(producer, work)

        async with asyncio.timeout(3 * PATIENCE):
            await asyncio.gather(produce(), consume(), kill())
            await emptied(consumer, work)
    assert len(found) == 3000


async def test_a_stream_that_would_lose_items_is_refused(
    settings: Settings, js: JetStreamContext, work: WorkQueue
) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"retention": "limits"}, "retention is 'limits'"),
        ({"retention": "workqueue", "storage": "memory"}, "storage is 'memory'"),
        ({"retention": "workqueue", "max_age": 60}, "it discards items after 60 s"),
        ({"retention": "workqueue", "max_msgs": 60}, "it discards old items when it is full"),
    ]
    async with NatsQueue.open(settings) as queue:
        for number, (config, sentence) in enumerate(wrong):
            other = WorkQueue(f"{work.name}-{number}")
            await js.add_stream(name=f"queue_{other.name}", subjects=[f"queue.{other.name}"], **config)
            with pytest.raises(QueueMismatchError, match=sentence):
                await queue.send(other, numbered(1))
        await js.add_stream(name=f"own-{work.name}", subjects=[f"queue.{work.name}"])
        with pytest.raises(QueueMismatchError, match="subjects overlap"):
            await queue.prepare(work)


async def test_a_consumer_that_would_lose_items_is_refused(
    settings: Settings, js: JetStreamContext, work: WorkQueue
) -> None:
    stream = f"queue_{work.name}"
    await js.add_stream(name=stream, subjects=[f"queue.{work.name}"], retention="workqueue")
    await js.add_consumer(stream, durable_name="workers", max_deliver=5, ack_policy="explicit")
    async with NatsQueue.open(settings) as queue:
        with pytest.raises(QueueMismatchError, match="it gives an item up after 5 deliveries"):
            await queue.prepare(work)


async def test_another_program_may_publish(settings: Settings, js: JetStreamContext, work: WorkQueue) -> None:
    async with NatsQueue.open(settings) as queue:
        await queue.prepare(work)
        await js.publish(f"queue.{work.name}", b"plain")
        await js.publish(f"queue.{work.name}", b"named", headers={"Nats-Msg-Id": "order 7", "Trace": "x"})
        found = await taken(queue, work, 2)
        assert {delivery.body: delivery.id for delivery in found}[b"named"] == "order 7"
        assert {delivery.body: delivery.id for delivery in found}[b"plain"].startswith(f"queue_{work.name}/")


async def test_a_queue_that_is_removed_is_made_again_and_its_items_have_other_names(
    settings: Settings, js: JetStreamContext, work: WorkQueue
) -> None:
    async with NatsQueue.open(settings) as queue:
        await queue.send(work, [QueueItem(b"1")])
        [first] = await taken(queue, work, 1)
        await js.delete_stream(f"queue_{work.name}")
        for attempt in (
            lambda: queue.send(work, [QueueItem(b"2")]),
            lambda: queue.fetch(work, 1, NOW),
            lambda: queue.depth(work),
        ):
            with contextlib.suppress(UnavailableError):
                await attempt()
        await queue.send(work, [QueueItem(b"3")])
        found = await emptied(queue, work)
        assert first.id not in {delivery.id for delivery in found}
        assert b"3" in {delivery.body for delivery in found}


async def test_a_handle_of_another_queue_is_a_mistake(settings: Settings, work: WorkQueue) -> None:
    async with NatsQueue.open(settings) as queue:
        await queue.send(work, numbered(1))
        batch = await taken(queue, work, 1)
        with pytest.raises(ValueError, match="is no delivery of the queue other"):
            await queue.acknowledge(WorkQueue("other"), batch)


async def test_many_items_in_flight_do_not_keep_others_from_coming(settings: Settings, work: WorkQueue) -> None:
    async with NatsQueue.open(settings) as queue:
        await queue.send(work, numbered(3000))
        for _ in range(2):
            held = await taken(queue, work, 1000)
            await queue.release(work, held, timedelta(hours=1))
        assert len(await taken(queue, work, 1000)) == 1000
        assert await queue.depth(work) == Depth(waiting=0, in_flight=3000)


async def test_memory_lets_time_pass_without_waiting(work: WorkQueue) -> None:
    queue = MemoryQueue()
    await queue.send(work, numbered(2))
    first, second = await queue.fetch(work, 2, NOW)
    await queue.release(work, [second], timedelta(hours=1))
    queue.advance(timedelta(minutes=5))
    [again] = await queue.fetch(work, 2, NOW)
    assert (again.id, again.deliveries) == (first.id, 2)
    fetching = asyncio.create_task(queue.fetch(work, 2, timedelta(seconds=PATIENCE)))
    await asyncio.sleep(0)
    queue.advance(timedelta(hours=1))
    assert {delivery.id for delivery in await fetching} == {first.id, second.id}
    assert await queue.send(work, numbered(2)) == 2  # the window for repeats is over


async def test_memory_takes_the_time_from_a_clock(work: WorkQueue) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    queue = MemoryQueue(clock=lambda: now)
    await queue.send(work, numbered(1))
    [delivery] = await queue.fetch(work, 1, NOW)
    assert delivery.sent == now
    now += timedelta(minutes=4)
    await queue.extend(work, [delivery])
    now += timedelta(minutes=4)
    assert await queue.fetch(work, 1, NOW) == []
    now += timedelta(minutes=1)
    assert len(await queue.fetch(work, 1, NOW)) == 1


@pytest_asyncio.fixture
async def sqs(settings: Settings, sqs_endpoint: str) -> AsyncIterator[SqsQueue]:
    async with SqsQueue.open(settings.model_copy(update={"sqs_endpoint_url": sqs_endpoint})) as queue:
        yield queue


async def test_another_program_may_send_plain_text(sqs: SqsQueue, work: WorkQueue) -> None:
    await sqs.prepare(work)
    url = (await sqs._client.get_queue_url(QueueName=work.name))["QueueUrl"]
    sent = await sqs._client.send_message(QueueUrl=url, MessageBody="PQ==")
    [delivery] = await taken(sqs, work, 1)
    assert (delivery.id, delivery.body) == (f"{work.name}/{sent['MessageId']}", b"PQ==")


async def test_a_queue_that_moves_items_away_too_early_is_refused(sqs: SqsQueue, work: WorkQueue) -> None:
    client = sqs._client
    parked = (await client.create_queue(QueueName=f"{work.name}-parked"))["QueueUrl"]
    arn = (await client.get_queue_attributes(QueueUrl=parked, AttributeNames=["QueueArn"]))["Attributes"]["QueueArn"]
    policy = f'{{"deadLetterTargetArn": "{arn}", "maxReceiveCount": "3"}}'
    await client.create_queue(QueueName=work.name, Attributes={"RedrivePolicy": policy})
    with pytest.raises(QueueMismatchError, match="moves items away after 3 deliveries"):
        await sqs.prepare(work)
    await sqs.prepare(WorkQueue(work.name, max_attempts=1, max_deliveries=2))


async def test_what_sqs_refuses_of_a_batch_is_sent_again(
    sqs: SqsQueue, work: WorkQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = sqs._client.send_message_batch
    calls = 0

    async def failing(**request: Any) -> Any:
        nonlocal calls
        calls += 1
        entries = request["Entries"]
        failed = [{"Id": entry["Id"], "SenderFault": False, "Code": "InternalError"} for entry in entries[::2]]
        answer: Any = await send(**{**request, "Entries": entries[1::2]}) if entries[1::2] else {}
        return {**answer, "Failed": failed}

    monkeypatch.setattr(sqs._client, "send_message_batch", failing)
    with pytest.raises(UnavailableError, match="it fails with InternalError"):
        await sqs.send(work, numbered(1))
    calls = 0
    monkeypatch.setattr("stores.sqs_queue.TRIES", 5)

    async def recovering(**request: Any) -> Any:
        return await (failing if calls < 2 else send)(**request)

    monkeypatch.setattr(sqs._client, "send_message_batch", recovering)
    assert await sqs.send(work, numbered(10)) == 10
    found = await emptied(sqs, work)
    assert sorted(delivery.id for delivery in found) == sorted(item.id or "" for item in numbered(10))


async def test_a_queue_of_sqs_that_is_removed_is_made_again(sqs: SqsQueue, work: WorkQueue) -> None:
    await sqs.send(work, numbered(1))
    await sqs._client.delete_queue(QueueUrl=(await sqs._client.get_queue_url(QueueName=work.name))["QueueUrl"])
    with pytest.raises(UnavailableError, match=f"the queue {work.name} is missing"):
        await sqs.send(work, numbered(1))
    assert await sqs.send(work, numbered(1)) == 1


async def test_the_settings_choose_the_broker_which_may_be_down_at_the_start(settings: Settings) -> None:
    for name, kind in (("nats", NatsQueue), ("sqs", SqsQueue)):
        update = {"queue": name, "nats_url": "nats://127.0.0.1:9", "sqs_endpoint_url": "http://127.0.0.1:9"}
        async with connect(settings.model_copy(update=update)) as stores:
            assert isinstance(stores.queue, kind)
