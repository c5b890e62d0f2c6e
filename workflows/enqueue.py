"""Pattern 2, asynchronous with synchronous errors: a record that was accepted is stored, sooner or later.

Guarantee: once the start returned, the record is stored exactly once, or an operator gave it up. An outage is waited
out, however long. A failure for good is no end: it is a dead letter, parked in this workflow until someone decides.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal, NoReturn

from temporalio import workflow
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory, FailureError, is_cancelled_exception

from workflows.options import FIND_STORED, STATUS
from workflows.parking import Parked
from workflows.request_log import codes_of, log_intent_patiently, log_outcome, log_refusal
from workflows.storing import refusal, store_request, terminal_error

with workflow.unsafe.imports_passed_through():
    from activities.requests import RequestActivities
    from contracts.dead_letters import DISCARDED, Breakdown, DeadLetterState, EnqueueInput
    from contracts.requests import CONFLICT, RequestResult

if TYPE_CHECKING:
    from pydantic import JsonValue

    from contracts.ports import ReceiptState


READS_RECEIPT = "enqueue-discard-reads-receipt"


@workflow.defn(name="Enqueue")
class Enqueue(Parked):
    """Store one accepted record.

    Completes with what was stored, also if an operator discards it and its receipt says that it is stored. Fails with
    an `ApplicationError` of type `Discarded` if an operator gave it up, and `Conflict` if its key was used with another
    payload before, longer ago than Temporal remembers; both are benign.
    """

    stored_status = "committed"
    found: RequestResult | None = None

    @workflow.init
    def __init__(self, accepted: EnqueueInput) -> None:
        self.request = accepted.request
        self.pipeline = accepted.request.pipeline
        self.breakdown = accepted.breakdown
        self.parked_at = accepted.parked
        self.tries_per_run = accepted.tries_per_run

    @workflow.run
    async def run(self, accepted: EnqueueInput) -> RequestResult:  # noqa: ARG002  - `__init__` took it
        """Store the record, as soon as the sink answers and nothing is wrong with it; log it if a log is wanted."""
        if self.breakdown is None:
            await log_intent_patiently(self.request)
        try:
            result = await self.store()
        except (asyncio.CancelledError, FailureError) as error:
            if is_cancelled_exception(error):
                workflow.upsert_search_attributes([STATUS.value_set("cancelled")])
                await log_outcome(self.request, "cancelled")
            elif isinstance(error, ApplicationError):
                await log_refusal(self.request, error)
            raise
        workflow.set_current_details("")
        if result is None:
            await log_outcome(self.request, "discarded")
            message = f"an operator discarded the record: {self.reason}"
            raise ApplicationError(
                message, type=DISCARDED, non_retryable=True, category=ApplicationErrorCategory.BENIGN
            )
        if self.end is None:
            workflow.upsert_search_attributes([STATUS.value_set(self.stored_status)])
        await log_outcome(self.request, "committed")
        return result

    async def store(self) -> RequestResult | None:
        """Try once, then as often as operators want; None if they gave it up."""
        if self.breakdown is None:
            try:
                return await store_request(self.request)
            except FailureError as error:
                if is_cancelled_exception(error):
                    raise
                if terminal_error(error).type == CONFLICT:
                    raise refusal(error) from None
                self.park(error)
                await log_outcome(self.request, "dead", *codes_of(terminal_error(error)))
        return await self.settle() or self.found

    async def try_again(self, record: dict[str, JsonValue] | None) -> RequestResult:
        """Store the record, or the corrected one under the fingerprint of what the caller sent."""
        corrected = self.request if record is None else self.request.model_copy(update={"record": record})
        return await store_request(corrected)

    async def give_up(self, reason: str) -> ReceiptState:  # noqa: ARG002  - the run's end says why
        """Give it up, unless an earlier try stored it and its worker died before it could say so."""
        # Runs that were discarded before this step existed replay without it.
        if workflow.patched(READS_RECEIPT):
            self.found = await workflow.execute_activity_method(
                RequestActivities.find_stored,
                self.request,
                summary="read whether the record was stored after all",
                **FIND_STORED,
            )
        if self.found is None:
            return "discarded"
        self.stored = self.found.record
        return "stored"

    def state(self, breakdown: Breakdown, status: Literal["parked", "stored", "discarded"]) -> DeadLetterState:
        """Describe the request and its failure."""
        return DeadLetterState(status=status, pipeline=self.pipeline, request=self.request, breakdown=breakdown)

    def continue_anew(self, breakdown: Breakdown) -> NoReturn:
        """Go on in a new run, parked."""
        workflow.continue_as_new(
            EnqueueInput(
                request=self.request,
                breakdown=breakdown,
                parked=self.parked_at,
                tries_per_run=self.tries_per_run,
            )
        )
