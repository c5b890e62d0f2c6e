"""Queues in memory: the double that tests and time-skipping workflows use.

Guarantee: the same behaviour as `NatsQueue`, proven by the same contract suite, stale acknowledgements included: one
whose lease has run out removes the item, whoever holds its next lease. `down = True` is an outage, and `advance`
makes leases and delays run out without waiting for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import heapq
from collections import defaultdict, deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from contracts.errors import UnavailableError
from contracts.queue import Delivery, Depth, check_limit, too_large

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from contracts.queue import QueueItem, WorkQueue

DEDUPE_WINDOW = timedelta(minutes=2)
BODY_LIMIT = 8 * 1024 * 1024


def utc_now() -> datetime:
    """Read the machine's clock."""
    return datetime.now(UTC)


@dataclasses.dataclass
class Held:
    """An item in a queue. While it is hidden, leased or delayed, `due` says until when."""

    item: QueueItem
    sequence: int
    sent: datetime
    deliveries: int = 0
    due: datetime | None = None


@dataclasses.dataclass
class Line:
    """One queue: its items by number, the numbers in turn, and those that wait for their time.

    An entry of `ready` or `hidden` counts only while the item still is where the entry says.
    """

    items: dict[int, Held] = dataclasses.field(default_factory=dict)
    ready: deque[int] = dataclasses.field(default_factory=deque)
    hidden: list[tuple[datetime, int]] = dataclasses.field(default_factory=list)
    taken: dict[str, datetime] = dataclasses.field(default_factory=dict)
    sequence: int = 0

    def wake(self, now: datetime) -> None:
        """Make everything ready whose time has come."""
        while self.hidden and self.hidden[0][0] <= now:
            due, number = heapq.heappop(self.hidden)
            held = self.items.get(number)
            if held is not None and held.due == due:
                held.due = None
                self.ready.append(number)

    def hide(self, held: Held, due: datetime) -> None:
        """Keep an item back until then."""
        held.due = due
        heapq.heappush(self.hidden, (due, held.sequence))

    def forget_ids(self, now: datetime) -> None:
        """Drop the ids that are out of the window; they are in the order of their time."""
        while self.taken:
            name = next(iter(self.taken))
            if now - self.taken[name] <= DEDUPE_WINDOW:
                return
            del self.taken[name]


class MemoryQueue:
    """`contracts.queue.Queue` in dictionaries. While `down` is set, everything raises `UnavailableError`."""

    def __init__(self, clock: Callable[[], datetime] = utc_now) -> None:
        """Start empty and up. `clock` gives the time of leases, in UTC; `advance` adds to it."""
        self.down = False
        self._clock = clock
        self._ahead = timedelta()
        self._lines: defaultdict[str, Line] = defaultdict(Line)
        self._changed = asyncio.Event()

    def advance(self, by: timedelta) -> None:
        """Let that much time pass at once for leases, delays and repeated ids."""
        self._ahead += by
        self._notify()

    async def prepare(self, queue: WorkQueue) -> None:
        """Create the queue if it is absent."""
        self._check()
        _ = self._lines[queue.name]

    async def send(self, queue: WorkQueue, items: Sequence[QueueItem]) -> int:
        """Append items, all or none."""
        self._check()
        for item in items:
            if len(item.body) + len((item.id or "").encode()) > BODY_LIMIT:
                raise too_large(queue, item, BODY_LIMIT)
        line, now, new = self._lines[queue.name], self._now(), 0
        line.forget_ids(now)
        for item in items:
            if item.id is not None:
                if item.id in line.taken:
                    continue
                line.taken[item.id] = now
            line.sequence += 1
            line.items[line.sequence] = Held(item, line.sequence, now)
            line.ready.append(line.sequence)
            new += 1
        self._notify()
        return new

    async def fetch(self, queue: WorkQueue, limit: int, wait: timedelta) -> list[Delivery]:
        """Lease what is there, or what comes within `wait`, which is real time."""
        check_limit(limit)
        loop = asyncio.get_running_loop()
        end = loop.time() + wait.total_seconds()
        while True:
            self._check()
            found = self._take(queue, limit)
            left = end - loop.time()
            if found or left <= 0:
                return found
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, self._next_due(queue))):
                    await self._changed.wait()

    async def acknowledge(self, queue: WorkQueue, deliveries: Sequence[Delivery]) -> None:
        """Remove items, whoever holds them now."""
        self._check()
        line = self._lines[queue.name]
        for delivery in deliveries:
            line.items.pop(number_of(delivery), None)

    async def extend(self, queue: WorkQueue, deliveries: Sequence[Delivery]) -> None:
        """Begin the leases anew, whoever holds them now."""
        self._hide(queue, deliveries, queue.lease)

    async def release(self, queue: WorkQueue, deliveries: Sequence[Delivery], delay: timedelta) -> None:
        """Give items back, whoever holds them now."""
        self._hide(queue, deliveries, delay)

    async def depth(self, queue: WorkQueue) -> Depth:
        """Count exactly."""
        self._check()
        line = self._lines[queue.name]
        line.wake(self._now())
        hidden = sum(held.due is not None for held in line.items.values())
        return Depth(waiting=len(line.items) - hidden, in_flight=hidden)

    def _take(self, queue: WorkQueue, limit: int) -> list[Delivery]:
        line, now = self._lines[queue.name], self._now()
        line.wake(now)
        found: list[Delivery] = []
        while line.ready and len(found) < limit:
            held = line.items.get(line.ready.popleft())
            if held is None or held.due is not None:
                continue
            held.deliveries += 1
            line.hide(held, now + queue.lease)
            found.append(
                Delivery(
                    id=held.item.id or f"{queue.name}/{held.sent.isoformat()}/{held.sequence}",
                    body=held.item.body,
                    deliveries=held.deliveries,
                    sent=held.sent,
                    handle=f"{held.sequence}/{held.deliveries}",
                )
            )
        return found

    def _hide(self, queue: WorkQueue, deliveries: Sequence[Delivery], how_long: timedelta) -> None:
        self._check()
        line, now = self._lines[queue.name], self._now()
        for delivery in deliveries:
            held = line.items.get(number_of(delivery))
            # One that waits to be delivered again has no lease to begin anew.
            if held is not None and held.due is not None:
                line.hide(held, now + how_long)
        line.wake(now)
        self._notify()

    def _next_due(self, queue: WorkQueue) -> float:
        """Seconds until something hidden may become ready."""
        hidden = self._lines[queue.name].hidden
        return max((hidden[0][0] - self._now()).total_seconds(), 0.001) if hidden else float("inf")

    def _notify(self) -> None:
        """Wake everyone who waits."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _now(self) -> datetime:
        return self._clock() + self._ahead

    def _check(self) -> None:
        if self.down:
            service = "queue"
            raise UnavailableError(service, address="memory", reason="down")


def number_of(delivery: Delivery) -> int:
    """Read the item's number from a handle."""
    return int(delivery.handle.partition("/")[0])
