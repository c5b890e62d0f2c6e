"""The blocks of a load, gathered into pieces that are worth a COPY each, one piece ahead of PostgreSQL.

Guarantee: every block is written once, in the order given; at most two pieces are in memory.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from contracts.blocks import TextRows
from stores.postgres_errors import PassedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Sequence

    from contracts.table import Row
    from stores.postgres_load import Loading

PIECE_BYTES = 1 << 20
UNPRINTED_BYTES = PIECE_BYTES // 8
PIECE_ROWS = 10_000
"""Blocks are small, so that their rows are printed while the processor's caches hold them; a COPY has its price."""


async def passed(work: Awaitable[str]) -> str:
    """Await the caller's own code; its errors are not PostgreSQL's, whatever their type."""
    try:
        return await work
    except Exception as error:
        raise PassedError(error) from error


async def add_all(loading: Loading, blocks: AsyncIterable[Sequence[Row]]) -> None:
    """Write all blocks; the caller makes the next ones while PostgreSQL is busy with those before."""
    pieces = Pieces(loading, blocks)
    piece = await pieces.next()
    while piece is not None:
        loading.sent.clear()
        adding = asyncio.create_task(loading.add(*piece))
        try:
            await loading.sent.wait()
            piece = await pieces.next()
        except BaseException:
            adding.cancel()
            await asyncio.gather(adding, return_exceptions=True)
            raise
        await adding


class Pieces:
    """Asks the caller for blocks until there are enough rows for a COPY."""

    def __init__(self, loading: Loading, blocks: AsyncIterable[Sequence[Row]]) -> None:
        self.loading = loading
        self.blocks = aiter(blocks)
        self.held: TextRows | None = None

    async def next(self) -> tuple[Sequence[Row], bytes | None] | None:
        """Return rows and, unless `Loading` has to see to it, their text; None after the last."""
        rows: list[Row] = []
        texts: list[bytes] = []
        size = blocks = 0
        while size < PIECE_BYTES and len(rows) < PIECE_ROWS:
            block, self.held = (await self.next_block(), None) if self.held is None else (self.held, None)
            if block is None:
                break
            if isinstance(block, TextRows):
                # Text that goes as it is makes a COPY of its own, in another format.
                if not rows:
                    return block, self.loading.printed(block)
                self.held = block
                break
            blocks += 1
            rows += block
            text = self.loading.printed(block)
            if text is not None:
                texts.append(text)
            size += UNPRINTED_BYTES if text is None else len(text)
        if not rows:
            return None
        return rows, b"".join(texts) if len(texts) == blocks else None

    async def next_block(self) -> Sequence[Row] | None:
        """Ask the caller for a block, or return None after the last."""
        while True:
            try:
                block = await anext(self.blocks)
            except StopAsyncIteration:
                return None
            except Exception as error:
                raise PassedError(error) from error
            if block:
                return block
