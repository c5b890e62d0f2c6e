"""From the broker to committed rows, exactly once, against the same client that only fetches and acknowledges.

The baseline is one process that does nothing with what it gets. The queue is filled before the clock runs, and what
arrived is compared with what was sent, row by row, before any ratio is printed.
"""

from __future__ import annotations

import asyncio
import json
import time
from datetime import timedelta
from statistics import median
from typing import TYPE_CHECKING

from bench.orders import COLUMNS, orders, rows, write_orders
from bench.report import Measure
from bench.requests import NUMBERS
from bench.servers import BenchError
from bench.tables import clear, compare
from contracts.consume import ConsumeChange
from contracts.queue import QueueItem
from starter import consumers
from stores import connect_queue
from workers.client import connect_temporal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.servers import Servers
    from contracts.queue import Queue

ITEMS = 60_000
BATCH = 500
WINDOW = 1000
STUCK_SECONDS = 600.0


def items(count: int, turn: int) -> Iterator[QueueItem]:
    """Make the items of one round: the same records in each, under ids of its own."""
    for number, row in enumerate(rows(count)):
        record = {name: int(cell) if name in NUMBERS else cell for name, cell in zip(COLUMNS, row, strict=True)}
        yield QueueItem(json.dumps(record | {"note": record["note"] or None}).encode(), f"{turn}/{number}")


async def fill(queue: Queue, count: int, turn: int) -> None:
    """Send a round's items."""
    window: list[QueueItem] = []
    for item in items(count, turn):
        window.append(item)
        if len(window) == WINDOW:
            await queue.send(orders.work_queue, window)
            window.clear()
    await queue.send(orders.work_queue, window)


async def time_bare(queue: Queue, count: int) -> float:
    """Fetch and acknowledge everything; returns seconds."""
    started = time.perf_counter()
    while count > 0:
        deliveries = await queue.fetch(orders.work_queue, BATCH, timedelta(seconds=1))
        await queue.acknowledge(orders.work_queue, deliveries)
        count -= len(deliveries)
    return time.perf_counter() - started


async def time_consume(servers: Servers, queue: Queue, workers: int) -> float:
    """Consume everything with the worker processes; returns seconds from the start to the last acknowledgement."""
    client = await connect_temporal(servers.settings)
    started = time.perf_counter()
    await consumers.start(client, servers.settings, orders.name, ConsumeChange(workers=workers, batch=BATCH))
    while (depth := await queue.depth(orders.work_queue)).waiting or depth.in_flight:
        if time.perf_counter() - started > STUCK_SECONDS:
            message = f"the queue still holds {depth.waiting + depth.in_flight} items"
            raise BenchError(message)
        await asyncio.sleep(0.05)
    seconds = time.perf_counter() - started
    await consumers.stop(client, servers.settings, orders.name)
    await client.get_workflow_handle(consumers.ticket_of(orders.name)).result()
    return seconds


async def measure_rounds(servers: Servers, rounds: int, workers: int) -> Measure:
    """Alternate between both, with a full queue each time."""
    path = servers.folder / "items.csv"
    write_orders(path, ITEMS)
    bare: list[float] = []
    ours: list[float] = []
    async with connect_queue(servers.settings) as queue:
        for turn in range(1, rounds + 1):
            await fill(queue, ITEMS, -turn)
            bare.append(ITEMS / await time_bare(queue, ITEMS))
            await clear(servers.dsn, "orders")
            await fill(queue, ITEMS, turn)
            ours.append(ITEMS / await time_consume(servers, queue, workers))
            await compare(servers.dsn, "orders", path)
            print(f"round {turn}: fetch and acknowledge {bare[-1]:,.0f}/s, consume {ours[-1]:,.0f}/s", flush=True)
    samples = tuple(mine / theirs for mine, theirs in zip(ours, bare, strict=True))
    return Measure(
        name="consume / fetch and acknowledge, items a second",
        value=median(samples),
        goal=0.25,
        at_least=True,
        detail=f"{median(ours):,.0f}/s against {median(bare):,.0f}/s",
        samples=samples,
    )


def measure_consume(servers: Servers, rounds: int, workers: int) -> list[Measure]:
    """Measure with one consumer for each worker process."""
    return [asyncio.run(measure_rounds(servers, rounds, workers))]
