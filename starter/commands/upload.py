"""`upload`, `rejects`, `resume`: files, and what became of their rows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from starter.exits import CommandError, Exit
from starter.output import Output, output_of

if TYPE_CHECKING:
    from temporalio.client import Client

    from contracts.loads import LoadOptions
    from starter.services import Settings
    from starter.tickets import TicketState

Ticket = Annotated[str, typer.Argument(help="The ticket that `upload` printed.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until the load is over, or waits for corrections.")]


def upload(  # noqa: PLR0913, PLR0917 - typer passes them by name
    context: typer.Context,
    pipeline: Annotated[str, typer.Argument(help="Name of the pipeline.")],
    file: Annotated[str, typer.Argument(help="CSV or NDJSON, plain or gzip; - for stdin.")],
    wait: Wait = False,
    again: Annotated[bool, typer.Option("--again", help="Load the same file once more, under a new ticket.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate only; nothing is loaded.")] = False,
    max_rejects: Annotated[
        str | None, typer.Option(help="Validate all first; load nothing if more rows are rejected.", metavar="N|P%")
    ] = None,
    on_rejects: Annotated[
        Literal["finish", "wait"], typer.Option(help="What the load does after its last row if some were rejected.")
    ] = "finish",
) -> None:
    """Store a file, and load it in the background; the answer is a ticket."""
    from contracts.loads import LoadOptions
    from starter.uploads import parse_limit

    output = output_of(context)
    options = LoadOptions(max_rejects=parse_limit(max_rejects), on_rejects=on_rejects, dry_run=dry_run)
    state = asyncio.run(store_and_start(output, pipeline, file, options, again=again, wait=wait))
    finish(output, state, waited=wait)


async def store_and_start(
    output: Output, pipeline: str, file: str, options: LoadOptions, *, again: bool, wait: bool
) -> TicketState:
    """Upload, and follow the load if asked to."""
    from starter.progress import Report
    from starter.services import declared, find_pipeline, load_settings, object_store, temporal
    from starter.uploads import Source, Uploads

    settings = load_settings()
    find_pipeline(declared(settings, output), pipeline)
    source = Source.of(file)
    async with temporal(settings) as client:
        async with object_store(settings) as objects:
            with Report(output, f"storing {source.name}") as report:
                state = await Uploads(client, objects, settings).upload(
                    pipeline, source, options, again=again, show=report.show
                )
        if state.known:
            output.note(
                "The same file was uploaded before: this is that load, with the options it was given. "
                "--again loads the file once more."
            )
        return await follow(output, client, settings, state) if wait else state


async def follow(output: Output, client: Client, settings: Settings, state: TicketState) -> TicketState:
    """Wait for a load to be over or to wait for corrections, and show how it gets on."""
    from starter.progress import Report
    from starter.tickets import watch

    output.note(f"{state.ticket}\n{state.url}")
    with Report(output, f"loading into {state.pipeline}") as report:
        async for latest in watch(client, settings, state.ticket):
            state = latest
            report.show_state(state)
    return state


def finish(output: Output, state: TicketState, *, waited: bool) -> None:
    """Print the answer and leave with its status."""
    if waited:
        output.result(state.document(), *state.lines())
        if output.json and state.reason:
            output.note(state.reason)
        raise typer.Exit(state.exit)
    document = {"ticket": state.ticket, "status": state.status, "url": state.url}
    how = f"follow it: starter status {state.ticket} --watch"
    if state.exit is not Exit.ACCEPTED or state.status == "waiting":
        how = f"see: starter status {state.ticket}"
    output.result(document, state.ticket, f"  {state.status}; {how}", f"  {state.url}")


def rejects(context: typer.Context, ticket: Ticket) -> None:
    """Print the rejected rows with their errors, as a CSV that can be corrected and uploaded as it is."""
    asyncio.run(print_open_rejects(output_of(context), ticket))


async def print_open_rejects(output: Output, ticket: str) -> None:
    """Read a load's rejects from the object store."""
    import sys

    from activities.rejects import print_rejects, read_rejects
    from starter.services import declared, find_pipeline, load_settings, object_store, temporal
    from starter.tickets import look

    settings = load_settings()
    async with temporal(settings) as client:
        state = await look(client, settings, ticket)
    if state.pattern != "upload":
        raise CommandError(Exit.USAGE, f"{ticket} is a request; `starter status {ticket}` shows its errors.")
    summary = state.summary
    async with object_store(settings) as objects:
        if output.json:
            found = []
            if summary and summary.rejects:
                found = [reject.model_dump(mode="json") async for reject in read_rejects(objects, summary.rejects)]
            output.result({"ticket": ticket, "rejects": found})
        elif summary and summary.rejects and summary.dialect:
            pipeline = find_pipeline(declared(settings, output), state.pipeline)
            rows = read_rejects(objects, summary.rejects)
            async for line in print_rejects(rows, summary.dialect, tuple(pipeline.record.model_fields)):
                sys.stdout.write(line)
            sys.stdout.flush()
        else:
            output.note("No row is rejected.")


def resume(
    context: typer.Context,
    ticket: Ticket,
    corrected: Annotated[str | None, typer.Argument(help="The corrected rejects; - for stdin.")] = None,
    wait: Wait = False,
) -> None:
    """Let a load that waits go on, with corrected rows or without the rejected ones; or one that ended early."""
    output = output_of(context)
    state = asyncio.run(decide(output, ticket, corrected, wait=wait))
    finish(output, state, waited=wait)


async def decide(output: Output, ticket: str, corrected: str | None, *, wait: bool) -> TicketState:
    """Store the corrected file and send the decision."""
    from starter.progress import Report
    from starter.services import load_settings, object_store, temporal
    from starter.uploads import Source, Uploads

    settings = load_settings()
    source = Source.of(corrected) if corrected is not None else None
    async with temporal(settings) as client:
        async with object_store(settings) as objects:
            with Report(output, "storing the corrections") as report:
                state = await Uploads(client, objects, settings).resume(ticket, source, report.show)
        return await follow(output, client, settings, state) if wait else state
