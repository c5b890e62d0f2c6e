"""An accepted record ends stored or given up, whatever happens in between and however long it takes."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from temporalio.client import (
    WorkflowFailureError,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateStage,
)
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory, CancelledError

from contracts.dead_letters import (
    DEAD_LETTER_MEMO,
    DISCARDED,
    NOT_PARKED,
    DeadLetterNote,
    DiscardDeadLetter,
    RetryDeadLetter,
)
from contracts.requests import CONFLICT, REJECTED
from tests.workflows.world import BROKEN, parked, stored_behind_its_back
from workflows.enqueue import Enqueue
from workflows.options import ERROR_TYPE, STATUS

if TYPE_CHECKING:
    from temporalio.client import WorkflowHandle

    from contracts.requests import RequestResult
    from tests.workflows.world import World

ACCEPTED = WorkflowUpdateStage.ACCEPTED
AS_IT_IS = RetryDeadLetter(who="tester")


async def searchable(handle: WorkflowHandle[Enqueue, RequestResult]) -> tuple[str | None, str | None]:
    attributes = (await handle.describe()).typed_search_attributes
    return attributes.get(STATUS), attributes.get(ERROR_TYPE)


async def details(handle: WorkflowHandle[Enqueue, RequestResult]) -> str:
    return str(await handle.query("__temporal_workflow_metadata"))


async def failure_of(handle: WorkflowHandle[Enqueue, RequestResult]) -> BaseException:
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    return caught.value.cause


async def test_an_accepted_record_is_stored(world: World) -> None:
    handle = await world.enqueue({"number": 1, "amount": 5})
    assert (await handle.result()).record == {"number": 1, "amount": 5}
    assert await searchable(handle) == ("committed", None)
    assert world.numbers("fragile_orders") == [1]
    # As cheap as `submit`: one marker for the step, no regular activity.
    assert len((await handle.fetch_history()).events) <= 8


async def test_an_outage_of_days_is_no_failure(world: World) -> None:
    world.sink.outage = timedelta(hours=30)
    handle = await world.enqueue({"number": 1, "amount": 5})
    assert (await handle.result()).record == {"number": 1, "amount": 5}
    described = await handle.describe()
    assert described.close_time is not None
    assert described.close_time - described.start_time >= timedelta(hours=28)
    assert world.numbers("fragile_orders") == [1]


async def test_a_failure_for_good_is_parked_and_an_operator_who_comes_after_30_days_ends_it(world: World) -> None:
    assert world.env is not None
    BROKEN.add(7)
    with world.env.with_time_skipping_disabled():
        handle = await world.enqueue({"number": 7, "amount": 5})
    state = await parked(handle)
    assert (state.status, state.breakdown.error_type, state.breakdown.attempts) == ("parked", REJECTED, 1)
    assert state.request is not None
    assert state.request.record == {"number": 7, "amount": 5}
    assert [error.code for error in state.breakdown.errors] == ["process_error"]
    assert "in process" in state.breakdown.trace
    assert await searchable(handle) == ("parked", REJECTED)
    told = await details(handle)
    for step in ("show", "retry", "discard"):
        assert f"starter dead-letters {step} {handle.id}" in told
    note = await (await handle.describe()).memo_value(DEAD_LETTER_MEMO, type_hint=DeadLetterNote)
    assert (note.error_type, note.attempts) == (REJECTED, 1)
    await world.env.fast_forward(handle, timedelta(days=30))

    BROKEN.clear()
    outcome = await handle.execute_update(Enqueue.retry, AS_IT_IS)
    assert (outcome.status, outcome.record) == ("stored", {"number": 7, "amount": 5})
    assert (await handle.result()).record == {"number": 7, "amount": 5}
    assert await searchable(handle) == ("committed", None)
    described = await handle.describe()
    assert described.close_time is not None
    assert described.close_time - described.start_time >= timedelta(days=29)
    assert (await handle.query(Enqueue.dead_letter)).status == "stored"


async def test_a_retry_that_fails_again_leaves_it_parked_with_the_new_errors(world: World) -> None:
    BROKEN.update({7, 8})
    handle = await world.enqueue({"number": 7, "amount": 5})
    await parked(handle)
    outcome = await handle.execute_update(Enqueue.retry, RetryDeadLetter(record={"number": "seven", "amount": 5}))
    assert outcome.status == "parked"
    assert [(error.field, error.code) for error in outcome.errors] == [("number", "int_type")]
    state = await parked(handle, attempts=2)
    assert state.breakdown.errors == outcome.errors
    assert state.breakdown.first_failure < state.breakdown.last_failure
    # A correction that failed is not kept: the next try as it is is one of what the caller sent.
    again = await handle.execute_update(Enqueue.retry, AS_IT_IS)
    assert [error.code for error in again.errors] == ["process_error"]
    assert (await parked(handle, attempts=3)).breakdown.attempts == 3


async def test_a_corrected_record_is_stored_and_the_callers_repeat_is_no_conflict(world: World) -> None:
    BROKEN.add(7)
    handle = await world.enqueue({"number": 7, "amount": 5}, key="k")
    await parked(handle)
    await handle.execute_update(Enqueue.retry, RetryDeadLetter(record={"number": 70, "amount": 5}))
    assert (await handle.result()).record == {"number": 70, "amount": 5}
    # Longer ago than Temporal remembers, only the receipt knows the key, under the caller's own payload.
    repeat = await (await world.enqueue({"number": 7, "amount": 5}, key="k")).result()
    assert (repeat.record, repeat.repeat) == ({"number": 70, "amount": 5}, True)
    other = await world.enqueue({"number": 70, "amount": 5}, key="k")
    cause = await failure_of(other)
    assert isinstance(cause, ApplicationError)
    assert cause.type == CONFLICT
    assert await searchable(other) == ("conflict", CONFLICT)
    assert world.numbers("fragile_orders") == [70]


async def test_what_the_sink_refuses_is_parked_until_the_sink_takes_it(world: World) -> None:
    await (await world.submit({"number": 1, "amount": 5}, pipeline="unique_orders")).result()
    handle = await world.enqueue({"number": 1, "amount": 6}, pipeline="unique_orders")
    assert [error.code for error in (await parked(handle)).breakdown.errors] == ["duplicate_key"]
    world.sink.tables["public", "unique_orders"].rows.clear()
    assert (await handle.execute_update(Enqueue.retry, AS_IT_IS)).status == "stored"
    assert (await handle.result()).record == {"number": 1, "amount": 6}


async def test_an_unknown_pipeline_is_parked_until_a_worker_has_it(world: World) -> None:
    handle = await world.enqueue({"number": 1}, pipeline="nowhere")
    state = await parked(handle)
    assert (state.breakdown.error_type, state.breakdown.errors[0].code) == ("UnknownPipelineError", "unknown_pipeline")
    await handle.execute_update(Enqueue.discard, DiscardDeadLetter(reason="a typing error"))


async def test_a_discarded_record_ends_as_failed_with_the_reason_and_raises_no_alarm(world: World) -> None:
    BROKEN.add(7)
    handle = await world.enqueue({"number": 7, "amount": 5})
    await parked(handle)
    state = await handle.execute_update(Enqueue.discard, DiscardDeadLetter(reason="no longer wanted"))
    assert state.status == "discarded"
    cause = await failure_of(handle)
    assert isinstance(cause, ApplicationError)
    assert (cause.type, cause.category) == (DISCARDED, ApplicationErrorCategory.BENIGN)
    assert "no longer wanted" in str(cause)
    assert await searchable(handle) == ("discarded", REJECTED)
    assert world.numbers("fragile_orders") == []


async def test_what_turns_out_to_be_stored_is_not_discarded(world: World) -> None:
    BROKEN.add(7)
    handle = await world.enqueue({"number": 7, "amount": 5}, key="k")
    await stored_behind_its_back(world, (await parked(handle)).request)
    state = await handle.execute_update(Enqueue.discard, DiscardDeadLetter(reason="no longer wanted"))
    assert (state.status, state.record, state.reason) == ("stored", {"number": 7, "amount": 5}, "")
    assert (await handle.result()).record == {"number": 7, "amount": 5}
    assert await searchable(handle) == ("committed", None)
    assert world.numbers("fragile_orders") == [7]


async def test_nothing_can_be_decided_about_what_is_not_parked(world: World) -> None:
    assert world.env is not None
    world.sink.down = True
    with world.env.with_time_skipping_disabled():
        handle = await world.enqueue({"number": 1, "amount": 5})
    with pytest.raises(WorkflowQueryFailedError):
        await handle.query(Enqueue.dead_letter)
    with pytest.raises(WorkflowUpdateFailedError) as caught:
        await handle.execute_update(Enqueue.retry, AS_IT_IS)
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == NOT_PARKED
    world.sink.down = False
    await handle.result()


async def test_retries_at_the_same_time_are_one_and_a_correction_has_to_wait(world: World) -> None:
    assert world.env is not None
    BROKEN.add(7)
    with world.env.with_time_skipping_disabled():
        handle = await world.enqueue({"number": 7, "amount": 5})
    await parked(handle)
    BROKEN.clear()
    world.sink.down = True
    first = await handle.start_update(Enqueue.retry, AS_IT_IS, wait_for_stage=ACCEPTED)
    second = await handle.start_update(Enqueue.retry, AS_IT_IS, wait_for_stage=ACCEPTED)
    with pytest.raises(WorkflowUpdateFailedError):
        await handle.execute_update(Enqueue.retry, RetryDeadLetter(record={"number": 8, "amount": 5}))
    with pytest.raises(WorkflowUpdateFailedError):
        await handle.execute_update(Enqueue.discard, DiscardDeadLetter(reason="too late"))
    world.sink.down = False
    assert await first.result() == await second.result()
    assert (await handle.result()).record == {"number": 7, "amount": 5}


async def test_many_retries_go_on_in_new_runs_that_know_everything(world: World) -> None:
    BROKEN.add(7)
    started = await world.enqueue({"number": 7, "amount": 5}, tries_per_run=2)
    handle = world.client.get_workflow_handle_for(Enqueue.run, started.id)
    begun = (await parked(handle)).breakdown.first_failure
    for attempts in range(2, 6):
        assert (await handle.execute_update(Enqueue.retry, AS_IT_IS)).status == "parked"
        await parked(handle, attempts=attempts)
    state = await parked(handle, attempts=5)
    assert state.breakdown.first_failure == begun
    assert (await handle.describe()).run_id != started.first_execution_run_id
    assert await searchable(handle) == ("parked", REJECTED)
    BROKEN.clear()
    await handle.execute_update(Enqueue.retry, AS_IT_IS)
    assert (await started.result()).record == {"number": 7, "amount": 5}


async def test_a_request_that_is_cancelled_while_it_is_parked_ends_as_cancelled(world: World) -> None:
    BROKEN.add(7)
    handle = await world.enqueue({"number": 7, "amount": 5})
    await parked(handle)
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    assert (await searchable(handle))[0] == "cancelled"
