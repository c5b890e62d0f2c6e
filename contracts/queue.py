"""Queues: what a pipeline declares about its own, and the port behind which the brokers stand.

Guarantee: an item is durable when `send` returns, and the queue holds it until it is acknowledged, so every item is
delivered at least once. It may come more than once: leases run out, and no broker fences acknowledgements.
Whoever consumes makes effects happen once, by receipts under the delivery's `id`, which is always the same.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, Protocol, TypeGuard, get_args

from contracts.errors import DeclarationError, TerminalError

Policy = Literal["retry", "dead-letter", "discard"]
"""What becomes of an item that failed: back to the queue with a delay, parked at once, or acknowledged and counted."""

NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
LONGEST_ID = 512
LONGEST_HIDDEN = timedelta(hours=12)
"""SQS hides an item no longer than that from when it was delivered, however often its lease is extended."""
SHORTEST_LEASE = timedelta(milliseconds=100)
LONGEST_BATCH = 1000


class ItemRefusedError(TerminalError):
    """An item that no queue takes: its id is empty, too long, or not plain text."""

    code = "item_refused"


class ItemTooLargeError(TerminalError):
    """An item that this broker will never take. A body of any size can be stored, and sent by reference."""

    code = "item_too_large"


class QueueMismatchError(DeclarationError):
    """A queue of that name exists, and is not of the kind that keeps the guarantee."""

    code = "queue_mismatch"


@dataclasses.dataclass(frozen=True)
class WorkQueue:
    """A queue that a pipeline owns.

    An item that was delivered is invisible for its `lease`; unless it is acknowledged or extended by then, it is
    delivered again. Of its `max_attempts` only recorded failures count: the outage of a sink or a crash of the worker
    is not the item's fault. `max_deliveries` is the limit, much higher, for items that kill their worker.
    Between two attempts it waits, from `retry_first` on, twice as long each time, at most `retry_last`.
    `policies` maps exception classes to what happens at once when one of them is raised; subclasses are included,
    and the closest class decides. Brokers that count in seconds round a lease and a delay up.
    """

    name: str
    lease: timedelta = timedelta(seconds=30)
    max_attempts: int = 5
    max_deliveries: int = 50
    retry_first: timedelta = timedelta(seconds=1)
    retry_last: timedelta = timedelta(minutes=10)
    policies: Mapping[type[Exception], Policy] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Check the whole declaration. Raises `DeclarationError`."""
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            what = "use a lower-case letter, then letters, digits, hyphens and underscores, 63 at most"
            message = f"queue {self.name!r}: {what}"
            raise DeclarationError(message)
        wrong = [*self._wrong_durations(), *self._wrong_counts(), *self._wrong_policies()]
        if wrong:
            message = f"queue {self.name}: {wrong[0]}"
            raise DeclarationError(message)

    def policy_for(self, error: BaseException) -> Policy | None:
        """Look up what the declaration says about an error; None if it says nothing."""
        return next((self.policies[kind] for kind in type(error).__mro__ if kind in self.policies), None)

    def delay_after(self, failures: int) -> timedelta:
        """Say how long an item waits after that many recorded failures; without jitter, which is the caller's."""
        delay = self.retry_first
        for _ in range(failures - 1):
            if delay >= self.retry_last:
                break
            delay *= 2
        return min(delay, self.retry_last)

    def _wrong_durations(self) -> list[str]:
        durations = {"lease": self.lease, "retry_first": self.retry_first, "retry_last": self.retry_last}
        for name, value in durations.items():
            if not isinstance(value, timedelta):
                return [f"{name} must be a timedelta"]
        wrong = [f"{name} must be positive" for name, value in durations.items() if value <= timedelta()]
        wrong += [f"{name} must be at most 12 hours" for name, value in durations.items() if value > LONGEST_HIDDEN]
        if self.lease < SHORTEST_LEASE:
            wrong.append("lease must be at least 100 ms")
        if self.retry_first > self.retry_last:
            wrong.append("retry_first must not be longer than retry_last")
        return wrong

    def _wrong_counts(self) -> list[str]:
        for name in ("max_attempts", "max_deliveries"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                return [f"{name} must be a whole number of at least 1"]
        if self.max_deliveries < self.max_attempts:
            return ["max_deliveries must not be less than max_attempts"]
        return []

    def _wrong_policies(self) -> list[str]:
        if not isinstance(self.policies, Mapping):
            return ["policies must map exception classes to policies"]
        wrong = []
        for kind, policy in self.policies.items():
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                wrong.append(f"policies: {kind!r} is no exception class")
            if policy not in get_args(Policy):
                wrong.append(f"policies: {policy!r} is none of {', '.join(get_args(Policy))}")
        return wrong


def is_item_id(name: str | None) -> TypeGuard[str]:
    """Say whether a name can be kept everywhere that an item goes: receipts, workflow ids, JSON, terminals.

    Other programs may send anything. A broker's adapter passes an id of theirs on only if it keeps this rule, and
    else names the item itself: one odd message must not stop its queue.
    """
    return name is not None and 0 < len(name) <= LONGEST_ID and name.isprintable() and name == name.strip()


@dataclasses.dataclass(frozen=True)
class QueueItem:
    """What a producer sends. `id` is the producer's name for it: the same id is the same item, whatever its body.

    Without an id the queue names each item that it takes, so a repeated `send` makes another item. Raises
    `ItemRefusedError` for an id that is empty, longer than 512 characters, not printable, or has spaces at its ends.
    """

    body: bytes
    id: str | None = None

    def __post_init__(self) -> None:
        """Refuse an id that could not be kept everywhere that an item goes."""
        if self.id is None or is_item_id(self.id):
            return
        what = f"an id has 1 to {LONGEST_ID} printable characters, and no space at its ends"
        message = f"the item id {self.id[:60]!r} is refused: {what}"
        raise ItemRefusedError(message)


@dataclasses.dataclass(frozen=True)
class Delivery:
    """One delivery of an item.

    `id` is the producer's id if it is one (`is_item_id`), else the queue's name with what the broker tells the item
    apart by: the same in every delivery, and never that of another item, even if the queue is removed and made anew.
    `deliveries` counts this one, too; it is the broker's count, which a crash of the broker may set back. `sent` is
    when the broker took the item, in UTC.
    `handle` is the broker's word for this delivery: opaque text that any connection can acknowledge with.
    """

    id: str
    body: bytes
    deliveries: int
    sent: datetime
    handle: str


@dataclasses.dataclass(frozen=True)
class Depth:
    """How many items a queue holds, as well as the broker tells.

    `waiting` can be fetched now; `in_flight` are leased, or were released with a delay that is not over.
    """

    waiting: int
    in_flight: int


class Queue(Protocol):
    """A broker that keeps queues. All methods raise `UnavailableError` while it does not answer.

    **A lease is a courtesy, not a lock.** A delivery whose lease has run out may be acknowledged all the same, and
    what that does to the item's later delivery is the broker's affair: NATS removes the item, SQS promises nothing.
    So an item must be safe elsewhere (its receipt committed) before it is acknowledged.

    **Bodies** are any bytes. NATS takes what its `max_payload` allows (8 MB in the stack, 1 MB unless configured),
    SQS 1 MiB (1,048,576 bytes), of which a body that is not text fills 4/3 of its size; both less some hundred
    bytes for the id. More goes by reference (claim check).
    """

    async def prepare(self, queue: WorkQueue) -> None:
        """Create the queue if it is absent, and bring its lease up to date. Raises `QueueMismatchError`.

        The other methods prepare a queue that this object has not seen yet.
        """
        ...

    async def send(self, queue: WorkQueue, items: Sequence[QueueItem]) -> int:
        """Put items into the queue; all are durable when this returns. Returns how many of them were new to it.

        Brokers that can, leave out an item whose id they took within their window (NATS: two minutes). Others count
        all as new, and the repeats are the consumer's to notice. If this raises, some may have been sent:
        repeat it with the same ids. Raises `ItemTooLargeError` before anything is sent.
        """
        ...

    async def fetch(self, queue: WorkQueue, limit: int, wait: timedelta) -> list[Delivery]:
        """Lease up to `limit` items, in no promised order. Waits at most `wait` for the first, not for a full batch.

        Without any item by then the batch is empty. `limit` is 1 to 1,000; a broker may give fewer than there are.
        """
        ...

    async def acknowledge(self, queue: WorkQueue, deliveries: Sequence[Delivery]) -> None:
        """Remove items for good: once this returns, they are gone.

        Deliveries whose lease has run out are tried as well (see above), and those that are gone already count as
        done. If this raises, some may be gone: repeating it is safe.
        """
        ...

    async def extend(self, queue: WorkQueue, deliveries: Sequence[Delivery]) -> None:
        """Begin the leases anew, at full length. Leases that were lost stay lost, silently.

        SQS delivers an item again 12 hours after its delivery, however often it was extended.
        """
        ...

    async def release(self, queue: WorkQueue, deliveries: Sequence[Delivery], delay: timedelta) -> None:
        """Give items back, to be delivered again once the delay is over (0 to 12 hours)."""
        ...

    async def depth(self, queue: WorkQueue) -> Depth:
        """Count what is in the queue; not a snapshot, and on SQS an estimate that lags by up to a minute."""
        ...


def check_limit(limit: int) -> None:
    """Refuse a size of batches that a queue does not promise."""
    if not 1 <= limit <= LONGEST_BATCH:
        message = f"a batch has 1 to {LONGEST_BATCH:,} items, not {limit:,}"
        raise ValueError(message)


def too_large(queue: WorkQueue, item: QueueItem, limit: int) -> ItemTooLargeError:
    """Build the error for an item that its broker does not take; `limit` is the broker's, in bytes."""
    name = f"{item.id} " if item.id else ""
    return ItemTooLargeError(
        f"the item {name}of {len(item.body):,} bytes is too large for the queue {queue.name}, whose broker takes "
        f"{limit:,} bytes with the id: store it, and send a reference"
    )
