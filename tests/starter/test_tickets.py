"""`watch` notices the end of a run as it happens, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, cast

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.service import RPCError, RPCStatusCode

from contracts.loads import LoadOptions
from starter import tickets
from starter.tickets import pause_while_open, watch
from tests.workflows.world import orders, until
from workflows.upload import Upload

if TYPE_CHECKING:
    from temporalio.client import Client

    from tests.starter.conftest import Caller

LONG = 60.0
WAIT = LoadOptions(on_rejects="wait")


@pytest.mark.parametrize("end", ["completed", "cancelled", "failed"])
async def test_the_end_is_noticed_at_once_whatever_it_is(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    # Whoever only looks now and then is asleep for a minute.
    monkeypatch.setattr(tickets, "FIRST_LOOK", LONG)
    monkeypatch.setattr(tickets, "SLOWEST_LOOK", LONG)
    client = caller.world.client
    started = await caller.world.upload(orders(20, wrong=[3]), WAIT, chunk_bytes=64, chunks_per_run=2)
    latest = client.get_workflow_handle_for(Upload.run, started.id)
    await until(latest, "waiting")
    before = asyncio.all_tasks()

    async def finish() -> float:
        await asyncio.sleep(0.5)
        if end == "completed":
            await caller.world.resume(latest)
        elif end == "cancelled":
            await latest.cancel()
        else:
            await latest.terminate()
        with contextlib.suppress(WorkflowFailureError):
            await latest.result()
        return time.monotonic()

    finishing = asyncio.create_task(finish())
    async with asyncio.timeout(LONG / 2):
        states = [state.status async for state in watch(client, caller.settings, latest.id, through_waiting=True)]
    noticed = time.monotonic()
    assert states == ["waiting", end]
    assert noticed - await finishing < 0.5
    assert asyncio.all_tasks() <= before


async def test_the_end_is_noticed_through_all_runs_of_a_load(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "FIRST_LOOK", LONG)
    monkeypatch.setattr(tickets, "SLOWEST_LOOK", LONG)
    handle = await caller.world.upload(orders(200), chunk_bytes=64, chunks_per_run=3)
    async with asyncio.timeout(LONG / 2):
        states = [state async for state in watch(caller.world.client, caller.settings, handle.id)]
    assert states[-1].status == "completed"
    assert states[-1].counts.written == 200
    assert len(states) <= 2


class Gone:
    """A Temporal that does not answer."""

    def get_workflow_handle(self, _ticket: str) -> Gone:
        return self

    async def result(self) -> None:
        message = "connection refused"
        raise RPCError(message, RPCStatusCode.UNAVAILABLE, b"")


async def test_a_pause_is_as_long_as_asked_while_temporal_is_gone() -> None:
    began = time.monotonic()
    await pause_while_open(cast("Client", Gone()), "upload/orders/1", 0.2)
    assert 0.19 < time.monotonic() - began < 1


async def test_a_pause_leaves_nothing_behind(caller: Caller) -> None:
    handle = await caller.world.upload(orders(10, wrong=[3]), WAIT)
    await until(handle, "waiting")
    before = asyncio.all_tasks()
    began = time.monotonic()
    await pause_while_open(caller.world.client, handle.id, 0.3)
    assert 0.29 < time.monotonic() - began < 1
    assert asyncio.all_tasks() <= before
    await caller.world.resume(handle)
    await handle.result()
