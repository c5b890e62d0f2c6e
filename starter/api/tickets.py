"""`/tickets/{id}`: how a ticket stands, its rejects, and the end of it; for pipelines that the caller may use.

Guarantee: a ticket of another pipeline is answered as one that does not exist, before anything is asked about it.
Rejects are streamed; an answer that could not be completed ends without its last chunk, so that no client takes it
for whole.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from activities.rejects import print_rejects, read_rejects
from contracts.errors import FileRefusedError
from contracts.requests import CONFLICT, REJECTED
from starter.api.limits import query_of
from starter.api.problems import NOT_FOUND, NOT_POSSIBLE, Problem, kept_back
from starter.api.services import Context
from starter.services import naming_temporal
from starter.tickets import OVER, TicketState, look, parts_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from contracts.pipeline import Pipeline

GIVEN = ("request/", "upload/")
"""The tickets that this API gives. Others, of queue workers and dead letters, are the operators'."""

OWN_FAULTS = frozenset({REJECTED, CONFLICT, FileRefusedError.__name__})
"""The types of errors that say what is wrong with a record or a file, in words that are its sender's to read."""

PIECE = 64 * 1024


class Tickets:
    """The handlers, over what the process shares."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def get(self, request: Request, ticket: str) -> Response:
        """Say how a ticket stands."""
        query_of(request)
        with self._context.questions.enter():
            return respond(await self._look(request, ticket))

    async def cancel(self, request: Request, ticket: str) -> Response:
        """Ask for the end of what a ticket stands for; what is committed stays."""
        query_of(request)
        with self._context.questions.enter():
            state = await self._look(request, ticket)
            if state.status == "cancelled":
                return respond(state)
            if state.status in OVER:
                raise Problem(NOT_POSSIBLE, f"It is over already: {state.status}.")
            if state.status == "waiting" and state.pattern != "upload":
                raise Problem(NOT_POSSIBLE, "It is parked, and waits for an operator's decision.")
            client = await self._context.services.temporal()
            with naming_temporal(self._context.settings):
                await client.get_workflow_handle(ticket).cancel()
            return respond(state, 202)

    async def rejects(self, request: Request, ticket: str) -> Response:
        """Stream the rejected rows as a CSV that can be corrected and sent again."""
        query_of(request)
        with self._context.questions.enter():
            state = await self._look(request, ticket)
            if state.pattern != "upload":
                raise Problem(NOT_FOUND, "Only files have rejects; a record's errors are in its ticket.")
            if not state.counts.rejected or state.summary is None or state.summary.dialect is None:
                return Response(status_code=204)
            rows = read_rejects(self._context.services.objects, state.summary.rejects)
            pipeline = self._pipeline(request, ticket)
            lines = print_rejects(rows, state.summary.dialect, tuple(pipeline.record.model_fields))
            pieces = in_pieces(lines)
            # The first piece is fetched before anything is promised: what fails here is still a problem document.
            first = await anext(pieces, b"")
        return StreamingResponse(resumed(first, pieces), media_type="text/csv; charset=utf-8")

    def _pipeline(self, request: Request, ticket: str) -> Pipeline:
        """Find a ticket's pipeline. Raises the same `Problem` for one out of scope and for no ticket at all."""
        _, name = parts_of(ticket)
        if not ticket.startswith(GIVEN):
            raise Problem(NOT_FOUND, "No such ticket.")
        try:
            return self._context.find(request, name)
        except Problem:
            raise Problem(NOT_FOUND, "No such ticket.") from None

    async def _look(self, request: Request, ticket: str) -> TicketState:
        self._pipeline(request, ticket)
        return await look(await self._context.services.temporal(), self._context.settings, ticket)


def document_of(state: TicketState) -> dict[str, object]:
    """Write how a ticket stands. The Web UI's address is left out: it is the operators'."""
    state, counts = for_callers(state), state.counts
    has_rejects = state.pattern == "upload" and counts.rejected > 0
    return {
        "ticket": state.ticket,
        "pipeline": state.pipeline,
        "pattern": state.pattern,
        "status": state.status,
        "reason": state.reason,
        "counts": counts.model_dump(include={"read", "written", "rejected", "duplicates", "dropped"}),
        "record": state.record,
        "errors": [error.model_dump() for error in state.errors],
        "rejects": f"/tickets/{state.ticket}/rejects" if has_rejects else None,
    }


def for_callers(state: TicketState) -> TicketState:
    """Keep back what is not about the caller's own record or file: it is the operators'."""
    if not state.failure or state.failure in OWN_FAULTS:
        return state
    error = kept_back(state.ticket, state.errors[0].code if state.errors else state.failure, state.reason)
    reason = f"parked: {error.message} [{state.failure}]" if state.status == "waiting" else error.message
    return state.model_copy(update={"reason": reason, "errors": (error,) if state.errors else ()})


def respond(state: TicketState, status: int = 200) -> Response:
    """Turn a state into a response; it changes, so nobody may keep it."""
    headers = {"Cache-Control": "no-store"}
    return Response(json.dumps(document_of(state)), status, headers=headers, media_type="application/json")


async def in_pieces(lines: AsyncIterator[str]) -> AsyncIterator[bytes]:
    """Gather lines: one write for each would cost more than all the rest."""
    held: list[str] = []
    size = 0
    async for line in lines:
        held.append(line)
        size += len(line)
        if size >= PIECE:
            yield "".join(held).encode()
            held, size = [], 0
    if held:
        yield "".join(held).encode()


async def resumed(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Give the piece that was taken already, then the others."""
    yield first
    async for piece in rest:
        yield piece
