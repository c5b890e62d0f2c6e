"""The step that all who store one record share: store one record, however long the sink is away.

Guarantee: it ends only with what was committed, or with a terminal error; in between it says in the Web UI what it
waits for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, is_cancelled_exception

from workflows.details import shortened
from workflows.options import ERROR_TYPE, STATUS, STORE_AT_ONCE, STORE_PATIENTLY

with workflow.unsafe.imports_passed_through():
    from activities.requests import RequestActivities
    from contracts.requests import CONFLICT, REJECTED, RequestInput, RequestResult

if TYPE_CHECKING:
    from temporalio.types import MethodAsyncSingleParam

Asked = TypeVar("Asked")

ENDINGS = {REJECTED: "rejected", CONFLICT: "conflict"}
"""The statuses of requests that end with an expected refusal; others have `failed`."""


async def store_request(request: RequestInput) -> RequestResult:
    """Store the record of a request."""
    what = f"store {request.key} when the sink answers"
    return await store_with(RequestActivities.store_record, request, request.pipeline, what)


async def store_with(
    step: MethodAsyncSingleParam[Any, Asked, RequestResult], asked: Asked, pipeline: str, what: str
) -> RequestResult:
    """Write within the workflow task; if the sink does not answer, by a step that operators can see."""
    try:
        return await workflow.execute_local_activity_method(step, asked, **STORE_AT_ONCE)
    except FailureError as error:
        if is_cancelled_exception(error) or is_final(error):
            raise
        workflow.set_current_details(
            f"**Waiting for the sink** of pipeline `{pipeline}`.\n\n"
            f"Last error: {cause_of(error)}\n\n"
            "The record is safe in this workflow's input. The write is tried again at least once a minute until "
            "it succeeds; nobody has to do anything here."
        )
    result = await workflow.execute_activity_method(step, asked, summary=shortened(what), **STORE_PATIENTLY)
    workflow.set_current_details("")
    return result


def cause_of(error: FailureError) -> BaseException:
    """Unwrap a step's error: a regular activity's comes wrapped, a local activity's as it was raised."""
    return (error.cause or error) if isinstance(error, ActivityError) else error


def is_final(error: FailureError) -> bool:
    """Say whether trying the step again cannot help."""
    cause = cause_of(error)
    return isinstance(cause, ApplicationError) and cause.non_retryable


def terminal_error(error: FailureError) -> ApplicationError:
    """Take the terminal error out of a step's error."""
    cause = cause_of(error)
    if isinstance(cause, ApplicationError):
        return cause
    # Cannot happen while steps are retried without limit; a workflow must end all the same.
    return ApplicationError(str(cause), type="Unexpected", non_retryable=True)


def refusal(error: FailureError) -> ApplicationError:
    """Turn a step's terminal error into the workflow's, and make it searchable."""
    cause = terminal_error(error)
    kind = cause.type or "Unexpected"
    workflow.upsert_search_attributes([STATUS.value_set(ENDINGS.get(kind, "failed")), ERROR_TYPE.value_set(kind)])
    return ApplicationError(cause.message, *cause.details, type=kind, non_retryable=True, category=cause.category)
