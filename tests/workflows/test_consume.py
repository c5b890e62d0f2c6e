from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from temporalio.client import WorkflowFailureError, WorkflowUpdateFailedError

from contracts.consume import ConsumeChange, ConsumeSummary
from contracts.dead_letters import DeadLetterInput
from contracts.queue import QueueItem
from tests.workflows.world import AWAY, BROKEN, DECLARED
from workflows.consume import Consume
from workflows.options import ERROR_TYPE, STATUS

if TYPE_CHECKING:
    from temporalio.client import WorkflowHandle

    from tests.workflows.world import World

    Handle = WorkflowHandle[Consume, ConsumeSummary]


async def until(handle: Handle, met: Callable[[ConsumeSummary], bool], seconds: float = 30.0) -> ConsumeSummary:
    end = time.monotonic() + seconds
    while True:
        summary = await handle.query(Consume.summary)
        if met(summary):
            return summary
        assert time.monotonic() < end, summary
        await asyncio.sleep(0.05)


async def left(world: World, pipeline: str = "orders") -> int:
    depth = await world.queue.depth(DECLARED[pipeline].work_queue)
    return depth.waiting + depth.in_flight


async def letters(world: World, handle: Handle, pipeline: str) -> list[str]:
    """List the items whose receipts say dead, and which are parked."""
    found = [receipt.unit for _, receipt in world.sink.proofs.values() if receipt.state == "dead"]
    for unit in found:
        item = unit.removeprefix(f"item/{DECLARED[pipeline].work_queue.name}/")
        ticket = letter_ticket(pipeline, item)
        assert (await world.client.get_workflow_handle(ticket).describe()).typed_search_attributes.get(
            STATUS
        ) == "parked"
    return found


def letter_ticket(pipeline: str, item: str) -> str:
    from datetime import UTC, datetime

    from contracts.dead_letters import Breakdown

    now = datetime.now(UTC)
    return DeadLetterInput(
        pipeline=pipeline,
        queue=DECLARED[pipeline].work_queue.name,
        item=item,
        unit=f"item/{DECLARED[pipeline].work_queue.name}/{item}",
        fingerprint="",
        sent=now,
        breakdown=Breakdown(error_type="", message="", first_failure=now, last_failure=now),
    ).ticket


async def test_a_drain_consumes_everything_and_ends(world: World) -> None:
    await world.send(*range(300))
    handle = await world.consume(drain=True)
    summary = await handle.result()
    assert summary.status == "completed"
    assert (summary.counts.read, summary.counts.written) == (300, 300)
    assert world.numbers() == list(range(300))
    description = await handle.describe()
    assert description.typed_search_attributes.get(STATUS) == "completed"
    assert (await description.memo_value("summary", type_hint=ConsumeSummary)).counts.written == 300


async def test_it_runs_until_it_is_stopped_and_leaves_the_rest_in_the_queue(world: World) -> None:
    handle = await world.consume()
    await world.send(*range(10))
    await until(handle, lambda summary: summary.counts.written == 10)
    await world.send(*range(10, 20))
    await until(handle, lambda summary: summary.counts.written == 20)
    assert (await handle.execute_update(Consume.stop)).status == "stopping"
    summary = await handle.result()
    assert (summary.status, summary.counts.written) == ("completed", 20)
    await world.send(99)
    await asyncio.sleep(0.3)
    assert await left(world) == 1


async def test_workers_and_batch_change_while_it_runs(world: World) -> None:
    handle = await world.consume(turn_seconds=0.1)
    changed = await handle.execute_update(Consume.configure, ConsumeChange(workers=4))
    assert (changed.options.workers, changed.options.batch) == (4, 500)
    changed = await handle.execute_update(Consume.configure, ConsumeChange(batch=7))
    assert (changed.options.workers, changed.options.batch) == (4, 7)
    await world.send(*range(50))
    await until(handle, lambda summary: summary.counts.written == 50)
    pending = (await handle.describe()).raw_description.pending_activities
    assert len(pending) <= 4
    await handle.execute_update(Consume.stop)
    with pytest.raises(WorkflowUpdateFailedError):
        await handle.execute_update(Consume.configure, ConsumeChange(workers=1))
    await handle.result()


async def test_one_that_runs_can_be_told_to_end_when_the_queue_is_empty(world: World) -> None:
    await world.send(*range(20))
    handle = await world.consume(turn_seconds=30)
    await handle.execute_update(Consume.finish)
    summary = await handle.result()
    assert (summary.status, summary.counts.written, await left(world)) == ("completed", 20, 0)


async def test_a_cancelled_one_finishes_what_it_has_in_hand(world: World) -> None:
    await world.send(*range(20))
    handle = await world.consume(turn_seconds=30)
    await until_stored(world, 20)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    description = await handle.describe()
    assert description.typed_search_attributes.get(STATUS) == "cancelled"
    # What turns in flight had done is counted.
    assert (await description.memo_value("summary", type_hint=ConsumeSummary)).counts.written == 20


async def until_stored(world: World, count: int) -> None:
    end = time.monotonic() + 20
    while len(world.numbers()) < count:
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


async def test_history_is_cut_and_goes_on_where_it_was(world: World) -> None:
    await world.send(*range(100))
    handle = await world.consume(turns_per_run=3, turn_seconds=0.05)
    await until(handle, lambda summary: summary.counts.written == 100)
    await world.send(*range(100, 110))
    current = world.client.get_workflow_handle_for(Consume.run, handle.id)
    await until(current, lambda summary: summary.counts.written == 110)
    assert (await current.describe()).run_id != handle.first_execution_run_id
    await current.execute_update(Consume.stop)
    assert (await current.result()).counts.written == 110
    assert world.numbers() == list(range(110))


async def test_a_sink_that_is_down_for_six_hours_pauses_consumption_and_buries_nothing(world: World) -> None:
    world.sink.outage = timedelta(hours=6)
    await world.send(*range(200))
    before = time.monotonic()
    handle = await world.consume(drain=True)
    summary = await handle.result()
    assert time.monotonic() - before < 90
    assert (summary.counts.read, summary.counts.written, summary.reason) == (200, 200, "")
    assert world.numbers() == list(range(200))
    assert world.failures.counts == {}
    assert {receipt.state for _, receipt in world.sink.proofs.values()} == {"stored"}
    assert (await handle.describe()).typed_search_attributes.get(ERROR_TYPE) is None


async def test_a_pause_tells_its_reason(world: World) -> None:
    assert world.env is not None
    world.sink.down = True
    with world.env.with_time_skipping_disabled():
        handle = await world.consume(longest_pause=1.0)
    await world.send(1)
    summary = await until(handle, lambda summary: summary.status == "paused")
    assert "memory sink" in summary.reason
    attributes = (await handle.describe()).typed_search_attributes
    assert (attributes.get(STATUS), attributes.get(ERROR_TYPE)) == ("paused", "UnavailableError")
    world.sink.down = False
    await until(handle, lambda summary: summary.status == "running" and summary.counts.written == 1)
    attributes = (await handle.describe()).typed_search_attributes
    assert (attributes.get(STATUS), attributes.get(ERROR_TYPE)) == ("running", None)
    await handle.execute_update(Consume.stop)
    await handle.result()


async def test_a_paused_one_can_be_stopped(world: World) -> None:
    assert world.env is not None
    world.sink.down = True
    with world.env.with_time_skipping_disabled():
        handle = await world.consume()
    await until(handle, lambda summary: summary.status == "paused")
    await handle.execute_update(Consume.stop)
    assert (await handle.result()).status == "completed"
    world.sink.down = False


async def test_a_service_of_process_that_is_away_opens_the_breaker_and_buries_nothing(world: World) -> None:
    AWAY.update(range(50))
    await world.send(*range(50), pipeline="fragile_orders")
    handle = await world.consume("fragile_orders", longest_pause=1.0)
    summary = await until(handle, lambda summary: summary.status == "paused")
    assert "look like an outage" in summary.reason
    await asyncio.sleep(3)
    assert world.failures.counts == {}
    assert world.sink.proofs == {}
    AWAY.clear()
    await until(handle, lambda summary: summary.counts.written == 50)
    assert world.numbers("fragile_orders") == list(range(50))
    await handle.execute_update(Consume.stop)
    await handle.result()


async def test_poison_is_retried_for_days_and_then_parked_while_its_neighbours_are_stored(world: World) -> None:
    BROKEN.update([3, 7])
    await world.send(*range(10), pipeline="fragile_orders")
    queue = DECLARED["fragile_orders"].work_queue
    await world.queue.send(queue, [QueueItem(b"no json", "wrong")])
    handle = await world.consume("fragile_orders", turn_seconds=0.1)
    await until(handle, lambda summary: summary.counts.written == 8)
    for attempt in range(1, queue.max_attempts):
        await until(handle, lambda summary, attempt=attempt: summary.counts.retried == 2 * attempt)  # type: ignore[misc]
        world.queue.advance(timedelta(hours=16))
    summary = await until(handle, lambda summary: summary.counts.rejected == 3)
    assert await left(world, "fragile_orders") == 0
    assert len(await letters(world, handle, "fragile_orders")) == 3
    assert world.numbers("fragile_orders") == [0, 1, 2, 4, 5, 6, 8, 9]
    assert summary.counts.retried == 2 * (queue.max_attempts - 1)
    await handle.execute_update(Consume.stop)
    await handle.result()


async def test_a_turn_that_breaks_is_tried_again(world: World) -> None:
    calls = []
    broken = world.queue.fetch

    async def fetch(*args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise AttributeError(world)
        return await broken(*args, **options)  # type: ignore[arg-type]

    world.queue.fetch = fetch  # type: ignore[method-assign,assignment]
    await world.send(1)
    handle = await world.consume(drain=True)
    assert (await handle.result()).counts.written == 1


def test_the_details_say_what_to_do() -> None:
    from workflows.consume import describe

    text = describe("orders", ConsumeSummary(status="paused", reason="`it` is\ndown", pause=8))
    assert "Paused" in text
    assert "'it' is down" in text
    assert "starter consume orders --stop" in text
