"""Dead letters as a library: list, show and decide, for the command line and for whoever else operates them.

Guarantee: a decision is confirmed only when it is durable; one that was not confirmed in time goes on, and says so.
"""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from temporalio.client import (
    Client,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateHandle,
    WorkflowUpdateRPCTimeoutOrCancelledError,
    WorkflowUpdateStage,
)
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from activities.redrives import count_parked
from contracts.dead_letters import (
    REDRIVE_MEMO,
    DeadLetterFilter,
    DeadLetterNote,
    DeadLetterState,
    DiscardDeadLetter,
    RedriveInput,
    RedriveSummary,
    RetryDeadLetter,
    RetryOutcome,
)
from contracts.record import Frozen
from starter.exits import CommandError, Exit
from starter.services import Settings, link, naming_temporal
from starter.tickets import describe, parts_of
from workers.parking import TemporalParking
from workflows.advice import title_of_redrive
from workflows.options import PATTERN, PIPELINE, PIPELINES, STATUS
from workflows.parking import Parked
from workflows.redrive import Redrive

if TYPE_CHECKING:
    from collections.abc import Awaitable

Outcome = TypeVar("Outcome")

PAGE = 500
PARKING = ("request", "dead-letter")
"""The kinds of tickets that can be dead letters."""

ANSWER = timedelta(seconds=10)
"""How long a worker may take to say how something stands, or to accept a decision."""

NO_WORKER = "No worker answered in time; are workers running (`starter up`)?"
MAYBE = f"{NO_WORKER} The decision may still be taken when one does: look with `starter status` before sending another."


class Listed(Frozen):
    """One line of the list."""

    ticket: str
    url: str
    pipeline: str
    pattern: str
    note: DeadLetterNote


class Letters:
    """Dead letters behind a connection to Temporal."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self.client = client
        self.settings = settings
        self.parking = TemporalParking(client)

    async def list(self, letters: DeadLetterFilter, limit: int) -> tuple[list[Listed], bool]:
        """List parked dead letters, the newest runs first; the flag tells of more. Raises `UnavailableError`."""
        listed: list[Listed] = []
        token = ""
        while True:
            found, token = await self.parking.look(letters, PAGE, token)
            for execution, note in found:
                attributes = execution.typed_search_attributes
                listed.append(
                    Listed(
                        ticket=execution.id,
                        url=link(self.settings, execution.id),
                        pipeline=attributes.get(PIPELINE) or "",
                        pattern=attributes.get(PATTERN) or "",
                        note=note,
                    )
                )
            if len(listed) > limit or not token:
                return listed[:limit], len(listed) > limit or bool(token)

    async def count(self, letters: DeadLetterFilter) -> int:
        """Count parked dead letters. Raises `UnavailableError`."""
        return await count_parked(self.parking, letters)

    async def show(self, ticket: str) -> DeadLetterState:
        """Tell all about one. Raises `CommandError` for what never failed, `UnavailableError`."""
        handle = await self.find(ticket)
        try:
            with naming_temporal(self.settings):
                return await handle.query(Parked.dead_letter, rpc_timeout=ANSWER)
        except WorkflowQueryFailedError as error:
            raise CommandError(Exit.FAILED, f"{ticket} is no dead letter: nothing has failed for good.") from error
        except RPCError as error:
            if error.status is RPCStatusCode.FAILED_PRECONDITION:
                raise CommandError(Exit.UNREACHABLE, NO_WORKER) from error
            raise

    async def retry(self, ticket: str, request: RetryDeadLetter, deadline: timedelta) -> RetryOutcome | None:
        """Try one again and wait for what comes of it; None if that takes longer. Raises `CommandError`."""
        handle = await self.find(ticket)
        return await self.decide(
            handle.start_update(Parked.retry, request, wait_for_stage=WorkflowUpdateStage.ACCEPTED, rpc_timeout=ANSWER),
            ticket,
            deadline,
        )

    async def discard(self, ticket: str, request: DiscardDeadLetter, deadline: timedelta) -> DeadLetterState | None:
        """Give one up; None if that is not durable in time. Raises `CommandError`."""
        handle = await self.find(ticket)
        return await self.decide(
            handle.start_update(
                Parked.discard, request, wait_for_stage=WorkflowUpdateStage.ACCEPTED, rpc_timeout=ANSWER
            ),
            ticket,
            deadline,
        )

    async def redrive(self, asked: RedriveInput) -> str:
        """Start a redrive; returns its ticket."""
        letters = asked.letters
        ticket = f"redrive/{letters.pipeline or 'all'}/{uuid.uuid4().hex[:10]}"
        pairs: list[SearchAttributePair[Any]] = [
            SearchAttributePair(PATTERN, "redrive"),
            SearchAttributePair(STATUS, "running"),
        ]
        if letters.pipeline:
            pairs.append(SearchAttributePair(PIPELINE, letters.pipeline))
        with naming_temporal(self.settings):
            await self.client.start_workflow(
                Redrive.run,
                asked,
                id=ticket,
                task_queue=PIPELINES,
                memo={REDRIVE_MEMO: RedriveSummary(status="running")},
                search_attributes=TypedSearchAttributes(pairs),
                static_summary=title_of_redrive(asked),
            )
        return ticket

    async def steer(self, ticket: str, *, pause: bool) -> None:
        """Pause or resume a redrive. Raises `CommandError`."""
        if ticket.split("/", 1)[0] != "redrive":
            raise CommandError(Exit.USAGE, f"{ticket} is no redrive.")
        await describe(self.client, self.settings, ticket)
        handle = self.client.get_workflow_handle_for(Redrive.run, ticket)
        change = Redrive.pause if pause else Redrive.resume
        await self.decide(
            handle.start_update(change, wait_for_stage=WorkflowUpdateStage.ACCEPTED, rpc_timeout=ANSWER),
            ticket,
            ANSWER,
        )

    async def find(self, ticket: str) -> WorkflowHandle[Any, Any]:
        """Find what may be parked. Raises `CommandError`, `UnavailableError`."""
        parts_of(ticket)
        if ticket.split("/", 1)[0] not in PARKING:
            raise CommandError(Exit.USAGE, f"{ticket} is no dead letter; those begin with {'/ or '.join(PARKING)}/.")
        await describe(self.client, self.settings, ticket)
        return self.client.get_workflow_handle(ticket)

    async def decide(
        self, sending: Awaitable[WorkflowUpdateHandle[Outcome]], ticket: str, deadline: timedelta
    ) -> Outcome | None:
        """Send a decision and wait for its outcome. Raises `CommandError` if it is refused or nobody takes it."""
        try:
            with naming_temporal(self.settings):
                sent = await sending
        except WorkflowUpdateFailedError as error:
            refuse(ticket, error)
        except (WorkflowUpdateRPCTimeoutOrCancelledError, TimeoutError) as error:
            # Not accepted is not durable, but the server keeps it in memory for a worker that comes.
            raise CommandError(Exit.UNREACHABLE, MAYBE) from error
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise CommandError(Exit.FAILED, f"{ticket} is over: there is nothing to decide any more.") from error
            raise
        try:
            with naming_temporal(self.settings):
                async with asyncio.timeout(deadline.total_seconds()):
                    return await sent.result()
        except WorkflowUpdateFailedError as error:
            refuse(ticket, error)
        except (WorkflowUpdateRPCTimeoutOrCancelledError, TimeoutError):
            return None


def refuse(ticket: str, error: WorkflowUpdateFailedError) -> NoReturn:
    """Pass on why a decision was refused."""
    raise CommandError(Exit.FAILED, f"{ticket}: {error.cause}") from error


def parse_since(text: str | None) -> datetime | None:
    """Read a time (ISO 8601; without a zone it is UTC) or an age such as 90m, 12h or 7d. Raises `CommandError`."""
    if text is None:
        return None
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    try:
        if text[-1:] in units and text[:-1].isdigit():
            return datetime.now(UTC) - timedelta(**{units[text[-1]]: int(text[:-1])})
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        message = f"--since takes a time such as 2026-01-31T10:00:00Z, or an age such as 90m, 12h or 7d, not {text!r}."
        raise CommandError(Exit.USAGE, message) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def parse_rate(text: str) -> float:
    """Read tries a second from 50/s, 30/m or 100/h. Raises `CommandError`."""
    number, _, unit = text.partition("/")
    seconds = {"": 1, "s": 1, "m": 60, "h": 3600}.get(unit)
    try:
        rate = float(number) / (seconds or 0)
    except (ValueError, ZeroDivisionError):
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise CommandError(Exit.USAGE, f"--rate takes a number such as 50/s, 30/m or 100/h, not {text!r}.")
    return rate


def parse_percent(text: str) -> float:
    """Read a share of failures, such as 20%. Raises `CommandError`."""
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = 0.0
    if not 0 < percent <= 100:  # noqa: PLR2004  - percent
        raise CommandError(Exit.USAGE, f"--abort-above takes a share over 0% and up to 100%, not {text!r}.")
    return percent
