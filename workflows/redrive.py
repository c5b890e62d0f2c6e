"""Redrive: try many dead letters again, carefully.

Guarantee: each dead letter that was parked when the redrive reached it is tried once, at no more than the rate that was
given; if too many fail, the rest is left alone. It can be paused, resumed and cancelled at any time.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

from workflows.advice import describe_redrive
from workflows.options import FIND_LETTERS, RETRY_LETTERS, STATUS

with workflow.unsafe.imports_passed_through():
    from activities.redrives import RedriveActivities
    from contracts.dead_letters import (
        REDRIVE_MEMO,
        FindDeadLetters,
        RedriveCarried,
        RedriveInput,
        RedriveSummary,
        RetryDeadLetters,
    )

if TYPE_CHECKING:
    from datetime import datetime

PAGE = 200
"""Tickets in one page of the list, some 100 bytes each in history."""

AT_ONCE = 10
"""Tries in one step. More would make the rate coarse, and a redrive that goes wrong fail further than it has to."""

FEWEST_TRIES = 20
"""A rate of failures says nothing before so many tries."""

ROUNDS_PER_NOTE = 20
"""Steps between two notes of the summary in the memo, where `status` reads it even when no worker runs."""

OVER = "the redrive is over"


@workflow.defn(name="Redrive")
class Redrive:
    """Walk the list of parked dead letters, a few at a time."""

    @workflow.init
    def __init__(self, asked: RedriveInput) -> None:
        carried = asked.carried
        self.input = asked
        self.summary_now = carried.summary if carried else RedriveSummary(status="running")
        self.tickets = list(carried.tickets) if carried else []
        self.token = carried.token if carried else ""
        self.last_page = carried.last_page if carried else False
        self.rounds = 0

    @workflow.run
    async def run(self, asked: RedriveInput) -> RedriveSummary:
        """Try every dead letter that the filter finds. Ends as cancelled when it is cancelled."""
        try:
            if asked.carried is None:
                found = await workflow.execute_activity_method(
                    RedriveActivities.count_letters, asked.letters, summary="count the dead letters", **FIND_LETTERS
                )
                self.change(found=found)
                self.note()
            return await self.walk()
        except (asyncio.CancelledError, ActivityError) as error:
            if is_cancelled_exception(error):
                self.tell("cancelled", "cancelled by an operator; what was tried stays as it is")
                await workflow.wait_condition(workflow.all_handlers_finished)
            raise

    async def walk(self) -> RedriveSummary:
        """Go on from where the earlier run was."""
        self.show()
        while await self.next_tickets():
            await workflow.wait_condition(lambda: self.summary_now.status != "paused")
            began = workflow.now()
            chosen = tuple(self.tickets[: self.at_once])
            await self.retry(chosen)
            del self.tickets[: len(chosen)]
            if self.is_failing():
                reason = (
                    f"{self.summary_now.failed} of {self.tried} tries failed, more than {self.input.abort_above:g} "
                    "percent; the rest was left alone"
                )
                return await self.close("stopped", reason)
            await self.keep_rate(began, len(chosen))
            await self.take_breath()
        return await self.close("completed")

    async def next_tickets(self) -> bool:
        """Make sure that there are tickets to try; False at the end of the list."""
        while not self.tickets and not self.last_page:
            # The token says where in the list the page before ended, so none of it comes again.
            page = await workflow.execute_activity_method(
                RedriveActivities.find_letters,
                FindDeadLetters(letters=self.input.letters, page_size=PAGE, token=self.token),
                summary="list dead letters",
                **FIND_LETTERS,
            )
            self.tickets = list(page.tickets)
            self.token, self.last_page = page.token, not page.token
        return bool(self.tickets)

    async def retry(self, tickets: tuple[str, ...]) -> None:
        """Try some dead letters again and count what came of it."""
        counts = await workflow.execute_activity_method(
            RedriveActivities.retry_letters,
            RetryDeadLetters(tickets=tickets, name=f"redrive/{workflow.info().first_execution_run_id}"),
            summary=f"try {len(tickets)} of {self.summary_now.found} again",
            **RETRY_LETTERS,
        )
        self.rounds += 1
        self.change(stored=self.summary_now.stored + counts.stored, failed=self.summary_now.failed + counts.failed)
        # Dead letters may have come since they were counted.
        self.change(found=max(self.summary_now.found, self.tried))
        if self.rounds % ROUNDS_PER_NOTE == 0:
            self.note()
        self.show()

    async def keep_rate(self, began: datetime, tries: int) -> None:
        """Wait until so many tries may have been made since the step began."""
        if not self.tickets and self.last_page:
            return
        left = timedelta(seconds=tries / self.input.rate) - (workflow.now() - began)
        if left > timedelta(0):
            await workflow.sleep(left)

    async def take_breath(self) -> None:
        """Continue as new if the history has become long."""
        if self.rounds < self.input.rounds_per_run and not workflow.info().is_continue_as_new_suggested():
            return
        await workflow.wait_condition(workflow.all_handlers_finished)
        carried = RedriveCarried(
            summary=self.summary_now, tickets=tuple(self.tickets), token=self.token, last_page=self.last_page
        )
        workflow.continue_as_new(self.input.model_copy(update={"carried": carried}))

    @workflow.update
    async def pause(self) -> RedriveSummary:
        """Begin no further tries until it is resumed; those that have begun are finished."""
        self.tell("paused", "paused by an operator")
        return self.summary_now

    @pause.validator
    def check_pause(self) -> None:
        """Accept it while the redrive goes on, also if it is paused already."""
        self.check_open()

    @workflow.update
    async def resume(self) -> RedriveSummary:
        """Go on."""
        self.tell("running", "")
        return self.summary_now

    @resume.validator
    def check_resume(self) -> None:
        """Accept it while the redrive goes on, also if it is not paused."""
        self.check_open()

    @workflow.query
    def summary(self) -> RedriveSummary:
        """Say how the redrive stands."""
        return self.summary_now

    def check_open(self) -> None:
        """Refuse what comes too late."""
        if self.summary_now.status not in {"running", "paused"}:
            raise ApplicationError(OVER, type="NotRunning")

    @property
    def at_once(self) -> int:
        """How many tries one step makes: a second's worth at most."""
        return max(1, min(AT_ONCE, int(self.input.rate)))

    @property
    def tried(self) -> int:
        """How many were tried."""
        return self.summary_now.stored + self.summary_now.failed

    def is_failing(self) -> bool:
        """Say whether so many failed that the rest would, too."""
        return self.tried >= FEWEST_TRIES and 100 * self.summary_now.failed > self.input.abort_above * self.tried

    def change(self, **changes: object) -> None:
        """Change the summary."""
        self.summary_now = self.summary_now.model_copy(update=changes)

    def tell(self, status: Literal["running", "paused", "completed", "stopped", "cancelled"], reason: str) -> None:
        """Publish a change: details for the Web UI, the summary for `status`, the status for searches."""
        if status != self.summary_now.status:
            workflow.upsert_search_attributes([STATUS.value_set(status)])
        self.change(status=status, reason=reason)
        self.note()
        self.show()

    def note(self) -> None:
        """Keep the summary in the memo."""
        workflow.upsert_memo({REDRIVE_MEMO: self.summary_now})

    def show(self) -> None:
        """Keep the current details up to date."""
        workflow.set_current_details(describe_redrive(self.input, self.summary_now, ticket=workflow.info().workflow_id))

    async def close(self, status: Literal["completed", "stopped"], reason: str = "") -> RedriveSummary:
        """End with a result."""
        self.tell(status, reason)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.summary_now
