"""One turn of a consumer: fetch a window of items, judge each, commit what is good together, and only then acknowledge.

Guarantee: an item leaves the queue after its receipt says what became of it, so every item is stored once or parked
once, whatever dies in between, and whoever else has it. An outage of any service ends the turn with a reason: what is
not acknowledged goes back to the queue, and nothing is held against it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING

from temporalio import activity

from activities.breaker import Breaker
from activities.burials import TooManyDeliveriesError, Undertaker, counts_of
from activities.pulse import pulse
from activities.requests import find_pipeline
from activities.windows import Judge, Work, looks_like_outage, works_of
from contracts.consume import ConsumeCounts, ConsumeTurn, TurnResult
from contracts.errors import RecordRefusedError, TerminalError, TransientError, UnknownPipelineError
from contracts.record import FieldError
from contracts.units import Unit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from activities.pulse import Pulse
    from contracts.pipeline import Pipeline
    from contracts.ports import FailureLedger, ItemOutcome, ObjectStore, Parking, Sink
    from contracts.queue import Delivery, Queue

log = logging.getLogger(__name__)

OUTAGES = (TransientError, TerminalError, OSError)
"""What ends a turn with a reason. A terminal error, such as a table that does not match, wants an operator; the items
wait in the queue meanwhile, and are none the worse for it."""

WAIT = timedelta(seconds=1)
"""How long a fetch waits for a first item; a stop is noticed no later than that."""

PROBE_ITEMS = 10
FIRST_ITEMS = 100
QUICK_SECONDS, SLOW_SECONDS, MOST_SECONDS = 1.0, 5.0, 20.0
"""A window that is judged quickly is followed by a larger one, a slow one by a smaller one. What is not judged after
the last of these is given back."""

LAST_WINDOW_SECONDS = 20.0
"""How long a turn that is told to stop may take for its windows in flight."""

ISOLATE_AFTER = 10
"""Deliveries after which an item is worked on alone, so that it is known who did it if the worker dies."""

DEATHS = 3
"""Workers that have to die over an item alone, or steps that have to run out of time, before it is a dead letter,
whatever the broker counts: outages and restarts make deliveries, too."""

EMPTY_LOOKS = 2


class ConsumeActivities:
    """The activity of `consume`, over the pipelines and ports it was built with."""

    def __init__(
        self,
        pipelines: Mapping[str, Pipeline],
        queue: Queue,
        sink: Sink,
        failures: FailureLedger,
        objects: ObjectStore,
        parking: Parking,
    ) -> None:
        self.pipelines = pipelines
        self.queue = queue
        self.sink = sink
        self.failures = failures
        self.objects = objects
        self.parking = parking
        self.breakers: defaultdict[str, Breaker] = defaultdict(Breaker)

    @activity.defn
    async def consume_items(self, turn: ConsumeTurn) -> TurnResult:
        """Consume for a while. A cancellation, or the end of the worker, ends the turn after its windows in flight."""
        try:
            pipeline = find_pipeline(self.pipelines, turn.pipeline)
        except UnknownPipelineError as error:
            return TurnResult(reason=str(error), error_type=type(error).__name__)
        async with pulse() as beat:
            consumer = Consumer(self, pipeline, turn, beat)
            running = asyncio.ensure_future(consumer.run())
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                consumer.stopped = True
                await asyncio.wait([running], timeout=LAST_WINDOW_SECONDS)
                if not running.done():
                    running.cancel()
                    raise
                return running.result()


class Consumer:
    """One turn: at most two windows are in hand, one that is being committed and the one after it."""

    def __init__(self, ports: ConsumeActivities, pipeline: Pipeline, turn: ConsumeTurn, beat: Pulse) -> None:
        self.ports = ports
        self.pipeline = pipeline
        self.queue = pipeline.work_queue
        self.judge = Judge(pipeline)
        self.undertaker = Undertaker(pipeline, ports.sink, ports.failures, ports.objects, ports.parking)
        self.breaker = ports.breakers[pipeline.name]
        self.turn = turn
        self.beat = beat
        self.stopped = False
        self.succeeded = False
        self.ends = time.monotonic() + turn.seconds
        self.size = min(turn.batch, PROBE_ITEMS if turn.probe else FIRST_ITEMS)
        self.counts = counted_before()
        # Before the first heartbeat, or another attempt after this one would not hear of it.
        beat.reach(self.counts)
        self.held: dict[str, Delivery] = {}
        self.empty = False
        self.looks = 0

    async def run(self) -> TurnResult:
        """Consume until the turn is over, or something has to be waited for."""
        try:
            with self.breaker.watching(afresh=self.turn.probe):
                async with self.keeping():
                    reason = await self.consume()
        except OUTAGES as error:
            return TurnResult(counts=self.counts, reason=str(error), error_type=type(error).__name__)
        return TurnResult(
            counts=self.counts, reason=reason, error_type="TransientFailures" if reason else "", empty=self.empty
        )

    async def consume(self) -> str:
        """Take windows one after the other; returns why the breaker opened, if it did."""
        await self.ports.sink.prepare(self.pipeline.table)
        # A look that goes to the server: as long as it fails, no item is taken out of the queue at all.
        await self.ports.sink.find_receipt(Unit.alone(self.pipeline.name, "probe"))
        following: asyncio.Future[list[Work] | None] | None = asyncio.ensure_future(self.next_window())
        try:
            while following is not None and (works := await following) is not None:
                # The next window is fetched and judged while this one is committed.
                following = None if self.turn.probe else asyncio.ensure_future(self.next_window())
                if reason := await self.settle_all(works):
                    return reason
        finally:
            self.stopped = True
            if following is not None:
                with contextlib.suppress(*OUTAGES):
                    await following
        return ""

    @property
    def turn_length(self) -> timedelta:
        """How long the turn lasts."""
        return timedelta(seconds=self.turn.seconds)

    @property
    def over(self) -> bool:
        """Whether no further window should be taken."""
        stopping = activity.in_activity() and activity.is_worker_shutdown()
        return self.stopped or stopping or time.monotonic() >= self.ends

    async def next_window(self) -> list[Work] | None:
        """Fetch and judge a window, or return None if the turn is over."""
        while not self.over:
            wait = min(WAIT, timedelta(seconds=max(self.ends - time.monotonic(), 0)), self.turn_length / 10)
            deliveries = await self.ports.queue.fetch(self.queue, self.size, wait)
            if not deliveries:
                if self.turn.probe or (self.turn.drain and await self.is_empty()):
                    return None
                continue
            self.looks = 0
            self.held |= {delivery.handle: delivery for delivery in deliveries}
            works = works_of(self.pipeline, deliveries)
            began = time.monotonic()
            await self.judge.judge([work for work in works if not self.suspicious(work)], self.lateness(began))
            self.adapt(time.monotonic() - began)
            return works
        return None

    async def is_empty(self) -> bool:
        """Whether the queue holds nothing at all, looked at more than once: some brokers count with a delay."""
        depth = await self.ports.queue.depth(self.queue)
        self.looks = 0 if depth.waiting or depth.in_flight else self.looks + 1
        self.empty = self.looks >= EMPTY_LOOKS
        return self.empty

    def lateness(self, began: float) -> Lateness:
        """Make the question whether a window has taken too long."""
        return Lateness(self, began + MOST_SECONDS)

    def adapt(self, seconds: float) -> None:
        """Size the next window by how long this one took."""
        if seconds < QUICK_SECONDS:
            self.size = min(self.size * 2, self.turn.batch)
        elif seconds > SLOW_SECONDS:
            self.size = max(self.size // 2, 1)

    def suspicious(self, work: Work) -> bool:
        """Whether an item came so often that workers may have died over it."""
        return work.count > min(ISOLATE_AFTER, self.queue.max_deliveries)

    async def settle_all(self, works: Sequence[Work]) -> str:
        """Settle a window, and after it, one by one, what came too often; returns why to pause, if so."""
        together = [work for work in works if not self.suspicious(work)]
        alone = [work for work in works if self.suspicious(work)]
        reason = ""
        self.succeeded = False
        try:
            reason = await self.settle(together)
        except OUTAGES:
            raise
        except Exception:
            # Nobody knows of such an error, so it may be the fault of one of them, and costs the others nothing.
            log.exception("a window of %s fails as a whole; its items are tried one by one", self.pipeline.name)
            alone = [work for work in works if work.deliveries[0].handle in self.held]
        for work in alone:
            if not reason and not self.stopped:
                reason = await self.settle_alone(work)
        # What there was no time for: no fault of the items.
        await self.give_back(work for work in works if work.outcome == "open")
        return reason

    async def settle_alone(self, work: Work) -> str:
        """Work on an item that came too often, with a mark in the ledger while that lasts."""
        message = f"delivered {work.count} times; workers die over it, or it never ends"
        async with self.undertaker.marking(work, message) as begun:
            if work.count > self.queue.max_deliveries and begun > DEATHS:
                work.fail(TooManyDeliveriesError(message))
            else:
                await self.judge.judge([work], self.lateness(time.monotonic()))
            try:
                return await self.settle([work])
            except OUTAGES:
                raise
            except Exception as error:  # noqa: BLE001  - whatever it is, it is about this item
                work.fail(error)
                await self.see_to([work])
                return ""

    async def settle(self, works: Sequence[Work]) -> str:
        """Commit and acknowledge what is good, then see to what failed; returns why to pause, if so."""
        good = [work for work in works if work.outcome in {"row", "dropped"}]
        failed = [work for work in works if work.outcome == "failed"]
        self.breaker.note(looks_like_outage(self.queue, work.error) for work in works if work.outcome != "open")
        failed += await self.store(good)
        self.succeeded = self.succeeded or bool(good)
        reason = self.breaker.opens(probe=self.turn.probe, succeeded=self.succeeded)
        # Where another item of a probe succeeds, failures count, or items at fault would keep a pause up for ever.
        if reason and not (self.turn.probe and self.succeeded):
            for work in failed:
                work.outcome = "open"
            await self.give_back(failed)
            return reason
        await self.see_to(failed)
        return reason

    async def store(self, works: Sequence[Work]) -> list[Work]:
        """Commit rows and receipts in one transaction, then acknowledge; returns what the sink refused."""
        if not works:
            return []
        outcomes = await self.ports.sink.write(self.pipeline.table, [work.item() for work in works], records=False)
        done: list[Work] = []
        dead: list[Work] = []
        refused: list[Work] = []
        stored = dropped = 0
        for work, outcome in zip(works, outcomes, strict=True):
            if outcome.status == "refused":
                work.fail(refusal(outcome))
                refused.append(work)
                continue
            (dead if outcome.status == "dead" else done).append(work)
            if outcome.status == "stored":
                dropped += work.row is None
                stored += work.row is not None
        # Whoever buried them may not have come to park them.
        await self.undertaker.park(dead)
        await self.finish(
            [*done, *dead],
            ConsumeCounts(written=stored, dropped=dropped, duplicates=len(done) + len(dead) - stored - dropped),
        )
        return refused

    async def see_to(self, failed: Sequence[Work]) -> None:
        """Record failures; bury, discard or give back."""
        if not failed:
            return
        verdicts = await self.undertaker.decide(failed)
        if verdicts.letters:
            standings = await self.undertaker.bury(verdicts.letters)
            await self.finish([work for work, _ in verdicts.letters], counts_of(standings))
        if verdicts.discards:
            standings = await self.undertaker.discard(verdicts.discards)
            await self.finish([work for work, _ in verdicts.discards], counts_of(standings))
        for delay, works in verdicts.retries.items():
            await self.release([delivery for work in works for delivery in work.deliveries], delay)
            self.count(works, ConsumeCounts(retried=len(works)))

    async def finish(self, works: Sequence[Work], counts: ConsumeCounts) -> None:
        """Forget failures of works that are decided, acknowledge them and count them."""
        # An item that failed before came before.
        again = [work.unit for work in works if work.count > 1]
        if again:
            await self.ports.failures.forget_failures(again)
        deliveries = [delivery for work in works for delivery in work.deliveries]
        if deliveries:
            await self.ports.queue.acknowledge(self.queue, deliveries)
        for delivery in deliveries:
            self.held.pop(delivery.handle, None)
        self.count(works, counts)

    def count(self, works: Sequence[Work], counts: ConsumeCounts) -> None:
        """Add to the counts; a second delivery within a window is a duplicate."""
        read = sum(len(work.deliveries) for work in works)
        self.counts += counts + ConsumeCounts(read=read, duplicates=read - len(works))
        self.beat.reach(self.counts)

    async def give_back(self, works: Iterable[Work]) -> None:
        """Release works at once."""
        await self.release([delivery for work in works for delivery in work.deliveries], timedelta())

    async def release(self, deliveries: Sequence[Delivery], delay: timedelta) -> None:
        """Give deliveries back to the queue, apart from those that were already."""
        deliveries = [delivery for delivery in deliveries if delivery.handle in self.held]
        if deliveries:
            await self.ports.queue.release(self.queue, deliveries, delay)
        for delivery in deliveries:
            self.held.pop(delivery.handle, None)

    @contextlib.asynccontextmanager
    async def keeping(self) -> AsyncIterator[None]:
        """Extend the leases of all that is held, and release whatever is left of it in the end."""
        extending = asyncio.create_task(self.extend())
        try:
            yield
        finally:
            extending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await extending
            # If the broker does not answer either, the leases run out by themselves.
            with contextlib.suppress(*OUTAGES):
                await self.release(list(self.held.values()), timedelta())

    async def extend(self) -> None:
        """Begin the leases of what was held for a third of a lease anew, as long as it takes."""
        seen: set[str] = set()
        while True:
            await asyncio.sleep(self.queue.lease.total_seconds() / 3)
            old = [delivery for handle, delivery in self.held.items() if handle in seen]
            seen = set(self.held)
            with contextlib.suppress(*OUTAGES):
                await self.ports.queue.extend(self.queue, old)


@dataclasses.dataclass(frozen=True)
class Lateness:
    """Asked before each item, also from another thread: whether its window took too long, or its turn is to stop."""

    consumer: Consumer
    end: float

    def __call__(self) -> bool:
        """Say so."""
        return self.consumer.stopped or time.monotonic() > self.end


def refusal(outcome: ItemOutcome) -> RecordRefusedError:
    """Say that the sink cannot hold a row."""
    return RecordRefusedError((FieldError(field=outcome.column, code=outcome.code, message=outcome.message),))


def counted_before() -> ConsumeCounts:
    """Take over what an attempt at this turn reported before it died. What it did after that is not counted."""
    if activity.in_activity():
        for detail in activity.info().heartbeat_details:
            return ConsumeCounts.model_validate(detail)
    return ConsumeCounts()
