"""Request logs of accepted requests: they wait for their log, and their dead letters are logged, too."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from pydantic import JsonValue
from temporalio.client import WorkflowFailureError

from contracts.dead_letters import DiscardDeadLetter, RetryDeadLetter
from tests.workflows.test_request_log import BAD, GOOD, consume, outcomes, watch_writes
from tests.workflows.world import DECLARED
from workflows.enqueue import Enqueue

if TYPE_CHECKING:
    from temporalio.client import WorkflowHandle

    from contracts.requests import RequestResult
    from tests.workflows.world import World


async def enqueue(
    world: World, record: dict[str, JsonValue], pipeline: str = "logged"
) -> WorkflowHandle[Enqueue, RequestResult]:
    assert world.env is not None
    with world.env.with_time_skipping_disabled():
        return await world.enqueue(record, key="k", pipeline=pipeline)


async def until_logged(world: World, outcome: str) -> None:
    async with asyncio.timeout(30):
        while True:
            if outcome in {known for _, known in outcomes(world)}:
                return
            await asyncio.sleep(0.05)


async def test_an_accepted_request_waits_for_a_log_that_is_down_and_is_never_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.log.down = True
    seen = watch_writes(world, monkeypatch)
    handle = await enqueue(world, GOOD)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(handle.result(), 1.5)
    assert world.numbers() == []
    world.log.down = False
    assert (await asyncio.wait_for(handle.result(), 30)).record == GOOD
    assert seen == ["log", "sink", "log"]
    assert outcomes(world) == [("k", "pending"), ("k", "committed")]
    assert [row["pattern"] for row in world.log.rows("direct_log")] == ["enqueue", "enqueue"]


async def test_a_log_of_another_shape_delays_an_accepted_request_until_it_is_mended(world: World) -> None:
    await world.log.prepare(DECLARED["orders"].table)
    wrong = world.log.tables["public", "direct_log"] = world.log.tables["public", "orders"]
    handle = await enqueue(world, GOOD)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(handle.result(), 1.5)
    assert world.log.tables.pop(("public", "direct_log")) is wrong
    assert (await asyncio.wait_for(handle.result(), 30)).record == GOOD


async def test_a_dead_letter_is_logged_and_so_is_what_becomes_of_it(world: World) -> None:
    handle = await enqueue(world, BAD)
    await until_logged(world, "dead")
    await handle.execute_update(Enqueue.retry, RetryDeadLetter(record=GOOD))
    assert (await asyncio.wait_for(handle.result(), 30)).record == GOOD
    assert outcomes(world) == [("k", "pending"), ("k", "dead"), ("k", "committed")]
    assert list(world.log.rows("direct_log")[1]["codes"]) == ["greater_than_equal"]


async def test_a_discard_is_logged(world: World) -> None:
    handle = await enqueue(world, BAD, "queued")
    async with asyncio.timeout(30):
        while await consume(world) == 0:  # noqa: ASYNC110  - a queue is polled
            await asyncio.sleep(0.05)
    await handle.execute_update(Enqueue.discard, DiscardDeadLetter(reason="a test"))
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert await consume(world) == 1
    assert outcomes(world, "queued_log") == [("k", "dead"), ("k", "discarded")]


async def test_a_dead_letter_that_is_cancelled_while_it_is_logged_ends_as_cancelled(world: World) -> None:
    world.queue.down = True
    handle = await enqueue(world, BAD, "queued")
    await asyncio.sleep(1.5)
    await handle.cancel()
    await asyncio.sleep(0.5)
    world.queue.down = False
    with pytest.raises(WorkflowFailureError):
        await asyncio.wait_for(handle.result(), 60)
    assert await consume(world) == 2
    assert outcomes(world, "queued_log") == [("k", "dead"), ("k", "cancelled")]
    assert world.numbers() == []
