"""`submit` and `enqueue` share one id space, and `enqueue` says yes without anybody but Temporal."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING

import pytest
from temporalio.client import WorkflowExecutionStatus

from starter.requests import enqueue, submit
from tests.workflows.world import DECLARED

if TYPE_CHECKING:
    from contracts.requests import SubmitAnswer
    from tests.starter.conftest import Caller

BOTH = [("submit", "enqueue"), ("enqueue", "submit"), ("enqueue", "enqueue")]


async def send(caller: Caller, pattern: str, key: str | None, amount: int = 5) -> SubmitAnswer:
    """Send one order."""
    body = json.dumps({"number": 1, "amount": amount})
    call = submit if pattern == "submit" else enqueue
    return await call(caller.world.client, caller.settings, DECLARED["orders"], body, key)


async def test_an_accepted_record_is_stored_by_whoever_works(caller: Caller) -> None:
    answer = await send(caller, "enqueue", None)
    assert (answer.status, answer.repeat, answer.record, answer.errors) == ("accepted", False, None, ())
    assert answer.ticket.startswith("request/orders/")
    await caller.world.client.get_workflow_handle(answer.ticket).result()
    assert caller.world.numbers() == [1]


@pytest.mark.parametrize(("first", "second"), BOTH)
async def test_a_repeat_is_told_how_the_one_request_stands(caller: Caller, first: str, second: str) -> None:
    key = uuid.uuid4().hex
    started = await send(caller, first, key)
    await caller.world.client.get_workflow_handle(started.ticket).result()
    again = await send(caller, second, key)
    assert (again.ticket, again.key) == (started.ticket, key)
    assert (again.status, again.repeat, again.record) == ("committed", True, {"number": 1, "amount": 5})
    assert caller.world.numbers() == [1]


@pytest.mark.parametrize(("first", "second"), BOTH)
async def test_another_payload_under_the_same_key_is_a_conflict(caller: Caller, first: str, second: str) -> None:
    key = uuid.uuid4().hex
    started = await send(caller, first, key)
    other = await send(caller, second, key, amount=6)
    assert (other.status, other.repeat, other.ticket) == ("conflict", False, started.ticket)
    assert [error.code for error in other.errors] == ["conflict"]
    await caller.world.client.get_workflow_handle(started.ticket).result()
    assert [row["amount"] for row in caller.world.sink.rows("orders")] == [5]


async def test_a_record_that_is_not_valid_is_refused_and_leaves_nothing_behind(caller: Caller) -> None:
    answer = await send(caller, "enqueue", "wrong", amount=-1)
    assert (answer.status, answer.ticket, answer.url) == ("rejected", "", "")
    assert [error.field for error in answer.errors] == ["amount"]
    accepted = await send(caller, "enqueue", "wrong", amount=1)
    assert (accepted.status, accepted.repeat) == ("accepted", False)


async def test_a_repeat_during_an_outage_is_accepted_and_not_started_twice(caller: Caller) -> None:
    assert caller.world.env is not None
    caller.world.sink.down = True
    key = uuid.uuid4().hex
    with caller.world.env.with_time_skipping_disabled():
        first, again = await send(caller, "enqueue", key), await send(caller, "enqueue", key)
    assert again == first.model_copy(update={"repeat": True})
    handle = caller.world.client.get_workflow_handle(first.ticket)
    assert (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
    caller.world.sink.down = False
    await handle.result()
    assert caller.world.numbers() == [1]
