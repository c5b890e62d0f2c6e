"""Requests as a library: what `submit` and `enqueue` do, for the command line and for whoever else accepts records.

Guarantee: "accepted" and "committed" are said only about a run that Temporal holds; one key is one run, so a repeat
gets the first run's answer, and the same key with another payload is a conflict. The deadline ends the wait only.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from datetime import timedelta
from typing import Any, Literal, TypedDict

from pydantic import TypeAdapter
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ApplicationError, CancelledError, WorkflowAlreadyStartedError
from temporalio.service import RPCError

from activities.validate import fingerprint, parse_json, validate_payload
from contracts.dead_letters import EnqueueInput
from contracts.errors import RecordRefusedError
from contracts.pipeline import Pipeline
from contracts.record import FieldError
from contracts.requests import CONFLICT, REJECTED, RequestInput, RequestResult, SubmitAnswer
from starter.exits import CommandError, Exit
from starter.services import Settings, is_outage, link, naming_temporal
from workflows.details import shortened
from workflows.enqueue import Enqueue
from workflows.options import PATTERN, PIPELINE, PIPELINES, STATUS
from workflows.submit import Submit

Pattern = Literal["submit", "enqueue"]
Handle = WorkflowHandle[Any, RequestResult]

DEADLINE = timedelta(seconds=10)
LONGEST_KEY = 255
"""As many characters as AWS and Stripe allow in an idempotency key."""

PAUSE = 0.25
"""Seconds between looks while Temporal does not answer."""

FIELD_ERRORS = TypeAdapter(tuple[FieldError, ...])


def ticket_of(pipeline: str, key: str) -> str:
    """Name the one run that a key of a pipeline has."""
    return f"request/{pipeline}/{hashlib.sha256(key.encode()).hexdigest()}"


def check_key(key: str) -> str:
    """Refuse a key that cannot be stored as it is. Raises `CommandError`."""
    if not 0 < len(key) <= LONGEST_KEY or not key.isprintable():
        message = f"A key has 1 to {LONGEST_KEY} printable characters."
        raise CommandError(Exit.USAGE, message)
    return key


async def submit(
    client: Client,
    settings: Settings,
    pipeline: Pipeline,
    body: bytes | str,
    key: str | None = None,
    deadline: timedelta = DEADLINE,
    who: str = "",
) -> SubmitAnswer:
    """Send one record through a pipeline and wait for the outcome, at most until the deadline.

    `body` is the JSON text of the record. Without a key the call is a new request, and the answer has its key. A
    record that is not valid starts nothing: its answer has an empty ticket and link. A run that failed or was rejected
    may be tried again under the same key. `who` sent it is kept with the request; it must be no secret. Raises
    `UnavailableError` while Temporal does not answer.
    """
    end = time.monotonic() + deadline.total_seconds()
    request, answer = take(settings, pipeline, body, key, who)
    if request is None:
        return answer
    handle, answer = await start(client, settings, request, answer, "submit")
    return answer if answer.status == "conflict" else await answer_of(handle, answer, end)


async def enqueue(
    client: Client,
    settings: Settings,
    pipeline: Pipeline,
    body: bytes | str,
    key: str | None = None,
    who: str = "",
) -> SubmitAnswer:
    """Accept one record, to be processed later by any worker: "accepted" is durable in Temporal's history.

    It takes one call to Temporal and nothing else, so it works while sink, broker and every worker are down. Keys mean
    what they mean to `submit`: a repeat is told how the first call's request stands, `accepted` or `committed`
    with the record. A record that is not valid is `rejected` at once and starts nothing. Raises
    `UnavailableError` while Temporal does not answer.
    """
    request, answer = take(settings, pipeline, body, key, who)
    if request is None:
        return answer
    handle, answer = await start(client, settings, request, answer, "enqueue")
    if not answer.repeat or answer.status == "conflict":
        return answer
    with naming_temporal(settings):
        described = await handle.describe()
    if described.status in {WorkflowExecutionStatus.RUNNING, WorkflowExecutionStatus.CONTINUED_AS_NEW}:
        return answer
    return await answer_of(handle, answer, time.monotonic() + DEADLINE.total_seconds())


def take(
    settings: Settings, pipeline: Pipeline, body: bytes | str, key: str | None, who: str
) -> tuple[RequestInput | None, SubmitAnswer]:
    """Validate a record: the request that it makes, and what its caller is told; no request if it is rejected."""
    key = uuid.uuid4().hex if key is None else check_key(key)
    try:
        payload = parse_json(body)
        validate_payload(pipeline, payload)
    except RecordRefusedError as error:
        return None, SubmitAnswer(ticket="", key=key, status="rejected", errors=tuple(error.errors), url="")
    request = RequestInput(
        pipeline=pipeline.name,
        key=key,
        fingerprint=fingerprint(payload),
        record=payload,
        who=who,
        request_log=pipeline.request_log,
    )
    ticket = ticket_of(pipeline.name, key)
    return request, SubmitAnswer(ticket=ticket, key=key, status="accepted", url=link(settings, ticket))


async def start(
    client: Client, settings: Settings, request: RequestInput, answer: SubmitAnswer, pattern: Pattern
) -> tuple[Handle, SubmitAnswer]:
    """Make Temporal's history responsible for the request, or find the run that is, whichever pattern started it.

    The answer is `accepted`, with `repeat` for a run that was there, or `conflict` if that has another payload.
    """
    with naming_temporal(settings):
        try:
            return await START[pattern](client, request, answer.ticket), answer
        except WorkflowAlreadyStartedError as error:
            handle: Handle = client.get_workflow_handle(answer.ticket, run_id=error.run_id, result_type=RequestResult)
            if await fingerprint_of(client, handle) != request.fingerprint:
                refused = FieldError(field="", code="conflict", message="this key was used with another payload")
                return handle, answer.model_copy(update={"status": "conflict", "errors": (refused,)})
            return handle, answer.model_copy(update={"repeat": True})


async def fingerprint_of(client: Client, handle: Handle) -> str:
    """Read from a run's input which payload it was started with.

    A memo would be quicker to read, but every start would pay for it, a tenth of its rate; only repeats have to read.
    """
    async for event in handle.fetch_history_events(page_size=1):
        payloads = event.workflow_execution_started_event_attributes.input.payloads
        [document] = await client.data_converter.decode(payloads, [dict[str, Any]])
        return str(document.get("request", document)["fingerprint"])
    return ""


async def start_submit(client: Client, request: RequestInput, ticket: str) -> Handle:
    """Start a run that someone waits for. Raises `WorkflowAlreadyStartedError`."""
    return await client.start_workflow(Submit.run, request, **options(request, ticket, "submit"))


async def start_enqueue(client: Client, request: RequestInput, ticket: str) -> Handle:
    """Start a run that nobody waits for. Raises `WorkflowAlreadyStartedError`."""
    return await client.start_workflow(
        Enqueue.run, EnqueueInput(request=request), **options(request, ticket, "enqueue")
    )


START = {"submit": start_submit, "enqueue": start_enqueue}


class Options(TypedDict):
    """How the run of a request is started, whatever its pattern."""

    id: str
    task_queue: str
    id_reuse_policy: WorkflowIDReusePolicy
    id_conflict_policy: WorkflowIDConflictPolicy
    search_attributes: TypedSearchAttributes
    static_summary: str


def options(request: RequestInput, ticket: str, pattern: Pattern) -> Options:
    """Say how the run of a request is started: once under its ticket, unless it failed."""
    return Options(
        id=ticket,
        task_queue=PIPELINES,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
        id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
        search_attributes=TypedSearchAttributes(
            [
                SearchAttributePair(PIPELINE, request.pipeline),
                SearchAttributePair(PATTERN, pattern),
                SearchAttributePair(STATUS, "accepted"),
            ]
        ),
        static_summary=shortened(f"one record for {request.pipeline}, key {request.key}"),
    )


async def answer_of(handle: Handle, answer: SubmitAnswer, end: float) -> SubmitAnswer:
    """Wait for a run's result until `end` on the monotonic clock; outages of Temporal only cost time."""
    while (left := end - time.monotonic()) > 0:
        try:
            async with asyncio.timeout(left):
                result = await handle.result()
        except TimeoutError:
            break
        except WorkflowFailureError as failure:
            status, errors = explain_failure(failure)
            return answer.model_copy(update={"status": status, "errors": errors})
        except RPCError as error:
            if not is_outage(error):
                raise
            await asyncio.sleep(min(PAUSE, max(0.0, end - time.monotonic())))
            continue
        repeat = answer.repeat or result.repeat
        return answer.model_copy(update={"status": "committed", "record": result.record, "repeat": repeat})
    return answer


def explain_failure(failure: WorkflowFailureError) -> tuple[str, tuple[FieldError, ...]]:
    """Say what a failed request's caller is told: a status and its field errors."""
    cause = failure.cause
    if isinstance(cause, ApplicationError):
        if cause.type == REJECTED:
            return "rejected", field_errors(cause)
        if cause.type == CONFLICT:
            return "conflict", field_errors(cause)
        return "failed", (FieldError(field="", code=cause.type or "failed", message=cause.message),)
    code = "cancelled" if isinstance(cause, CancelledError) else "failed"
    return "failed", (FieldError(field="", code=code, message=str(cause)),)


def field_errors(cause: ApplicationError) -> tuple[FieldError, ...]:
    """Read the field errors from a failure's details, which hold them as one list or one by one."""
    details = list(cause.details)
    if len(details) == 1 and isinstance(details[0], list):
        details = details[0]
    found = FIELD_ERRORS.validate_python(details)
    return found or (FieldError(field="", code=str(cause.type or "failed").lower(), message=cause.message),)
