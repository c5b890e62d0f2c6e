"""Request logs: what is in the log when a caller is told yes or no, and what an outage of the log costs."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import JsonValue
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from activities.validate import validate_payload
from contracts.errors import UnavailableError
from contracts.ports import Item
from contracts.request_log import LOG_UNAVAILABLE
from contracts.requests import CONFLICT, REJECTED
from contracts.units import Unit
from tests.workflows.test_submit import failure_of, searchable
from tests.workflows.world import DECLARED
from workflows.options import LOG_AT_ONCE, LOG_INTENT, LOG_PATIENTLY, STORE_PATIENTLY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contracts.ports import ItemOutcome
    from contracts.table import Table
    from tests.workflows.world import OutageSink, World

VALUE = 987654321
GOOD: dict[str, JsonValue] = {"number": 1, "amount": VALUE}
BAD: dict[str, JsonValue] = {"number": 1, "amount": -VALUE}
QUEUED = DECLARED["queued_log"]


def outcomes(world: World, log: str = "direct_log") -> list[tuple[str, str]]:
    return [(row["key"], row["outcome"]) for row in world.log.rows(log)]


def watch_writes(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note which database is written to, in order."""
    seen: list[str] = []

    def watch(sink: OutageSink, name: str) -> None:
        write = sink.write

        async def noting(table: Table, items: Sequence[Item], *, records: bool = True) -> list[ItemOutcome]:
            found = await write(table, items, records=records)
            seen.append(name)
            return found

        monkeypatch.setattr(sink, "write", noting)

    watch(world.sink, "sink")
    watch(world.log, "log")
    return seen


def break_log_after_the_record(world: World, monkeypatch: pytest.MonkeyPatch, **outage: Any) -> None:
    """Let the log go down in the moment that a record is committed."""
    write = world.sink.write

    async def breaking(table: Table, items: Sequence[Item], *, records: bool = True) -> list[ItemOutcome]:
        found = await write(table, items, records=records)
        for name, value in outage.items():
            setattr(world.log, name, value)
        return found

    monkeypatch.setattr(world.sink, "write", breaking)


async def consume(world: World) -> int:
    """Bring what is in the queue into the log, as a queue worker does; returns how many items there were."""
    deliveries = await world.queue.fetch(QUEUED.work_queue, 100, timedelta(0))
    await world.log.prepare(QUEUED.table)
    for delivery in deliveries:
        record = validate_payload(QUEUED, json.loads(delivery.body))
        item = Item(Unit.alone(QUEUED.name, f"item/{delivery.id}"), delivery.id, QUEUED.table.row_of(record))
        await world.log.write(QUEUED.table, [item])
    await world.queue.acknowledge(QUEUED.work_queue, deliveries)
    return len(deliveries)


async def test_a_yes_means_that_intent_record_and_outcome_were_written_in_this_order(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_writes(world, monkeypatch)
    handle = await world.submit(GOOD, key="k", pipeline="logged")
    await handle.result()
    assert seen == ["log", "sink", "log"]
    assert outcomes(world) == [("k", "pending"), ("k", "committed")]
    row = world.log.rows("direct_log")[1]
    assert (row["pipeline"], row["pattern"], row["who"], row["ticket"]) == ("logged", "submit", "alice", handle.id)
    assert row["run"] == handle.first_execution_run_id
    assert row["received"] <= row["at"]
    assert 0 <= row["duration_ms"] < 60_000
    assert row["codes"] in ([], ())
    # Two local steps more than without a log, and still no regular one.
    kinds = [event.event_type for event in (await handle.fetch_history()).events]
    assert kinds.count(EventType.EVENT_TYPE_MARKER_RECORDED) == 3
    assert EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED not in kinds
    assert world.sink.rows("direct_log") == []


async def test_without_a_log_nothing_is_logged_and_no_step_is_added(world: World) -> None:
    handle = await world.submit(GOOD)
    await handle.result()
    kinds = [event.event_type for event in (await handle.fetch_history()).events]
    assert kinds.count(EventType.EVENT_TYPE_MARKER_RECORDED) == 1
    assert world.log.tables == {}


async def test_a_direct_log_that_is_down_refuses_requests_and_the_same_key_may_be_tried_again(world: World) -> None:
    world.log.down = True
    handle = await world.submit(GOOD, key="k", pipeline="logged")
    cause = await failure_of(handle)
    assert cause.type == LOG_UNAVAILABLE
    assert "the request log direct_log cannot be written, so nothing was stored" in cause.message
    assert await searchable(handle) == ("failed", LOG_UNAVAILABLE)
    assert world.numbers() == []
    assert world.sink.proofs == {}
    world.log.down = False
    await (await world.submit(GOOD, key="k", pipeline="logged")).result()
    assert world.numbers() == [1]
    assert outcomes(world) == [("k", "pending"), ("k", "committed")]


async def test_a_direct_log_that_comes_back_within_seconds_refuses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = iter([True, True, True])

    def check() -> None:
        if next(fails, False):
            service, reason = "postgres", "starting up"
            raise UnavailableError(service, "memory", reason)

    monkeypatch.setattr(world.log, "check", check)
    await (await world.submit(GOOD, key="k", pipeline="logged")).result()
    assert outcomes(world) == [("k", "pending"), ("k", "committed")]


async def test_a_direct_log_that_never_answers_is_given_up_within_seconds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(table: Table) -> None:
        await asyncio.sleep(60)

    assert world.env is not None
    monkeypatch.setattr(world.log, "prepare", hang)
    began = time.monotonic()
    with world.env.with_time_skipping_disabled():
        handle = await world.submit(GOOD, key="k", pipeline="logged")
    cause = await failure_of(handle)
    assert cause.type == LOG_UNAVAILABLE
    assert "direct_log" in cause.message
    # Before the caller's own deadline, so that the caller hears a no.
    assert time.monotonic() - began < 9
    assert world.numbers() == []


async def test_a_direct_log_that_goes_down_after_the_write_delays_the_yes_and_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_log_after_the_record(world, monkeypatch, outage=timedelta(hours=2))
    handle = await world.submit(GOOD, key="k", pipeline="logged")
    assert (await handle.result()).record == GOOD
    assert outcomes(world) == [("k", "pending"), ("k", "committed")]
    assert world.numbers() == [1]
    description = await handle.describe()
    assert description.close_time is not None
    assert description.close_time - description.start_time >= timedelta(hours=2)
    # How long the request took, not how long the log was away.
    assert world.log.rows("direct_log")[1]["duration_ms"] < 60_000


async def test_rejections_conflicts_and_failures_are_logged_with_their_codes(world: World) -> None:
    assert (await failure_of(await world.submit(BAD, key="bad", pipeline="logged"))).type == REJECTED
    await (await world.submit(GOOD, key="k", pipeline="logged")).result()
    other = await world.submit({"number": 2, "amount": VALUE}, key="k", pipeline="logged")
    assert (await failure_of(other)).type == CONFLICT
    ended = [(row["key"], row["outcome"], list(row["codes"])) for row in world.log.rows("direct_log")]
    assert [row for row in ended if row[1] != "pending"] == [
        ("bad", "rejected", ["greater_than_equal"]),
        ("k", "committed", []),
        ("k", "conflict", ["Conflict"]),
    ]


async def test_a_rejection_waits_for_its_log_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    write = world.log.write

    async def only_intents_at_first(table: Table, items: Sequence[Item], *, records: bool = True) -> list[ItemOutcome]:
        row = items[0].row
        assert row is not None
        seen.append(row[1])
        if row[1] != "pending" and seen.count(row[1]) < 6:
            service, reason = "postgres", "connection refused"
            raise UnavailableError(service, "memory", reason)
        return await write(table, items, records=records)

    monkeypatch.setattr(world.log, "write", only_intents_at_first)
    assert (await failure_of(await world.submit(BAD, key="k", pipeline="logged"))).type == REJECTED
    assert outcomes(world) == [("k", "pending"), ("k", "rejected")]
    assert seen == ["pending", *["rejected"] * 6]


async def test_a_cancellation_never_keeps_a_committed_request_out_of_the_log(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.env is not None
    break_log_after_the_record(world, monkeypatch, down=True)
    with world.env.with_time_skipping_disabled():
        handle = await world.submit(GOOD, key="k", pipeline="logged")
    await asyncio.sleep(1.5)
    await handle.cancel()
    await asyncio.sleep(0.5)
    assert outcomes(world) == [("k", "pending")]
    world.log.down = False
    assert (await asyncio.wait_for(handle.result(), 30)).record == GOOD
    assert outcomes(world) == [("k", "pending"), ("k", "committed")]
    assert await searchable(handle) == ("committed", None)


async def test_a_request_that_is_cancelled_while_it_waits_for_the_sink_is_logged_as_cancelled(world: World) -> None:
    assert world.env is not None
    world.sink.down = True
    with world.env.with_time_skipping_disabled():
        handle = await world.submit(GOOD, key="k", pipeline="logged")
    await asyncio.sleep(1.5)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await asyncio.wait_for(handle.result(), 30)
    assert outcomes(world) == [("k", "pending"), ("k", "cancelled")]
    world.sink.down = False


async def test_behind_a_queue_requests_go_on_while_the_log_is_down_and_each_entry_arrives_once(world: World) -> None:
    world.log.down = True
    for number in range(3):
        await (await world.submit({"number": number, "amount": 5}, key=f"k{number}", pipeline="queued")).result()
    assert (await failure_of(await world.submit(BAD, key="bad", pipeline="queued"))).type == REJECTED
    assert world.numbers() == [0, 1, 2]
    world.log.down = False
    assert await consume(world) == 4
    assert outcomes(world, "queued_log") == [
        ("k0", "committed"),
        ("k1", "committed"),
        ("k2", "committed"),
        ("bad", "rejected"),
    ]
    assert await consume(world) == 0


async def test_while_the_broker_is_down_the_record_is_committed_and_the_yes_waits(world: World) -> None:
    assert world.env is not None
    world.queue.down = True
    with world.env.with_time_skipping_disabled():
        handle = await world.submit(GOOD, key="k", pipeline="queued")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(handle.result(), 1.5)
    assert world.numbers() == [1]
    assert await searchable(handle) == ("committed", None)
    world.queue.down = False
    assert (await asyncio.wait_for(handle.result(), 30)).record == GOOD
    assert await consume(world) == 1
    assert outcomes(world, "queued_log") == [("k", "committed")]


async def test_no_value_of_a_record_is_in_a_log(world: World) -> None:
    await (await world.submit(GOOD, key="a", pipeline="logged")).result()
    with pytest.raises(WorkflowFailureError):
        await (await world.submit(BAD, key="b", pipeline="logged")).result()
    await (await world.submit({**GOOD, "number": 3}, key="c", pipeline="queued")).result()
    with pytest.raises(WorkflowFailureError):
        await (await world.submit({**BAD, str(VALUE): 1}, key="d", pipeline="queued")).result()
    await consume(world)
    rows = world.log.rows("direct_log") + world.log.rows("queued_log")
    assert len(rows) == 6
    assert str(VALUE) not in json.dumps(rows, default=str)


async def test_a_log_of_another_shape_refuses_requests_and_says_so(world: World) -> None:
    await world.log.prepare(DECLARED["orders"].table)
    world.log.tables["public", "direct_log"] = world.log.tables["public", "orders"]
    cause = await failure_of(await world.submit(GOOD, key="k", pipeline="logged"))
    assert isinstance(cause, ApplicationError)
    assert cause.type == "TableMismatchError"
    assert "direct_log" in cause.message
    assert world.numbers() == []


def test_only_the_intent_is_ever_given_up() -> None:
    assert LOG_PATIENTLY == STORE_PATIENTLY
    assert "schedule_to_close_timeout" not in LOG_PATIENTLY
    for step in (LOG_INTENT, LOG_AT_ONCE):
        # Shorter than a workflow task, and than the caller's default deadline.
        assert step["schedule_to_close_timeout"] == timedelta(seconds=5)
