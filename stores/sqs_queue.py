"""Queues on Amazon SQS, standard ones, through aioboto3.

Guarantee: at least once, in no order. `send` returns after SQS has stored every item redundantly, `acknowledge` after
it has accepted every removal, which it may forget: an item can come again all the same, rarely. Repeated ids are not
left out; they are the consumer's to notice. SQS drops an item 14 days after it was sent. What an acknowledgement does
whose lease has run out is not defined.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import logging
import math
import re
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aioboto3
from aiobotocore.config import AioConfig

from contracts.queue import LONGEST_HIDDEN, Delivery, Depth, QueueMismatchError, check_limit, is_item_id, too_large
from stores.sqs_errors import QueueMissingError, refused, translated, unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    from types_aiobotocore_sqs import SQSClient
    from types_aiobotocore_sqs.type_defs import MessageTypeDef

    from contracts.queue import QueueItem, WorkQueue
    from stores.settings import Settings

log = logging.getLogger(__name__)

BODY_LIMIT = 1024 * 1024
"""Of an item with its attributes, and of a batch; since August 2025, before it was a quarter."""
BATCH_ITEMS = 10
AT_ONCE = 16
"""Requests under way at a time."""
FETCH_BYTES = 64 * 1024 * 1024
LONGEST_POLL = 20
RETENTION_SECONDS = 14 * 24 * 3600
TRIES = 4
EPOCH = datetime.fromtimestamp(0, UTC)

ID, ENCODING, BASE64 = "id", "encoding", "base64"
NOTHING = "="
"""Stands for an empty body in base64: SQS takes no empty one."""
TEXT = re.compile("[\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")
"""What SQS carries unchanged. It would take carriage returns, too, but its XML interface does not keep them."""

CONFIG = AioConfig(
    retries={"mode": "standard", "total_max_attempts": 3},
    connect_timeout=3,
    read_timeout=LONGEST_POLL + 10,
    max_pool_connections=2 * AT_ONCE,
)


@dataclasses.dataclass(frozen=True)
class Known:
    """A queue that was found or made: where it is, and the largest item it takes, attributes included."""

    url: str
    limit: int


class SqsQueue:
    """`contracts.queue.Queue` on SQS; a queue has the name that is declared.

    A body that is UTF-8 text travels as it is. One that is not, or is empty, travels in base64, with the attribute
    `encoding`; the producer's id is the attribute `id`. Other programs may send plain text without either.
    A queue that exists is used as it is, unless it moves items away by itself too early.
    """

    def __init__(self, client: SQSClient, address: str) -> None:
        """Wrap an open client; use `open` for one that is closed again."""
        self.address = address
        self._client = client
        self._known: dict[WorkQueue, Known] = {}
        self._gate = asyncio.Semaphore(AT_ONCE)

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[SqsQueue]:
        """Open a client; no request is made until the first use, so a process starts while SQS is unreachable.

        An endpoint of one's own gets the keys of the settings; for AWS itself its usual chain decides (environment,
        profile, role of the machine), because the settings may hold the keys of another object store.
        """
        endpoint = settings.sqs_endpoint_url or None
        keys: dict[str, Any] = {}
        if endpoint:
            keys["aws_access_key_id"] = settings.aws_access_key_id or None
            keys["aws_secret_access_key"] = settings.aws_secret_access_key.get_secret_value() or None
        client = aioboto3.Session().client(
            "sqs", endpoint_url=endpoint, region_name=settings.sqs_region, config=CONFIG, **keys
        )
        async with client as opened:
            parts = urlsplit(endpoint or opened.meta.endpoint_url)
            yield cls(opened, f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname))

    async def prepare(self, queue: WorkQueue) -> None:
        """Create the queue if it is absent. The lease needs no preparation: each fetch names it."""
        with translated(self.address, queue.name):
            try:
                url = (await self._client.get_queue_url(QueueName=queue.name))["QueueUrl"]
            except self._client.exceptions.QueueDoesNotExist:
                attributes: Any = {
                    "VisibilityTimeout": str(whole_seconds(queue.lease)),
                    "MessageRetentionPeriod": str(RETENTION_SECONDS),
                    "MaximumMessageSize": str(BODY_LIMIT),
                }
                url = (await self._client.create_queue(QueueName=queue.name, Attributes=attributes))["QueueUrl"]
            found = await self._client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        check_attributes(queue, found["Attributes"])
        limit = int(found["Attributes"].get("MaximumMessageSize", BODY_LIMIT))
        self._known[queue] = Known(url, min(limit, BODY_LIMIT))

    async def send(self, queue: WorkQueue, items: Sequence[QueueItem]) -> int:
        """Send in batches of ten, several at a time; what SQS did not take of a batch is sent again."""
        known = await self._ensure(queue)
        entries = [entry_of(item) for item in items]
        for item, entry in zip(items, entries, strict=True):
            if size_of(entry) > known.limit:
                raise too_large(queue, item, known.limit)
        faults = await self._batched(queue, self._client.send_message_batch, entries)
        if faults:
            raise refused(queue.name, faults[0])
        return len(items)

    async def fetch(self, queue: WorkQueue, limit: int, wait: timedelta) -> list[Delivery]:
        """Poll for ten, long if there is time, then for more until a poll finds nothing."""
        check_limit(limit)
        loop = asyncio.get_running_loop()
        end = loop.time() + wait.total_seconds()
        found: list[Delivery] = []
        while True:
            left = max(0.0, end - loop.time())
            found = await self._receive(queue, min(BATCH_ITEMS, limit), min(LONGEST_POLL, round(left)))
            left = end - loop.time()
            if found or left <= 0:
                break
            # The rest is too short for a poll of SQS; whoever fetches in a loop must not spin.
            await asyncio.sleep(left if left < 1 else 0)
        more = bool(found)
        while more and len(found) < limit and sum(len(item.body) for item in found) < FETCH_BYTES:
            missing = min(limit - len(found), AT_ONCE * BATCH_ITEMS)
            sizes = [min(BATCH_ITEMS, missing - start) for start in range(0, missing, BATCH_ITEMS)]
            batches = await asyncio.gather(*(self._receive(queue, size, 0) for size in sizes))
            found += [item for batch in batches for item in batch]
            more = all(batches)
        return found

    async def acknowledge(self, queue: WorkQueue, deliveries: Sequence[Delivery]) -> None:
        """Remove items. A handle that SQS does not know any more is of an item that is gone, or comes again."""
        entries = [{"ReceiptHandle": delivery.handle} for delivery in deliveries]
        await self._settle(queue, self._client.delete_message_batch, entries)

    async def extend(self, queue: WorkQueue, deliveries: Sequence[Delivery]) -> None:
        """Begin the leases anew; SQS ends them 12 hours after the delivery all the same."""
        await self._hide(queue, deliveries, queue.lease)

    async def release(self, queue: WorkQueue, deliveries: Sequence[Delivery], delay: timedelta) -> None:
        """Give items back after a delay, in whole seconds."""
        await self._hide(queue, deliveries, delay)

    async def depth(self, queue: WorkQueue) -> Depth:
        """Ask for SQS's approximation."""
        known = await self._ensure(queue)
        async with self._asking(queue):
            found = await self._client.get_queue_attributes(
                QueueUrl=known.url,
                AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
            )
        counts = found["Attributes"]
        return Depth(
            waiting=int(counts.get("ApproximateNumberOfMessages", 0)),
            in_flight=int(counts.get("ApproximateNumberOfMessagesNotVisible", 0)),
        )

    async def _ensure(self, queue: WorkQueue) -> Known:
        if queue not in self._known:
            await self.prepare(queue)
        return self._known[queue]

    @asynccontextmanager
    async def _asking(self, queue: WorkQueue) -> AsyncIterator[None]:
        """Limit the requests under way, and translate their errors; a queue that is gone is looked for again."""
        async with self._gate:
            try:
                with translated(self.address, queue.name):
                    yield
            except QueueMissingError as error:
                self._known.pop(queue, None)
                raise unavailable(self.address, f"the queue {queue.name} is missing") from error

    async def _receive(self, queue: WorkQueue, limit: int, seconds: int) -> list[Delivery]:
        known = await self._ensure(queue)
        async with self._asking(queue):
            answer = await self._client.receive_message(
                QueueUrl=known.url,
                MaxNumberOfMessages=limit,
                WaitTimeSeconds=seconds,
                VisibilityTimeout=whole_seconds(queue.lease),
                MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
                MessageAttributeNames=[ID, ENCODING],
            )
        return [delivery_of(queue, message) for message in answer.get("Messages", ())]

    async def _hide(self, queue: WorkQueue, deliveries: Sequence[Delivery], how_long: timedelta) -> None:
        seconds = whole_seconds(min(how_long, LONGEST_HIDDEN))
        entries = [{"ReceiptHandle": delivery.handle, "VisibilityTimeout": seconds} for delivery in deliveries]
        await self._settle(queue, self._client.change_message_visibility_batch, entries)

    async def _settle(
        self, queue: WorkQueue, operation: Callable[..., Awaitable[Any]], entries: Sequence[Mapping[str, Any]]
    ) -> None:
        """Answer deliveries. What is refused for good had a lease that is over, and comes again or is gone."""
        faults = await self._batched(queue, operation, entries)
        if faults:
            log.info("SQS refused %d of %d answers in the queue %s: %s", len(faults), len(entries), queue.name, faults)

    async def _batched(
        self, queue: WorkQueue, operation: Callable[..., Awaitable[Any]], entries: Sequence[Mapping[str, Any]]
    ) -> list[str]:
        """Apply a batch operation to all entries, several batches at a time; the codes of what is refused for good."""
        if not entries:
            return []
        known = await self._ensure(queue)
        tasks = [
            asyncio.create_task(self._batch(queue, known, operation, list(batch))) for batch in in_batches(entries)
        ]
        try:
            return [fault for faults in await asyncio.gather(*tasks) for fault in faults]
        finally:
            # After the first failure the others need not find out for themselves.
            for task in tasks:
                task.cancel()

    async def _batch(
        self, queue: WorkQueue, known: Known, operation: Callable[..., Awaitable[Any]], entries: list[Mapping[str, Any]]
    ) -> list[str]:
        faults: list[str] = []
        failures: list[Any] = []
        for attempt in range(TRIES):
            await asyncio.sleep(0.1 * 2**attempt if attempt else 0)
            numbered = [{**entry, "Id": str(index)} for index, entry in enumerate(entries)]
            async with self._asking(queue):
                answer = await operation(QueueUrl=known.url, Entries=numbered)
            failures = answer.get("Failed", [])
            faults += [failure["Code"] for failure in failures if failure["SenderFault"]]
            entries = [entries[int(failure["Id"])] for failure in failures if not failure["SenderFault"]]
            if not entries:
                return faults
        raise unavailable(self.address, f"it fails with {failures[0]['Code']}")


def entry_of(item: QueueItem) -> dict[str, Any]:
    """Put an item into the form that SQS carries unchanged."""
    attributes = {} if item.id is None else {ID: text_attribute(item.id)}
    try:
        text = item.body.decode()
    except UnicodeDecodeError:
        text = ""
    if not TEXT.fullmatch(text):
        text = base64.b64encode(item.body).decode("ascii") or NOTHING
        attributes[ENCODING] = text_attribute(BASE64)
    return {"MessageBody": text, "MessageAttributes": attributes}


def text_attribute(value: str) -> dict[str, str]:
    """Write an attribute."""
    return {"DataType": "String", "StringValue": value}


def size_of(entry: Mapping[str, Any]) -> int:
    """Count what SQS counts: the body, and names, types and values of attributes."""
    attributes = entry.get("MessageAttributes", {}).items()
    extra = sum(len(name) + len("String") + len(value["StringValue"].encode()) for name, value in attributes)
    return len(entry.get("MessageBody", "").encode()) + extra


def in_batches(entries: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[Mapping[str, Any]]]:
    """Cut entries into batches of at most ten, and of no more bytes than SQS takes at once."""
    start = total = 0
    for index, entry in enumerate(entries):
        size = size_of(entry)
        if index > start and (index - start >= BATCH_ITEMS or total + size > BODY_LIMIT):
            yield entries[start:index]
            start, total = index, 0
        total += size
    yield entries[start:]


def delivery_of(queue: WorkQueue, message: MessageTypeDef) -> Delivery:
    """Read a delivery; without a usable id of its producer an item goes by the one that SQS gave it."""
    attributes = message.get("MessageAttributes") or {}
    encoding, name = (attributes[key].get("StringValue") if key in attributes else None for key in (ENCODING, ID))
    system = message["Attributes"]
    return Delivery(
        id=name if is_item_id(name) else f"{queue.name}/{message['MessageId']}",
        body=in_bytes(message["Body"]) if encoding == BASE64 else message["Body"].encode(),
        deliveries=int(system["ApproximateReceiveCount"]),
        sent=EPOCH + timedelta(milliseconds=int(system["SentTimestamp"])),
        handle=message["ReceiptHandle"],
    )


def in_bytes(text: str) -> bytes:
    """Read a body that travelled in base64. Text that is none is handed on as it is, for its pipeline to reject.

    Raising would fail the whole batch, again and again, for one message of another program.
    """
    try:
        # Encoders that follow MIME break lines.
        return b"" if text == NOTHING else base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        return text.encode()


def check_attributes(queue: WorkQueue, attributes: Mapping[Any, str]) -> None:
    """Refuse a queue that gives items up by itself, before their deliveries are what the declaration allows."""
    redrive = json.loads(attributes.get("RedrivePolicy") or "{}")
    most = int(redrive.get("maxReceiveCount", queue.max_deliveries + 1))
    if most <= queue.max_deliveries:
        message = (
            f"the queue {queue.name} exists in SQS, and its redrive policy moves items away after {most} deliveries: "
            f"remove the policy, or let it be more than the {queue.max_deliveries} of max_deliveries"
        )
        raise QueueMismatchError(message)


def whole_seconds(duration: timedelta) -> int:
    """Round up to what SQS counts in."""
    return max(0, math.ceil(duration.total_seconds()))
