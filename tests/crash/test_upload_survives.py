"""A load into a table that appends survives the death of each process it depends on: every row exactly once.

The negative control runs the hardest of the crashes without receipts and has to find rows twice; if it does not,
the other tests prove nothing.
"""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from tests.crash.conftest import ROWS, Crashes

OUTAGE_SECONDS = 2.0
REPETITIONS = int(os.environ.get("CHAOS_REPETITIONS", "3"))


async def assert_exactly_once(crashes: Crashes) -> None:
    state = await crashes.finish()
    assert state.status == "completed", (state, crashes.log())
    assert await crashes.count() == (ROWS, ROWS)
    assert (state.counts.read, state.counts.written) == (ROWS, ROWS)


async def kill_a_worker(crashes: Crashes) -> None:
    crashes.start_worker()
    crashes.start_worker()
    await crashes.upload()
    await crashes.middle()
    victim = crashes.workers.pop(0)
    victim.kill()
    victim.wait()
    await assert_exactly_once(crashes)


async def kill_a_server(crashes: Crashes, name: str) -> None:
    crashes.start_worker()
    await crashes.upload()
    await crashes.middle()
    server = crashes.stack.servers[name]
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(OUTAGE_SECONDS)
    await asyncio.to_thread(server.start)
    await assert_exactly_once(crashes)


async def lose_what_was_not_reported(crashes: Crashes, *arguments: str) -> None:
    """Commit a chunk while nobody can be told, and kill the worker: the chunk has to be tried again.

    Temporal dies first, so the chunk in flight commits and cannot be reported; then the worker that knows dies.
    """
    crashes.start_worker(*arguments)
    await crashes.upload()
    before = await crashes.middle()
    server = crashes.stack.servers["temporal"]
    await asyncio.to_thread(server.kill)
    await crashes.until(lambda rows: rows > before)
    crashes.kill_workers()
    await asyncio.to_thread(server.start)
    crashes.start_worker(*arguments)


async def test_a_killed_worker_loses_and_doubles_nothing(crashes: Crashes) -> None:
    await kill_a_worker(crashes)


@pytest.mark.parametrize("name", ["postgres", "objects", "temporal"])
async def test_a_killed_server_loses_and_doubles_nothing(crashes: Crashes, name: str) -> None:
    await kill_a_server(crashes, name)


async def test_a_chunk_that_was_committed_and_not_reported_is_not_written_again(crashes: Crashes) -> None:
    await lose_what_was_not_reported(crashes)
    await assert_exactly_once(crashes)


async def test_without_receipts_the_same_crash_writes_rows_twice(crashes: Crashes) -> None:
    await lose_what_was_not_reported(crashes, "--without-receipts")
    await crashes.finish()
    rows, different = await crashes.count()
    assert different == ROWS
    assert rows > ROWS


@pytest.mark.chaos
@pytest.mark.parametrize("round_number", range(REPETITIONS))
@pytest.mark.parametrize("victim", ["worker", "postgres", "objects", "temporal"])
async def test_repeated_crashes_at_other_moments(crashes: Crashes, victim: str, round_number: int) -> None:
    began = time.monotonic()
    await (kill_a_worker(crashes) if victim == "worker" else kill_a_server(crashes, victim))
    print(f"round {round_number}, {victim}: {time.monotonic() - began:.0f} s")
