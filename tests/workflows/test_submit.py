from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from contracts.requests import CONFLICT, REJECTED
from workflows.options import ERROR_TYPE, LOAD_CHUNK, READ_FILE, STATUS, STORE_PATIENTLY, UNTIL_IT_WORKS

if TYPE_CHECKING:
    from temporalio.client import WorkflowHandle

    from contracts.requests import RequestResult
    from tests.workflows.world import World
    from workflows.submit import Submit


async def failure_of(handle: WorkflowHandle[Submit, RequestResult]) -> ApplicationError:
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, ApplicationError)
    return caught.value.cause


async def searchable(handle: WorkflowHandle[Submit, RequestResult]) -> tuple[str | None, str | None]:
    attributes = (await handle.describe()).typed_search_attributes
    return attributes.get(STATUS), attributes.get(ERROR_TYPE)


async def test_a_valid_record_is_committed_and_comes_back(world: World) -> None:
    handle = await world.submit({"number": 1, "amount": 5})
    result = await handle.result()
    assert result.record == {"number": 1, "amount": 5}
    assert world.numbers() == [1]
    assert await searchable(handle) == ("committed", None)
    # One marker for the step, and no regular activity: that is what makes the pattern quick.
    kinds = [event.event_type for event in (await handle.fetch_history()).events]
    assert len(kinds) <= 8


async def test_a_wrong_record_fails_the_workflow_with_its_field_errors_and_raises_no_alarm(world: World) -> None:
    handle = await world.submit({"number": 1, "amount": -5})
    cause = await failure_of(handle)
    assert cause.type == REJECTED
    assert cause.category == ApplicationErrorCategory.BENIGN
    assert "amount" in str(cause.details)
    assert world.numbers() == []
    assert await searchable(handle) == ("rejected", REJECTED)


async def test_the_same_key_with_another_payload_is_a_conflict(world: World) -> None:
    await (await world.submit({"number": 1, "amount": 5}, key="k")).result()
    repeat = await (await world.submit({"number": 1, "amount": 5}, key="k")).result()
    assert repeat.record == {"number": 1, "amount": 5}
    other = await world.submit({"number": 1, "amount": 6}, key="k")
    assert (await failure_of(other)).type == CONFLICT
    assert await searchable(other) == ("conflict", CONFLICT)
    assert world.numbers() == [1]


async def test_an_undeclared_pipeline_fails_the_workflow_at_once(world: World) -> None:
    handle = await world.submit({"number": 1}, pipeline="nowhere")
    cause = await failure_of(handle)
    assert cause.type == "UnknownPipelineError"
    assert await searchable(handle) == ("failed", "UnknownPipelineError")


async def test_a_sink_that_is_down_for_six_hours_delays_a_request_and_loses_nothing(world: World) -> None:
    world.sink.outage = timedelta(hours=6)
    before = time.monotonic()
    handle = await world.submit({"number": 7, "amount": 5})
    result = await handle.result()
    assert result.record == {"number": 7, "amount": 5}
    assert world.numbers() == [7]
    description = await handle.describe()
    assert description.close_time is not None
    assert description.close_time - description.start_time >= timedelta(hours=5)
    assert world.sink.tries > 20
    assert time.monotonic() - before < 60


def test_no_outage_exhausts_the_tries_and_none_is_longer_than_a_minute_away() -> None:
    for step in (STORE_PATIENTLY, READ_FILE, LOAD_CHUNK):
        assert step["retry_policy"] == UNTIL_IT_WORKS
        assert "schedule_to_close_timeout" not in step
    assert UNTIL_IT_WORKS.maximum_attempts == 0
    assert UNTIL_IT_WORKS.maximum_interval == timedelta(minutes=1)


async def test_the_callers_deadline_ends_the_wait_and_not_the_work(world: World) -> None:
    assert world.env is not None
    world.sink.down = True
    with world.env.with_time_skipping_disabled():
        handle = await world.submit({"number": 9, "amount": 5})
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(handle.result(), 1.5)
    assert world.numbers() == []
    world.sink.down = False
    assert (await asyncio.wait_for(handle.result(), 30)).record == {"number": 9, "amount": 5}
    assert world.numbers() == [9]
