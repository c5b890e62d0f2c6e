"""`consume`: a pipeline's queue worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from starter.exits import CommandError, Exit
from starter.output import Output, output_of

if TYPE_CHECKING:
    from contracts.consume import ConsumeChange
    from starter.tickets import TicketState


def consume(
    context: typer.Context,
    pipeline: Annotated[str, typer.Argument(help="Name of the pipeline.")],
    workers: Annotated[
        int | None, typer.Option(help="Consumers at once, on whichever machines.  [default: 2]", min=1, max=64)
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="The most items of one window.  [default: 500]", min=1, max=1000)
    ] = None,
    stop: Annotated[bool, typer.Option("--stop", help="End after the windows in flight, and wait for that.")] = False,
    drain: Annotated[bool, typer.Option("--drain", help="Wait until the queue is empty, then end.")] = False,
) -> None:
    """Consume a pipeline's queue, until it is stopped; of one that runs, change workers and batch."""
    from contracts.consume import ConsumeChange

    output = output_of(context)
    if stop and (drain or workers or batch):
        raise CommandError(Exit.USAGE, "--stop goes with no other option.")
    change = ConsumeChange(workers=workers, batch=batch)
    state = asyncio.run(act(output, pipeline, change, stop=stop, drain=drain))
    output.result(state.document(), *state.lines())
    raise typer.Exit(Exit.DONE if state.status in {"running", "waiting", "completed"} else Exit.FAILED)


async def act(output: Output, pipeline: str, change: ConsumeChange, *, stop: bool, drain: bool) -> TicketState:
    """Start, change or stop; then say how it stands, at once or when it is over."""
    from starter import consumers
    from starter.services import declared, find_pipeline, load_settings, temporal
    from starter.tickets import look

    settings = load_settings()
    find_pipeline(declared(settings, output), pipeline)
    ticket = consumers.ticket_of(pipeline)
    async with temporal(settings) as client:
        if stop:
            await consumers.stop(client, settings, pipeline)
        else:
            await consumers.start(client, settings, pipeline, change, drain=drain)
        if not (stop or drain):
            return await look(client, settings, ticket)
        state = await look(client, settings, ticket)
        output.note(f"{ticket}\n{state.url}")
        return await until_over(output, pipeline, state)


async def until_over(output: Output, pipeline: str, state: TicketState) -> TicketState:
    """Follow it to its end; a pause is waited out, and told."""
    from starter.services import load_settings, temporal
    from starter.tickets import watch

    settings = load_settings()
    told = ""
    async with temporal(settings) as client:
        async for latest in watch(client, settings, state.ticket, through_waiting=True):
            state = latest
            if state.status == "waiting" and state.reason != told:
                told = state.reason
                output.note(f"{pipeline}: {told}")
    return state
