"""One pass over a text file: plan its chunks window by window, and load or check each of them.

Guarantee: every chunk is asked for under a unit named by its bytes, so asking again changes nothing; chunks in
flight are always heard out, whatever ends the pass, and what they committed is counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from temporalio import workflow
from temporalio.exceptions import ActivityError

from workflows.options import CHUNKS_IN_FLIGHT, FIRST_WINDOW, LARGEST_WINDOW, LAST_CHUNKS, LOAD_CHUNK, READ_FILE

with workflow.unsafe.imports_passed_through():
    from activities.files import FileActivities
    from activities.loads import LoadActivities
    from contracts.loads import Chunk, ChunkResult, Counts, LoadChunk, Plan, PlanChunks, Reading
    from contracts.units import Unit

if TYPE_CHECKING:
    from collections.abc import Callable

MEGABYTE = 1_000_000


class ChunkPass:
    """Reads on from where `reading` stands. `progressed` is called after every chunk, to tell the world."""

    def __init__(
        self, pipeline: str, reading: Reading, chunk_bytes: int, quota: int, progressed: Callable[[], None]
    ) -> None:
        self.pipeline = pipeline
        self.reading = reading
        self.chunk_bytes = chunk_bytes
        self.quota = quota
        self.progressed = progressed
        self.done_bytes = reading.start
        self.counts = reading.counts
        self.line = reading.line
        self.position = reading.start
        self.queue: deque[Chunk] = deque()
        self.in_flight: dict[asyncio.Task[ChunkResult], Chunk] = {}
        self.planning: asyncio.Task[Plan] | None = None
        self.planned = reading.start >= reading.text.size
        self.window = FIRST_WINDOW
        self.width = 1 if reading.text.ordered and not reading.checking else CHUNKS_IN_FLIGHT

    async def run(self) -> bool:
        """Read until the file ends (True), or until this run's history should end (False).

        Either way nothing is in flight afterwards, and `reading` says where to go on. Raises what ended a step
        for good, or the cancellation, after every chunk in flight was heard out.
        """
        try:
            while True:
                self.dispatch()
                waiting_for: list[asyncio.Task[ChunkResult] | asyncio.Task[Plan]] = [*self.in_flight]
                if self.planning is not None:
                    waiting_for.append(self.planning)
                if not waiting_for:
                    break
                await workflow.wait(waiting_for, return_when=asyncio.FIRST_COMPLETED)
                self.collect()
        except (asyncio.CancelledError, ActivityError):
            await self.drain()
            raise
        finally:
            self.settle()
        return self.planned and not self.queue

    @property
    def pausing(self) -> bool:
        """Whether no further chunk may start in this run."""
        return self.quota <= 0 or workflow.info().is_continue_as_new_suggested()

    def dispatch(self) -> None:
        """Start as many chunks as may be in flight, and plan ahead of them."""
        if self.pausing:
            return
        while self.queue and len(self.in_flight) < self.width and self.quota > 0:
            chunk = self.queue.popleft()
            self.quota -= 1
            self.position = chunk.end
            self.in_flight[self.start(chunk)] = chunk
        if not self.planned and self.planning is None and len(self.queue) <= self.window // 2 and not self.pausing:
            after = self.queue[-1].end if self.queue else self.position
            self.planning = workflow.start_activity_method(
                FileActivities.plan_chunks,
                PlanChunks(
                    text=self.reading.text,
                    start=after,
                    line=self.line,
                    limit=self.window,
                    chunk_bytes=self.chunk_bytes,
                ),
                summary=f"plan chunks from line {self.line}",
                **READ_FILE,
            )
            self.window = min(self.window * 2, LARGEST_WINDOW)

    def start(self, chunk: Chunk) -> asyncio.Task[ChunkResult]:
        """Ask for one chunk."""
        reading = self.reading
        return workflow.start_activity_method(
            LoadActivities.check_chunk if reading.checking else LoadActivities.load_chunk,
            LoadChunk(
                pipeline=self.pipeline,
                text=reading.text,
                chunk=chunk,
                unit=Unit.of_range(self.pipeline, reading.series, chunk.start, chunk.end),
                rejects=reading.rejects,
            ),
            summary=f"rows from line {chunk.line} ({(chunk.end - chunk.start) / MEGABYTE:.1f} MB)",
            **LOAD_CHUNK,
        )

    def collect(self) -> None:
        """Take in whatever has ended. Raises the first terminal error, after counting what else succeeded."""
        failure: BaseException | None = None
        for task in [task for task in self.in_flight if task.done()]:
            chunk = self.in_flight.pop(task)
            error = task.exception() if not task.cancelled() else None
            if error is not None or task.cancelled():
                failure = failure or error
                continue
            self.count(chunk, task.result().counts)
        if self.planning is not None and self.planning.done():
            planning, self.planning = self.planning, None
            plan = planning.result()
            self.queue.extend(plan.chunks)
            self.line = plan.next_line
            # A window that moves nothing on would be asked for again and again.
            self.planned = plan.done or not plan.chunks
        if failure is not None:
            raise failure

    def count(self, chunk: Chunk, counts: Counts) -> None:
        """Add a chunk's rows. A check wrote none, whatever it would have written."""
        if self.reading.checking:
            counts = Counts(read=counts.read, rejected=counts.rejected)
        self.counts += counts
        self.done_bytes += chunk.end - chunk.start
        self.progressed()

    async def drain(self) -> None:
        """Let what is in flight end, by force if it takes long, and hear all of it out.

        A step that is told to stop while its commit is on the way cannot say whether it was committed; one that
        ends by itself can. During an outage none of them would.
        """
        if self.planning is not None:
            self.planning.cancel()
        if self.in_flight:
            await workflow.wait([*self.in_flight], timeout=LAST_CHUNKS.total_seconds())
        for task in self.in_flight:
            task.cancel()
        pending: list[asyncio.Task[ChunkResult] | asyncio.Task[Plan]] = [*self.in_flight]
        if self.planning is not None:
            pending.append(self.planning)
        if pending:
            await workflow.wait(pending)
        if self.planning is not None and not self.planning.cancelled():
            self.planning.exception()
        for task, chunk in self.in_flight.items():
            if task.cancelled() or isinstance(task.exception(), ActivityError):
                continue
            self.count(chunk, task.result().counts)
        self.in_flight.clear()

    def settle(self) -> None:
        """Write down where to go on: behind the last chunk that was asked for."""
        self.reading = self.reading.model_copy(
            update={
                "start": self.position,
                "line": self.queue[0].line if self.queue else self.line,
                "counts": self.counts,
            }
        )
