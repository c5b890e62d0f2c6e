"""A dead letter of a queue stays until it is stored or given up, and its receipt says which."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowUpdateFailedError, WorkflowUpdateStage

from contracts.dead_letters import DeadLetterFilter, DiscardDeadLetter, RetryDeadLetter
from tests.workflows.world import BROKEN, parked
from workers.parking import TemporalParking
from workflows.dead_letter import DeadLetter
from workflows.options import ERROR_TYPE, PATTERN, PIPELINE, STATUS

if TYPE_CHECKING:
    from temporalio.client import WorkflowHandle

    from contracts.dead_letters import DeadLetterInput, DeadLetterState
    from contracts.ports import ReceiptState
    from tests.workflows.world import World

AS_IT_IS = RetryDeadLetter(who="tester")


def handle_of(world: World, letter: DeadLetterInput) -> WorkflowHandle[DeadLetter, DeadLetterState]:
    return world.client.get_workflow_handle_for(DeadLetter.run, letter.ticket)


async def receipt_of(world: World, letter: DeadLetterInput) -> ReceiptState | None:
    receipt = await world.sink.find_receipt(letter.work)
    return receipt.state if receipt else None


async def test_a_dead_letter_can_be_found_and_says_what_to_do(world: World) -> None:
    letter = await world.bury(1)
    handle = handle_of(world, letter)
    assert handle.id == f"dead-letter/fragile_orders/{letter.work.receipt.hex}"
    state = await parked(handle, attempts=5)
    assert (state.queue, state.item, state.body) == ("fragile", "item 1", letter.body)
    attributes = (await handle.describe()).typed_search_attributes
    assert [attributes.get(name) for name in (PIPELINE, PATTERN, STATUS, ERROR_TYPE)] == [
        "fragile_orders",
        "consume",
        "parked",
        "KeyError",
    ]
    told = str(await handle.query("__temporal_workflow_metadata"))
    assert f"starter dead-letters retry {handle.id}" in told
    assert "item 1" in (await (await handle.describe()).static_summary() or "")


async def test_parking_twice_parks_once_also_after_it_was_settled(world: World) -> None:
    letter = await world.bury(1)
    parking = TemporalParking(world.client)
    handle = handle_of(world, letter)
    first = (await handle.describe()).run_id
    await parking.park(letter)
    assert (await handle.describe()).run_id == first
    await handle.execute_update(DeadLetter.retry, AS_IT_IS)
    await handle.result()
    await parking.park(letter)
    described = await handle.describe()
    assert (described.run_id, described.status) == (first, WorkflowExecutionStatus.COMPLETED)


async def test_an_operator_who_comes_after_30_days_gets_it_stored(world: World) -> None:
    assert world.env is not None
    with world.env.with_time_skipping_disabled():
        letter = await world.bury(1)
    handle = handle_of(world, letter)
    await parked(handle)
    await world.env.fast_forward(handle, timedelta(days=30))
    assert await receipt_of(world, letter) == "dead"
    outcome = await handle.execute_update(DeadLetter.retry, AS_IT_IS)
    assert (outcome.status, outcome.record) == ("stored", {"number": 1, "amount": 5})
    settled = await handle.result()
    assert (settled.status, settled.body) == ("stored", None)
    assert await receipt_of(world, letter) == "stored"
    assert world.numbers("fragile_orders") == [1]
    attributes = (await handle.describe()).typed_search_attributes
    assert (attributes.get(STATUS), attributes.get(ERROR_TYPE)) == ("stored", None)


async def test_a_body_that_is_kept_in_the_object_store_is_read_from_there(world: World) -> None:
    await world.objects.put("dead/1", json.dumps({"number": 9, "amount": 5}).encode())
    letter = await world.bury(9, body=None, body_key="dead/1")
    letter_elsewhere = await world.bury(10, b"", body_key="dead/2")
    assert (await handle_of(world, letter).execute_update(DeadLetter.retry, AS_IT_IS)).status == "stored"
    gone = await handle_of(world, letter_elsewhere).execute_update(DeadLetter.retry, AS_IT_IS)
    assert [error.code for error in gone.errors] == ["object_missing"]
    assert world.numbers("fragile_orders") == [9]
    await handle_of(world, letter).result()
    assert await world.objects.find("dead/1") is None


async def test_a_retry_that_fails_again_leaves_it_parked_and_a_correction_ends_it(world: World) -> None:
    letter = await world.bury(1, b"no json")
    handle = handle_of(world, letter)
    outcome = await handle.execute_update(DeadLetter.retry, AS_IT_IS)
    assert (outcome.status, [error.code for error in outcome.errors]) == ("parked", ["json_invalid"])
    state = await parked(handle, attempts=6)
    assert (state.breakdown.attempts, state.breakdown.error_type) == (6, "Rejected")
    assert state.breakdown.first_failure == letter.breakdown.first_failure
    assert (await handle.describe()).typed_search_attributes.get(ERROR_TYPE) == "Rejected"
    corrected = RetryDeadLetter(record={"number": 11, "amount": 5})
    assert (await handle.execute_update(DeadLetter.retry, corrected)).status == "stored"
    assert (await handle.result()).status == "stored"
    assert world.numbers("fragile_orders") == [11]


async def test_an_outage_of_hours_during_a_retry_is_waited_out(world: World) -> None:
    letter = await world.bury(1)
    world.sink.outage = timedelta(hours=5)
    handle = handle_of(world, letter)
    assert (await handle.execute_update(DeadLetter.retry, AS_IT_IS)).status == "stored"
    assert (await handle.result()).breakdown.attempts == 5
    assert await receipt_of(world, letter) == "stored"


async def test_a_discard_turns_the_receipt_and_the_item_is_never_stored(world: World) -> None:
    letter = await world.bury(1)
    handle = handle_of(world, letter)
    state = await handle.execute_update(DeadLetter.discard, DiscardDeadLetter(reason="a test item"))
    assert state.status == "discarded"
    assert (await handle.result()).status == "discarded"
    receipt = await world.sink.find_receipt(letter.work)
    assert receipt is not None
    assert (receipt.state, json.loads(receipt.result)) == ("discarded", {"discarded": "a test item"})
    assert (await handle.describe()).typed_search_attributes.get(STATUS) == "discarded"
    assert world.numbers("fragile_orders") == []


async def test_a_discard_of_what_someone_stored_meanwhile_says_stored(world: World) -> None:
    letter = await world.bury(1)
    handle = handle_of(world, letter)
    _, receipt = world.sink.proofs[letter.work.receipt]
    world.sink.proofs[letter.work.receipt] = (letter.pipeline, dataclasses.replace(receipt, state="stored"))
    state = await handle.execute_update(DeadLetter.discard, DiscardDeadLetter(reason="a test item"))
    assert state.status == "stored"
    assert (await handle.result()).status == "stored"


async def test_a_cancellation_is_no_decision(world: World) -> None:
    assert world.env is not None
    with world.env.with_time_skipping_disabled():
        letter = await world.bury(1)
    handle = handle_of(world, letter)
    await handle.cancel()
    assert (await parked(handle)).status == "parked"
    # In the middle of a try it ends the try, of which its operator hears; the item stays.
    world.sink.down = True
    trying = await handle.start_update(DeadLetter.retry, AS_IT_IS, wait_for_stage=WorkflowUpdateStage.ACCEPTED)
    await asyncio.sleep(0.5)
    await handle.cancel()
    world.sink.down = False
    outcome: object = None
    try:
        outcome = await trying.result()
    except WorkflowUpdateFailedError as error:
        outcome = error
    assert (await handle.describe()).status in {WorkflowExecutionStatus.RUNNING, WorkflowExecutionStatus.COMPLETED}
    if isinstance(outcome, WorkflowUpdateFailedError):
        assert (await handle.execute_update(DeadLetter.retry, AS_IT_IS)).status == "stored"
    assert (await handle.result()).status == "stored"
    assert world.numbers("fragile_orders") == [1]


async def test_many_retries_go_on_in_new_runs(world: World) -> None:
    BROKEN.add(1)
    letter = await world.bury(1, tries_per_run=2)
    handle = handle_of(world, letter)
    for attempts in range(6, 11):
        await handle.execute_update(DeadLetter.retry, AS_IT_IS)
        await parked(handle, attempts=attempts)
    described = await handle.describe()
    assert described.run_id != described.raw_description.workflow_execution_info.first_run_id
    BROKEN.clear()
    assert (await handle.execute_update(DeadLetter.retry, AS_IT_IS)).status == "stored"
    state = await handle.result()
    assert (state.status, state.breakdown.attempts) == ("stored", 10)


async def test_parked_letters_are_listed_page_by_page_by_what_they_are(world: World) -> None:
    parking = TemporalParking(world.client)
    mine = f"Kind{id(world)}"
    letters = [await world.bury(number, kind=kind) for number in range(5) for kind in ("KeyError", mine)][1::2]
    wanted = DeadLetterFilter(pipeline="fragile_orders", error_type=mine)

    async def listed(letters: DeadLetterFilter) -> list[str]:
        tickets: list[str] = []
        token = ""
        while True:
            page = await parking.find(letters, 2, token)
            tickets += page.tickets
            token = page.token
            if not token:
                return tickets

    for _ in range(100):
        if len(await listed(wanted)) == 5:
            break
        await asyncio.sleep(0.05)
    found = await listed(wanted)
    assert sorted(found) == sorted(letter.ticket for letter in letters)
    assert await listed(wanted.model_copy(update={"pipeline": "orders"})) == []
    later = letters[-1].breakdown.first_failure + timedelta(minutes=5)
    assert await listed(wanted.model_copy(update={"since": later})) == []
    assert len(await listed(wanted.model_copy(update={"since": letters[0].breakdown.first_failure}))) == 5


async def test_a_retry_by_name_happens_once_and_one_that_comes_too_late_counts_as_stored(world: World) -> None:
    BROKEN.add(1)
    letter = await world.bury(1)
    parking = TemporalParking(world.client)
    assert (await parking.retry(letter.ticket, "redrive/1")).status == "parked"
    BROKEN.clear()
    assert (await parking.retry(letter.ticket, "redrive/1")).status == "parked"
    assert (await parked(handle_of(world, letter), attempts=6)).breakdown.attempts == 6
    assert (await parking.retry(letter.ticket, "redrive/2")).status == "stored"
    assert (await parking.retry(letter.ticket, "redrive/3")).status == "stored"
    assert (await parking.retry("dead-letter/orders/none", "redrive/3")).status == "stored"


def test_a_filter_lets_no_query_in() -> None:
    with pytest.raises(ValueError, match="pattern"):
        DeadLetterFilter(error_type="' OR '1'='1")
