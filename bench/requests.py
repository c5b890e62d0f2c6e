"""How long a caller of `submit` waits, and how many records `enqueue` accepts, against bare workflows on one server."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from statistics import median
from typing import TYPE_CHECKING

from bench.bare import TASK_QUEUE, Bare
from bench.orders import COLUMNS, orders, rows
from bench.report import Measure
from bench.servers import BenchError
from bench.tables import clear
from starter.requests import enqueue, submit
from workers.client import connect_temporal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from temporalio.client import Client

    from bench.servers import Servers

CALLS = 60
GROUPS, GROUP, CALLERS = 30, 20, 8
WARM_UP_CALLS = 15
NUMBERS = frozenset({"order_id", "quantity"})


def bodies(count: int) -> list[str]:
    """Make the JSON of some orders."""
    return [
        json.dumps({name: int(cell) if name in NUMBERS else cell for name, cell in zip(COLUMNS, row, strict=True)})
        for row in rows(count)
    ]


async def time_bare(client: Client) -> float:
    """Run one bare workflow; returns seconds."""
    started = time.perf_counter()
    await client.execute_workflow(Bare.run, "text", id=f"bare/{uuid.uuid4().hex}", task_queue=TASK_QUEUE)
    return time.perf_counter() - started


async def time_submit(client: Client, servers: Servers, body: str) -> float:
    """Submit one record; returns seconds."""
    started = time.perf_counter()
    answer = await submit(client, servers.settings, orders, body)
    seconds = time.perf_counter() - started
    if answer.status != "committed":
        message = f"submit ended otherwise than it should: {answer}"
        raise BenchError(message)
    return seconds


async def measure_rounds(servers: Servers, rounds: int) -> Measure:
    """Call one after the other, alternating call by call, so that both meet the same server."""
    client = await connect_temporal(servers.settings)
    texts = iter(bodies(WARM_UP_CALLS + rounds * CALLS))
    for _ in range(WARM_UP_CALLS):
        await time_bare(client)
        await time_submit(client, servers, next(texts))
    bare: list[float] = []
    ours: list[float] = []
    for turn in range(1, rounds + 1):
        pairs = [(await time_bare(client), await time_submit(client, servers, next(texts))) for _ in range(CALLS)]
        bare.append(median(pair[0] for pair in pairs))
        ours.append(median(pair[1] for pair in pairs))
        print(f"round {turn}: bare {bare[-1] * 1000:.1f} ms, submit {ours[-1] * 1000:.1f} ms (p50)", flush=True)
    samples = tuple(mine / theirs for mine, theirs in zip(ours, bare, strict=True))
    return Measure(
        name="submit p50 / bare workflow p50",
        value=median(samples),
        goal=1.5,
        detail=f"{median(ours) * 1000:.1f} ms against {median(bare) * 1000:.1f} ms",
        samples=samples,
    )


def measure_submit(servers: Servers, rounds: int) -> list[Measure]:
    """Measure with a worker for the bare workflow beside ours."""
    asyncio.run(clear(servers.dsn, "orders"))
    servers.spawn("bench.bare")
    return [asyncio.run(measure_rounds(servers, rounds))]


async def time_starts(starts: Sequence[Callable[[], Awaitable[object]]]) -> float:
    """Make starts, a few at a time; returns seconds."""
    remaining = iter(starts)

    async def caller() -> None:
        for start in remaining:
            await start()

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return time.perf_counter() - began


async def measure_acceptance(servers: Servers, rounds: int) -> Measure:
    """Start small groups in turn, so that both meet the same server; nobody works, so nothing else costs time."""
    client = await connect_temporal(servers.settings)
    texts = iter(bodies((rounds * GROUPS + 2) * GROUP))

    def bare() -> Awaitable[object]:
        return client.start_workflow(Bare.run, "text", id=f"bare/{uuid.uuid4().hex}", task_queue=TASK_QUEUE)

    async def ours() -> None:
        answer = await enqueue(client, servers.settings, orders, next(texts))
        if answer.status != "accepted":
            message = f"enqueue ended otherwise than it should: {answer}"
            raise BenchError(message)

    samples: list[tuple[float, float]] = []
    await time_starts([bare, ours] * GROUP)
    for turn in range(1, rounds + 1):
        pairs = [(await time_starts([bare] * GROUP), await time_starts([ours] * GROUP)) for _ in range(GROUPS)]
        theirs, mine = (GROUP / median(pair[side] for pair in pairs) for side in (0, 1))
        samples.append((mine, theirs))
        print(f"round {turn}: bare {theirs:.0f} starts/s, enqueue {mine:.0f} acceptances/s", flush=True)
    ratios = tuple(mine / theirs for mine, theirs in samples)
    mine, theirs = (median(sample[side] for sample in samples) for side in (0, 1))
    return Measure(
        name="enqueue rate / rate of bare starts",
        value=median(ratios),
        goal=0.8,
        at_least=True,
        detail=f"{mine:.0f}/s against {theirs:.0f}/s",
        samples=ratios,
    )


def measure_enqueue(servers: Servers, rounds: int) -> list[Measure]:
    """Measure on a server that has no workers."""
    return [asyncio.run(measure_acceptance(servers, rounds))]
