"""Request logs (pattern 1a): what is said about a request before its record is written, and after it.

Guarantee: with a direct log nothing is written before the intent is in the log, and no request ends before its outcome
is there; with a log behind a queue, none ends before the queue has it. Without a log, all of this is no step at all.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError, is_cancelled_exception

from workflows.details import shortened
from workflows.options import ERROR_TYPE, LOG_AT_ONCE, LOG_INTENT, LOG_PATIENTLY, STATUS
from workflows.storing import cause_of, is_final, terminal_error

with workflow.unsafe.imports_passed_through():
    from activities.failures import field_errors
    from activities.request_log import RequestLogActivities
    from contracts.request_log import LOG_UNAVAILABLE, LogEntry, Outcome, RequestLogRow, short_codes
    from contracts.requests import CONFLICT, REJECTED, RequestInput

OUTCOMES: dict[str, Outcome] = {REJECTED: "rejected", CONFLICT: "conflict"}
MILLISECOND = timedelta(milliseconds=1)


async def log_intent(request: RequestInput) -> None:
    """Log that a request is about to be carried out, for a caller who still waits for a yes.

    Fails with an `ApplicationError` of type `LOG_UNAVAILABLE` if the log does not answer for some seconds: a no
    now is worth more than a yes at some time.
    """
    entry = entry_of(request, "pending", refusable=True)
    if entry is None or is_queued(request):
        return
    try:
        await workflow.execute_local_activity_method(RequestLogActivities.write_log_entry, entry, **LOG_INTENT)
    except FailureError as error:
        if is_cancelled_exception(error):
            workflow.upsert_search_attributes([STATUS.value_set("cancelled")])
            raise
        raise refused(entry, error) from None


async def log_intent_patiently(request: RequestInput) -> None:
    """Log that a request is about to be carried out, for a caller who was told yes already: it can only wait."""
    entry = entry_of(request, "pending")
    if entry is None or is_queued(request):
        return
    try:
        await write(request, entry)
    except FailureError as error:
        if is_cancelled_exception(error):
            workflow.upsert_search_attributes([STATUS.value_set("cancelled")])
        raise


async def log_outcome(request: RequestInput, outcome: Outcome, *codes: str) -> None:
    """Log what became of a request, however long that takes.

    A cancellation meanwhile comes too late to change anything; that of a dead letter, which would wait for
    operators, is passed on once the log has it.
    """
    entry = entry_of(request, outcome, codes)
    if entry is None:
        return
    writing = asyncio.ensure_future(write(request, entry))
    cancelled = False
    while not writing.done():
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            # What happened has happened: it is not undone by leaving it out of the log.
            cancelled = True
    writing.result()
    if cancelled and outcome == "dead":
        raise asyncio.CancelledError


async def log_refusal(request: RequestInput, error: ApplicationError) -> None:
    """Log that a request ends with an error, and the codes of what was wrong with it."""
    await log_outcome(request, OUTCOMES.get(error.type or "", "failed"), *codes_of(error))


async def write(request: RequestInput, entry: LogEntry) -> None:
    """Write within the workflow task; if the log does not answer, by a step that operators can see."""
    step = RequestLogActivities.send_log_entry if is_queued(request) else RequestLogActivities.write_log_entry
    try:
        await workflow.execute_local_activity_method(step, entry, **LOG_AT_ONCE)
    except FailureError as error:
        if is_cancelled_exception(error) or is_final(error):
            raise
        place = "queue of the request log" if is_queued(request) else "request log"
        held = "nothing was written yet" if entry.row.outcome == "pending" else f"the request is {entry.row.outcome}"
        workflow.set_current_details(
            f"**Waiting for the {place}** `{entry.log}`; {held}.\n\n"
            f"Last error: {cause_of(error)}\n\n"
            "It is tried again at least once a minute until it succeeds."
        )
    else:
        return
    summary = shortened(f"log {entry.row.outcome} when {entry.log} answers")
    await workflow.execute_activity_method(step, entry, summary=summary, **LOG_PATIENTLY)
    workflow.set_current_details("")


def entry_of(
    request: RequestInput, outcome: Outcome, codes: tuple[str, ...] = (), *, refusable: bool = False
) -> LogEntry | None:
    """Build an entry for the request's log, or None if it has none."""
    if request.request_log is None:
        return None
    info = workflow.info()
    received, now = info.workflow_start_time, workflow.now()
    row = RequestLogRow(
        # The same in every run of a request that continues as new, and another one whenever a key is tried again.
        run=info.first_execution_run_id,
        outcome=outcome,
        pipeline=request.pipeline,
        pattern=info.workflow_type.lower(),
        ticket=info.workflow_id,
        key=request.key,
        who=request.who,
        received=received,
        at=now,
        duration_ms=max(now - received, timedelta()) // MILLISECOND,
        codes=short_codes(codes),
    )
    return LogEntry(log=request.request_log.name, row=row, refusable=refusable)


def is_queued(request: RequestInput) -> bool:
    """Say whether the log is reached through a queue."""
    return request.request_log is not None and request.request_log.through == "queue"


def refused(entry: LogEntry, error: FailureError) -> ApplicationError:
    """Say that a request was refused because of its log, and make it searchable."""
    cause = terminal_error(error)
    kind = (cause.type or "Unexpected") if is_final(error) else LOG_UNAVAILABLE
    workflow.upsert_search_attributes([STATUS.value_set("failed"), ERROR_TYPE.value_set(kind)])
    told = f"the request log {entry.log} cannot be written, so nothing was stored: {cause.message}"
    return ApplicationError(told, type=kind, non_retryable=True)


def codes_of(error: ApplicationError) -> tuple[str, ...]:
    """Take the codes of a rejection's field errors, else the error's type."""
    if error.type == REJECTED:
        return tuple(detail.code for detail in field_errors(error))
    return (error.type or "Unexpected",)
