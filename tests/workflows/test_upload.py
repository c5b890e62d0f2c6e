from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError, CancelledError

from activities.rejects import read_rejects
from contracts.loads import Counts, LoadOptions, LoadSummary, RejectLimit
from tests.workflows.world import orders, until
from workflows.options import ERROR_TYPE, STATUS
from workflows.upload import Upload

if TYPE_CHECKING:
    from temporalio.client import WorkflowHandle

    from tests.workflows.world import World

WAIT = LoadOptions(on_rejects="wait")
SMALL = 64


async def told(handle: WorkflowHandle[Upload, LoadSummary]) -> tuple[LoadSummary, str | None, str | None]:
    """Read what `status` reads without a worker: the memo and the search attributes."""
    description = await handle.describe()
    memo = await description.memo_value("summary", type_hint=LoadSummary)
    attributes = description.typed_search_attributes
    return memo, attributes.get(STATUS), attributes.get(ERROR_TYPE)


async def test_a_file_is_loaded_chunk_by_chunk_and_every_row_once(world: World) -> None:
    handle = await world.upload(orders(100), chunk_bytes=SMALL)
    summary = await handle.result()
    assert summary.status == "completed"
    assert summary.counts == Counts(read=100, written=100)
    assert summary.done_bytes == summary.total_bytes == len(orders(100))
    assert world.numbers() == list(range(100))
    memo, status, error = await told(handle)
    assert (memo, status, error) == (summary, "completed", None)


async def test_rejects_are_counted_and_kept_and_cost_their_neighbours_nothing(world: World) -> None:
    summary = await (await world.upload(orders(50, wrong=[3, 20, 49]), chunk_bytes=SMALL)).result()
    assert summary.status == "completed"
    assert summary.counts == Counts(read=50, written=47, rejected=3)
    rejects = [reject async for reject in read_rejects(world.objects, summary.rejects)]
    assert [reject.line for reject in rejects] == [5, 22, 51]


async def test_many_short_runs_equal_one_long_run(world: World) -> None:
    text = orders(200, wrong=[17, 150])
    once = await (await world.upload(text, chunk_bytes=SMALL)).result()
    rows = world.numbers()
    world.sink.__init__()  # type: ignore[misc]
    handle = await world.upload(text, chunk_bytes=SMALL, chunks_per_run=3)
    summary = await handle.result()
    assert summary == once
    assert world.numbers() == rows
    last = await world.client.get_workflow_handle(handle.id).describe()
    assert last.run_id != handle.first_execution_run_id
    assert await last.memo_value("summary", type_hint=LoadSummary) == summary
    assert last.typed_search_attributes.get(STATUS) == "completed"


async def test_the_same_file_again_writes_nothing_and_counts_the_same(world: World) -> None:
    first = await (await world.upload(orders(40), chunk_bytes=SMALL)).result()
    again = await (await world.upload(orders(40), chunk_bytes=SMALL)).result()
    assert again.counts == first.counts
    assert world.numbers() == list(range(40))


@pytest.mark.parametrize("chunk_bytes", [SMALL // 2, SMALL * 3])
async def test_the_same_file_in_other_chunks_fails_and_writes_nothing(world: World, chunk_bytes: int) -> None:
    await (await world.upload(orders(40), chunk_bytes=SMALL)).result()
    handle = await world.upload(orders(40), chunk_bytes=chunk_bytes)
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    memo, status, error = await told(handle)
    assert (status, error) == ("failed", "ReceiptMismatchError")
    assert "chunk size" in (memo.reason or "")
    assert world.numbers() == list(range(40))


async def test_a_table_that_refuses_duplicates_keeps_the_first_row_in_file_order(world: World) -> None:
    lines = ["number,amount", *(f"{n % 30},{n}" for n in range(60))]
    handle = await world.upload("\n".join(lines) + "\n", pipeline="unique_orders", chunk_bytes=SMALL)
    summary = await handle.result()
    assert summary.counts == Counts(read=60, written=30, rejected=30)
    assert sorted(row["amount"] for row in world.sink.rows("unique_orders")) == list(range(30))


async def test_a_sink_that_is_down_for_six_hours_delays_a_load_and_loses_nothing(world: World) -> None:
    world.sink.outage = timedelta(hours=6)
    handle = await world.upload(orders(20), chunk_bytes=SMALL * 2)
    summary = await handle.result()
    assert summary.counts == Counts(read=20, written=20)
    assert world.numbers() == list(range(20))
    description = await handle.describe()
    assert description.close_time is not None
    assert description.close_time - description.start_time >= timedelta(hours=5)


async def test_a_load_waits_ten_days_for_its_corrections(world: World) -> None:
    assert world.env is not None
    with world.env.with_time_skipping_disabled():
        handle = await world.upload(orders(30, wrong=[4, 5, 6]), WAIT, chunk_bytes=SMALL)
    summary = await until(handle, "waiting")
    assert summary.counts == Counts(read=30, written=27, rejected=3)
    assert (await told(handle))[:2] == (summary, "waiting")
    await world.env.fast_forward(handle, timedelta(days=10))

    # One of three is still wrong: its rejects take the place of the open ones, and it waits again.
    answer = await world.resume(handle, "number,amount\n4,1\n5,-1\n6,1\n")
    assert answer.status in {"running", "waiting"}
    waiting = await until(handle, "waiting")
    assert waiting.counts == Counts(read=30, written=29, rejected=1)
    assert [reject.line async for reject in read_rejects(world.objects, waiting.rejects)] == [3]

    await world.resume(handle, "number,amount\n5,1\n")
    finished = await handle.result()
    assert finished.status == "completed"
    assert finished.counts == Counts(read=30, written=30)
    assert world.numbers() == list(range(30))
    description = await handle.describe()
    assert description.close_time is not None
    assert description.close_time - description.start_time >= timedelta(days=9)


async def test_a_waiting_load_finishes_without_its_rejects_if_the_operator_says_so(world: World) -> None:
    handle = await world.upload(orders(10, wrong=[4]), WAIT)
    await until(handle, "waiting")
    await world.resume(handle)
    summary = await handle.result()
    assert (summary.status, summary.counts) == ("completed", Counts(read=10, written=9, rejected=1))


async def test_decisions_that_make_no_sense_are_refused_and_the_load_goes_on_waiting(world: World) -> None:
    text = orders(10, wrong=[4])
    handle = await world.upload(text, WAIT)
    await until(handle, "waiting")
    for wrong, kind in ((text, "LoadedAlready"), ("", "FileRefusedError"), ("other,header\n1,2\n", "FileRefusedError")):
        with pytest.raises(WorkflowUpdateFailedError) as caught:
            await world.resume(handle, wrong)
        assert isinstance(caught.value.cause, ApplicationError)
        assert caught.value.cause.type == kind
    assert (await until(handle, "waiting")).counts.rejected == 1
    await world.resume(handle, "number,amount\n4,4\n")
    assert (await handle.result()).counts == Counts(read=10, written=10)

    running = await world.upload(orders(5))
    await running.result()
    assert world.numbers() == sorted([*range(10), *range(5)])


async def test_a_load_over_its_limit_of_rejects_is_stopped_and_nothing_is_loaded(world: World) -> None:
    text = orders(40, wrong=[1, 2, 3])
    for limit in (RejectLimit(value=2, percent=False), RejectLimit(value=5, percent=True)):
        handle = await world.upload(text, LoadOptions(max_rejects=limit), chunk_bytes=SMALL)
        summary = await handle.result()
        assert (summary.status, summary.counts) == ("stopped", Counts(read=40, rejected=3))
        assert world.numbers() == []
        assert "limit" in summary.reason
        assert len([reject async for reject in read_rejects(world.objects, summary.rejects)]) == 3
        assert (await told(handle))[1] == "stopped"
    within = LoadOptions(max_rejects=RejectLimit(value=3, percent=False))
    summary = await (await world.upload(text, within, chunk_bytes=SMALL)).result()
    assert (summary.status, summary.counts) == ("completed", Counts(read=40, written=37, rejected=3))


async def test_a_load_over_its_limit_that_waits_loads_everything_once_corrected(world: World) -> None:
    limited = LoadOptions(max_rejects=RejectLimit(value=0, percent=False), on_rejects="wait")
    handle = await world.upload(orders(20, wrong=[7, 8]), limited, chunk_bytes=SMALL, chunks_per_run=2)
    current = world.client.get_workflow_handle_for(Upload.run, handle.id)
    await until(current, "waiting")
    assert world.numbers() == []
    await world.resume(current, "number,amount\n7,1\n8,1\n")
    summary = await handle.result()
    assert (summary.status, summary.counts) == ("completed", Counts(read=20, written=20))
    assert world.numbers() == list(range(20))


async def test_a_dry_run_writes_nothing_and_lists_the_rejects(world: World) -> None:
    summary = await (await world.upload(orders(20, wrong=[7]), LoadOptions(dry_run=True))).result()
    assert (summary.status, summary.counts) == ("completed", Counts(read=20, rejected=1))
    assert world.numbers() == []
    assert [reject.line async for reject in read_rejects(world.objects, summary.rejects)] == [9]


async def test_a_file_that_cannot_be_read_fails_the_load_with_the_reason(world: World) -> None:
    handle = await world.upload("")
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "FileRefusedError"
    memo, status, error = await told(handle)
    assert (memo.status, status, error) == ("failed", "failed", "FileRefusedError")
    assert memo.reason


async def cancelled(handle: WorkflowHandle[Upload, LoadSummary]) -> LoadSummary:
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, CancelledError)
    memo, status, _ = await told(handle)
    assert (memo.status, status) == ("cancelled", "cancelled")
    assert (await handle.describe()).status == WorkflowExecutionStatus.CANCELED
    return memo


async def test_a_load_that_is_cancelled_while_the_sink_is_down_keeps_and_counts_what_is_committed(world: World) -> None:
    handle = await world.upload(orders(30, wrong=[29]), WAIT, chunk_bytes=SMALL)
    await until(handle, "waiting")
    world.sink.down = True
    await world.resume(handle, "number,amount\n29,1\n")
    summary = await cancelled(handle)
    assert summary.counts.written == 29 == len(world.numbers())
    world.sink.down = False


async def test_a_load_that_is_cancelled_half_way_counts_exactly_the_rows_in_the_table(world: World) -> None:
    assert world.env is not None
    with world.env.with_time_skipping_disabled():
        handle = await world.upload(orders(400), chunk_bytes=SMALL)
        while not world.numbers():
            await handle.query(Upload.summary)
        summary = await cancelled(handle)
    assert summary.counts.written == len(world.numbers()) == len(set(world.numbers()))
    again = await world.upload(orders(400), chunk_bytes=SMALL)
    assert (await again.result()).counts == Counts(read=400, written=400)
    assert world.numbers() == list(range(400))


async def test_a_waiting_load_can_be_cancelled(world: World) -> None:
    handle = await world.upload(orders(10, wrong=[4]), WAIT)
    await until(handle, "waiting")
    summary = await cancelled(handle)
    assert summary.counts == Counts(read=10, written=9, rejected=1)


async def test_the_web_ui_shows_where_a_load_stands_and_what_to_do(world: World) -> None:
    handle = await world.upload(orders(10, wrong=[4]), WAIT)
    await until(handle, "waiting")
    description = await handle.describe()
    assert "orders.csv" in (await description.static_summary() or "")
    details = (await handle.query("__temporal_workflow_metadata")) or {}
    text = str(details)
    for expected in ("Waiting for an operator", f"starter resume {handle.id}", f"starter rejects {handle.id}", "100 %"):
        assert expected in text
    await world.resume(handle)
    await handle.result()
