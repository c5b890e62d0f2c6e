"""Parked work: what every workflow does whose tries are exhausted, until an operator decides.

Guarantee: only a decision ends the waiting, however long it takes; decisions are carried out one at a time, and whoever
sent one hears what came of it. Parked work can be found by its search attributes, and says in the Web UI what to do.
"""

from __future__ import annotations

import abc
import asyncio
import dataclasses
from typing import TYPE_CHECKING, Literal, NoReturn

from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError, is_cancelled_exception

from workflows.advice import advise, breakdown_of, note_of
from workflows.options import ERROR_TYPE, STATUS
from workflows.storing import terminal_error

with workflow.unsafe.imports_passed_through():
    from contracts.dead_letters import (
        DEAD_LETTER_MEMO,
        NOT_PARKED,
        PARKED,
        TRIES_PER_RUN,
        Breakdown,
        DeadLetterState,
        DiscardDeadLetter,
        RetryDeadLetter,
        RetryOutcome,
    )

if TYPE_CHECKING:
    from datetime import datetime

    from pydantic import JsonValue

    from contracts.ports import ReceiptState
    from contracts.requests import RequestResult

End = Literal["stored", "discarded"]


@dataclasses.dataclass
class Decision:
    """What an operator asked, and what became of it."""

    request: RetryDeadLetter | DiscardDeadLetter
    answered: bool = False
    outcome: RetryOutcome | None = None
    refusal: ApplicationError | None = None


class Parked(abc.ABC):
    """Base of workflows that can be parked. They say how to try again, how to give up, and what they hold.

    It has no `run`: whoever inherits it calls `park` when a try failed for good, and then `settle`.
    """

    stored_status = "stored"
    pipeline: str
    breakdown: Breakdown | None = None
    tries_per_run: int = TRIES_PER_RUN
    parked_at: datetime | None = None
    tries: int = 0
    decision: Decision | None = None
    end: End | None = None
    reason: str = ""
    stored: dict[str, JsonValue] | None = None

    @abc.abstractmethod
    async def try_again(self, record: dict[str, JsonValue] | None) -> RequestResult:
        """Try once more, with the corrected record if there is one. Raises `FailureError` if it can never work."""

    @abc.abstractmethod
    async def give_up(self, reason: str) -> ReceiptState:
        """Do what a discard takes; returns the state of the unit's receipt that stands."""

    @abc.abstractmethod
    def state(self, breakdown: Breakdown, status: Literal["parked", "stored", "discarded"]) -> DeadLetterState:
        """Describe what is parked."""

    @abc.abstractmethod
    def continue_anew(self, breakdown: Breakdown) -> NoReturn:
        """Go on in a new run with a short history."""

    async def settle(self) -> RequestResult | None:
        """Wait for operators until one of them settles it; the result of what was stored, or None after a discard."""
        try:
            while True:
                self.show()
                if self.is_long() and self.decision is None:
                    await workflow.wait_condition(lambda: self.decision is not None or workflow.all_handlers_finished())
                    if self.decision is None:
                        self.continue_anew(self.known)
                await workflow.wait_condition(lambda: self.decision is not None)
                result = await self.carry_out()
                if self.end is not None:
                    await workflow.wait_condition(workflow.all_handlers_finished)
                    return result
        except (asyncio.CancelledError, FailureError) as error:
            if is_cancelled_exception(error):
                self.answer(refusal=ApplicationError("it was cancelled", type=NOT_PARKED))
                await workflow.wait_condition(workflow.all_handlers_finished)
            raise

    async def carry_out(self) -> RequestResult | None:
        """Do what the operator decided, and answer."""
        if self.decision is None:
            return None
        request = self.decision.request
        self.show()
        if isinstance(request, DiscardDeadLetter):
            if await self.give_up(request.reason) == "stored":
                # Someone stored it while it was parked, which only its receipt knows.
                self.close("stored")
            else:
                self.reason = request.reason
                self.close("discarded")
            self.answer()
            return None
        self.tries += 1
        try:
            result = await self.try_again(request.record)
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            self.park(error)
            self.answer(RetryOutcome(status="parked", errors=self.known.errors))
            return None
        self.stored = result.record
        self.close("stored")
        self.answer(RetryOutcome(status="stored", record=result.record))
        return result

    def park(self, error: FailureError) -> None:
        """Become a dead letter, or stay one with the failure of another try."""
        earlier = self.breakdown
        self.breakdown = breakdown_of(terminal_error(error), earlier, workflow.now())
        self.parked_at = self.parked_at or workflow.now()
        if earlier is None or earlier.error_type != self.breakdown.error_type:
            workflow.upsert_search_attributes(
                [STATUS.value_set(PARKED), ERROR_TYPE.value_set(self.breakdown.error_type)]
            )
        state = self.state(self.breakdown, "parked")
        workflow.upsert_memo({DEAD_LETTER_MEMO: note_of(state, self.parked_at)})

    def close(self, end: End) -> None:
        """Note how it was settled."""
        self.end = end
        if end == "stored":
            workflow.upsert_search_attributes([STATUS.value_set(self.stored_status), ERROR_TYPE.value_unset()])
        else:
            workflow.upsert_search_attributes([STATUS.value_set(end)])

    def answer(self, outcome: RetryOutcome | None = None, refusal: ApplicationError | None = None) -> None:
        """Let whoever decided know what became of it, if a decision is open."""
        if self.decision is not None:
            self.decision.outcome = outcome
            self.decision.refusal = refusal
            self.decision.answered = True
            self.decision = None

    def is_long(self) -> bool:
        """Say whether the history has become long."""
        return self.tries >= self.tries_per_run or workflow.info().is_continue_as_new_suggested()

    def show(self) -> None:
        """Keep the current details up to date."""
        trying = self.decision is not None
        workflow.set_current_details(
            advise(self.state(self.known, "parked"), ticket=workflow.info().workflow_id, trying=trying)
        )

    @property
    def known(self) -> Breakdown:
        """The failure that it was parked for."""
        if self.breakdown is None:
            message = "it is no dead letter: nothing has failed for good"
            raise ApplicationError(message, type=NOT_PARKED)
        return self.breakdown

    @workflow.update
    async def retry(self, request: RetryDeadLetter) -> RetryOutcome:
        """Try again, with a corrected record or as it is; answers when that is stored, or has failed for good again.

        While the sink does not answer, it is waited for. A second retry as it is joins the one that is going on.
        """
        decision = self.decision = self.decision or Decision(request)
        await workflow.wait_condition(lambda: decision.answered)
        if decision.refusal is not None or decision.outcome is None:
            raise decision.refusal or ApplicationError("it was not tried", type=NOT_PARKED)
        return decision.outcome

    @retry.validator
    def check_retry(self, request: RetryDeadLetter) -> None:
        """Accept a decision while it is parked; only a retry as it is may come while another retry is going on."""
        joins = self.decision is not None and isinstance(self.decision.request, RetryDeadLetter)
        self.check_open(joins=joins and request.record is None)

    @workflow.update
    async def discard(self, request: DiscardDeadLetter) -> DeadLetterState:
        """Give the record up; answers when that is durable, with the state that stands then."""
        decision = self.decision = Decision(request)
        await workflow.wait_condition(lambda: decision.answered)
        if decision.refusal is not None:
            raise decision.refusal
        return self.dead_letter()

    @discard.validator
    def check_discard(self, request: DiscardDeadLetter) -> None:  # noqa: ARG002  - the signature is the update's
        """Accept a decision while it is parked and no other one is being carried out."""
        self.check_open(joins=False)

    @workflow.query
    def dead_letter(self) -> DeadLetterState:
        """Say what is parked and why. Raises `NotParked` for work that has not failed."""
        state = self.state(self.known, self.end or "parked")
        return state.model_copy(update={"record": self.stored, "reason": self.reason})

    def check_open(self, *, joins: bool) -> None:
        """Refuse a decision that nothing waits for."""
        if self.end is not None:
            message = f"it is {self.end}: there is nothing to decide any more"
            raise ApplicationError(message, type=NOT_PARKED)
        _ = self.known
        if self.decision is not None and not joins:
            message = "another decision is being carried out"
            raise ApplicationError(message, type=NOT_PARKED)
