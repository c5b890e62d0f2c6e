"""`send`: the records of a file into a pipeline's queue."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from starter.exits import CommandError, Exit
from starter.output import Output, output_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from contracts.loads import Reject
    from contracts.queue import QueueItem
    from starter.items import Naming

BATCH_ITEMS, BATCH_BYTES = 1000, 4 * 1024 * 1024
MOST_SHOWN = 20


@dataclasses.dataclass
class Sent:
    """How far a sending came. `known` items were in the queue already, as far as it could tell."""

    queue: str
    sent: int = 0
    known: int = 0
    rejected: int = 0


def send(
    context: typer.Context,
    pipeline: Annotated[str, typer.Argument(help="Name of the pipeline.")],
    file: Annotated[str, typer.Argument(help="NDJSON or CSV, plain or gzip; - for stdin.")],
    id_field: Annotated[
        str | None,
        typer.Option(help="The field whose value is the item's id. Default: made from the record and its line."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Send a file that was sent before as new items, under ids of their own.")
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Send every line as it stands, whatever it is; CSV is not recognized.")
    ] = False,
) -> None:
    """Put the records of a file into the pipeline's queue, one item each.

    JSON lines go unvalidated, because that is the consumer's business; rows of CSV are validated on their way to JSON.
    """
    import uuid

    from starter.items import Naming

    if raw and id_field:
        message = "--raw does not look into lines, so --id-field has nothing to look for; leave one of them out."
        raise CommandError(Exit.USAGE, message)
    output = output_of(context)
    naming = Naming(field=id_field, series=f"-{uuid.uuid4().hex[:8]}" if again else "")
    sent = asyncio.run(send_file(output, pipeline, file, naming, raw=raw))
    report(output, pipeline, sent)
    raise typer.Exit(Exit.REJECTED if sent.rejected else Exit.DONE)


async def send_file(output: Output, pipeline: str, file: str, naming: Naming, *, raw: bool) -> Sent:
    """Read and send; what was sent before a failure is said, because it stays sent."""
    from contracts.errors import PipelinesError
    from starter.items import ItemReader
    from starter.progress import Report
    from starter.services import declared, find_pipeline, load_settings
    from starter.uploads import Source
    from stores import connect_queue

    settings = load_settings()
    found = find_pipeline(declared(settings, output), pipeline)
    work = found.work_queue
    source = Source.of(file)
    sent = Sent(queue=work.name)
    async with connect_queue(settings) as queue:
        await queue.prepare(work)
        with Report(output, f"send {source.name}") as progress:
            done = total = 0

            def show(now: int, size: int) -> None:
                nonlocal done, total
                done, total = now, size

            reader = ItemReader(found, naming, raw=raw)
            try:
                async for batch, rejects in in_batches(reader.read(source.blocks(show))):
                    tell(output, sent, rejects)
                    if batch:
                        sent.known += len(batch) - await queue.send(work, batch)
                        sent.sent += len(batch)
                    progress.show(done, total, f"{sent.sent:,} items")
            except PipelinesError:
                if sent.sent:
                    repeat = "other ids" if naming.series else "the same ids, so it does not make them twice"
                    output.note(
                        f"{sent.sent:,} items were sent before this; sending the file again gives them {repeat}."
                    )
                raise
    return sent


async def in_batches(
    parts: AsyncIterator[tuple[list[QueueItem], list[Reject]]],
) -> AsyncIterator[tuple[list[QueueItem], list[Reject]]]:
    """Cut what was read into batches of bounded number and size."""
    async for items, rejects in parts:
        yield [], rejects
        start = size = 0
        for index, item in enumerate(items):
            if index > start and (index - start >= BATCH_ITEMS or size + len(item.body) > BATCH_BYTES):
                yield items[start:index], []
                start, size = index, 0
            size += len(item.body)
        yield items[start:], []


def tell(output: Output, sent: Sent, rejects: list[Reject]) -> None:
    """Name the first rejects; count all."""
    from starter.items import describe

    for reject in rejects[: max(0, MOST_SHOWN - sent.rejected)]:
        output.note(f"not sent: {describe(reject)}")
    sent.rejected += len(rejects)


def report(output: Output, pipeline: str, sent: Sent) -> None:
    """Print the counts."""
    lines = [f"{sent.sent:,} items sent to queue {sent.queue}"]
    if sent.known:
        lines.append(f"  {sent.known:,} of them were there already")
    if sent.rejected:
        lines.append(f"  {sent.rejected:,} records were rejected, and not sent")
    document = {
        "pipeline": pipeline,
        "queue": sent.queue,
        "sent": sent.sent,
        "known": sent.known,
        "rejected": sent.rejected,
    }
    output.result(document, *lines)
