"""How fast a file is loaded, and what that costs: against raw COPY, in memory, and in history."""

from __future__ import annotations

import asyncio
import time
from statistics import median
from typing import TYPE_CHECKING

from bench.orders import write_orders
from bench.report import Measure
from bench.servers import BenchError
from bench.tables import RAW, clear, compare, copy_raw, prepare_raw
from contracts.loads import LoadOptions
from starter.uploads import Source, Uploads
from stores.s3_objects import S3ObjectStore
from workers.client import connect_temporal

if TYPE_CHECKING:
    from pathlib import Path

    from temporalio.client import Client

    from bench.servers import Servers

PLAIN = "orders"
PIPELINES = {PLAIN: 0.5, "orders_with_total": 0.25}
"""Pipeline -> the share of raw COPY's speed that it has to reach."""

WARM_UP_ROWS = 20_000
TIMES_LARGER = 10


def upload(servers: Servers, pipeline: str, path: Path, rows: int) -> tuple[float, str]:
    """Load a file into an empty table and check the counts; returns seconds and the ticket.

    The clock runs from the file on disk to the end of the load, in a client that is already running: COPY is
    measured without the start of an interpreter, too.
    """
    asyncio.run(clear(servers.dsn, pipeline))
    seconds, ticket = asyncio.run(load(servers, pipeline, path))
    answer = servers.cli("status", ticket)
    check(answer, rows)
    return seconds, ticket


async def load(servers: Servers, pipeline: str, path: Path) -> tuple[float, str]:
    """Upload by the library that the command line uses, and wait for the load's result."""
    client = await connect_temporal(servers.settings)
    async with S3ObjectStore.open(servers.settings) as objects:
        started = time.perf_counter()
        uploads = Uploads(client, objects, servers.settings)
        state = await uploads.upload(pipeline, Source.of(str(path)), LoadOptions(), again=True, show=quietly)
        await client.get_workflow_handle(state.ticket).result()
        return time.perf_counter() - started, state.ticket


def quietly(done: int, total: int) -> None:
    """Show no progress."""


def upload_by_command(servers: Servers, pipeline: str, path: Path, rows: int) -> float:
    """Do the same by the command line, the start of its interpreter included; returns seconds."""
    asyncio.run(clear(servers.dsn, pipeline))
    started = time.perf_counter()
    answer = servers.cli("upload", pipeline, str(path), "--wait", "--again")
    seconds = time.perf_counter() - started
    check(answer, rows)
    return seconds


def check(answer: dict[str, object], rows: int) -> None:
    """Raise `BenchError` unless a load completed and wrote every row."""
    counts = answer["counts"]
    if answer["status"] != "completed" or not isinstance(counts, dict) or counts["written"] != rows:
        message = f"the upload ended otherwise than it should: {answer}"
        raise BenchError(message)


def warm_up(servers: Servers) -> None:
    """Load a small file by each pipeline, so that tables exist and everything is imported."""
    path = servers.folder / "warm.csv"
    write_orders(path, WARM_UP_ROWS)
    for pipeline in PIPELINES:
        servers.cli("upload", pipeline, str(path), "--wait", "--again")


def measure_speed(servers: Servers, path: Path, rows: int, rounds: int) -> list[Measure]:
    """Alternate raw COPY and uploads; the ratio of each round is taken against its own COPY."""
    asyncio.run(prepare_raw(servers.dsn))
    copies: list[float] = []
    uploads: dict[str, list[float]] = {pipeline: [] for pipeline in PIPELINES}
    commands: list[float] = []
    events = 0
    for turn in range(1, rounds + 1):
        # Another file each time: one that is stored already would not be stored again, which is part of the work.
        write_orders(path, rows, first=1 + turn * rows)
        asyncio.run(clear(servers.dsn, RAW))
        copies.append(asyncio.run(copy_raw(servers.dsn, path)))
        asyncio.run(compare(servers.dsn, RAW, path))
        print(f"round {turn}: raw COPY {copies[-1]:.2f} s", flush=True)
        for pipeline, seconds in uploads.items():
            took, ticket = upload(servers, pipeline, path, rows)
            asyncio.run(compare(servers.dsn, pipeline, path))
            seconds.append(took)
            events = max(events, asyncio.run(count_events(servers, ticket)))
            print(f"round {turn}: upload {pipeline} {took:.2f} s, equal to the file", flush=True)
        write_orders(path, rows, first=1 + (turn + rounds) * rows)
        commands.append(upload_by_command(servers, PLAIN, path, rows))
        asyncio.run(compare(servers.dsn, PLAIN, path))
        print(f"round {turn}: starter upload {PLAIN} --wait {commands[-1]:.2f} s, equal to the file", flush=True)
    measures = [
        Measure(
            name=f"upload {pipeline} / raw COPY, rows per second",
            value=median(copy / took for copy, took in zip(copies, seconds, strict=True)),
            goal=PIPELINES[pipeline],
            at_least=True,
            detail=f"{rows / median(seconds):,.0f} of {rows / median(copies):,.0f} rows/s",
            samples=tuple(copy / took for copy, took in zip(copies, seconds, strict=True)),
        )
        for pipeline, seconds in uploads.items()
    ]
    measures.append(
        Measure(
            name="the same as a command, its start included",
            value=median(copy / took for copy, took in zip(copies, commands, strict=True)),
            at_least=True,
            detail=f"{rows / median(commands):,.0f} of {rows / median(copies):,.0f} rows/s",
            samples=tuple(copy / took for copy, took in zip(copies, commands, strict=True)),
        )
    )
    per_million = events * 1_000_000 / rows
    detail = f"{events} events for {rows:,} rows"
    return [*measures, Measure(name="history events per million rows", value=per_million, goal=200, detail=detail)]


def measure_memory(servers: Servers, path: Path, rows: int, workers: int) -> list[Measure]:
    """Compare the peak memory of fresh workers for the file and for one ten times larger."""
    large = servers.folder / "large.csv"
    write_orders(large, rows * TIMES_LARGER)
    measures = []
    for pipeline in PIPELINES:
        peaks = []
        for source, count in ((path, rows), (large, rows * TIMES_LARGER)):
            servers.stop_workers()
            servers.start_workers(workers)
            upload(servers, pipeline, source, count)
            peaks.append(servers.peak_bytes())
            print(f"{pipeline}, {count:,} rows: peak of a worker {peaks[-1] / 2**20:.0f} MiB", flush=True)
        detail = f"{peaks[1] / 2**20:.0f} MiB for {rows * TIMES_LARGER:,} rows, {peaks[0] / 2**20:.0f} for {rows:,}"
        name = f"peak memory {pipeline}, ten times larger / file"
        measures.append(Measure(name=name, value=peaks[1] / peaks[0], goal=1.2, detail=detail))
    large.unlink()
    return measures


async def count_events(servers: Servers, ticket: str) -> int:
    """Count the history events of a load, over all its runs."""
    client = await connect_temporal(servers.settings)
    run_id = None
    events = 0
    while True:
        described = await client.get_workflow_handle(ticket, run_id=run_id).describe()
        events += described.history_length
        earlier = await previous_run(client, ticket, described.run_id)
        if earlier is None:
            return events
        run_id = earlier


async def previous_run(client: Client, ticket: str, run_id: str) -> str | None:
    """Find the run that continued as this one."""
    async for event in client.get_workflow_handle(ticket, run_id=run_id).fetch_history_events(page_size=1):
        return event.workflow_execution_started_event_attributes.continued_execution_run_id or None
    return None
