"""`submit` and `enqueue`: one record, whose caller waits until it is committed, or until it is accepted."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from starter.exits import Exit
from starter.output import Output, output_of

if TYPE_CHECKING:
    from datetime import timedelta

    from contracts.requests import SubmitAnswer

MOST_BYTES = 8 * 1024 * 1024
"""More than any record may have; the rest of a larger input need not be read to be refused."""

PipelineName = Annotated[str, typer.Argument(help="Name of the pipeline.")]
RecordText = Annotated[str, typer.Argument(help="The record: JSON text, @FILE, or - for stdin.")]
Key = Annotated[str | None, typer.Option(help="Repeats with the same key are one request. Default: a new one.")]

ENDINGS = {
    "committed": Exit.DONE,
    "accepted": Exit.ACCEPTED,
    "rejected": Exit.REJECTED,
    "conflict": Exit.CONFLICT,
    "failed": Exit.FAILED,
}


def submit(
    context: typer.Context,
    pipeline: PipelineName,
    record: RecordText,
    key: Key = None,
    deadline: Annotated[
        float, typer.Option(help="Seconds to wait; past them the request goes on under its ticket.", min=0)
    ] = 10.0,
) -> None:
    """Send one record and wait until it is committed, or say why it was rejected."""
    from datetime import timedelta

    output = output_of(context)
    answer = asyncio.run(send(output, pipeline, record, key, timedelta(seconds=min(deadline, 10**9))))
    report(output, answer)
    raise typer.Exit(exit_of(answer))


def exit_of(answer: SubmitAnswer) -> Exit:
    """Give the exit status; a request log that does not answer is a service that cannot be reached."""
    from contracts.request_log import LOG_UNAVAILABLE

    if answer.status == "failed" and any(error.code == LOG_UNAVAILABLE for error in answer.errors):
        return Exit.UNREACHABLE
    return ENDINGS[answer.status]


def enqueue(
    context: typer.Context,
    pipeline: PipelineName,
    record: RecordText,
    key: Key = None,
) -> None:
    """Send one record and return as soon as it is accepted: valid, and durable in Temporal."""
    output = output_of(context)
    answer = asyncio.run(send(output, pipeline, record, key, None))
    report(output, answer)
    raise typer.Exit(Exit.DONE if answer.status == "accepted" else ENDINGS[answer.status])


async def send(output: Output, pipeline: str, record: str, key: str | None, deadline: timedelta | None) -> SubmitAnswer:
    """Connect and submit; without a deadline, only enqueue."""
    from starter import requests
    from starter.services import declared, find_pipeline, load_settings, operator, temporal

    settings = load_settings()
    found = find_pipeline(declared(settings, output), pipeline)
    body = read_record(record)
    async with temporal(settings) as client:
        if deadline is None:
            return await requests.enqueue(client, settings, found, body, key, operator())
        return await requests.submit(client, settings, found, body, key, deadline, operator())


def read_record(argument: str) -> bytes:
    """Take a record from the argument itself, a file or stdin."""
    if argument == "-":
        return sys.stdin.buffer.read(MOST_BYTES + 1)
    if argument.startswith("@"):
        with Path(argument[1:]).open("rb") as file:
            return file.read(MOST_BYTES + 1)
    # The very bytes of the argument: what is not UTF-8 is the validation's to refuse.
    return os.fsencode(argument)


def report(output: Output, answer: SubmitAnswer) -> None:
    """Print the answer."""
    said = f"{answer.status} (repeat)" if answer.repeat else answer.status
    lines = [f"{said}: {answer.ticket or 'nothing was started'}"]
    if answer.record is not None:
        lines.append(f"  {json.dumps(answer.record)}")
    elif answer.status == "committed":
        lines.append("  the pipeline's process dropped the record")
    lines.append(f"  key {answer.key}")
    if answer.url:
        lines.append(f"  {answer.url}")
    if answer.status == "accepted":
        lines.append(f"  not finished yet; it goes on: starter status {answer.ticket}")
    output.result(answer.model_dump(mode="json"), *lines)
    for error in answer.errors:
        output.note(f"{error.field or 'record'}: {error.message} [{error.code}]")
