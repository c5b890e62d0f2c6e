"""One log entry: there once, however often it is tried, and given up only while its caller waits for a yes."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from temporalio.exceptions import ApplicationError

from activities.request_log import RequestLogActivities
from activities.validate import validate_payload
from contracts import DeclarationError, Pipeline, RequestLog
from contracts.ports import ItemOutcome
from contracts.queue import WorkQueue
from contracts.request_log import LogEntry, Outcome, RequestLogRow, log_sink, log_table, short_codes
from stores.memory_queue import MemoryQueue
from stores.memory_sink import MemorySink

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contracts.ports import Item
    from contracts.table import Table

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def entry(outcome: Outcome = "committed", duration_ms: int = 5, *, refusable: bool = False) -> LogEntry:
    row = RequestLogRow(
        run="0197",
        outcome=outcome,
        pipeline="orders",
        pattern="submit",
        ticket="request/orders/aa",
        key="k",
        who="alice",
        received=NOW,
        at=NOW + timedelta(milliseconds=duration_ms),
        duration_ms=duration_ms,
        codes=("int_type",),
    )
    return LogEntry(log="orders_log", row=row, refusable=refusable)


class RefusingSink(MemorySink):
    """A table with a constraint that no entry satisfies."""

    async def write(self, table: Table, items: Sequence[Item], *, records: bool = True) -> list[ItemOutcome]:  # noqa: ARG002  - the port's
        return [ItemOutcome(status="refused", code="sink_refused", message="violates check constraint") for _ in items]


async def test_a_repeated_try_leaves_one_row_though_it_measured_another_duration() -> None:
    sink = MemorySink()
    activities = RequestLogActivities(sink, MemoryQueue())
    for duration in (5, 6):
        await activities.write_log_entry(entry(duration_ms=duration))
    assert [(row["outcome"], row["duration_ms"]) for row in sink.rows("orders_log")] == [("committed", 5)]


async def test_without_receipts_the_key_of_the_log_still_keeps_entries_apart() -> None:
    sink = MemorySink(receipts=False)
    activities = RequestLogActivities(sink, MemoryQueue())
    outcomes: tuple[Outcome, ...] = ("pending", "committed", "committed")
    for outcome in outcomes:
        await activities.write_log_entry(entry(outcome))
    assert [row["outcome"] for row in sink.rows("orders_log")] == ["pending", "committed"]


async def test_a_repeated_send_is_one_item_that_the_implicit_pipeline_takes() -> None:
    queue = MemoryQueue()
    activities = RequestLogActivities(MemorySink(), queue)
    for duration in (5, 6):
        await activities.send_log_entry(entry(duration_ms=duration))
    [delivery] = await queue.fetch(WorkQueue("orders_log"), 10, timedelta(0))
    assert delivery.id == "log/0197/committed"
    pipeline = Pipeline("orders_log", RequestLogRow, log_sink("orders_log"))
    assert RequestLogRow.model_validate_json(delivery.body, strict=True) == entry().row
    assert validate_payload(pipeline, entry().row.model_dump(mode="json")) == entry().row


@pytest.mark.parametrize("refusable", [True, False])
async def test_an_outage_is_worth_another_try(refusable: bool) -> None:
    sink, queue = MemorySink(), MemoryQueue()
    sink.down = queue.down = True
    activities = RequestLogActivities(sink, queue)
    for step in (activities.write_log_entry, activities.send_log_entry):
        with pytest.raises(ApplicationError) as caught:
            await step(entry(refusable=refusable))
        assert (caught.value.type, caught.value.non_retryable) == ("UnavailableError", False)


@pytest.mark.parametrize("refusable", [True, False])
async def test_what_cannot_be_logged_ends_only_a_request_that_can_be_refused(refusable: bool) -> None:
    activities = RequestLogActivities(RefusingSink(), MemoryQueue())
    with pytest.raises(ApplicationError) as caught:
        await activities.write_log_entry(entry("pending", refusable=refusable))
    assert (caught.value.type, caught.value.non_retryable) == ("EntryRefusedError", refusable)
    assert "orders_log" in caught.value.message


def test_the_table_of_a_log_is_kept_in_the_logs_database_and_never_changes_an_entry() -> None:
    table = log_table("orders_log")
    assert (table.database, table.on_conflict, table.key) == ("request_log", "ignore", ("run", "outcome"))
    assert dataclasses.replace(table, database="application") != table
    assert not {"record", "payload", "body", "value", "message"} & {column.name for column in table.columns}


def test_codes_are_few_short_and_distinct() -> None:
    codes = short_codes(tuple(str(number % 50) for number in range(100)))
    assert len(codes) == len(set(codes)) == 20
    assert short_codes(("x" * 1000,)) == ("x" * 100,)


@pytest.mark.parametrize("name", ["", "Upper", "a b", "a-b", "a.b", "x" * 64, None])
def test_a_wrong_name_is_refused(name: str) -> None:
    with pytest.raises(DeclarationError, match="use a lower-case letter"):
        RequestLog(name)


def test_a_wrong_way_is_refused() -> None:
    with pytest.raises(DeclarationError, match="through 'pigeon' is none of direct, queue"):
        RequestLog("orders_log", through="pigeon")  # type: ignore[arg-type]
