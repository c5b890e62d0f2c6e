"""Where dead letters are parked: open workflows on the same Temporal server.

Guarantee: an item is parked once, whoever parks it how often; a retry under a name happens once.
"""

from __future__ import annotations

import asyncio
import base64
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from temporalio.client import (
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from contracts.dead_letters import (
    DEAD_LETTER_MEMO,
    NOT_PARKED,
    PARKED,
    DeadLetterFilter,
    DeadLetterInput,
    DeadLetterNote,
    DeadLetterPage,
    RetryDeadLetter,
    RetryOutcome,
)
from contracts.errors import UnavailableError
from workflows.advice import note_of_letter, title_of_letter
from workflows.dead_letter import DeadLetter
from workflows.options import ERROR_TYPE, PATTERN, PIPELINE, PIPELINES, STATUS
from workflows.parking import Parked

if TYPE_CHECKING:
    from temporalio.client import Client, WorkflowExecution

OUTAGES = frozenset(
    {
        RPCStatusCode.UNAVAILABLE,
        RPCStatusCode.DEADLINE_EXCEEDED,
        RPCStatusCode.RESOURCE_EXHAUSTED,
        RPCStatusCode.ABORTED,
        RPCStatusCode.CANCELLED,
        RPCStatusCode.INTERNAL,
        RPCStatusCode.UNKNOWN,
    }
)
"""Answers that say nothing about the letter: the server is away, overloaded or broken, and may answer again later."""

ENDED_MEANWHILE = "AcceptedUpdateCompletedWorkflow"
"""The server's word for an update whose workflow was ended from outside."""

SETTLED = RetryOutcome(status="stored")
"""The outcome of a retry that came too late: someone else has settled it."""


class TemporalParking:
    """The `Parking` port over a Temporal client."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def park(self, letter: DeadLetterInput) -> None:
        """Start the dead letter's workflow. One that is open, or was settled by an operator, is left alone."""
        letter = letter.model_copy(update={"parked": letter.parked or datetime.now(UTC)})
        try:
            await self.client.start_workflow(
                DeadLetter.run,
                letter,
                id=letter.ticket,
                task_queue=PIPELINES,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                # Only a run that someone ended from outside may be replaced: its receipt still says `dead`.
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
                memo={DEAD_LETTER_MEMO: note_of_letter(letter)},
                search_attributes=TypedSearchAttributes(
                    [
                        SearchAttributePair(PIPELINE, letter.pipeline),
                        SearchAttributePair(PATTERN, "consume"),
                        SearchAttributePair(STATUS, PARKED),
                        SearchAttributePair(ERROR_TYPE, letter.breakdown.error_type),
                    ]
                ),
                static_summary=title_of_letter(letter),
            )
        except WorkflowAlreadyStartedError:
            return
        except RPCError as error:
            raise translated(self.client, error) from error

    async def find(self, letters: DeadLetterFilter, page_size: int, token: str = "") -> DeadLetterPage:
        """List the tickets of parked dead letters, a page at a time; with `since` a page may hold fewer, or none."""
        found, following = await self.look(letters, page_size, token)
        return DeadLetterPage(tickets=tuple(execution.id for execution, _ in found), token=following)

    async def look(
        self, letters: DeadLetterFilter, page_size: int, token: str = ""
    ) -> tuple[list[tuple[WorkflowExecution, DeadLetterNote]], str]:
        """List parked dead letters with what each says of itself, and the next token. Raises `UnavailableError`."""
        pages = self.client.list_workflows(
            query_of(letters), page_size=page_size, next_page_token=base64.b64decode(token) or None
        )
        found: list[tuple[WorkflowExecution, DeadLetterNote]] = []
        try:
            await pages.fetch_next_page(page_size=page_size)
        except RPCError as error:
            raise translated(self.client, error) from error
        for execution in pages.current_page or ():
            note = await execution.memo_value(DEAD_LETTER_MEMO, type_hint=DeadLetterNote)
            # When something was parked is in the memo: its run may have begun long before, or anew since.
            if letters.since is None or note.parked >= letters.since:
                found.append((execution, note))
        return found, base64.b64encode(pages.next_page_token or b"").decode()

    async def retry(self, ticket: str, name: str = "") -> RetryOutcome:
        """Ask one dead letter to be tried again, and wait for what came of it, through outages of the sink."""
        handle = self.client.get_workflow_handle(ticket)
        request, update = RetryDeadLetter(who=name), name or uuid.uuid4().hex
        while True:
            try:
                return await handle.execute_update(Parked.retry, request, id=update)
            except WorkflowUpdateFailedError as error:
                return SETTLED if is_settled(error) else RetryOutcome(status="parked")
            except WorkflowUpdateRPCTimeoutOrCancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    # The client hides that this very task is to end.
                    raise asyncio.CancelledError from None
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND:
                    return SETTLED
                raise translated(self.client, error) from error


def is_settled(error: WorkflowUpdateFailedError) -> bool:
    """Say whether a retry was refused because there is nothing to be retried any more."""
    return isinstance(error.cause, ApplicationError) and error.cause.type in {NOT_PARKED, ENDED_MEANWHILE}


def query_of(letters: DeadLetterFilter) -> str:
    """Write the visibility query of a filter, whose values hold no quotes."""
    terms = [f"{STATUS.name} = '{PARKED}'", "ExecutionStatus = 'Running'"]
    if letters.pipeline:
        terms.append(f"{PIPELINE.name} = '{letters.pipeline}'")
    if letters.error_type:
        terms.append(f"{ERROR_TYPE.name} = '{letters.error_type}'")
    return " AND ".join(terms)


def translated(client: Client, error: RPCError) -> Exception:
    """Turn an outage into the error that every port raises."""
    if error.status in OUTAGES:
        return UnavailableError(
            "Temporal",
            client.service_client.config.target_host,
            f"it does not answer as it should ({error.status.name})",
        )
    return error
