"""`demo`: real records through the real servers, in a minute."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import itertools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from starter.exits import CommandError, Exit
from starter.output import Output, output_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from temporalio.client import Client

    from contracts.pipeline import Pipeline
    from contracts.ports import ObjectStore
    from contracts.requests import SubmitAnswer
    from starter.services import Settings
    from starter.tickets import TicketState

    Say = Callable[[str], None]

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
FILES = {"flights": "flights-2013-01.csv.gz", "weather": "weather.csv.gz"}
KEY = "demo-flight"
LONGEST_SECONDS = 300.0
FAULTY_ROWS = 100
QUEUED_ROWS = 2000
FAULTS = {17: ("carrier", "aa"), 42: ("distance", "far"), 43: ("dest", ""), 80: ("time_hour", "yesterday")}
"""Row of the faulty file -> the column that is spoilt, and what is written into it."""


def demo(
    context: typer.Context,
    keep: Annotated[
        bool, typer.Option("--keep/--stop", help="Leave the stack running, so that the links work, or stop it.")
    ] = True,
) -> None:
    """Start a stack and send real flights and weather through it, with links into the Web UI."""
    from starter.stack.detached import start_detached, stop_stack
    from stores.settings import stack_folder

    output = output_of(context)
    if output.pipelines:
        os.environ["PIPELINES"] = output.pipelines  # the workers inherit it
    say = output.note if output.json else print
    missing = [name for name in FILES.values() if not (EXAMPLES / name).is_file()]
    if missing:
        raise CommandError(Exit.USAGE, f"The examples are not there: {EXAMPLES / missing[0]}; run the demo in a clone.")
    began = time.monotonic()
    say("Starting the stack: Temporal, PostgreSQL, an object store, NATS, and a worker per core ...")
    folder = stack_folder().resolve()
    started = start_detached(folder)
    try:
        document, good = asyncio.run(show(output, say))
    finally:
        if started and not keep:
            stop_stack(folder)
    say(f"\nDone in {time.monotonic() - began:.0f} s." + ("" if good else " Something differs: see above."))
    if keep:
        say("The stack goes on, so that the links work. Go on with:")
        for line in ("starter pipelines", "starter upload flights YOUR.csv --wait", "starter --help", "starter down"):
            say(f"  {line}")
    if output.json:
        output.result(document)
    raise typer.Exit(Exit.DONE if good else Exit.FAILED)


async def show(output: Output, say: Say) -> tuple[dict[str, object], bool]:
    """Go through the patterns; returns what happened, and whether all of it was right."""
    from starter.commands.demo_queues import YEAR, show_queues
    from starter.services import declared, load_settings, object_store, temporal

    settings = load_settings()
    pipelines = declared(settings, output)
    async with temporal(settings) as client, object_store(settings) as objects:
        uploads = [
            await upload_example(client, objects, settings, pipelines[name], EXAMPLES / file, say)
            for name, file in FILES.items()
        ]
        submits = await submit_examples(client, settings, pipelines["flights"], say)
        faulty = await upload_faulty(client, objects, settings, say)
        queues = await show_queues(client, settings, pipelines["flights"], flights_of(pipelines["flights"], YEAR), say)
    good = all(equal for _, equal in uploads) and submits_good(submits) and faulty.counts.rejected == len(FAULTS)
    document: dict[str, object] = {
        "uploads": [state.document() | {"equal": equal} for state, equal in uploads],
        "submits": [answer.model_dump(mode="json") for answer in submits],
        "faulty": faulty.document(),
        "queues": queues.model_dump(mode="json"),
    }
    return document, good and queues.equal


async def load(client: Client, objects: ObjectStore, settings: Settings, pipeline: str, path: Path) -> TicketState:
    """Upload a file and wait until its load is over."""
    from contracts.loads import LoadOptions
    from starter.tickets import watch
    from starter.uploads import Source, Uploads

    uploads = Uploads(client, objects, settings)
    state = await uploads.upload(pipeline, Source.of(str(path)), LoadOptions(), show=lambda _done, _total: None)
    async with asyncio.timeout(LONGEST_SECONDS):
        async for latest in watch(client, settings, state.ticket):
            state = latest
    return state


async def upload_example(
    client: Client, objects: ObjectStore, settings: Settings, pipeline: Pipeline, path: Path, say: Say
) -> tuple[TicketState, bool]:
    """Upload an example and compare the table with it."""
    from starter.comparison import compare
    from starter.uploads import Source

    say(f"\nPattern 3, upload: {path.name} into {pipeline.name}")
    began = time.monotonic()
    state = await load(client, objects, settings, pipeline.name, path)
    for line in state.lines():
        say(f"  {line}")
    if state.status != "completed":
        return state, False
    series = f"file/{await Source.of(str(path)).sha256(lambda _done, _total: None)}"
    found = await compare(settings.database_url.get_secret_value(), pipeline, path, series)
    verdict = "equal, row for row" if found.equal else f"DIFFERENT in {found.different:,} rows"
    say(f"    file {found.file:,} rows, table {found.table:,} rows: {verdict} ({time.monotonic() - began:.1f} s)")
    return state, found.equal


async def submit_examples(client: Client, settings: Settings, pipeline: Pipeline, say: Say) -> tuple[SubmitAnswer, ...]:
    """Submit a flight, the same once more, another one under its key, and an invalid one."""
    from starter.requests import submit

    flight = example_flight(pipeline)
    cases: tuple[tuple[str, Mapping[str, object], str | None], ...] = (
        ("a flight", flight, KEY),
        ("the same once more, as after a lost answer", flight, KEY),
        ("another flight under the same key", {**flight, "distance": 1}, KEY),
        ("an invalid flight", {**flight, "carrier": "united", "distance": -1}, None),
    )
    answers = []
    for title, record, key in cases:
        say(f"\nPattern 1, submit: {title}")
        answer = await submit(client, settings, pipeline, json.dumps(record), key)
        say(f"    {answer.status}{' (repeat)' if answer.repeat else ''} {answer.ticket or '(nothing was started)'}")
        if answer.record is not None:
            say(f"    stored: {json.dumps(answer.record)[:160]} ...")
        for error in answer.errors:
            say(f"    {error.field or 'record'}: {error.message} [{error.code}]")
        if answer.url:
            say(f"    {answer.url}")
        answers.append(answer)
    return tuple(answers)


def submits_good(answers: tuple[SubmitAnswer, ...]) -> bool:
    """Say whether the submits ended as they should. In a second demo the first one is a repeat, too."""
    return [answer.status for answer in answers] == ["committed", "committed", "conflict", "rejected"] and (
        answers[1].repeat
    )


def rows_of(name: str, count: int) -> list[dict[str, str]]:
    """Read the first rows of an example."""
    with gzip.open(EXAMPLES / FILES[name], "rt", newline="") as file:
        return list(itertools.islice(csv.DictReader(file), count))


def record_of(pipeline: Pipeline, row: Mapping[str, str]) -> dict[str, object]:
    """Turn a row of a file into the record that a caller would send."""
    cells = {name: cell for name, cell in row.items() if cell not in pipeline.absent}
    return pipeline.record.model_validate_strings(cells).model_dump(mode="json")


def flights_of(pipeline: Pipeline, year: int) -> list[dict[str, object]]:
    """Make records of flights that no file holds: those of a file, in another year."""
    rows = rows_of("flights", QUEUED_ROWS)
    return [
        record_of(pipeline, {**row, "year": str(year), "time_hour": row["time_hour"].replace("2013", str(year))})
        for row in rows
    ]


def example_flight(pipeline: Pipeline) -> dict[str, object]:
    """Make a flight that no file holds, from the first one that one holds."""
    return {**record_of(pipeline, rows_of("flights", 1)[0]), "flight": 9999}


async def upload_faulty(client: Client, objects: ObjectStore, settings: Settings, say: Say) -> TicketState:
    """Upload a file with a few faults and show its rejects."""
    from activities.rejects import print_rejects, read_rejects

    rows = rows_of("flights", FAULTY_ROWS)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    for number, row in enumerate(rows, start=1):
        # Another year, so that these flights replace none of January 2013.
        row.update(year="2014", time_hour=row["time_hour"].replace("2013", "2014"))
        if number in FAULTS:
            column, cell = FAULTS[number]
            row[column] = cell
        writer.writerow(row)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "faulty-flights.csv"
        path.write_text(text.getvalue(), newline="")
        say(f"\nPattern 3, upload: a file with {len(FAULTS)} faults among {len(rows)} rows")
        state = await load(client, objects, settings, "flights", path)
    for line in state.lines():
        say(f"  {line}")
    summary = state.summary
    if summary and summary.rejects and summary.dialect:
        printed = [line async for line in print_rejects(read_rejects(objects, summary.rejects), summary.dialect)]
        for row in csv.DictReader(printed):
            say(f"    line {row['reject_line']}: {row['reject_message']} [{row['reject_code']}]")
    return state
