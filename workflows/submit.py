"""Pattern 1, synchronous with synchronous errors: one request, validated, processed and committed.

Guarantee: the workflow completes only after the record's transaction committed, and fails as rejected only if
nothing was written. An outage in between is waited out, however long; the caller's deadline never ends the work.
"""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

from workflows.options import STATUS
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
        """Store the record, at once if the sink answers, else as soon as it does."""
        try:
            result = await store_request(request)
        except FailureError as error:
            if is_cancelled_exception(error):
                workflow.upsert_search_attributes([STATUS.value_set("cancelled")])
                raise
            raise refusal(error) from None
        workflow.upsert_search_attributes([STATUS.value_set("committed")])
        return result
