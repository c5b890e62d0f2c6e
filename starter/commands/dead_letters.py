"""`dead-letters`: what failed for good, and what an operator does about it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from starter.exits import CommandError, Exit
from starter.output import Output, output_of

if TYPE_CHECKING:
    from contracts.dead_letters import (
        DeadLetterFilter,
        DeadLetterState,
        RedriveInput,
        RetryOutcome,
    )
    from starter.letters import Letters, Listed
    from starter.tickets import TicketState

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, show, retry and discard dead letters.")

Ticket = Annotated[str, typer.Argument(help="The ticket of a dead letter, as `list` prints it.")]
OfPipeline = Annotated[str, typer.Option("--pipeline", help="Only those of this pipeline.")]
OfErrorType = Annotated[str, typer.Option("--error-type", help="Only those that failed with this type of error.")]
Since = Annotated[
    str | None, typer.Option(help="Only those parked since then: a time, or an age such as 90m, 12h, 7d.")
]
Deadline = Annotated[float, typer.Option(help="Seconds to wait; past them it is carried out all the same.", min=0)]


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[Letters]:
    """Connect to Temporal."""
    from starter.letters import Letters
    from starter.services import load_settings, temporal

    settings = load_settings()
    async with temporal(settings) as client:
        yield Letters(client, settings)


def filter_of(pipeline: str, error_type: str, since: str | None) -> DeadLetterFilter:
    """Build the filter. Raises `CommandError`."""
    from pydantic import ValidationError

    from contracts.dead_letters import DeadLetterFilter
    from starter.letters import parse_since

    try:
        return DeadLetterFilter(pipeline=pipeline, error_type=error_type, since=parse_since(since))
    except ValidationError as error:
        message = "--pipeline and --error-type take names: letters, digits and . _ : -"
        raise CommandError(Exit.USAGE, message) from error


@app.command("list")
def list_letters(
    context: typer.Context,
    pipeline: OfPipeline = "",
    error_type: OfErrorType = "",
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="Print so many at most.")] = 1000,
) -> None:
    """List what is parked, as far as Temporal's visibility has heard of it."""
    output = output_of(context)
    found, more = asyncio.run(find(filter_of(pipeline, error_type, since), limit))
    lines = [line for letter in found for line in lines_of(letter)]
    output.result(
        {"dead_letters": [document_of(letter) for letter in found], "more": more},
        *(lines or ["Nothing is parked."]),
    )
    if more:
        output.note(f"There are more than these {len(found)}.")


async def find(letters: DeadLetterFilter, limit: int) -> tuple[list[Listed], bool]:
    """Ask Temporal."""
    async with opened() as parked:
        return await parked.list(letters, limit)


def document_of(letter: Listed) -> dict[str, object]:
    """Describe one of a list for scripts."""
    note = letter.note.model_dump(mode="json")
    return {"ticket": letter.ticket, "pipeline": letter.pipeline, "pattern": letter.pattern, **note, "url": letter.url}


def lines_of(letter: Listed) -> list[str]:
    """Describe one of a list for people."""
    note = letter.note
    item = f" · item {note.item} of {note.queue}" if note.queue else ""
    return [
        letter.ticket,
        f"  {note.error_type}: {note.message}",
        f"  {note.attempts} attempts · parked {note.parked:%Y-%m-%d %H:%M:%S} UTC{item}",
    ]


@app.command()
def show(context: typer.Context, ticket: Ticket) -> None:
    """Print one dead letter: what it holds, and why it failed."""
    output = output_of(context)
    state, url, body = asyncio.run(look(ticket))
    document = {"ticket": ticket, "url": url, **state.model_dump(mode="json", exclude={"body"}), "body": body}
    broken = state.breakdown
    first, last = (f"{time:%Y-%m-%d %H:%M:%S} UTC" for time in (broken.first_failure, broken.last_failure))
    lines = [
        f"{ticket}: {state.status}" + (f" ({state.reason})" if state.reason else ""),
        f"  {broken.error_type}: {broken.message}",
        f"  {broken.attempts} attempts, the first failed {first}, the last {last}",
        *(f"  {error.field or 'record'}: {error.message} [{error.code}]" for error in broken.errors),
    ]
    if state.queue:
        lines.append(f"  item {state.item} of queue {state.queue}")
    if state.request is not None:
        lines += [f"  key {state.request.key}", f"  {json.dumps(state.request.record)}"]
    if body is not None:
        lines.append(f"  {body}")
    if broken.trace:
        lines += ["", broken.trace.rstrip(), ""]
    output.result(document, *lines, f"  {url}")


async def look(ticket: str) -> tuple[DeadLetterState, str, str | None]:
    """Ask its workflow, and fetch the body if it is kept elsewhere. What is no text is printed with escapes."""
    from starter.services import link, object_store

    async with opened() as parked:
        state = await parked.show(ticket)
        url = link(parked.settings, ticket)
        body = state.body
        if body is None and state.body_key is not None and state.status == "parked":
            async with object_store(parked.settings) as objects:
                body = await objects.get(state.body_key)
    return state, url, None if body is None else body.decode(errors="backslashreplace")


@app.command()
def retry(
    context: typer.Context,
    ticket: Ticket,
    record: Annotated[
        str | None, typer.Option(help="A corrected record in its place: a FILE with JSON, or - for stdin.")
    ] = None,
    deadline: Deadline = 60.0,
) -> None:
    """Try one dead letter again, as it is or corrected."""
    output = output_of(context)
    outcome, url = asyncio.run(send_retry(ticket, record, deadline))
    if outcome is None:
        answer_late(output, ticket, url)
    errors = [error.model_dump() for error in outcome.errors]
    document = {"ticket": ticket, "status": outcome.status, "record": outcome.record, "errors": errors, "url": url}
    said = "stored" if outcome.status == "stored" else "it failed again, and stays parked"
    lines = [f"{ticket}: {said}"]
    if outcome.record is not None:
        lines.append(f"  {json.dumps(outcome.record)}")
    output.result(document, *lines, f"  {url}")
    for error in outcome.errors:
        output.note(f"{error.field or 'record'}: {error.message} [{error.code}]")
    raise typer.Exit(Exit.DONE if outcome.status == "stored" else Exit.REJECTED)


async def send_retry(ticket: str, record: str | None, deadline: float) -> tuple[RetryOutcome | None, str]:
    """Read the record and send the decision."""
    from datetime import timedelta

    from activities.validate import parse_json
    from contracts.dead_letters import RetryDeadLetter
    from contracts.errors import RecordRefusedError
    from starter.commands.submit import read_record
    from starter.services import link, operator

    corrected = None
    if record is not None:
        try:
            corrected = parse_json(read_record("-" if record == "-" else f"@{record.removeprefix('@')}"))
        except RecordRefusedError as error:
            raise CommandError(Exit.REJECTED, f"The corrected record is refused: {error}") from error
    async with opened() as parked:
        request = RetryDeadLetter(record=corrected, who=operator())
        return await parked.retry(ticket, request, timedelta(seconds=deadline)), link(parked.settings, ticket)


@app.command()
def discard(
    context: typer.Context,
    ticket: Ticket,
    reason: Annotated[str, typer.Option(help="Why it is given up; it is kept with the run and the receipt.")],
    deadline: Deadline = 60.0,
) -> None:
    """Give one dead letter up for good."""
    output = output_of(context)
    state, url = asyncio.run(send_discard(ticket, reason, deadline))
    if state is None:
        answer_late(output, ticket, url)
    document = {"ticket": ticket, "status": state.status, "reason": state.reason, "url": url}
    said = "discarded" if state.status == "discarded" else "someone had stored it already; nothing was discarded"
    output.result(document, f"{ticket}: {said}", f"  {url}")
    raise typer.Exit(Exit.DONE if state.status == "discarded" else Exit.FAILED)


async def send_discard(ticket: str, reason: str, deadline: float) -> tuple[DeadLetterState | None, str]:
    """Send the decision."""
    from datetime import timedelta

    from contracts.dead_letters import DiscardDeadLetter
    from starter.services import link, operator

    request = DiscardDeadLetter(reason=reason, who=operator())
    async with opened() as parked:
        return await parked.discard(ticket, request, timedelta(seconds=deadline)), link(parked.settings, ticket)


def answer_late(output: Output, ticket: str, url: str) -> NoReturn:
    """Say that a decision was taken and is still being carried out, and leave."""
    document = {"ticket": ticket, "status": "accepted", "url": url}
    output.result(document, f"{ticket}: taken, and being carried out; see: starter status {ticket}", f"  {url}")
    raise typer.Exit(Exit.ACCEPTED)


@app.command()
def redrive(  # noqa: PLR0913, PLR0917 - typer passes them by name
    context: typer.Context,
    pipeline: OfPipeline = "",
    error_type: OfErrorType = "",
    since: Since = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count them.")] = False,
    rate: Annotated[str, typer.Option(help="So many tries at most.", metavar="N/s")] = "50/s",
    abort_above: Annotated[
        str, typer.Option(help="Stop when more of at least 20 tries have failed.", metavar="P%")
    ] = "20%",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is over, and show how it gets on.")] = False,
    pause: Annotated[str | None, typer.Option(help="Pause this redrive.", metavar="TICKET")] = None,
    resume: Annotated[str | None, typer.Option(help="Let this redrive go on.", metavar="TICKET")] = None,
) -> None:
    """Try many dead letters again, carefully, in the background; the answer is a ticket."""
    from contracts.dead_letters import RedriveInput
    from starter.letters import parse_percent, parse_rate

    output = output_of(context)
    if pause is not None or resume is not None:
        if pause is not None and resume is not None:
            raise CommandError(Exit.USAGE, "--pause and --resume exclude each other.")
        state = asyncio.run(steer(output, pause or resume or "", pause=pause is not None, wait=wait))
        finish(output, state, waited=wait)
        return
    letters = filter_of(pipeline, error_type, since)
    if dry_run:
        found = asyncio.run(count(letters))
        output.result({"found": found}, f"{found:,} dead letters would be tried again.")
        return
    asked = RedriveInput(letters=letters, rate=parse_rate(rate), abort_above=parse_percent(abort_above))
    finish(output, asyncio.run(start(output, asked, wait=wait)), waited=wait)


async def count(letters: DeadLetterFilter) -> int:
    """Ask Temporal."""
    async with opened() as parked:
        return await parked.count(letters)


async def start(output: Output, asked: RedriveInput, *, wait: bool) -> TicketState:
    """Start it, and follow it if asked to."""
    async with opened() as parked:
        return await follow(output, parked, await parked.redrive(asked), wait=wait)


async def steer(output: Output, ticket: str, *, pause: bool, wait: bool) -> TicketState:
    """Pause or resume it."""
    async with opened() as parked:
        await parked.steer(ticket, pause=pause)
        return await follow(output, parked, ticket, wait=wait)


async def follow(output: Output, parked: Letters, ticket: str, *, wait: bool) -> TicketState:
    """Look once, or until it is over."""
    from starter.progress import Report
    from starter.tickets import look as look_at
    from starter.tickets import watch

    state = await look_at(parked.client, parked.settings, ticket)
    if wait:
        output.note(f"{state.ticket}\n{state.url}")
        with Report(output, "redrive", "dead letters") as report:
            async for latest in watch(parked.client, parked.settings, ticket, through_waiting=True):
                state = latest
                report.show_state(state)
    return state


def finish(output: Output, state: TicketState, *, waited: bool) -> None:
    """Print the answer, and leave with the status of what was waited for."""
    output.result(state.document(), *state.lines())
    raise typer.Exit(state.exit if waited else Exit.DONE)
