"""Uploads that end early go on with all they had; what only one load used is gone when it is over."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from activities.rejects import read_rejects
from contracts.loads import Counts, LoadOptions, LoadRun, RejectLimit
from starter.exits import CommandError
from tests.starter.conftest import show
from workflows.upload import Upload

if TYPE_CHECKING:
    from starter.tickets import TicketState
    from tests.starter.conftest import Caller

FINISH = LoadOptions()
CHECK = LoadOptions(dry_run=True)
WAIT = LoadOptions(on_rejects="wait")
LIMITED = LoadOptions(on_rejects="wait", max_rejects=RejectLimit(value=0, percent=False))


def packed(text: str) -> bytes:
    return gzip.compress(text.encode(), mtime=0)


async def keys(caller: Caller, prefix: str = "") -> list[str]:
    return [key async for key in caller.world.objects.list(prefix)]


async def lines(caller: Caller, state: TicketState) -> list[int]:
    assert state.summary is not None
    return [reject.line async for reject in read_rejects(caller.world.objects, state.summary.rejects)]


async def half_corrected(caller: Caller, text: str | bytes, *, again: bool = False) -> TicketState:
    """Load 20 orders of which two are rejected, correct one of them, and cancel."""
    waiting = await caller.upload(text, WAIT, again=again)
    assert (waiting.status, waiting.counts) == ("waiting", Counts(read=20, written=18, rejected=2))
    waiting = await caller.resume(waiting.ticket, "number,amount\n4,1\n5,-1\n")
    assert (waiting.status, waiting.counts) == ("waiting", Counts(read=20, written=19, rejected=1))
    state = await caller.cancel(waiting.ticket)
    assert (state.status, state.counts) == ("cancelled", waiting.counts)
    return state


async def test_a_file_that_is_uploaded_again_after_a_cancel_keeps_its_corrections(caller: Caller) -> None:
    cancelled = await half_corrected(caller, caller.orders(wrong=[4, 5]))
    again = await caller.upload(caller.orders(wrong=[4, 5]), FINISH)
    assert (again.ticket, again.status, again.counts) == (cancelled.ticket, "completed", cancelled.counts)
    assert caller.world.numbers() == [n for n in range(20) if n != 5]
    assert await lines(caller, again) == [3]


@pytest.mark.parametrize("again", [False, True])
async def test_a_cancelled_load_is_resumed_with_what_it_had(caller: Caller, again: bool) -> None:
    text = packed(caller.orders(wrong=[4, 5]))
    cancelled = await half_corrected(caller, text, again=again)
    resumed = await caller.resume(cancelled.ticket)
    assert (resumed.status, resumed.counts) == ("waiting", cancelled.counts)
    assert (await caller.cancel(cancelled.ticket)).status == "cancelled"
    finished = await caller.resume(cancelled.ticket, "number,amount\n5,1\n")
    assert (finished.ticket, finished.status) == (cancelled.ticket, "completed")
    assert finished.counts == Counts(read=20, written=20)
    assert caller.world.numbers() == list(range(20))
    with pytest.raises(CommandError, match="is completed; only a load that"):
        await caller.resume(cancelled.ticket)


async def test_a_load_that_failed_is_resumed_in_the_middle_of_its_corrections(caller: Caller) -> None:
    waiting = await caller.upload(caller.orders(wrong=[4, 5]), WAIT)
    caller.world.sink.down = True
    corrected = caller.source("number,amount\n4,1\n5,2\n", "corrected.csv")
    await caller.uploads.resume(waiting.ticket, corrected, show)
    await caller.world.client.get_workflow_handle(waiting.ticket).terminate()
    caller.world.sink.down = False
    assert (await caller.wait(waiting.ticket)).status == "failed"
    # The same corrections once more, by someone who is not sure that they arrived, change nothing.
    resumed = await caller.resume(waiting.ticket, "number,amount\n4,1\n5,2\n")
    assert (resumed.status, resumed.counts) == ("completed", Counts(read=20, written=20))
    assert caller.world.numbers() == list(range(20))


@pytest.mark.parametrize("correction", [None, "number,amount\n4,1\n"])
async def test_a_limit_that_an_operator_passed_is_not_asked_for_again(caller: Caller, correction: str | None) -> None:
    waiting = await caller.upload(caller.orders(wrong=[4]), LIMITED)
    assert (waiting.status, waiting.counts.written) == ("waiting", 0)
    caller.world.sink.down = True
    corrected = None if correction is None else caller.source(correction, "corrected.csv")
    await caller.uploads.resume(waiting.ticket, corrected, show)
    assert (await caller.cancel(waiting.ticket)).status == "cancelled"
    caller.world.sink.down = False
    resumed = await caller.resume(waiting.ticket)
    rejected = 0 if correction else 1
    assert (resumed.status, resumed.counts) == ("completed", Counts(read=20, written=20 - rejected, rejected=rejected))


async def test_a_load_whose_file_is_gone_says_so(caller: Caller) -> None:
    cancelled = await half_corrected(caller, caller.orders(wrong=[4, 5]))
    run = await caller.uploads.find_earlier(cancelled.ticket)
    assert run is not None
    with pytest.raises(CommandError, match="correct the rejected rows only"):
        await caller.resume(cancelled.ticket, caller.orders(wrong=[4, 5]))
    await caller.world.objects.delete(run.file.key)
    with pytest.raises(CommandError, match=r"orders\.csv is not stored any more"):
        await caller.resume(cancelled.ticket)
    checked = run.model_copy(update={"options": CHECK})
    with pytest.raises(CommandError, match="only checked"):
        await caller.uploads.check_earlier(cancelled.ticket, checked)


@pytest.mark.parametrize("pack", [False, True])
async def test_a_check_leaves_its_rejects_and_nothing_else(caller: Caller, pack: bool) -> None:
    text = caller.orders(wrong=[7])
    data = packed(text) if pack else text.encode()
    checked = await caller.upload(data, CHECK)
    assert (checked.status, checked.counts) == ("completed", Counts(read=20, rejected=1))
    assert await lines(caller, checked) == [9]
    assert checked.summary is not None
    assert [key for key in await keys(caller) if not key.startswith(checked.summary.rejects)] == []
    assert all(key.startswith("checks/") for key in await keys(caller))
    loaded = await caller.upload(data, FINISH)
    assert (loaded.status, loaded.counts) == ("completed", Counts(read=20, written=19, rejected=1))


async def test_a_check_of_a_file_that_is_stored_leaves_it_to_its_load(caller: Caller) -> None:
    text = packed(caller.orders(wrong=[7]))
    waiting = await caller.upload(text, LIMITED)
    before = await keys(caller)
    assert (await caller.upload(text, CHECK)).status == "completed"
    assert (await caller.upload(text, FINISH, again=True)).status == "completed"
    assert set(before) <= set(await keys(caller))
    assert len(await keys(caller, "uploads/")) == len(await keys(caller, "unpacked/")) == 1
    finished = await caller.resume(waiting.ticket, packed("number,amount\n7,1\n"))
    assert (finished.status, finished.counts) == ("completed", Counts(read=20, written=20))
    assert await keys(caller, "unpacked/") == []


@pytest.mark.parametrize("down", [False, True])
async def test_a_load_that_is_cancelled_removes_its_unpacked_copy_if_it_can(caller: Caller, down: bool) -> None:
    waiting = await caller.upload(packed(caller.orders(wrong=[7])), LIMITED)
    assert len(await keys(caller, "unpacked/")) == 1
    caller.world.objects.down = down
    assert (await caller.cancel(waiting.ticket)).status == "cancelled"
    caller.world.objects.down = False
    assert len(await keys(caller, "unpacked/")) == (1 if down else 0)


async def test_a_packed_file_that_is_refused_leaves_no_unpacked_copy(caller: Caller) -> None:
    assert (await caller.upload(packed("other,header\n1,2\n"), FINISH)).status == "failed"
    assert await keys(caller, "unpacked/") == []


async def test_every_run_of_a_load_tells_what_is_loaded_where(caller: Caller) -> None:
    client = caller.world.client
    source = caller.source(caller.orders(wrong=[4]), "january.csv")
    file = await caller.uploads.store("orders", source, await source.sha256(show), show)
    asked = LoadRun(pipeline="orders", file=file, series="file/1", options=WAIT, chunk_bytes=64, chunks_per_run=3)
    await caller.uploads.start(asked, "upload/orders/1")
    assert (await caller.wait("upload/orders/1")).status == "waiting"
    latest = client.get_workflow_handle_for(Upload.run, "upload/orders/1")
    described = await latest.describe()
    assert described.run_id != described.raw_description.workflow_execution_info.first_run_id
    details = str(await latest.query("__temporal_workflow_metadata"))
    assert "load january.csv into orders" in details
    # Without a worker the memo says it.
    assert await described.memo_value("load", type_hint=LoadRun) == asked
    # Should Temporal ever hand the summary on, the details need not repeat it.
    assert await described.static_summary() is None
    await caller.cancel("upload/orders/1")
