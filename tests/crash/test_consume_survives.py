"""A queue worker survives the death of every process it depends on: each item is stored once or parked once.

None is both, none is lost, and no innocent one is parked, whichever boundary the death comes at.
The table appends, so that a row that is written twice stays twice. The negative controls take the receipts away, or
acknowledge first, and have to find rows twice, or an item nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator

import asyncpg
import psutil
import pytest
from temporalio.client import Client
from temporalio.service import RPCError

from contracts.consume import ConsumeChange
from contracts.dead_letters import PARKED
from contracts.errors import UnavailableError
from contracts.queue import Queue, QueueItem
from starter import consumers
from starter.services import temporal
from stores import connect_queue
from tests.crash.conftest import Crashes
from tests.crash.declared import entries
from workflows.options import STATUS

ITEMS = 200
SECONDS = 90.0
QUEUE = entries.work_queue
INVALID = ("invalid-1", "invalid-2")
POISON = ("poison-1", "poison-2")


@dataclasses.dataclass
class Consumers:
    """The queue of one test, and what became of its items."""

    crashes: Crashes
    client: Client
    queue: Queue
    run: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex[:12])
    sent: list[str] = dataclasses.field(default_factory=list)

    async def send(self, good: int = ITEMS, *, bad: bool = True) -> None:
        items = {str(number): self.body(number) for number in range(good)}
        if bad:
            items |= dict.fromkeys(INVALID, b"no json")
            items |= {name: self.body(10_000 + index, poison=True) for index, name in enumerate(POISON)}
        await self.queue.send(QUEUE, [QueueItem(body, f"{self.run}/{name}") for name, body in items.items()])

    def body(self, number: int, **more: object) -> bytes:
        return json.dumps({"run": self.run, "number": number, **more}).encode()

    async def consume(self, workers: int = 2) -> None:
        await consumers.start(
            self.client, self.crashes.stack.settings, "entries", ConsumeChange(workers=workers, batch=50)
        )

    async def died(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until a worker has killed itself."""
        status = await asyncio.to_thread(process.wait, SECONDS)
        assert status == -signal.SIGKILL, self.crashes.log()
        self.crashes.workers.remove(process)

    async def stopped(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until a worker has frozen itself."""
        end = time.monotonic() + SECONDS
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < end, self.crashes.log()
            await asyncio.sleep(0.05)

    async def take_over(self, *arguments: str) -> None:
        """Start a healthy worker, and consumers that do not wait for the dead one's turns to run out."""
        self.crashes.start_worker(*arguments)
        await self.consume(4)

    async def until_empty(self) -> None:
        end = time.monotonic() + SECONDS
        while True:
            depth = await self.queue.depth(QUEUE)
            if not depth.waiting and not depth.in_flight:
                return
            assert time.monotonic() < end, (depth, self.crashes.log())
            await asyncio.sleep(0.1)

    async def stored(self) -> Counter[int]:
        rows = await self.fetch("SELECT number FROM entries WHERE run = $1", self.run)
        return Counter(row["number"] for row in rows)

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.crashes.stack.settings.database_url.get_secret_value())
        try:
            return await connection.fetch(query, *arguments)
        finally:
            await connection.close()

    async def receipts(self, state: str) -> set[str]:
        """Name this test's items whose receipts are in a state."""
        prefix = f"item/entries/{self.run}/"
        rows = await self.fetch(
            "SELECT unit FROM pipeline_receipts WHERE state = $1 AND starts_with(unit, $2)", state, prefix
        )
        return {row["unit"].removeprefix(prefix) for row in rows}

    async def parked(self) -> set[str]:
        """Name this test's items that are parked, as the workflows themselves say."""
        found = set()
        for name in [*INVALID, *POISON, *map(str, range(5))]:
            handle = self.client.get_workflow_handle(letter_of(f"{self.run}/{name}"))
            with contextlib.suppress(RPCError):
                if (await handle.describe()).typed_search_attributes.get(STATUS) == PARKED:
                    found.add(name)
        return found

    async def assert_once(self, good: int = ITEMS, bad: tuple[str, ...] = INVALID + POISON) -> None:
        """Check that each item is stored or parked, once, and nothing else is."""
        await self.until_empty()
        assert await self.stored() == Counter(range(good))
        assert await self.receipts("stored") == set(map(str, range(good)))
        assert await self.receipts("dead") == set(bad)
        assert await self.parked() == set(bad)


def letter_of(item: str) -> str:
    """Name the ticket of an item's dead letter."""
    from datetime import UTC, datetime

    from contracts.dead_letters import Breakdown, DeadLetterInput

    now = datetime.now(UTC)
    breakdown = Breakdown(error_type="", message="", first_failure=now, last_failure=now)
    return DeadLetterInput(
        pipeline="entries",
        queue="entries",
        item=item,
        unit=f"item/entries/{item}",
        fingerprint="",
        sent=now,
        breakdown=breakdown,
    ).ticket


@pytest.fixture
async def world(crashes: Crashes) -> AsyncIterator[Consumers]:
    settings = crashes.stack.settings
    async with temporal(settings) as client, connect_queue(settings) as queue:
        yield Consumers(crashes, client, queue)
        with contextlib.suppress(RPCError):
            await client.get_workflow_handle("consume/entries").terminate()


@pytest.mark.parametrize(
    "boundary",
    [
        "before:sink.write",
        pytest.param("after:sink.write", marks=pytest.mark.chaos),
        "before:queue.acknowledge",
        pytest.param("after:queue.acknowledge", marks=pytest.mark.chaos),
    ],
)
async def test_a_consumer_killed_around_its_commit_loses_and_doubles_nothing(world: Consumers, boundary: str) -> None:
    victim = world.crashes.start_worker("--halt", f"{boundary}:KILL")
    await world.send()
    await world.consume()
    await world.died(victim)
    await world.take_over()
    await world.assert_once()


async def test_without_receipts_the_same_death_stores_items_twice(world: Consumers) -> None:
    victim = world.crashes.start_worker("--without-receipts", "--halt", "before:queue.acknowledge:KILL")
    await world.send(bad=False)
    await world.consume()
    await world.died(victim)
    await world.take_over("--without-receipts")
    await world.until_empty()
    stored = await world.stored()
    assert set(stored) == set(range(ITEMS))
    assert max(stored.values()) > 1


@pytest.mark.parametrize(
    "boundary",
    [
        pytest.param("before:failures.bury", marks=pytest.mark.chaos),
        "after:failures.bury",
        "before:queue.acknowledge",
    ],
)
async def test_a_consumer_killed_around_a_dead_letter_parks_it_once(world: Consumers, boundary: str) -> None:
    victim = world.crashes.start_worker("--halt", f"{boundary}:KILL")
    await world.send(0)
    await world.consume()
    await world.died(victim)
    await world.take_over()
    await world.assert_once(0)


async def test_acknowledging_first_loses_the_same_dead_letter(world: Consumers) -> None:
    victim = world.crashes.start_worker("--acknowledge-first", "--halt", "before:failures.bury:KILL")
    await world.send(0)
    await world.consume()
    await world.died(victim)
    await world.take_over("--acknowledge-first")
    await world.until_empty()
    assert not set(INVALID) <= await world.parked()


async def test_a_consumer_that_froze_past_its_lease_is_fenced_when_it_wakes_up(world: Consumers) -> None:
    frozen = world.crashes.start_worker("--halt", "before:sink.write:STOP")
    await world.send()
    await world.consume()
    await world.stopped(frozen)
    await world.take_over()
    await world.assert_once()
    os.kill(frozen.pid, signal.SIGCONT)
    # It commits what it had in hand, or is refused, and acknowledges what is gone.
    await asyncio.sleep(3)
    await world.assert_once()


async def test_without_receipts_the_same_freeze_stores_items_twice(world: Consumers) -> None:
    frozen = world.crashes.start_worker("--without-receipts", "--halt", "before:sink.write:STOP")
    await world.send(bad=False)
    await world.consume()
    await world.stopped(frozen)
    await world.take_over("--without-receipts")
    await world.until_empty()
    os.kill(frozen.pid, signal.SIGCONT)
    end = time.monotonic() + SECONDS
    while max((await world.stored()).values()) == 1:
        assert time.monotonic() < end
        await asyncio.sleep(0.2)


@pytest.mark.parametrize("name", ["nats", "postgres"])
async def test_a_server_that_dies_and_comes_back_costs_no_item_anything(world: Consumers, name: str) -> None:
    world.crashes.start_worker()
    world.crashes.start_worker()
    await world.consume()
    await world.send(50)
    server = world.crashes.stack.servers[name]
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(2)
    if name != "nats":
        # More than `max_attempts` tries of every item would fit into the outage.
        await world.send()
        await asyncio.sleep(2)
    await asyncio.to_thread(server.start)
    end = time.monotonic() + SECONDS
    while True:
        try:
            await world.send()
            break
        except UnavailableError:
            assert time.monotonic() < end
            await asyncio.sleep(0.2)
    await world.assert_once()
