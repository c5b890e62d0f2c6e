"""One request: committed once, or refused with its reasons."""

from __future__ import annotations

import pytest
from pydantic import JsonValue
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from activities.failures import field_errors
from activities.requests import RequestActivities
from activities.validate import fingerprint
from contracts import Pipeline, PostgresTable, Record
from contracts.record import FieldError
from contracts.requests import CONFLICT, REJECTED, RequestInput, RequestResult
from stores.memory_sink import MemorySink
from stores.routing import RoutingSink


class Order(Record):
    id: int
    name: str


class Narrow(Record):
    id: str


def process(order: Order) -> Order | None:
    if order.name == "boom":
        raise KeyError(order.name)
    return None if order.name == "drop" else order


def refuse(_: Order) -> Order | None:
    message = "stricter now"
    raise ValueError(message)


ORDERS = Pipeline(name="orders", record=Order, sink=PostgresTable("orders", key=("id",)), process=process)


def request(key: str = "k", **record: str | float | None) -> RequestInput:
    payload: dict[str, JsonValue] = dict(record)
    return RequestInput(pipeline="orders", key=key, fingerprint=fingerprint(payload), record=payload)


async def test_a_repeat_writes_nothing_and_returns_the_stored_record() -> None:
    sink = MemorySink()
    activities = RequestActivities({"orders": ORDERS}, sink)
    first = await activities.store_record(request(id=1, name="a"))
    assert first.record == {"id": 1, "name": "a"}
    assert not first.repeat
    again = await activities.store_record(request(id=1, name="a"))
    assert again.repeat
    assert again.record == first.record
    assert len(sink.rows("orders")) == 1
    with pytest.raises(ApplicationError) as caught:
        await activities.store_record(request(id=1, name="b"))
    assert caught.value.type == CONFLICT
    assert caught.value.category == ApplicationErrorCategory.BENIGN


async def test_what_was_committed_stays_committed_when_the_code_changes_before_the_next_try() -> None:
    def drop(_: Order) -> Order | None:
        return None

    sink = MemorySink()
    first = await RequestActivities({"orders": ORDERS}, sink).store_record(request(id=1, name="a"))
    for changed in (refuse, drop):
        pipeline = Pipeline(name="orders", record=Order, sink=ORDERS.sink, process=changed)
        again = await RequestActivities({"orders": pipeline}, sink).store_record(request(id=1, name="a"))
        assert again.record == first.record
        assert again.repeat
        with pytest.raises(ApplicationError) as caught:
            await RequestActivities({"orders": pipeline}, sink).store_record(request(id=1, name="b"))
        assert caught.value.type == CONFLICT


async def test_a_refused_record_says_why_and_is_not_tried_again() -> None:
    activities = RequestActivities({"orders": ORDERS}, MemorySink())
    for bad, field, code in (
        ({"id": "1", "name": "a"}, "id", "int_type"),
        ({"id": 1, "name": "a\0"}, "name", "nul_character"),
        ({"id": 1, "name": "boom"}, "", "process_error"),
    ):
        with pytest.raises(ApplicationError) as caught:
            await activities.store_record(request(**bad))
        assert caught.value.type == REJECTED
        assert caught.value.non_retryable
        [error] = field_errors(caught.value)
        assert isinstance(error, FieldError)
        assert (error.field, error.code) == (field, code)


async def test_a_dropped_record_leaves_a_receipt_and_no_row() -> None:
    sink = MemorySink()
    activities = RequestActivities({"orders": ORDERS}, sink)
    assert await activities.store_record(request(id=1, name="drop")) == RequestResult(record=None)
    assert await activities.store_record(request(id=1, name="drop")) == RequestResult(record=None, repeat=True)
    for other in (request(id=2, name="drop"), request(id=1, name="a"), request(id="wrong")):
        with pytest.raises(ApplicationError) as caught:
            await activities.store_record(other)
        assert caught.value.type == CONFLICT
    assert sink.rows("orders") == []


async def test_what_was_dropped_stays_dropped_when_the_code_changes_before_the_next_try() -> None:
    sink = MemorySink()
    await RequestActivities({"orders": ORDERS}, sink).store_record(request(id=1, name="drop"))
    for changed in (None, refuse):
        pipeline = Pipeline(name="orders", record=Order, sink=ORDERS.sink, process=changed)
        again = await RequestActivities({"orders": pipeline}, sink).store_record(request(id=1, name="drop"))
        assert again == RequestResult(record=None, repeat=True)
    assert sink.rows("orders") == []


async def test_an_outage_is_retried_and_an_unknown_pipeline_is_not() -> None:
    sink = MemorySink()
    sink.down = True
    with pytest.raises(ApplicationError) as caught:
        await RequestActivities({"orders": ORDERS}, sink).store_record(request(id=1, name="a"))
    assert (caught.value.type, caught.value.non_retryable) == ("UnavailableError", False)
    # It may be stored, which only the sink knows: an unknown pipeline is no answer before that.
    with pytest.raises(ApplicationError) as caught:
        await RequestActivities({}, sink).store_record(request(id=1, name="a"))
    assert (caught.value.type, caught.value.non_retryable) == ("UnavailableError", False)
    sink.down = False
    with pytest.raises(ApplicationError) as caught:
        await RequestActivities({}, sink).store_record(request(id=1, name="a"))
    assert (caught.value.type, caught.value.non_retryable) == ("UnknownPipelineError", True)


async def test_what_was_committed_is_known_to_a_worker_without_the_pipeline_or_with_another_table() -> None:
    application = MemorySink()
    sink = RoutingSink(application, MemorySink(), ())
    first = await RequestActivities({"orders": ORDERS}, sink).store_record(request(id=1, name="a"))
    narrow = Pipeline(name="orders", record=Narrow, sink=ORDERS.sink)
    for pipelines in ({}, {"orders": narrow}):
        activities = RequestActivities(pipelines, sink)
        again = await activities.store_record(request(id=1, name="a"))
        assert (again.record, again.repeat) == (first.record, True)
        with pytest.raises(ApplicationError) as caught:
            await activities.store_record(request(id=1, name="b"))
        assert caught.value.type == CONFLICT
        with pytest.raises(ApplicationError) as caught:
            await activities.store_record(request("other", id=1, name="a"))
        assert caught.value.type in {"UnknownPipelineError", "TableMismatchError"}
    assert len(application.rows("orders")) == 1
