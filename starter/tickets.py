"""Tickets: how the run behind a ticket stands, whatever its pattern, also while workers or Temporal are down.

Guarantee: a state is never better than what Temporal says about the run; counts come from the run itself while it
answers, and else from the memo that it kept last.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta

from pydantic import JsonValue
from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowQueryFailedError,
)
from temporalio.service import RPCError, RPCStatusCode

from contracts.dead_letters import (
    DEAD_LETTER_MEMO,
    PARKED,
    REDRIVE_MEMO,
    DeadLetterNote,
    DeadLetterState,
    RedriveSummary,
)
from contracts.errors import UnavailableError
from contracts.loads import Counts, LoadStatus, LoadSummary
from contracts.record import FieldError, Frozen
from contracts.requests import RequestResult
from starter.consumers import summary_of
from starter.exits import CommandError, Exit
from starter.requests import explain_failure
from starter.services import Settings, is_outage, link, naming_temporal
from workflows.options import ERROR_TYPE, PATTERN, STATUS
from workflows.parking import Parked
from workflows.redrive import Redrive
from workflows.upload import Upload

PATTERNS = {
    "request": "submit",
    "upload": "upload",
    "consume": "consume",
    "dead-letter": "consume",
    "redrive": "redrive",
}
"""The first word of a ticket, and the pattern that gives such tickets; a request's run says if it is `enqueue`."""

PARTS = {"consume": 2}
"""How many parts a ticket has, the others at least three: a pipeline has one queue worker."""

QUERY_TIMEOUT = timedelta(seconds=1)
PATIENCE = 300.0
"""Seconds that a wait survives without an answer of Temporal."""

FIRST_LOOK, SLOWEST_LOOK = 0.1, 1.0
"""Seconds between two looks at how far a run is: short loads show progress, long ones are not bothered."""

OVER: Mapping[LoadStatus, Exit] = {
    "completed": Exit.DONE,
    "failed": Exit.FAILED,
    "cancelled": Exit.FAILED,
    "stopped": Exit.STOPPED,
}
"""The final statuses, and the exit status of a command that waited for them."""


class TicketState(Frozen):
    """How a ticket's run stands. `reason` explains every status but `running` and `completed`.

    `failure` is the type of the error that it failed with, or is parked for. Unless that is about the record or the
    file itself, `reason` and `errors` are for operators: they may name services and other pipelines.

    `known` says that an upload found the load of the same file, and started none.
    """

    ticket: str
    status: LoadStatus
    url: str
    pipeline: str
    pattern: str
    counts: Counts
    reason: str = ""
    failure: str = ""
    summary: LoadSummary | None = None
    redrive: RedriveSummary | None = None
    record: dict[str, JsonValue] | None = None
    errors: tuple[FieldError, ...] = ()
    known: bool = False

    @property
    def exit(self) -> Exit:
        """Give the exit status of a command that waited: a load that is not over was only accepted."""
        return OVER.get(self.status, Exit.ACCEPTED)

    @property
    def kind(self) -> str:
        """Give the ticket's first word."""
        return self.ticket.split("/", 1)[0]

    def document(self) -> dict[str, object]:
        """Build the JSON answer of the commands that wait or ask."""
        found: dict[str, object] = {
            "ticket": self.ticket,
            "status": self.status,
            "url": self.url,
            "pipeline": self.pipeline,
            "pattern": self.pattern,
            "counts": self.counts.model_dump(include={"read", "written", "rejected", "duplicates"}),
        }
        if self.kind != "upload":
            found["reason"] = self.reason
        if self.kind in {"request", "dead-letter"}:
            found |= {"record": self.record, "errors": [error.model_dump() for error in self.errors]}
        if self.redrive is not None:
            found["redrive"] = self.redrive.model_dump(mode="json")
        return found

    def lines(self) -> list[str]:
        """Say the same to people."""
        counts = self.counts
        found = [f"{self.ticket}: {self.status}" + (f" ({self.reason})" if self.reason else "")]
        if self.redrive is not None:
            redrive = self.redrive
            found.append(f"  found {redrive.found:,} · stored {redrive.stored:,} · still parked {redrive.failed:,}")
        else:
            found.append(
                f"  read {counts.read:,} · written {counts.written:,} · rejected {counts.rejected:,} · "
                f"duplicates {counts.duplicates:,}" + (f" · dropped {counts.dropped:,}" if counts.dropped else "")
            )
        if self.record is not None:
            found.append(f"  {json.dumps(self.record)}")
        found += [f"  {error.field or 'record'}: {error.message} [{error.code}]" for error in self.errors]
        if counts.rejected and self.pattern == "upload":
            found.append(f"  rejects: starter rejects {self.ticket}")
        if self.status == "waiting":
            found += self.next_steps()
        return [*found, f"  {self.url}"]

    def next_steps(self) -> list[str]:
        """Say how something that waits goes on."""
        if self.kind == "redrive":
            return [f"  go on:   starter dead-letters redrive --resume {self.ticket}"]
        if self.kind == "consume":
            return ["  it goes on by itself, once what it waits for is there again"]
        if self.kind == "upload":
            return [f"  go on:   starter resume {self.ticket} [CORRECTED]   or   starter cancel {self.ticket}"]
        return [
            f"  go on:   starter dead-letters retry {self.ticket} [--record CORRECTED]",
            f"     or:   starter dead-letters discard {self.ticket} --reason ...",
        ]


def parts_of(ticket: str) -> tuple[str, str]:
    """Take pattern and pipeline from a ticket. Raises `CommandError` if it is none."""
    parts = ticket.split("/")
    if parts[0] not in PATTERNS or len(parts) < PARTS.get(parts[0], 3):
        known = ", ".join(f"{name}/" for name in PATTERNS)
        message = f"No such ticket: {ticket!r}. A ticket begins with one of {known}."
        raise CommandError(Exit.UNKNOWN, message)
    return PATTERNS[parts[0]], parts[1]


async def describe(client: Client, settings: Settings, ticket: str) -> WorkflowExecutionDescription:
    """Ask Temporal for a ticket's latest run. Raises `CommandError` if there is none, `UnavailableError`."""
    parts_of(ticket)
    try:
        with naming_temporal(settings):
            return await client.get_workflow_handle(ticket).describe()
    except RPCError as error:
        if error.status in {RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT}:
            message = f"No such ticket: {ticket!r}."
            raise CommandError(Exit.UNKNOWN, message) from error
        raise


async def look(client: Client, settings: Settings, ticket: str) -> TicketState:
    """Say how a ticket stands now. Raises `CommandError` if there is no such ticket, `UnavailableError`."""
    described = await describe(client, settings, ticket)
    pattern, pipeline = parts_of(ticket)
    state = TicketState(
        ticket=ticket,
        status=status_of(described),
        url=link(settings, ticket),
        pipeline=pipeline,
        pattern=pattern,
        counts=Counts(),
    )
    look_closer = {
        "upload": look_at_load,
        "request": look_at_request,
        "dead-letter": look_at_letter,
        "redrive": look_at_redrive,
        "consume": look_at_consumers,
    }[state.kind]
    with naming_temporal(settings):
        return await look_closer(client, described, state)


def status_of(described: WorkflowExecutionDescription) -> LoadStatus:
    """Translate what Temporal says about a run."""
    if described.status in {WorkflowExecutionStatus.RUNNING, WorkflowExecutionStatus.CONTINUED_AS_NEW}:
        return "running"
    if described.status is WorkflowExecutionStatus.COMPLETED:
        return "completed"
    return "cancelled" if described.status is WorkflowExecutionStatus.CANCELED else "failed"


async def look_at_request(client: Client, described: WorkflowExecutionDescription, state: TicketState) -> TicketState:
    """Add what a request's result says, or why it is parked."""
    pattern = described.typed_search_attributes.get(PATTERN) or state.pattern
    state = state.model_copy(update={"pattern": pattern, "counts": Counts(read=1)})
    if state.status == "running":
        return await look_at_parked(client, described, state)
    handle = client.get_workflow_handle(state.ticket, run_id=described.run_id, result_type=RequestResult)
    try:
        result = await handle.result(follow_runs=False)
    except WorkflowFailureError as failure:
        verdict, errors = explain_failure(failure)
        counts = Counts(read=1, rejected=1) if verdict == "rejected" else Counts(read=1)
        reason = errors[0].message if verdict == "failed" and errors else verdict
        changes = {"reason": reason, "errors": errors, "counts": counts}
        if verdict == "failed" and state.status == "failed":
            changes["failure"] = errors[0].code if errors else verdict
        return state.model_copy(update=changes)
    kept = Counts(read=1, dropped=1) if result.record is None else Counts(read=1, written=1)
    return state.model_copy(update={"counts": kept, "record": result.record})


async def look_at_parked(client: Client, described: WorkflowExecutionDescription, state: TicketState) -> TicketState:
    """Say why an open run is parked, if it is: what the memo knows, and the errors if a worker answers in time."""
    if described.typed_search_attributes.get(STATUS) != PARKED:
        return state
    note = await described.memo_value(DEAD_LETTER_MEMO, None, type_hint=DeadLetterNote)
    reason = f"parked: {note.message} [{note.error_type}]" if note else "parked"
    failure = note.error_type if note else described.typed_search_attributes.get(ERROR_TYPE) or "Unexpected"
    state = state.model_copy(update={"status": "waiting", "reason": reason, "failure": failure})
    try:
        letter = await client.get_workflow_handle(state.ticket, run_id=described.run_id).query(
            Parked.dead_letter, rpc_timeout=QUERY_TIMEOUT
        )
    except (RPCError, WorkflowQueryFailedError, TimeoutError):
        return state  # no worker at the moment, or the run has just ended
    return state.model_copy(update={"errors": letter.breakdown.errors})


async def look_at_letter(client: Client, described: WorkflowExecutionDescription, state: TicketState) -> TicketState:
    """Add what a dead letter of a queue says."""
    state = state.model_copy(update={"counts": Counts(read=1)})
    if state.status == "running":
        return await look_at_parked(client, described, state)
    if state.status != "completed":
        return state.model_copy(update={"reason": "the run was ended from outside; its item's receipt still says dead"})
    handle = client.get_workflow_handle(state.ticket, run_id=described.run_id, result_type=DeadLetterState)
    letter = await handle.result(follow_runs=False)
    if letter.status == "stored":
        counts = Counts(read=1, dropped=1) if letter.record is None else Counts(read=1, written=1)
        return state.model_copy(update={"counts": counts, "record": letter.record})
    changes = {"counts": Counts(read=1, rejected=1), "reason": f"discarded: {letter.reason}"}
    return state.model_copy(update={**changes, "errors": letter.breakdown.errors})


async def look_at_redrive(client: Client, described: WorkflowExecutionDescription, state: TicketState) -> TicketState:
    """Add how far a redrive is: from the run if a worker answers in time, else from its memo."""
    summary = await described.memo_value(REDRIVE_MEMO, RedriveSummary(status="running"), type_hint=RedriveSummary)
    if state.status == "running":
        handle = client.get_workflow_handle_for(Redrive.run, state.ticket, run_id=described.run_id)
        with contextlib.suppress(RPCError, WorkflowQueryFailedError, TimeoutError):
            summary = await handle.query(Redrive.summary, rpc_timeout=QUERY_TIMEOUT)
    status = state.status
    if status == "running" and summary.status == "paused":
        status = "waiting"
    elif status == "completed" and summary.status == "stopped":
        status = "stopped"
    tried = summary.stored + summary.failed
    return state.model_copy(
        update={
            "status": status,
            "reason": summary.reason,
            "counts": Counts(read=tried, written=summary.stored, rejected=summary.failed),
            "redrive": summary,
        }
    )


async def look_at_consumers(client: Client, described: WorkflowExecutionDescription, state: TicketState) -> TicketState:
    """Add what a queue worker says: one that is paused, or on its way to its end, is open all the same."""
    summary = await summary_of(client, described)
    counts = Counts(**summary.counts.model_dump(include=set(Counts.model_fields)))
    status: LoadStatus = "waiting" if state.status == "running" and summary.status == "paused" else state.status
    return state.model_copy(update={"status": status, "reason": summary.reason, "counts": counts})


async def look_at_load(client: Client, described: WorkflowExecutionDescription, state: TicketState) -> TicketState:
    """Add a load's own summary: from the run if a worker answers in time, else from its memo."""
    summary = await described.memo_value("summary", None, type_hint=LoadSummary)
    if state.status == "running":
        handle = client.get_workflow_handle_for(Upload.run, state.ticket, run_id=described.run_id)
        try:
            summary = await handle.query(Upload.summary, rpc_timeout=QUERY_TIMEOUT)
        except (RPCError, WorkflowQueryFailedError):
            pass  # no worker at the moment, or the run has just ended: the memo has to do
        except TimeoutError:
            pass
    if summary is None:
        return state
    status, reason = state.status, summary.reason
    if status == "running" and summary.status == "waiting":
        status = "waiting"
    elif status == "completed":
        status = summary.status if summary.status in OVER else "completed"
    elif status in {"failed", "cancelled"} and summary.status != status:
        reason = (
            reason or f"the run was ended from outside: {described.status.name.lower() if described.status else ''}"
        )
    failure = (described.typed_search_attributes.get(ERROR_TYPE) or "") if status == "failed" else ""
    found = {"status": status, "reason": reason, "failure": failure, "counts": summary.counts, "summary": summary}
    return state.model_copy(update=found)


async def watch(
    client: Client, settings: Settings, ticket: str, *, through_waiting: bool = False
) -> AsyncIterator[TicketState]:
    """Yield a ticket's state again and again, the last time when it is over or, unless told otherwise, waiting.

    The end of the run is noticed as it happens. Temporal may be gone for up to five minutes in between. Raises
    `UnavailableError` after that.
    """
    pause, answered = FIRST_LOOK, time.monotonic()
    while True:
        try:
            state = await look(client, settings, ticket)
        except (UnavailableError, RPCError) as error:
            if not is_outage(error) or time.monotonic() - answered > PATIENCE:
                raise
            await asyncio.sleep(pause)
        else:
            answered = time.monotonic()
            yield state
            if state.status in OVER or (state.status == "waiting" and not through_waiting):
                return
            await pause_while_open(client, ticket, pause)
        pause = min(SLOWEST_LOOK, pause * 1.5)


async def pause_while_open(client: Client, ticket: str, seconds: float) -> None:
    """Pause, but only until the last of a ticket's runs is closed, however it ends.

    The long poll lives no longer than the pause: nothing is left behind by a caller who loses interest, and an end
    that comes between two pauses answers the next one at once.
    """
    began = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            await client.get_workflow_handle(ticket).result()
    except (TimeoutError, WorkflowFailureError):
        pass  # still open, or closed without a result
    except RPCError as error:
        if not is_outage(error):
            raise
        # The next look tells how long Temporal has been gone; without the rest of the pause it would come at once.
        await asyncio.sleep(max(0.0, seconds - (time.monotonic() - began)))
