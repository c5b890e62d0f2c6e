"""Pattern 1, synchronous with synchronous errors: one request, validated, processed and committed.

Guarantee: the workflow completes only after the record's transaction committed, and fails as rejected only if
nothing was written. An outage in between is waited out, however long; the caller's deadline never ends the work.
With a request log (pattern 1a), a yes also means that the log has it.
"""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

from workflows.options import STATUS
from workflows.request_log import log_intent, log_outcome, log_refusal
from workflows.storing import refusal, store_request

with workflow.unsafe.imports_passed_through():
    from contracts.requests import RequestInput, RequestResult


@workflow.defn(name="Submit")
class Submit:
    """Store one record and answer with it.

    Fails with an `ApplicationError` of type `Rejected` (details: the field errors), `Conflict`, or the class name of
    the terminal error; the first two are expected and marked benign, so they raise no alarms.
    """

    @workflow.run
    async def run(self, request: RequestInput) -> RequestResult:
        """Store the record, at once if the sink answers, else as soon as it does; log both if a log is wanted."""
        await log_intent(request)
        try:
            result = await store_request(request)
        except FailureError as error:
            if is_cancelled_exception(error):
                workflow.upsert_search_attributes([STATUS.value_set("cancelled")])
                await log_outcome(request, "cancelled")
                raise
            ended = refusal(error)
            await log_refusal(request, ended)
            raise ended from None
        workflow.upsert_search_attributes([STATUS.value_set("committed")])
        await log_outcome(request, "committed")
        return result
