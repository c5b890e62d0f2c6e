"""A redrive tries each dead letter once, no faster than it was told, and stops when it makes no sense."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import CancelledError

from contracts.dead_letters import REDRIVE_MEMO, DeadLetterFilter, RedriveSummary, RetryDeadLetter
from tests.workflows.world import BROKEN, parked
from workers.parking import TemporalParking
from workflows.dead_letter import DeadLetter
from workflows.options import STATUS
from workflows.redrive import Redrive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contracts.dead_letters import DeadLetterInput
    from tests.workflows.world import World


def mine(world: World) -> str:
    """Name an error type that no other test has: the server is the session's."""
    return f"Kind{id(world.sink)}x{uuid.uuid4().hex[:6]}"


async def bury(world: World, kind: str, numbers: Sequence[int]) -> list[DeadLetterInput]:
    """Park orders with an error type of their own, and wait until visibility knows them all."""
    letters = [await world.bury(number, kind=kind) for number in numbers]
    for _ in range(200):
        page = await TemporalParking(world.client).find(DeadLetterFilter(error_type=kind), 1000)
        if len(page.tickets) == len(letters):
            return letters
        await asyncio.sleep(0.05)
    message = "visibility does not know them all"
    raise AssertionError(message)


async def attempts_of(world: World, letters: Sequence[DeadLetterInput]) -> list[int]:
    found = [
        await world.client.get_workflow_handle_for(DeadLetter.run, letter.ticket).query(DeadLetter.dead_letter)
        for letter in letters
    ]
    return [state.breakdown.attempts for state in found]


async def test_all_that_can_be_stored_is_stored_and_the_rest_is_tried_once(world: World) -> None:
    kind = mine(world)
    letters = await bury(world, kind, range(25))
    BROKEN.update({3, 4})
    handle = await world.redrive(kind)
    assert await handle.result() == RedriveSummary(status="completed", found=25, stored=23, failed=2)
    assert world.numbers("fragile_orders") == [number for number in range(25) if number not in {3, 4}]
    assert sorted(await attempts_of(world, letters)) == [5] * 23 + [6] * 2
    described = await handle.describe()
    assert await described.memo_value(REDRIVE_MEMO, type_hint=RedriveSummary) == await handle.result()
    assert described.typed_search_attributes.get(STATUS) == "completed"


async def test_a_redrive_in_many_short_runs_is_the_same_as_one_long_one(world: World) -> None:
    kind = mine(world)
    letters = await bury(world, kind, range(12))
    BROKEN.update({3, 4})
    handle = await world.redrive(kind, rate=2, rounds_per_run=2, abort_above=100)
    assert await handle.result() == RedriveSummary(status="completed", found=12, stored=10, failed=2)
    latest = await world.client.get_workflow_handle(handle.id).describe()
    assert latest.run_id != handle.first_execution_run_id
    assert sorted(await attempts_of(world, letters)) == [5] * 10 + [6] * 2


async def test_the_rate_is_kept(world: World) -> None:
    kind = mine(world)
    await bury(world, kind, range(6))
    handle = await world.redrive(kind, rate=1 / 60)
    assert (await handle.result()).stored == 6
    described = await handle.describe()
    assert described.close_time is not None
    # Five pauses of a minute between six tries; none after the last.
    assert timedelta(minutes=5) <= described.close_time - described.start_time < timedelta(minutes=6)


async def test_it_stops_when_too_many_fail_and_leaves_the_rest_alone(world: World) -> None:
    kind = mine(world)
    letters = await bury(world, kind, range(45))
    BROKEN.update(range(45))
    summary = await (await world.redrive(kind, abort_above=20)).result()
    assert (summary.status, summary.found, summary.stored, summary.failed) == ("stopped", 45, 0, 20)
    assert "more than 20 percent" in summary.reason
    assert sorted(await attempts_of(world, letters)) == [5] * 25 + [6] * 20


async def test_a_few_failures_in_few_tries_stop_nothing(world: World) -> None:
    kind = mine(world)
    await bury(world, kind, range(4))
    BROKEN.update(range(3))
    assert (await (await world.redrive(kind)).result()).status == "completed"


async def test_it_can_be_paused_and_resumed(world: World) -> None:
    assert world.env is not None
    kind = mine(world)
    await bury(world, kind, range(6))
    with world.env.with_time_skipping_disabled():
        handle = await world.redrive(kind, rate=1)
        assert (await handle.execute_update(Redrive.pause)).status == "paused"
        assert (await handle.execute_update(Redrive.pause)).status == "paused"
        await asyncio.sleep(2.5)
        paused = await handle.query(Redrive.summary)
        assert paused.status == "paused"
        assert paused.stored <= 1
        described = await handle.describe()
        assert described.typed_search_attributes.get(STATUS) == "paused"
        assert f"redrive --resume {handle.id}" in str(await handle.query("__temporal_workflow_metadata"))
        await asyncio.sleep(1.5)
        assert (await handle.query(Redrive.summary)).stored == paused.stored
        assert (await handle.execute_update(Redrive.resume)).status == "running"
    assert (await handle.result()).stored == 6


async def test_it_can_be_cancelled_and_what_was_stored_stays(world: World) -> None:
    assert world.env is not None
    kind = mine(world)
    await bury(world, kind, range(6))
    with world.env.with_time_skipping_disabled():
        handle = await world.redrive(kind, rate=0.2)
        async with asyncio.timeout(30):
            while (await handle.query(Redrive.summary)).stored < 1:  # noqa: ASYNC110  - another process tells
                await asyncio.sleep(0.05)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
    assert isinstance(caught.value.cause, CancelledError)
    described = await handle.describe()
    memo = await described.memo_value(REDRIVE_MEMO, type_hint=RedriveSummary)
    assert (memo.status, memo.found, memo.stored) == ("cancelled", 6, 1)
    assert described.typed_search_attributes.get(STATUS) == "cancelled"
    assert len(world.numbers("fragile_orders")) == 1


async def test_what_someone_else_settled_meanwhile_counts_as_done(world: World) -> None:
    assert world.env is not None
    kind = mine(world)
    letters = await bury(world, kind, range(3))
    with world.env.with_time_skipping_disabled():
        handle = await world.redrive(kind, rate=0.5)
        await handle.execute_update(Redrive.pause)
        for letter in letters:
            other = world.client.get_workflow_handle_for(DeadLetter.run, letter.ticket)
            with contextlib.suppress(Exception):
                await other.execute_update(DeadLetter.retry, RetryDeadLetter())
        await handle.execute_update(Redrive.resume)
    assert await handle.result() == RedriveSummary(status="completed", found=3, stored=3)
    assert world.numbers("fragile_orders") == [0, 1, 2]


async def test_it_waits_for_a_sink_that_is_away(world: World) -> None:
    assert world.env is not None
    kind = mine(world)
    await bury(world, kind, range(3))
    world.sink.down = True
    with world.env.with_time_skipping_disabled():
        handle = await world.redrive(kind)
        await asyncio.sleep(2)
        assert (await handle.query(Redrive.summary)).status == "running"
        world.sink.down = False
    assert await handle.result() == RedriveSummary(status="completed", found=3, stored=3)


async def test_accepted_requests_are_redriven_like_items_of_queues(world: World) -> None:
    BROKEN.add(1)
    handle = await world.enqueue({"number": 1, "amount": 5}, pipeline="fragile_orders")
    await parked(handle)
    BROKEN.clear()
    for _ in range(100):
        page = await TemporalParking(world.client).find(DeadLetterFilter(error_type="Rejected"), 1000)
        if handle.id in page.tickets:
            break
        await asyncio.sleep(0.05)
    summary = await (await world.redrive("Rejected", abort_above=100)).result()
    assert summary.stored >= 1
    assert (await handle.result()).record == {"number": 1, "amount": 5}
