"""A window of a queue: deliveries that were fetched together, validated and processed one by one.

Guarantee: every item of a window has an outcome of its own, and none costs its neighbours anything: a row, a record
that was dropped, an error, or no outcome at all because there was no time left for it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import itertools
from typing import TYPE_CHECKING, Literal

from activities.cells import row_getter
from activities.process import PASSED_ON
from activities.validate import validate_text
from contracts.errors import RecordRefusedError
from contracts.pipeline import is_async
from contracts.ports import Item
from contracts.units import Unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from contracts.pipeline import Pipeline
    from contracts.queue import Delivery, Policy, WorkQueue
    from contracts.record import Record
    from contracts.table import Row

ASYNC_AT_ONCE = 64


@dataclasses.dataclass
class Work:
    """One item of a window. `deliveries`, of the same id and bytes, are several if a window has it twice."""

    unit: Unit
    deliveries: list[Delivery]
    outcome: Literal["open", "row", "dropped", "failed"] = "open"
    row: Row | None = None
    error: Exception | None = None

    @property
    def body(self) -> bytes:
        """The bytes of the item."""
        return self.deliveries[0].body

    @property
    def fingerprint(self) -> str:
        """Identify the payload: the SHA-256 of its bytes, since what is no JSON has no canonical form."""
        return hashlib.sha256(self.deliveries[0].body).hexdigest()

    @property
    def count(self) -> int:
        """How often the item was delivered, as far as the broker knows."""
        return max(delivery.deliveries for delivery in self.deliveries)

    def fail(self, error: Exception) -> None:
        """Note an error as the outcome."""
        self.outcome, self.error = "failed", error

    def item(self) -> Item:
        """Make what the sink is given."""
        return Item(self.unit, self.fingerprint, self.row)


def unit_of(pipeline: Pipeline, queue: WorkQueue, name: str) -> Unit:
    """Name the unit of an item: the same for every delivery of it."""
    return Unit.alone(pipeline.name, f"item/{queue.name}/{name}")


def works_of(pipeline: Pipeline, deliveries: Iterable[Delivery]) -> list[Work]:
    """Make the works of a window; deliveries of the same item belong together.

    Another body under the same id is a work of its own: what becomes of it decides about its own delivery alone.
    """
    queue = pipeline.work_queue
    works: dict[tuple[str, bytes], Work] = {}
    for delivery in deliveries:
        known = works.get((delivery.id, delivery.body))
        if known is None:
            works[delivery.id, delivery.body] = Work(unit_of(pipeline, queue, delivery.id), [delivery])
        else:
            known.deliveries.append(delivery)
    return list(works.values())


def policy_of(queue: WorkQueue, error: Exception) -> Policy:
    """Say what becomes of an item that failed: as declared; else what can never be valid is parked at once."""
    declared = queue.policy_for(error)
    if declared is not None:
        return declared
    return "dead-letter" if isinstance(error, RecordRefusedError) else "retry"


def looks_like_outage(queue: WorkQueue, error: Exception | None) -> bool:
    """Whether an item failed in a way that an outage would cause. What a policy gives up or parks says nothing."""
    return isinstance(error, PASSED_ON) and policy_of(queue, error) == "retry"


class Judge:
    """Validates and processes the items of one pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.getter = row_getter(tuple(column.name for column in pipeline.table.columns))
        self.asynchronous = pipeline.process is not None and is_async(pipeline.process)

    async def judge(self, works: Sequence[Work], late: Callable[[], bool]) -> None:
        """Give every work its outcome; once it is `late`, those without one are left open."""
        if not self.asynchronous:
            await asyncio.to_thread(self.judge_now, works, late)
            return
        records = await asyncio.to_thread(self.validate, works)
        # Each of these takes the next one when it is done with one, so that a slow item holds up itself alone.
        remaining = iter(records)
        await asyncio.gather(*(self.process_next(remaining, late) for _ in range(min(ASYNC_AT_ONCE, len(records)))))

    def validate(self, works: Sequence[Work]) -> list[tuple[Work, Record]]:
        """Validate all, and give those that are valid."""
        found = []
        for work in works:
            try:
                found.append((work, validate_text(self.pipeline, work.body)))
            except RecordRefusedError as error:
                work.fail(error)
        return found

    def judge_now(self, works: Sequence[Work], late: Callable[[], bool]) -> None:
        """Do everything in this thread, for a pipeline whose `process` is not async."""
        pipeline, process = self.pipeline, self.pipeline.process
        for work in works:
            if late():
                return
            try:
                record = validate_text(pipeline, work.body)
                self.settle(work, record if process is None else process(record))
            except Exception as error:  # noqa: BLE001  - whatever user code raises is that record's own
                work.fail(error)

    async def process_next(self, remaining: Iterator[tuple[Work, Record]], late: Callable[[], bool]) -> None:
        """Process one record after the other until none is left."""
        process = self.pipeline.process
        if process is None:
            return
        for work, record in itertools.takewhile(lambda _: not late(), remaining):
            try:
                self.settle(work, await process(record))
            except Exception as error:  # noqa: BLE001  - as above
                work.fail(error)

    def settle(self, work: Work, result: object) -> None:
        """Take what `process` returned. Raises `TypeError` if that is not what it declares."""
        if result is None:
            work.outcome = "dropped"
        elif isinstance(result, self.pipeline.row):
            work.outcome, work.row = "row", self.getter(result.__dict__)
        else:
            message = f"process returned {type(result).__name__} instead of {self.pipeline.row.__name__}"
            raise TypeError(message)
