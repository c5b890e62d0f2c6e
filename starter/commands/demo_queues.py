"""The demo's part about requests that are answered later, queues, and what cannot be processed."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING

from contracts.record import Frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from temporalio.client import Client

    from contracts.pipeline import Pipeline
    from contracts.queue import QueueItem
    from contracts.requests import SubmitAnswer
    from starter.letters import Letters, Listed
    from starter.services import Settings
    from starter.tickets import TicketState

    Say = Callable[[str], None]
    Flights = Sequence[dict[str, object]]

LONGEST_SECONDS = 120.0
KEY = "demo-flight-later"
YEAR = 2015
"""The items are flights of another year, so that they replace none of the file's."""

POISON = {"no-json": b"this is no JSON", "another": b'{"order_id": 1, "customer": "Ada"}'}
"""Items that can never be stored. Each demo sends new ones: those of the last may have been decided on."""


class QueueDemo(Frozen):
    """What happened: `equal` says that every good item is a row, and that exactly the bad ones are dead letters."""

    enqueued: dict[str, object]
    consumed: dict[str, object]
    dead_letters: tuple[str, ...]
    equal: bool


async def show_queues(client: Client, settings: Settings, pipeline: Pipeline, flights: Flights, say: Say) -> QueueDemo:
    """Enqueue a flight, then consume a queue of many with some that can never be stored."""
    from contracts.queue import QueueItem
    from starter.letters import Letters

    poison = [QueueItem(body=body, id=f"demo-{name}-{uuid.uuid4().hex[:8]}") for name, body in POISON.items()]
    accepted, later = await enqueue_example(client, settings, pipeline, flights[0], say)
    items = [QueueItem(body=json.dumps(flight).encode(), id=f"demo-{n}") for n, flight in enumerate(flights)]
    state = await consume_example(client, settings, pipeline, [*poison, *items], say)
    letters = Letters(client, settings)
    parked = await parked_of(letters, pipeline, {item.id for item in poison}, say)
    stored = await count_rows(settings, pipeline, flights)
    expected = len({(flight["time_hour"], flight["carrier"], flight["flight"]) for flight in flights})
    say(f"    queue {len(flights):,} flights, table {stored:,} rows of them, {len(parked)} dead letters")
    equal = (
        later.counts.written == 1 and state.status == "completed" and stored == expected and len(parked) == len(poison)
    )
    return QueueDemo(
        enqueued=accepted.model_dump(mode="json"),
        consumed=state.document(),
        dead_letters=tuple(letter.ticket for letter in parked),
        equal=equal,
    )


async def enqueue_example(
    client: Client, settings: Settings, pipeline: Pipeline, flight: dict[str, object], say: Say
) -> tuple[SubmitAnswer, TicketState]:
    """Have a flight accepted, and see what becomes of it; have an invalid one refused."""
    from starter.requests import enqueue
    from starter.tickets import watch

    say("\nPattern 2, enqueue: a flight, accepted at once and stored later")
    answer = await enqueue(client, settings, pipeline, json.dumps({**flight, "flight": 9998}), KEY)
    say(f"    {answer.status}{' (repeat)' if answer.repeat else ''} {answer.ticket}")
    async with asyncio.timeout(LONGEST_SECONDS):
        async for latest in watch(client, settings, answer.ticket):
            state = latest
    say(f"    a moment later: {state.status}, {state.counts.written} row written\n    {answer.url}")
    say("\nPattern 2, enqueue: an invalid flight, refused at once")
    refused = await enqueue(client, settings, pipeline, json.dumps({**flight, "dest": "?"}))
    for error in refused.errors:
        say(f"    {error.field or 'record'}: {error.message} [{error.code}]")
    return answer, state


async def consume_example(
    client: Client, settings: Settings, pipeline: Pipeline, items: Sequence[QueueItem], say: Say
) -> TicketState:
    """Send items to the queue, some of which are poison, and consume until it is empty."""
    from contracts.consume import ConsumeChange
    from starter import consumers
    from starter.tickets import look, watch
    from stores import connect_queue

    good = len(items) - len(POISON)
    say(f"\nPattern 1c, consume: {good:,} flights in a queue, and {len(POISON)} items that are none")
    async with connect_queue(settings) as queue:
        await queue.send(pipeline.work_queue, items)
    await consumers.start(client, settings, pipeline.name, ConsumeChange(workers=2), drain=True)
    state = await look(client, settings, consumers.ticket_of(pipeline.name))
    async with asyncio.timeout(LONGEST_SECONDS):
        async for latest in watch(client, settings, state.ticket, through_waiting=True):
            state = latest
    for line in state.lines():
        say(f"  {line}")
    return state


async def parked_of(letters: Letters, pipeline: Pipeline, ours: Collection[str | None], say: Say) -> list[Listed]:
    """List the dead letters of the demo. Temporal's visibility hears of them a moment later."""
    from contracts.dead_letters import DeadLetterFilter

    found: list[Listed] = []
    async with asyncio.timeout(LONGEST_SECONDS):
        while len(found) < len(ours):
            listed, _ = await letters.list(DeadLetterFilter(pipeline=pipeline.name), 1000)
            found = [letter for letter in listed if letter.note.item in ours]
            await asyncio.sleep(0.1)
    say("\nDead letters, parked until somebody decides: starter dead-letters list | show | retry | discard")
    for letter in found:
        say(f"    {letter.note.item}: {letter.note.message[:100]} [{letter.note.error_type}]\n    {letter.url}")
    return found


async def count_rows(settings: Settings, pipeline: Pipeline, flights: Flights) -> int:
    """Count the table's rows that have the keys of the items, by a plain query."""
    import asyncpg

    table = pipeline.table
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        found = await connection.fetchval(
            f"""SELECT count(*) FROM "{table.schema}"."{table.name}" AS t JOIN (
                SELECT DISTINCT * FROM unnest($1::text[], $2::text[], $3::bigint[])
            ) AS k(h, c, f) ON t.time_hour = k.h::timestamptz AND t.carrier = k.c AND t.flight = k.f""",  # noqa: S608  - the table's name is checked when it is declared
            [flight["time_hour"] for flight in flights],
            [flight["carrier"] for flight in flights],
            [flight["flight"] for flight in flights],
        )
    finally:
        await connection.close()
    return int(found)
