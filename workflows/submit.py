"""Pattern 1, synchronous with synchronous errors: one request, validated, processed and committed.

Guarantee: the workflow completes only after the record's transaction committed, and fails as rejected only if
nothing was written. An outage in between is waited out, however long; the caller's deadline never ends the work.
"""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, is_cancelled_exception

from workflows.options import ERROR_TYPE, STATUS, STORE_AT_ONCE, STORE_PATIENTLY

with workflow.unsafe.imports_passed_through():
    from activities.requests import RequestActivities
    from contracts.requests import CONFLICT, REJECTED, RequestInput, RequestResult

ENDINGS = {REJECTED: "rejected", CONFLICT: "conflict"}


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
            result = await self.store(request)
        except FailureError as error:
            if is_cancelled_exception(error):
                workflow.upsert_search_attributes([STATUS.value_set("cancelled")])
                raise
            raise refusal(error) from None
        workflow.upsert_search_attributes([STATUS.value_set("committed")])
        return result

    async def store(self, request: RequestInput) -> RequestResult:
        """Write within the workflow task; if the sink does not answer, by a step that operators can see."""
        try:
            return await workflow.execute_local_activity_method(
                RequestActivities.store_record, request, **STORE_AT_ONCE
            )
        except FailureError as error:
            if is_cancelled_exception(error) or is_final(error):
                raise
            workflow.set_current_details(
                f"**Waiting for the sink** of pipeline `{request.pipeline}`.\n\n"
                f"Last error: {cause_of(error)}\n\n"
                "The record is safe in this workflow's input. The write is tried again at least once a minute until "
                "it succeeds; nobody has to do anything here."
            )
        result = await workflow.execute_activity_method(
            RequestActivities.store_record,
            request,
            summary=f"store {request.key} when the sink answers"[:200],
            **STORE_PATIENTLY,
        )
        workflow.set_current_details("")
        return result


def cause_of(error: FailureError) -> BaseException:
    """Unwrap a step's error: a regular activity's comes wrapped, a local activity's as it was raised."""
    return (error.cause or error) if isinstance(error, ActivityError) else error


def is_final(error: FailureError) -> bool:
    """Say whether trying the step again cannot help."""
    cause = cause_of(error)
    return isinstance(cause, ApplicationError) and cause.non_retryable


def refusal(error: FailureError) -> ApplicationError:
    """Turn a step's terminal error into the workflow's, and make it searchable."""
    cause = cause_of(error)
    if not isinstance(cause, ApplicationError):
        # Cannot happen while steps are retried without limit; a workflow must end all the same.
        cause = ApplicationError(str(cause), type="Unexpected", non_retryable=True)
    kind = cause.type or "Unexpected"
    workflow.upsert_search_attributes([STATUS.value_set(ENDINGS.get(kind, "failed")), ERROR_TYPE.value_set(kind)])
    return ApplicationError(cause.message, *cause.details, type=kind, non_retryable=True, category=cause.category)
