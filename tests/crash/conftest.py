"""A stack of its own, whose servers are killed, and worker processes that can be killed."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from contracts.loads import LoadOptions
from starter.services import object_store, temporal
from starter.stack import Stack
from starter.tickets import TicketState, watch
from starter.uploads import Source, Uploads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
PIPELINES = {"PIPELINES": "tests.crash.declared,tests.crash.logged"}
ROWS = 24_000
CHUNK_BYTES = 100_000
SECONDS = 150.0


@dataclasses.dataclass
class Crashes:
    """One load in a stack that is going to suffer."""

    stack: Stack
    folder: Path
    run: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    workers: list[subprocess.Popen[bytes]] = dataclasses.field(default_factory=list)
    ticket: TicketState | None = None

    def start_worker(self, *arguments: str) -> subprocess.Popen[bytes]:
        environ = {**os.environ, **self.stack.environment, **PIPELINES, "PYTHONPATH": str(ROOT)}
        with (self.folder / "workers.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers", *arguments], env=environ, cwd=ROOT, stdout=log, stderr=log
            )
        self.workers.append(process)
        return process

    def kill_workers(self) -> None:
        for process in self.workers:
            process.kill()
            process.wait()
        self.workers.clear()

    async def upload(self) -> None:
        """Store a file in which every row is another one, and start its load in small chunks."""
        path = self.folder / "lines.csv"
        path.write_text("run,number,filler\n" + "".join(f"{self.run},{n},{'x' * 20}\n" for n in range(ROWS)))
        settings = self.stack.settings
        async with temporal(settings) as client, object_store(settings) as objects:
            uploads = Uploads(client, objects, settings, CHUNK_BYTES)
            source = Source.of(str(path))
            self.ticket = await uploads.upload("lines", source, LoadOptions(), show=lambda _done, _total: None)

    async def count(self) -> tuple[int, int]:
        """Count the rows of this run, and the different ones among them."""
        connection = await asyncpg.connect(self.stack.settings.database_url.get_secret_value())
        try:
            if await connection.fetchval("SELECT to_regclass('lines')") is None:
                return 0, 0
            row = await connection.fetchrow(
                "SELECT count(*), count(DISTINCT number) FROM lines WHERE run = $1", self.run
            )
        finally:
            await connection.close()
        assert row is not None
        return row[0], row[1]

    async def until(self, enough: Callable[[int], bool]) -> int:
        """Wait until the number of rows is enough."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            rows, _ = await self.count()
            if enough(rows):
                return rows
            await asyncio.sleep(0.05)
        message = f"after {SECONDS} s there are {rows} rows: {self.log()}"
        raise TimeoutError(message)

    async def middle(self) -> int:
        """Wait until a part of the rows is committed, and a part is not."""
        rows = await self.until(lambda rows: rows > 0)
        assert rows < ROWS / 2
        return rows

    async def finish(self) -> TicketState:
        """Wait until the load is over."""
        assert self.ticket is not None
        state = self.ticket
        settings = self.stack.settings
        async with temporal(settings) as client, asyncio.timeout(SECONDS):
            async for latest in watch(client, settings, state.ticket):
                state = latest
        return state

    def log(self) -> str:
        return (self.folder / "workers.log").read_text(errors="replace")[-3000:]


@pytest.fixture(scope="module")
def own_stack(short_folder: Path) -> Iterator[Stack]:
    stack = Stack(short_folder / "crashes", environ={}, usual_ports=False)
    stack.start()
    yield stack
    stack.stop()


@pytest.fixture
def crashes(own_stack: Stack, tmp_path: Path) -> Iterator[Crashes]:
    crashes = Crashes(own_stack, tmp_path)
    yield crashes
    crashes.kill_workers()
    print(crashes.log())
