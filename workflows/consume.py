"""Pattern 1c, the queue worker: consumers in parallel, for as long as nobody stops them.

Guarantee: history holds counts and reasons, never items. An outage pauses consumption, is shown with its reason, and
ends by itself: a probe takes one small window, and only when that succeeds is everything taken up again.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

from workflows.options import CONSUME, ERROR_TYPE, FIRST_PAUSE, PROBE, STATUS

with workflow.unsafe.imports_passed_through():
    from activities.consume import ConsumeActivities
    from contracts.consume import (
        ConsumeChange,
        ConsumeRun,
        ConsumeStatus,
        ConsumeSummary,
        ConsumeTurn,
        TurnResult,
    )

HEADLINES = {
    "running": "Consuming",
    "paused": "Paused: waiting for a service",
    "stopping": "Stopping after the windows in flight",
    "completed": "Stopped",
    "cancelled": "Cancelled: the windows in flight were finished or given back",
}


@workflow.defn(name="Consume")
class Consume:
    """Keep consumers of one pipeline's queue at work."""

    @workflow.init
    def __init__(self, run: ConsumeRun) -> None:
        carried = run.carried or ConsumeSummary(options=run.options, drain=run.drain)
        self.input = run
        self.options = carried.options
        self.drain = carried.drain
        self.counts = carried.counts
        self.reason = carried.reason
        self.error_type = carried.error_type
        self.pause = carried.pause
        self.status: ConsumeStatus = carried.status
        self.stopping = False
        self.shown: ConsumeStatus | None = None
        self.drained = False
        self.quota = run.turns_per_run
        self.turns: list[asyncio.Task[TurnResult]] = []

    @workflow.run
    async def run(self, run: ConsumeRun) -> ConsumeSummary:
        """Consume until told to stop, or until the queue is empty if it is to be drained."""
        self.tell("paused" if self.reason else "running")
        try:
            while not (self.stopping or self.drained):
                if self.ageing:
                    await workflow.wait_condition(workflow.all_handlers_finished)
                    workflow.continue_as_new(run.model_copy(update={"carried": self.summary()}))
                await (self.wait_and_probe() if self.reason else self.consume())
        except asyncio.CancelledError:
            self.tell("cancelled")
            raise
        self.tell("completed")
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.summary()

    @property
    def ageing(self) -> bool:
        """Whether this run's history should end."""
        return self.quota <= 0 or workflow.info().is_continue_as_new_suggested()

    @property
    def going_on(self) -> bool:
        """Whether another turn should begin."""
        return not (self.stopping or self.drained or self.reason or self.ageing)

    async def consume(self) -> None:
        """Keep turns in flight until something ends that; then all of them end after their windows in flight."""
        draining = self.drain
        try:
            while self.going_on and draining == self.drain:
                while len(self.turns) < self.options.workers and not self.ageing:
                    self.turns.append(self.start_turn(f"consumer {len(self.turns) + 1}"))
                await workflow.wait_condition(lambda: self.something_changed or draining != self.drain)
                self.collect()
        finally:
            # Told to stop, a consumer finishes what it has in hand and reports it.
            for turn in self.turns:
                turn.cancel()
            if self.turns:
                await workflow.wait(self.turns)
            self.collect()

    @property
    def something_changed(self) -> bool:
        """Whether a turn has ended, or should begin, or none should any more."""
        ended = any(turn.done() for turn in self.turns)
        return ended or not self.going_on or len(self.turns) < self.options.workers

    async def wait_and_probe(self) -> None:
        """Wait a while, then try one small window; if it is well, nothing is left to wait for."""
        self.pause = min(max(self.pause * 2, FIRST_PAUSE.total_seconds()), self.input.longest_pause)
        self.tell("paused")
        try:
            await workflow.wait_condition(lambda: self.stopping, timeout=timedelta(seconds=self.pause))
            return
        except TimeoutError:
            pass
        probe = self.start_turn("probe: one small window", probe=True)
        self.turns.append(probe)
        try:
            await workflow.wait_condition(lambda: probe.done() or self.stopping)
        finally:
            if not probe.done():
                probe.cancel()
                await workflow.wait([probe])
        self.reason = self.error_type = ""
        self.collect()
        if not self.reason:
            self.pause = 0.0
            self.tell("running")

    def start_turn(self, what: str, *, probe: bool = False) -> asyncio.Task[TurnResult]:
        """Ask for one turn of a consumer."""
        self.quota -= 1
        return workflow.start_activity_method(
            ConsumeActivities.consume_items,
            ConsumeTurn(
                pipeline=self.input.pipeline,
                batch=self.options.batch,
                seconds=self.input.turn_seconds,
                drain=self.drain,
                probe=probe,
            ),
            summary=what,
            **(PROBE if probe else CONSUME),
        )

    def collect(self) -> None:
        """Take in what has ended."""
        ended = [turn for turn in self.turns if turn.done()]
        self.turns = [turn for turn in self.turns if not turn.done()]
        for turn in ended:
            error = None if turn.cancelled() else turn.exception()
            if turn.cancelled() or (error is not None and is_cancelled_exception(error)):
                continue
            if isinstance(error, ActivityError):
                cause = error.cause
                kind = cause.type if isinstance(cause, ApplicationError) else None
                self.halt(str(cause or error), kind or "Unexpected")
            elif error is not None:
                raise error
            else:
                self.count(turn.result())
        if ended:
            self.tell(self.status)

    def count(self, result: TurnResult) -> None:
        """Add what a turn did, and what it says about the world."""
        self.counts += result.counts
        self.drained = self.drained or (result.empty and self.drain)
        if result.reason:
            self.halt(result.reason, result.error_type)

    def halt(self, reason: str, error_type: str) -> None:
        """Pause, for the first reason that is given."""
        if not self.reason:
            self.reason, self.error_type = reason, error_type

    @workflow.query
    def summary(self) -> ConsumeSummary:
        """Say how consumption stands."""
        return ConsumeSummary(
            status=self.status,
            options=self.options,
            drain=self.drain,
            counts=self.counts,
            reason=self.reason,
            error_type=self.error_type,
            pause=self.pause,
        )

    @workflow.update
    def configure(self, change: ConsumeChange) -> ConsumeSummary:
        """Change how many consumers there are, and how large windows may be, from each one's next turn on."""
        self.options = self.options.changed(change)
        self.tell(self.status)
        return self.summary()

    @configure.validator
    def check_going_on(self, change: ConsumeChange) -> None:  # noqa: ARG002  - the update's arguments
        """Refuse to change what is about to end."""
        if self.stopping:
            message = "it is stopping"
            raise ApplicationError(message, type="Stopping")

    @workflow.update
    def stop(self) -> ConsumeSummary:
        """End after the windows in flight. What is not consumed stays in the queue."""
        self.stopping = True
        self.tell("stopping")
        return self.summary()

    @workflow.update
    def finish(self) -> ConsumeSummary:
        """Go on until the queue is empty, then end."""
        self.drain = True
        self.tell(self.status)
        return self.summary()

    def tell(self, status: ConsumeStatus) -> None:
        """Bring status, search attributes, memo and details up to date, where something changed."""
        if self.stopping and status in {"running", "paused"}:
            status = "stopping"
        self.status = status
        if status != self.shown:
            self.shown = status
            error = ERROR_TYPE.value_set(self.error_type) if self.error_type else ERROR_TYPE.value_unset()
            workflow.upsert_search_attributes([STATUS.value_set(status), error])
        workflow.upsert_memo({"summary": self.summary()})
        workflow.set_current_details(describe(self.input.pipeline, self.summary()))


def describe(pipeline: str, summary: ConsumeSummary) -> str:
    """Write the current details: what is done, how it goes, and what can be done about it."""
    counts = summary.counts
    columns = ("read", "written", "dead letters", "duplicates", "dropped", "retried", "discarded")
    numbers = (counts.read, counts.written, counts.rejected, counts.duplicates, counts.dropped, counts.retried)
    cells = [columns, ["---:"] * len(columns), [f"{number:,}" for number in (*numbers, counts.discarded)]]
    parts = [
        f"**{HEADLINES[summary.status]}**: items of the queue of pipeline `{pipeline}`, "
        f"{summary.options.workers} consumers, windows of at most {summary.options.batch}"
        + ("; ends when the queue is empty" if summary.drain else ""),
        "\n".join(f"| {' | '.join(row)} |" for row in cells),
    ]
    if summary.reason:
        reason = " ".join(summary.reason.replace("`", "'").split())[:500]
        parts.append(
            f"Reason: {reason}\n\nAll items are safe in the queue, and none of this counts against them. A small "
            f"window is tried every {summary.pause:.0f} s; when it succeeds, consumption goes on by itself."
        )
    steps = []
    if summary.status in {"running", "paused"}:
        steps.append(f"`starter consume {pipeline} --workers N --batch N` changes it while it runs")
        steps.append(
            f"`starter consume {pipeline} --stop` ends it after the windows in flight; items stay in the queue"
        )
    else:
        steps.append(f"`starter consume {pipeline}` starts it again")
    if counts.rejected:
        steps.append(f"`starter dead-letters list --pipeline {pipeline}` shows the dead letters")
    parts.append("\n".join(f"- {step}" for step in steps))
    return "\n\n".join(parts)
