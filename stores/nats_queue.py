"""Queues on NATS JetStream: one work-queue stream per queue, in files, with one durable consumer that all share.

Guarantee: at least once. `send` returns after the server has stored every item, `acknowledge` after it has removed
every item; both survive a crash of the server. (It writes to files at once, but syncs them every two minutes unless
`sync_interval: always` is set or the stream is replicated: only a loss of power loses more.) A repeated item id is
left out within two minutes; a restart forgets the ids of items that are gone. **An acknowledgement is not fenced**:
one whose lease has run out removes the item, under its next lease too, and a stale `release` or `extend` ends or
lengthens that lease.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import BadRequestError, NotFoundError

from contracts.queue import Delivery, Depth, ItemTooLargeError, QueueMismatchError, check_limit, is_item_id, too_large
from stores.nats_connection import ANSWER_SECONDS, DESCRIPTION, NO_RESPONDERS, NatsConnection, status_of, unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from nats.aio.msg import Msg
    from nats.js.client import JetStreamContext

    from contracts.queue import QueueItem, WorkQueue
    from stores.settings import Settings

CONSUMER = "workers"
DEDUPE_SECONDS = 120.0
MESSAGE_ID = "Nats-Msg-Id"
HEADER_BYTES = len(f"NATS/1.0\r\n{MESSAGE_ID}: \r\n\r\n")
ACKNOWLEDGE, EXTEND, RELEASE = b"+ACK", b"+WPI", b"-NAK"
ACK_SUBJECT = "$JS.ACK."
FETCH_BYTES = 64 * 1024 * 1024
"""A batch of the largest items ends here: what is fetched is held in memory."""
WINDOW_ITEMS, WINDOW_BYTES = 1000, 8 * 1024 * 1024
"""Sent without waiting for each answer. The server refuses more than 10,000 that it has not stored yet."""

ENDINGS = ("No Messages", "Request Timeout", "Message Size Exceeds MaxBytes", "Batch Completed", "Requests Pending")
"""Statuses that end a fetch in order; others say that something is wrong."""
TOO_LARGE = frozenset({10054})
REFUSED = b'"error"'
DUPLICATE = b'"duplicate"'
EPOCH = datetime.fromtimestamp(0, UTC)
SHORT_TOKENS, SHORT, LONG = 9, 4, 6
"""Where a delivery's numbers begin in its reply subject: that of a server without domains, and the newer form."""


class NatsQueue:
    """`contracts.queue.Queue` on JetStream. A queue `orders` is the stream `queue_orders` of subject `queue.orders`.

    Other programs may publish to that subject; the header `Nats-Msg-Id` is the item's id. A stream that exists is
    used as it is, if it is of the right kind: make it beforehand to choose its replicas or its window for repeats.
    """

    def __init__(self, connection: NatsConnection) -> None:
        """Wrap a connection; use `open` for one that is closed again."""
        self._connection = connection
        self._prepared: set[WorkQueue] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[NatsQueue]:
        """Open a queue that connects on first use, so a process starts while the broker is down."""
        url = settings.nats_url
        async with NatsConnection.open(url, settings.addresses["nats"]) as connection:
            yield cls(connection)

    async def prepare(self, queue: WorkQueue) -> None:
        """Create stream and consumer if they are absent, and give the consumer the lease that is declared."""
        js = await self._jetstream()
        with self._connection.translated():
            try:
                await self._prepare_stream(js, queue)
                await self._prepare_consumer(js, queue)
            except BadRequestError as error:
                message = f"NATS refuses the queue {queue.name}: {error.description}"
                raise QueueMismatchError(message) from error
        self._prepared.add(queue)

    async def send(self, queue: WorkQueue, items: Sequence[QueueItem]) -> int:
        """Publish with the server's confirmation of each item, a thousand at a time on the way."""
        client = await self._connection.client()
        for item in items:
            size = len(item.body) + (HEADER_BYTES + len(item.id.encode()) if item.id else 0)
            if size > client.max_payload:
                raise too_large(queue, item, client.max_payload)
        await self._ensure(queue)
        subject, sent = subject_of(queue), 0
        for window in in_windows(items):
            with self._connection.translated(), self._connection.asking(len(window)) as (reply, answers):
                for item in window:
                    headers = {MESSAGE_ID: item.id} if item.id else None
                    await client.publish(subject, item.body, reply, headers)
                await answers.wait(ANSWER_SECONDS)
            sent += len(window) - self._count_repeats(queue, answers.messages)
        return sent

    async def fetch(self, queue: WorkQueue, limit: int, wait: timedelta) -> list[Delivery]:
        """Take what is there; if nothing is, wait for one item and take what came with it.

        The server holds no request of ours beyond the call, so nothing is leased to a caller that went away.
        """
        check_limit(limit)
        await self._ensure(queue)
        found = await self._pull(queue, {"batch": limit, "no_wait": True})
        if found or wait <= timedelta():
            return found
        found = await self._pull(queue, {"batch": 1, "expires": nanoseconds(wait)}, wait.total_seconds())
        if found and limit > 1:
            found += await self._pull(queue, {"batch": limit - 1, "no_wait": True})
        return found

    async def acknowledge(self, queue: WorkQueue, deliveries: Sequence[Delivery]) -> None:
        """Remove items, with the server's confirmation of each.

        After a crash the server may not know any more that it delivered an item, and then confirms nothing: this
        raises `UnavailableError` after five seconds, and the item comes again.
        """
        await self._answer(queue, deliveries, ACKNOWLEDGE, confirmed=len(deliveries))

    async def extend(self, queue: WorkQueue, deliveries: Sequence[Delivery]) -> None:
        """Begin the leases anew."""
        await self._answer(queue, deliveries, EXTEND)

    async def release(self, queue: WorkQueue, deliveries: Sequence[Delivery], delay: timedelta) -> None:
        """Give items back after a delay."""
        how = json.dumps({"delay": nanoseconds(delay)}).encode()
        await self._answer(queue, deliveries, RELEASE + b" " + how if delay > timedelta() else RELEASE)

    async def depth(self, queue: WorkQueue) -> Depth:
        """Count the stream's items; those whose lease ran out are in flight until they are delivered again."""
        await self._ensure(queue)
        js = await self._jetstream()
        with self._connection.translated():
            info = await js.consumer_info(stream_of(queue), CONSUMER)
            stream = await js.stream_info(stream_of(queue))
        in_flight = min(info.num_ack_pending or 0, stream.state.messages)
        return Depth(waiting=stream.state.messages - in_flight, in_flight=in_flight)

    async def _jetstream(self) -> JetStreamContext:
        return (await self._connection.client()).jetstream(timeout=ANSWER_SECONDS)

    async def _ensure(self, queue: WorkQueue) -> None:
        if queue not in self._prepared:
            await self.prepare(queue)

    async def _pull(self, queue: WorkQueue, request: dict[str, object], wait: float = 0) -> list[Delivery]:
        """Make one request for items, and take all that it brings."""
        client = await self._connection.client()
        count = int(str(request["batch"]))
        body = json.dumps(request if count == 1 else {**request, "max_bytes": FETCH_BYTES}).encode()
        with self._connection.translated():
            async with self._connection.pulling(client, count) as (reply, answers):
                await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream_of(queue)}.{CONSUMER}", body, reply)
                try:
                    await answers.wait(wait + ANSWER_SECONDS)
                except (TimeoutError, OSError):
                    if not answers.messages:
                        raise
        items = answers.messages
        if status_of(items[-1]):
            # What came before a refusal is leased to us, and no less good for it.
            end = items.pop()
            if not items:
                self._check(queue, end)
        return [delivery_of(queue, item) for item in items]

    async def _answer(self, queue: WorkQueue, deliveries: Sequence[Delivery], what: bytes, confirmed: int = 1) -> None:
        """Answer deliveries. The server works through them in order; the last `confirmed` ones it has to confirm."""
        if not deliveries:
            return
        mark = f".{stream_of(queue)}.{CONSUMER}."
        for delivery in deliveries:
            if not delivery.handle.startswith(ACK_SUBJECT) or mark not in delivery.handle:
                message = f"{delivery.handle!r} is no delivery of the queue {queue.name}"
                raise ValueError(message)
        client = await self._connection.client()
        with self._connection.translated(), self._connection.asking(confirmed) as (reply, answers):
            silent = len(deliveries) - confirmed
            for index, delivery in enumerate(deliveries):
                await client.publish(delivery.handle, what, "" if index < silent else reply)
            try:
                await answers.wait(ANSWER_SECONDS)
            except TimeoutError as error:
                missing = confirmed - len(answers.messages)
                reason = f"it did not confirm {missing} of {confirmed} answers to deliveries in time"
                raise unavailable(self._connection.address, reason) from error
        for answer in answers.messages:
            self._check(queue, answer)

    def _check(self, queue: WorkQueue, answer: Msg) -> None:
        """Raise `UnavailableError` for a status that is no orderly end."""
        status = status_of(answer)
        said = (answer.headers or {}).get(DESCRIPTION, "")
        if not status or said.startswith(ENDINGS):
            return
        # Perhaps somebody removed the queue: it is looked for, and made if need be, before it is used again.
        self._prepared.discard(queue)
        reason = f"the queue {queue.name} does not answer" if status == NO_RESPONDERS else f"it answers {status} {said}"
        raise unavailable(self._connection.address, reason)

    def _count_repeats(self, queue: WorkQueue, answers: Sequence[Msg]) -> int:
        """Check the confirmations of what was sent; count those of items that were there."""
        for answer in answers:
            self._check(queue, answer)
            if REFUSED in answer.data:
                refusal = json.loads(answer.data)["error"]
                if refusal.get("err_code") in TOO_LARGE:
                    message = f"the queue {queue.name} refuses an item: {refusal['description']}"
                    raise ItemTooLargeError(message)
                raise unavailable(self._connection.address, str(refusal.get("description") or refusal.get("code")))
        return sum(DUPLICATE in answer.data for answer in answers)

    async def _prepare_stream(self, js: JetStreamContext, queue: WorkQueue) -> None:
        wanted = StreamConfig(
            name=stream_of(queue),
            subjects=[subject_of(queue)],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            duplicate_window=DEDUPE_SECONDS,
        )
        try:
            found = (await js.stream_info(stream_of(queue))).config
        except NotFoundError:
            await js.add_stream(wanted)
            return
        wrong = [
            f"{name} is {getattr(found, name)!r}, not {getattr(wanted, name)!r}"
            for name in ("subjects", "retention", "storage")
            if getattr(found, name) != getattr(wanted, name)
        ]
        limited = any((limit or -1) > 0 for limit in (found.max_msgs, found.max_bytes, found.max_msgs_per_subject))
        if limited and found.discard != DiscardPolicy.NEW:
            wrong.append("it discards old items when it is full")
        if found.max_age:
            wrong.append(f"it discards items after {found.max_age:.0f} s")
        check_same(f"the stream {stream_of(queue)}", wrong)

    async def _prepare_consumer(self, js: JetStreamContext, queue: WorkQueue) -> None:
        lease = queue.lease.total_seconds()
        try:
            found = (await js.consumer_info(stream_of(queue), CONSUMER)).config
        except NotFoundError:
            found = ConsumerConfig(durable_name=CONSUMER, ack_policy=AckPolicy.EXPLICIT, max_deliver=-1)
        wrong = []
        if found.ack_policy != AckPolicy.EXPLICIT:
            wrong.append("it does not wait for acknowledgements")
        if found.deliver_subject:
            wrong.append("it pushes items")
        if (found.max_deliver or -1) > 0:
            wrong.append(f"it gives an item up after {found.max_deliver} deliveries, with nobody told")
        if found.backoff:
            wrong.append("it has leases of its own (backoff)")
        check_same(f"the consumer {CONSUMER} of the stream {stream_of(queue)}", wrong)
        # No limit: items that were released with a delay count, and would keep the others from being delivered.
        if found.ack_wait != lease or found.max_ack_pending != -1:
            await js.add_consumer(stream_of(queue), found.evolve(ack_wait=lease, max_ack_pending=-1))


def stream_of(queue: WorkQueue) -> str:
    """Name the stream of a queue."""
    return f"queue_{queue.name}"


def subject_of(queue: WorkQueue) -> str:
    """Name the subject to which a queue's items are published."""
    return f"queue.{queue.name}"


def delivery_of(queue: WorkQueue, message: Msg) -> Delivery:
    """Read a delivery; its reply subject tells what the server knows of it (NATS ADR-15)."""
    tokens = message.reply.split(".")
    at = SHORT if len(tokens) == SHORT_TOKENS else LONG
    deliveries, sequence, taken = int(tokens[at]), tokens[at + 1], int(tokens[at + 3])
    # The item's time of creation and its number name it, even if a stream of this name is made again.
    name = message.headers.get(MESSAGE_ID) if message.headers else None
    return Delivery(
        id=name if is_item_id(name) else f"{stream_of(queue)}/{taken}/{sequence}",
        body=message.data,
        deliveries=deliveries,
        sent=EPOCH + timedelta(microseconds=taken // 1000),
        handle=message.reply,
    )


def in_windows(items: Sequence[QueueItem]) -> Iterator[Sequence[QueueItem]]:
    """Cut items into windows of bounded number and size, at least one item each."""
    start = size = 0
    for index, item in enumerate(items):
        if index > start and (index - start >= WINDOW_ITEMS or size + len(item.body) > WINDOW_BYTES):
            yield items[start:index]
            start, size = index, 0
        size += len(item.body)
    if start < len(items):
        yield items[start:]


def nanoseconds(duration: timedelta) -> int:
    """Print a duration as the server counts."""
    return duration // timedelta(microseconds=1) * 1000


def check_same(what: str, wrong: Sequence[str]) -> None:
    """Raise `QueueMismatchError` if something that exists cannot keep the guarantee."""
    if wrong:
        message = f"{what} exists, and is no queue: {'; '.join(wrong)}"
        raise QueueMismatchError(message)
