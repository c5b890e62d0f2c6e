"""The command line as a subprocess, against the real servers and real worker processes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import secrets
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.acceptance.api import KEYS, serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import httpx

    from starter.stack import Stack
    from tests.acceptance.api import ApiServer

ROOT = Path(__file__).resolve().parents[2]
PIPELINES = "pipelines,tests.acceptance.declared,tests.acceptance.logged"
LOG_DATABASE, LOG_ROLE = "request_logs", "logger"
SECONDS = 120


@dataclasses.dataclass(frozen=True)
class Ran:
    """How a command ended."""

    exit: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document


@dataclasses.dataclass(frozen=True)
class Starter:
    """Runs `starter` with an environment."""

    environ: Mapping[str, str]
    folder: Path

    def __call__(self, *arguments: str | bytes, stdin: bytes = b"", plain: bool = False) -> Ran:
        command = [sys.executable, "-m", "starter", *([] if plain else ["--json"]), *arguments]
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            env=dict(self.environ),
            cwd=self.folder,
            timeout=SECONDS,
            check=False,
        )
        ran = Ran(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in ran.err, ran.err
        return ran

    def but(self, **environ: str) -> Starter:
        return dataclasses.replace(self, environ={**self.environ, **environ})

    def file(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.write_bytes(content)
        return str(path)

    def select(self, sql: str, database: str = "") -> list[tuple[Any, ...]]:
        """Read the table in a way that shares nothing with the product."""
        return ask(self.environ["DATABASE_URL"], sql, database)


def ask(url: str, sql: str, database: str = "") -> list[tuple[Any, ...]]:
    """Run SQL as the owner of the server, in the application's database unless told otherwise."""

    async def fetch() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url, database=database or None)
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(fetch())).result()


def make_log_database(url: str) -> str:
    """Make a database of the request logs with a role of its own; returns its connection string."""
    password = secrets.token_hex(16)
    ask(url, f"CREATE ROLE {LOG_ROLE} LOGIN PASSWORD '{password}'")
    ask(url, f"CREATE DATABASE {LOG_DATABASE} OWNER {LOG_ROLE}")
    parts = urlsplit(url)
    return f"postgresql://{LOG_ROLE}:{password}@{parts.hostname}:{parts.port}/{LOG_DATABASE}"


@pytest.fixture(scope="session")
def environ(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    none = str(tmp_path_factory.mktemp("none"))
    logs = make_log_database(stack.environment["DATABASE_URL"])
    ours = {"PIPELINES": PIPELINES, "PYTHONPATH": str(ROOT), "STACK_DIR": none, "REQUEST_LOG_DATABASE_URL": logs}
    return {**kept, **stack.environment, **ours}


@pytest.fixture(scope="session")
def workers(environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    log = tmp_path_factory.mktemp("workers") / "log"
    with log.open("wb") as file:
        found = [
            subprocess.Popen([sys.executable, "-m", "workers"], env=environ, cwd=ROOT, stdout=file, stderr=file)
            for _ in range(2)
        ]
    yield
    for process in found:
        process.terminate()
    for process in found:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    print(log.read_text()[-3000:])


@pytest.fixture
def starter(environ: dict[str, str], workers: None, tmp_path: Path) -> Starter:
    return Starter(environ, tmp_path)


@pytest.fixture
def starter_alone(environ: dict[str, str], tmp_path: Path) -> Starter:
    """Without the promise that workers run."""
    return Starter(environ, tmp_path)


@pytest.fixture(scope="session")
def api(environ: dict[str, str], workers: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A server with keys, beside workers."""
    with serving({**environ, "API_KEYS": KEYS}, tmp_path_factory.mktemp("api") / "log") as server:
        yield server


@pytest.fixture
def http(api: ApiServer) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client
