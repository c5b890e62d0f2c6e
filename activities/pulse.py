"""Signs of life from a running activity, and working one step ahead.

Guarantee: an activity that makes progress heartbeats about every half second, whatever its steps take.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

from temporalio import activity

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

T = TypeVar("T")

EVERY_SECONDS = 0.5


class Pulse:
    """Heartbeats with how far the work is, bytes or counts, while its context is open."""

    def __init__(self) -> None:
        self.done: object = None

    def reach(self, done: object) -> None:
        """Note how far the work is."""
        self.done = done

    async def _beat(self) -> None:
        while True:
            activity.heartbeat(self.done)
            await asyncio.sleep(EVERY_SECONDS)


@contextlib.asynccontextmanager
async def pulse() -> AsyncIterator[Pulse]:
    """Heartbeat in the background; outside an activity, as in a unit test, do nothing."""
    state = Pulse()
    if not activity.in_activity():
        yield state
        return
    beating = asyncio.create_task(state._beat())  # noqa: SLF001  - the two are one unit
    try:
        yield state
    finally:
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating


async def ahead(items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Pass items on while the next one, and no more than one, is already being made."""
    following = asyncio.ensure_future(anext(items, None))
    try:
        while (item := await following) is not None:
            following = asyncio.ensure_future(anext(items, None))
            yield item
    finally:
        following.cancel()
        with contextlib.suppress(BaseException):
            await following
        await items.aclose()
