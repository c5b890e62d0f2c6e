"""`status` and `cancel`: for tickets of every pattern."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from starter.exits import CommandError, Exit
from starter.output import Output, output_of

if TYPE_CHECKING:
    from starter.tickets import TicketState

Ticket = Annotated[str, typer.Argument(help="The ticket that a command printed.")]


def status(
    context: typer.Context,
    ticket: Ticket,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until it is over.")] = False,
) -> None:
    """Say how a request or a load stands."""
    output = output_of(context)
    state = asyncio.run(ask(output, ticket, watch=watch))
    output.result(state.document(), *state.lines())
    if output.json and state.reason:
        output.note(state.reason)
    raise typer.Exit(state.exit if watch else Exit.DONE)


async def ask(output: Output, ticket: str, *, watch: bool) -> TicketState:
    """Look once, or until it is over."""
    from starter.progress import Report
    from starter.services import load_settings, temporal
    from starter.tickets import look
    from starter.tickets import watch as states

    settings = load_settings()
    async with temporal(settings) as client:
        state = await look(client, settings, ticket)
        if watch:
            unit = "dead letters" if state.redrive else "bytes"
            with Report(output, state.pipeline, unit) as report:
                async for latest in states(client, settings, ticket, through_waiting=True):
                    state = latest
                    report.show_state(state)
        return state


def cancel(
    context: typer.Context,
    ticket: Ticket,
    deadline: Annotated[float, typer.Option(help="Seconds to wait until it is over.", min=0)] = 120.0,
) -> None:
    """Stop a request or a load; what is committed stays, and is counted."""
    output = output_of(context)
    state = asyncio.run(stop(ticket, deadline))
    output.result(state.document(), *state.lines())
    if state.status == "cancelled":
        raise typer.Exit(Exit.DONE)
    raise typer.Exit(Exit.ACCEPTED if state.status in {"running", "waiting"} else Exit.FAILED)


async def stop(ticket: str, deadline: float) -> TicketState:
    """Ask for the cancellation and wait until it is done. Raises `CommandError` if it was over before."""
    from starter.services import load_settings, naming_temporal, temporal
    from starter.tickets import OVER, look, watch

    settings = load_settings()
    async with temporal(settings) as client:
        state = await look(client, settings, ticket)
        if state.kind == "dead-letter":
            message = f"{ticket} is a dead letter: `starter dead-letters discard {ticket} --reason ...` gives it up."
            raise CommandError(Exit.USAGE, message)
        if state.status == "cancelled":
            return state
        if state.status in OVER:
            raise CommandError(Exit.FAILED, f"{ticket} is over already: {state.status}.")
        with naming_temporal(settings):
            await client.get_workflow_handle(ticket).cancel()
        try:
            async with asyncio.timeout(deadline):
                async for latest in watch(client, settings, ticket, through_waiting=True):
                    state = latest
        except TimeoutError:
            pass  # it is asked for and will happen; the answer says that it did not yet
        return state
