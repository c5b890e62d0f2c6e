"""Connections of the API: who brings nothing is shown out, and an answer that breaks off looks broken."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from contracts.errors import UnavailableError
from starter.api import connection, problems
from starter.api.connection import Connection
from starter.api.entrance import Entrance

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import Response

SECRET = "http://user:hidden@store.internal"


async def broken() -> AsyncIterator[bytes]:
    yield b"the first piece\n"
    service = "object store"
    raise UnavailableError(service, SECRET, "it does not answer")


async def break_off() -> Response:
    return StreamingResponse(broken())


async def wait() -> Response:
    await asyncio.sleep(0.6)
    return StreamingResponse(iter([b"done"]))


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[tuple[str, int]]:
    """Serve two paths by our own entrance and connections; gives host and port."""
    app = FastAPI()
    problems.install(app)
    for path, handler in (("/broken", break_off), ("/slow", wait)):
        app.add_api_route(path, handler, response_model=None)
    config = uvicorn.Config(
        Entrance(app, None), port=0, http=Connection, ws="none", lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - the server has no event for it
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[:2]
    finally:
        server.should_exit = True
        await task


@pytest.mark.parametrize(
    "sent",
    [
        [b""],
        [b"GET /slow HTTP/1.1\r\nHost: local"],
        [b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /slow HT"],
    ],
)
async def test_a_connection_that_brings_no_request_is_closed(
    sent: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    async with listening() as (host, port), asyncio.timeout(10):
        began = time.monotonic()
        reader, writer = await asyncio.open_connection(host, port)
        for piece in sent:
            writer.write(piece)
            await asyncio.sleep(0.1)
        await reader.read()  # until it is closed
        assert 0.2 < time.monotonic() - began < 3
        writer.close()


async def test_a_request_that_takes_longer_than_its_head_may_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    async with listening() as (host, port), httpx.AsyncClient(base_url=f"http://{host}:{port}") as client:
        for _ in range(2):
            assert (await client.get("/slow")).text == "done"
            await asyncio.sleep(0.5)  # an idle connection that was used may stay


async def test_an_answer_that_breaks_off_is_never_taken_for_whole(caplog: pytest.LogCaptureFixture) -> None:
    async with listening() as (host, port), httpx.AsyncClient(base_url=f"http://{host}:{port}") as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/broken")
        assert (await client.get("/nowhere")).status_code == 404
    assert "hidden" not in caplog.text
