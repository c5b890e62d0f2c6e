"""Connections: uvicorn's HTTP/1.1 protocol with the bounds that it leaves open.

Guarantee: a connection that brings no request within its time is closed, whether it is silent, slow, or goes on with a
body that nobody waits for; beyond the bound on connections a caller is told so at once; what is no HTTP is told in a
problem document, too.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import h11
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from starter.api.problems import BAD_REQUEST, OVERLOADED, RETRY_AFTER, Problem

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send
    from uvicorn.config import Config
    from uvicorn.server import ServerState

HEAD_SECONDS = 20.0
"""How long the head of a request may take, from the connection or its first byte on."""

MOST_HEAD_BYTES = 32 * 1024


class Connection(H11Protocol):
    """One connection. `most` is the bound on all of them in this process."""

    most = 1000

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in its base
        """Begin to wait for the first request."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self.app = refuse
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take what came. The wait begins with the first byte of a head, and ends with a whole one."""
        super().data_received(data)
        if self._busy():
            self._stop_waiting()
        elif self._head is None and not self.transport.is_closing():
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Say that this is no HTTP that we understand; the parser's own words stay here."""
        del msg
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.close()
            return
        document = Problem(BAD_REQUEST, "This is no valid HTTP/1.1 request, or its head is too long.").response()
        head = h11.Response(status_code=400, headers=[*document.raw_headers, (b"connection", b"close")])
        for event in (head, h11.Data(data=bytes(document.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        self._head = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _give_up(self) -> None:
        if not self._busy():
            self.transport.close()


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a connection that is one too many."""
    headers = {RETRY_AFTER: "1", "Connection": "close"}
    response: Response = Problem(OVERLOADED, "This server has no connection left.", headers=headers).response()
    await response(scope, receive, send)
