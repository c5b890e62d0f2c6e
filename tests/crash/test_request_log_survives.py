"""A logged request whose worker dies between the record's commit and the outcome's: one record, each entry once.

The negative control does the same without receipts, and has to find the record twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg

from starter.requests import submit
from starter.services import temporal
from starter.tickets import watch
from tests.crash.conftest import SECONDS, Crashes
from tests.crash.logged import marks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def database(crashes: Crashes) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(crashes.stack.settings.database_url.get_secret_value())
    try:
        yield connection
    finally:
        await connection.close()


async def entries(connection: asyncpg.Connection[Any], key: str) -> list[str]:
    if await connection.fetchval("SELECT to_regclass('mark_requests')") is None:
        return []
    found = await connection.fetch("SELECT outcome FROM mark_requests WHERE key = $1 ORDER BY at, outcome DESC", key)
    return [row["outcome"] for row in found]


async def records(connection: asyncpg.Connection[Any], run: str) -> int:
    found: int = await connection.fetchval("SELECT count(*) FROM marks WHERE run = $1", run)
    return found


async def die_between_commit_and_outcome(crashes: Crashes, *arguments: str) -> tuple[int, list[str]]:
    """Block the log once the intent is in it, kill the worker once the record is committed, and let another go on."""
    crashes.start_worker(*arguments)
    settings, key = crashes.stack.settings, crashes.run
    end = time.monotonic() + SECONDS
    async with temporal(settings) as client, database(crashes) as seeing, database(crashes) as blocking:
        body = json.dumps({"run": crashes.run})
        answer = await submit(client, settings, marks, body, key=key, deadline=timedelta(0))
        assert answer.status == "accepted"
        while True:
            if await entries(seeing, key) == ["pending"]:
                break
            assert time.monotonic() < end, crashes.log()
            await asyncio.sleep(0.02)
        async with blocking.transaction():
            await blocking.execute("LOCK TABLE mark_requests IN EXCLUSIVE MODE")
            while True:
                if await records(seeing, crashes.run):
                    break
                assert time.monotonic() < end, crashes.log()
                await asyncio.sleep(0.02)
            crashes.kill_workers()
            assert await entries(seeing, key) == ["pending"]
        crashes.start_worker(*arguments)
        async with asyncio.timeout(SECONDS):
            async for state in watch(client, settings, answer.ticket):
                latest = state
        assert latest.status == "completed", (latest, crashes.log())
        return await records(seeing, crashes.run), await entries(seeing, key)


async def test_a_killed_worker_leaves_one_record_and_each_entry_once(crashes: Crashes) -> None:
    assert await die_between_commit_and_outcome(crashes) == (1, ["pending", "committed"])


async def test_without_receipts_the_same_crash_writes_the_record_twice(crashes: Crashes) -> None:
    assert (await die_between_commit_and_outcome(crashes, "--without-receipts"))[0] > 1
