"""Two API processes in front of one Temporal: the death of one, and the end of one, lose and double nothing.

What the callers were told is compared with a table that appends. The negative control repeats without
Idempotency-Key and has to find rows twice; if it does not, the other test proves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import time
import uuid
from typing import TYPE_CHECKING

import asyncpg
import httpx
import pytest

from tests.acceptance.api import KEY, KEYS, ROOT, ApiServer, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.crash.conftest import Crashes

CALLERS = 8
RECORDS = 160
KILL_AFTER = RECORDS // 4
PATH = "/pipelines/lines/records"


def environ_of(crashes: Crashes) -> dict[str, str]:
    more = {"PIPELINES": "tests.crash.declared", "PYTHONPATH": str(ROOT), "API_KEYS": KEYS}
    return {**os.environ, **crashes.stack.environment, **more}


@pytest.fixture
def servers(crashes: Crashes, tmp_path: Path) -> Iterator[list[ApiServer]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(serving(environ_of(crashes), tmp_path / f"api-{n}.log")) for n in range(2)]


async def numbers(crashes: Crashes) -> list[int]:
    """Read the numbers of this run's rows from the table."""
    connection = await asyncpg.connect(crashes.stack.settings.database_url.get_secret_value())
    try:
        if await connection.fetchval("SELECT to_regclass('lines')") is None:
            return []
        rows = await connection.fetch("SELECT number FROM lines WHERE run = $1 ORDER BY number", crashes.run)
    finally:
        await connection.close()
    return [row[0] for row in rows]


async def until_ready(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(60):
        for _ in itertools.count():
            if (await client.get("/readyz")).status_code == 200:
                return
            await asyncio.sleep(0.5)


class Callers:
    """Clients that repeat until they have an answer, at whichever server; a third of their records is not valid."""

    def __init__(self, crashes: Crashes, servers: list[ApiServer], *, keyed: bool) -> None:
        self.crashes = crashes
        self.servers = servers
        self.keyed = keyed
        self.waiting = list(range(RECORDS))
        self.told: dict[int, int] = {}
        self.lost_answers = 0
        self.enough = asyncio.Event()

    def body(self, number: int) -> str:
        filler: object = number if number % 3 == 0 else "x"
        return json.dumps({"run": self.crashes.run, "number": number, "filler": filler})

    async def send(self, client: httpx.AsyncClient, number: int) -> None:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        if self.keyed:
            headers["Idempotency-Key"] = f"{self.crashes.run}/{number}"
        if number % 2:
            headers["Prefer"] = "respond-async"
        while number not in self.told:
            server = random.choice(self.servers)
            try:
                response = await client.post(server.url + PATH, content=self.body(number), headers=headers)
            except httpx.TransportError:
                self.lost_answers += 1
                await asyncio.sleep(0.02)
                continue
            if response.status_code in {429, 503}:
                await asyncio.sleep(0.1)
                continue
            self.told[number] = response.status_code
            if len(self.told) == KILL_AFTER:
                self.enough.set()

    async def work(self) -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            while self.waiting:
                await self.send(client, self.waiting.pop(0))

    async def run(self) -> None:
        """Send all; a quarter into it one of the servers dies."""
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(self.work())
            await self.enough.wait()
            await asyncio.to_thread(self.servers[0].kill)
        # What was only accepted is not in the table yet.
        good = {number for number in range(RECORDS) if number % 3}
        end = time.monotonic() + 60
        while not good <= set(await numbers(self.crashes)):
            assert time.monotonic() < end, sorted(good - set(await numbers(self.crashes)))
            await asyncio.sleep(0.2)
        await asyncio.sleep(1.0)


async def test_the_death_of_one_api_process_loses_and_doubles_nothing(
    crashes: Crashes, servers: list[ApiServer]
) -> None:
    crashes.start_worker()
    callers = Callers(crashes, servers, keyed=True)
    await callers.run()
    assert callers.lost_answers > 0
    assert all(status in ({422} if number % 3 == 0 else {200, 201, 202}) for number, status in callers.told.items())
    assert await numbers(crashes) == [number for number in range(RECORDS) if number % 3]


async def test_without_idempotency_keys_the_same_death_stores_records_twice(
    crashes: Crashes, servers: list[ApiServer]
) -> None:
    crashes.start_worker()
    callers = Callers(crashes, servers, keyed=False)
    await callers.run()
    found = await numbers(crashes)
    assert set(found) == {number for number in range(RECORDS) if number % 3}
    assert len(found) > len(set(found))


async def test_a_server_that_stops_answers_who_waits_and_keeps_what_it_accepted(
    crashes: Crashes, servers: list[ApiServer]
) -> None:
    server = servers[0]
    body = {"run": crashes.run, "number": 1, "filler": "x"}
    async with httpx.AsyncClient(base_url=server.url, headers={"X-API-Key": KEY}, timeout=30) as client:
        # Nobody works, so this record waits.
        sent = asyncio.create_task(client.post(f"{PATH}?wait=30", json=body))
        await asyncio.sleep(1.0)
        assert not sent.done()
        began = time.monotonic()
        assert await asyncio.to_thread(server.stop) == 0
        answer = await sent
        assert (answer.status_code, answer.json()["status"]) == (202, "accepted")
        assert time.monotonic() - began < 10
    assert "Traceback" not in server.log
    assert await numbers(crashes) == []
    crashes.start_worker()
    await crashes.until(lambda rows: rows == 1)
    assert await numbers(crashes) == [1]
    async with httpx.AsyncClient(base_url=servers[1].url, headers={"X-API-Key": KEY}, timeout=30) as client:
        headers = {"Idempotency-Key": answer.headers["idempotency-key"]}
        again = await client.post(PATH, json=body, headers=headers)
        assert (again.status_code, again.json()["record"]["number"]) == (200, 1)


async def test_services_that_are_down_are_named_and_nothing_else_of_them(crashes: Crashes, tmp_path: Path) -> None:
    crashes.start_worker()
    stack = crashes.stack
    for name in ("temporal", "objects"):
        await asyncio.to_thread(stack.servers[name].kill)
    try:
        # It starts although they are down, and is told so.
        with serving(environ_of(crashes), tmp_path / "log") as server:
            async with httpx.AsyncClient(base_url=server.url, headers={"X-API-Key": KEY}, timeout=60) as client:
                assert (await client.get("/healthz")).status_code == 200
                ready = await client.get("/readyz")
                assert ready.status_code == 503
                assert ready.json()["detail"] == "Temporal and the object store do not answer."
                key = {"Idempotency-Key": uuid.uuid4().hex}
                body = {"run": crashes.run, "number": 1, "filler": "x"}
                sent = await client.post(PATH, json=body, headers=key)
                assert (sent.status_code, sent.headers["retry-after"]) == (503, "5")
                assert sent.headers["idempotency-key"] == key["Idempotency-Key"]
                file = await client.post("/pipelines/lines/files", content=b"run,number,filler\n")
                asked = await client.get(f"/tickets/request/lines/{'0' * 64}")
                assert (file.status_code, asked.status_code) == (503, 503)
                told = ready.text + sent.text + file.text + asked.text
                for address in stack.settings.addresses.values():
                    assert address not in told
                await asyncio.to_thread(stack.servers["temporal"].start)
                file = await client.post("/pipelines/lines/files", content=b"run,number,filler\n")
                assert file.status_code == 503
                assert "object store" in file.json()["detail"]
                await asyncio.to_thread(stack.servers["objects"].start)
                await until_ready(client)
                again = await client.post(PATH, json=body, headers=key)
                assert again.status_code == 201, again.text
    finally:
        for name in ("temporal", "objects"):
            await asyncio.to_thread(stack.servers[name].start)
