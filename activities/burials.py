"""What becomes of items that failed: back to the queue, parked as dead letters, or given up, as the queue declares.

Guarantee: an item leaves the queue only after it is safe elsewhere. A dead letter's receipt comes first, then its
parking, and its acknowledgement last, so that a crash in between makes whoever gets the item next finish the job.
A receipt that is there already decides, whatever this try would have made of the item.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import random
import traceback
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from activities.failures import MOST_ERRORS
from activities.windows import Work, policy_of
from contracts.consume import ConsumeCounts
from contracts.dead_letters import INLINE_BYTES, Breakdown, DeadLetterInput
from contracts.errors import RecordRefusedError, TerminalError, TransientError
from contracts.ports import Burial, Failure
from contracts.queue import LONGEST_HIDDEN
from contracts.requests import REJECTED
from contracts.units import Unit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from contracts.pipeline import Pipeline
    from contracts.ports import FailureCount, FailureLedger, ObjectStore, Parking, Receipt, Sink

Standing = Literal["dead", "discarded", "elsewhere"]
"""What the receipt says of an item. `elsewhere`: it was stored meanwhile, or its id had another body before."""

PARKED_AT_ONCE = 16
LONGEST_MESSAGE = 1000
LONGEST_TRACE = 4000
SPREAD = (0.75, 1.0, 1.25)
"""Jitter: what failed together does not come back together. A few steps, because each one is a call."""


class TooManyDeliveriesError(TerminalError):
    """An item that was delivered too often, under which workers die or hang: nothing else explains their end."""

    code = "too_many_deliveries"


@dataclasses.dataclass
class Verdicts:
    """What was decided about failed works; those in `retries` come back after the delay they are listed under."""

    letters: list[tuple[Work, Breakdown]] = dataclasses.field(default_factory=list)
    discards: list[tuple[Work, Breakdown]] = dataclasses.field(default_factory=list)
    retries: dict[timedelta, list[Work]] = dataclasses.field(default_factory=lambda: defaultdict(list))


class Undertaker:
    """Decides about failed works of one pipeline, and buries those that are dead."""

    def __init__(
        self, pipeline: Pipeline, sink: Sink, failures: FailureLedger, objects: ObjectStore, parking: Parking
    ) -> None:
        self.pipeline = pipeline
        self.queue = pipeline.work_queue
        self.sink = sink
        self.failures = failures
        self.objects = objects
        self.parking = parking

    async def decide(self, works: Sequence[Work]) -> Verdicts:
        """Record the failures of those that may be tried again, and sort all by what becomes of them."""
        verdicts = Verdicts()
        tried: list[tuple[Work, Exception]] = []
        for work in works:
            error = work.error or RuntimeError("no outcome")
            policy = "dead-letter" if isinstance(error, TooManyDeliveriesError) else policy_of(self.queue, error)
            if policy == "retry":
                tried.append((work, error))
            elif policy == "discard":
                verdicts.discards.append((work, breakdown_of(error)))
            else:
                verdicts.letters.append((work, breakdown_of(error)))
        counts = await self.failures.count_failures(
            [Failure(work.unit, name_of(error), message_of(error)) for work, error in tried]
        )
        for (work, error), count in zip(tried, counts, strict=True):
            if count.attempts >= self.queue.max_attempts:
                verdicts.letters.append((work, breakdown_of(error, count)))
            else:
                delay = self.queue.delay_after(count.attempts) * random.choice(SPREAD)  # noqa: S311  - jitter
                verdicts.retries[min(delay, LONGEST_HIDDEN)].append(work)
        return verdicts

    async def bury(self, letters: Sequence[tuple[Work, Breakdown]]) -> list[Standing]:
        """Leave a dead receipt for each, then park; returns where each item stands, in order."""
        await self._leave_receipts(letters, "dead")
        return await self.park([work for work, _ in letters])

    async def discard(self, discards: Sequence[tuple[Work, Breakdown]]) -> list[Standing]:
        """Leave a receipt that says so for each item that is given up; returns where each item stands, in order.

        Whoever comes first decides: what an earlier try buried is no longer given up, but parked, if it is not yet.
        """
        await self._leave_receipts(discards, "discarded")
        return await self.park([work for work, _ in discards])

    async def park(self, works: Sequence[Work]) -> list[Standing]:
        """Park each item whose receipt is dead; whoever buried it may not have come to it. Returns where each stands.

        Letters are written from the receipts, so all attempts write the same. A letter that was decided has another
        receipt by then, and a parking refuses ids of letters that completed. A second body under the id of what is
        dead is no letter: the first one parks by itself, since it stays in the queue until it has.
        """
        standings: list[Standing] = ["elsewhere"] * len(works)
        remaining = iter(enumerate(works))

        async def park_next() -> None:
            for index, work in remaining:
                receipt = await self.sink.find_receipt(work.unit)
                if receipt is None or receipt.fingerprint != work.fingerprint:
                    continue
                if receipt.state == "dead":
                    await self.parking.park(self._letter(work, breakdown_in(receipt), await self._keep(work)))
                if receipt.state != "stored":
                    standings[index] = receipt.state

        # A few at a time; all are heard out, so that none goes on in the background after another one failed.
        ends = await asyncio.gather(*(park_next() for _ in range(PARKED_AT_ONCE)), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        return standings

    @contextlib.asynccontextmanager
    async def marking(self, work: Work, message: str) -> AsyncIterator[int]:
        """Record that an item is worked on alone, and take that back in the end; says how often it was begun.

        The mark stays if the worker dies meanwhile, or if it is cancelled: an item that hangs ends only that way.
        """
        marker = Unit.alone(self.pipeline.name, f"{work.unit.name}/begun")
        [begun] = await self.failures.count_failures([Failure(marker, TooManyDeliveriesError.__name__, message)])
        try:
            yield begun.attempts
        except Exception:
            await self._unmark(marker)
            raise
        # Not in a `finally`, which would also run when it is cancelled.
        await self._unmark(marker)

    async def _unmark(self, marker: Unit) -> None:
        """Take a mark back; one that cannot be for now is one too many, and harmless."""
        with contextlib.suppress(TransientError, OSError):
            await self.failures.forget_failures([marker])

    async def _leave_receipts(
        self, burials: Sequence[tuple[Work, Breakdown]], state: Literal["dead", "discarded"]
    ) -> None:
        """Leave receipts where there are none."""
        await self.failures.bury(
            [Burial(work.unit, work.fingerprint, breakdown.model_dump_json(), state) for work, breakdown in burials]
        )

    async def _keep(self, work: Work) -> str | None:
        """Store a body that is too large for a workflow's input.

        The name is the same in every attempt, and another one for another body under the same id.
        """
        if len(work.body) <= INLINE_BYTES:
            return None
        key = f"dead-letters/{self.pipeline.name}/{work.unit.receipt}/{work.fingerprint}"
        await self.objects.put(key, work.body)
        return key

    def _letter(self, work: Work, breakdown: Breakdown, key: str | None) -> DeadLetterInput:
        first = work.deliveries[0]
        return DeadLetterInput(
            pipeline=self.pipeline.name,
            queue=self.queue.name,
            item=first.id,
            unit=work.unit.name,
            fingerprint=work.fingerprint,
            # The field takes base64, and holds bytes.
            body=None if key else base64.b64encode(work.body),
            body_key=key,
            sent=first.sent,
            breakdown=breakdown,
        )


def counts_of(standings: Sequence[Standing]) -> ConsumeCounts:
    """Count failed items by where they stand in the end."""
    return ConsumeCounts(
        rejected=standings.count("dead"),
        discarded=standings.count("discarded"),
        duplicates=standings.count("elsewhere"),
    )


def name_of(error: Exception) -> str:
    """Name the kind of an error, as it can be searched for."""
    return REJECTED if isinstance(error, RecordRefusedError) else type(error).__name__


def message_of(error: Exception) -> str:
    """Take an error's text, in characters and a length that can be kept everywhere."""
    text = str(error) or type(error).__name__
    return text.replace("\0", "").encode(errors="replace").decode()[:LONGEST_MESSAGE]


def breakdown_of(error: Exception, count: FailureCount | None = None) -> Breakdown:
    """Say why an item is dead. The trace has places in code and no values."""
    now = datetime.now(UTC)
    # The first frame is ours.
    frames = traceback.extract_tb(error.__traceback__)[1:]
    refused = isinstance(error, RecordRefusedError)
    return Breakdown(
        error_type=name_of(error),
        message=message_of(error),
        trace="" if refused else "".join(traceback.format_list(frames))[-LONGEST_TRACE:],
        attempts=1 if count is None else count.attempts,
        first_failure=now if count is None else count.first,
        last_failure=now if count is None else count.last,
        errors=error.errors[:MOST_ERRORS] if isinstance(error, RecordRefusedError) else (),
    )


def breakdown_in(receipt: Receipt) -> Breakdown:
    """Read back why an item is dead from its receipt."""
    try:
        return Breakdown.model_validate_json(receipt.result)
    except ValidationError:
        now = datetime.now(UTC)
        return Breakdown(
            error_type="Unknown", message=receipt.result[:LONGEST_MESSAGE], first_failure=now, last_failure=now
        )
