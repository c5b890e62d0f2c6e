from __future__ import annotations

import asyncio
import dataclasses
import random
from typing import TYPE_CHECKING

import pytest

from starter.tickets import TicketState, watch
from starter.uploads import Source, Uploads
from stores.settings import Settings
from tests.workflows.conftest import env, world

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contracts.loads import LoadOptions
    from tests.workflows.world import World

__all__ = ["env", "world"]


def show(_done: int, _total: int) -> None:
    """Show nothing."""


@dataclasses.dataclass
class Caller:
    """Someone who calls the library as the commands do."""

    world: World
    folder: Path
    settings: Settings = dataclasses.field(default_factory=Settings)
    amount: int = dataclasses.field(default_factory=lambda: random.randrange(1 << 60))

    @property
    def uploads(self) -> Uploads:
        return Uploads(self.world.client, self.world.objects, self.settings, 64)

    def orders(self, wrong: Sequence[int]) -> str:
        """Print 20 orders that no other test uploads: the server, and so its tickets, are the session's."""
        return "number,amount\n" + "".join(f"{n},{-1 if n in wrong else self.amount}\n" for n in range(20))

    def source(self, text: str | bytes, name: str = "orders.csv") -> Source:
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Source.of(str(path))

    async def upload(self, text: str | bytes, options: LoadOptions, *, again: bool = False) -> TicketState:
        """Upload and wait."""
        state = await self.uploads.upload("orders", self.source(text), options, again=again, show=show)
        return await self.wait(state.ticket)

    async def resume(self, ticket: str, text: str | bytes | None = None) -> TicketState:
        """Resume and wait."""
        await self.uploads.resume(ticket, None if text is None else self.source(text, "corrected.csv"), show)
        return await self.wait(ticket)

    async def cancel(self, ticket: str) -> TicketState:
        """Cancel and wait."""
        await self.world.client.get_workflow_handle(ticket).cancel()
        return await self.wait(ticket, through_waiting=True)

    async def wait(self, ticket: str, *, through_waiting: bool = False) -> TicketState:
        """Wait until the load is over."""
        async with asyncio.timeout(60):
            states = [
                state
                async for state in watch(self.world.client, self.settings, ticket, through_waiting=through_waiting)
            ]
        return states[-1]


@pytest.fixture
def caller(world: World, tmp_path: Path) -> Caller:
    return Caller(world, tmp_path)
