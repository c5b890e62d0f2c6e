"""Limits: how much a process takes at once, how large a body may be, and how long it may take to come.

Guarantee: nothing queues. Whoever comes when a bound is reached is told so at once (429), before his body is read;
no body is held in memory beyond its limit, and one that trickles in does not keep its place.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from activities.validate import MOST_BYTES
from starter.api.problems import BAD_REQUEST, OVERLOADED, RETRY_AFTER, TOO_LARGE, TOO_SLOW, GoneError, Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fastapi import Request

BODY_SECONDS = 30.0
"""How long the body of a record may take: 1 MiB at 35 kB/s."""

BLOCK = 64 * 1024
BLOCK_SECONDS = 60.0
"""How long each block of a file may take: whoever is slower than 1 kB/s would keep a place for days."""


class Gate:
    """A bound on requests of one kind that are in progress in this process."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.inside = 0

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """Take a place, or raise the problem that there is none."""
        if self.inside >= self.most:
            detail = f"This server handles {self.most} of these requests at once. Repeat the request after a pause."
            raise Problem(OVERLOADED, detail, headers={RETRY_AFTER: "1"})
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


def announced(request: Request) -> int | None:
    """Read Content-Length, if it is there. The server's parser has refused one that is no number."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isdecimal() else None


async def read_body(request: Request, most: int = MOST_BYTES) -> bytes:
    """Read a whole body of at most `most` bytes. Raises `Problem` and `GoneError`."""
    too_large = Problem(TOO_LARGE, f"The body may have at most {most} bytes.")
    if (announced(request) or 0) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in pieces(request):
                body += piece
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise Problem(TOO_SLOW, f"The body did not come within {BODY_SECONDS:.0f} seconds.") from None
    return bytes(body)


async def read_blocks(request: Request) -> AsyncIterator[bytes]:
    """Stream a body of any size in blocks. Raises `Problem` and `GoneError` if it does not come to its end."""
    source = pieces(request)
    gathered = bytearray()
    more = True
    while more:
        try:
            async with asyncio.timeout(BLOCK_SECONDS):
                while more and len(gathered) < BLOCK:
                    piece = await anext(source, None)
                    more = piece is not None
                    gathered += piece or b""
        except TimeoutError:
            raise Problem(TOO_SLOW, f"{BLOCK} bytes did not come within {BLOCK_SECONDS:.0f} seconds.") from None
        if gathered:
            yield bytes(gathered)
            gathered.clear()


async def pieces(request: Request) -> AsyncIterator[bytes]:
    """Receive a body as it comes. Raises `GoneError` if it is cut off."""
    while True:
        event = await request.receive()
        if event["type"] == "http.disconnect":
            raise GoneError
        if piece := event.get("body", b""):
            yield piece
        if not event.get("more_body", False):
            return


async def gone(request: Request) -> None:
    """Wait until the caller leaves; the body has to be read by then."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def query_of(request: Request, *allowed: str) -> dict[str, str]:
    """Read the query. Whatever is unknown or stands twice is a mistake: ignoring it could load what it forbids."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in allowed or name in found:
            known = ", ".join(allowed) or "none"
            raise Problem(BAD_REQUEST, f"A query parameter is unknown or stands twice; there are: {known}.")
        found[name] = value
    return found
