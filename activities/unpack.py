"""Unpacking gzip as a stream, in bounded memory.

Guarantee: what comes out is the whole content or an error: a truncated or damaged file, and one that unpacks
to absurd sizes (a bomb), is refused.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING

from contracts.errors import FileRefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

MAGIC = b"\x1f\x8b"
PIECE = 1 << 20
BOMB_RATIO = 200
BOMB_FLOOR = 100_000_000
MOST_BYTES = 1 << 40
WITH_GZIP_HEADER = 31


class Unpacker:
    """Unpacks gzip members one after another; feed it with `pieces`, and ask it to `finish`."""

    def __init__(self) -> None:
        self.taken = 0
        self.given = 0
        self._member: zlib._Decompress | None = None
        self._rest = b""
        self._padding = False

    def start(self, data: bytes) -> None:
        """Take the next bytes of the packed file."""
        self.taken += len(data)
        self._rest += data

    def piece(self) -> bytes:
        """Unpack at most about 1 MiB; empty means that more packed bytes are needed."""
        while self._rest:
            if self._member is None:
                # Some tools pad the end with zeros; between members there is nothing else.
                self._rest = self._rest.lstrip(b"\0") if self.taken > len(self._rest) else self._rest
                if not self._rest:
                    break
                self._member = zlib.decompressobj(WITH_GZIP_HEADER)
            try:
                out = self._member.decompress(self._rest, PIECE)
            except zlib.error:
                message = "the file is gzip, but it is damaged"
                raise FileRefusedError(code="damaged_gzip", message=message) from None
            self._rest = self._member.unconsumed_tail
            if self._member.eof:
                self._rest = self._member.unused_data
                self._member = None
            if out:
                self._count(len(out))
                return out
        return b""

    def finish(self) -> None:
        """Check that the last member was whole."""
        if self._member is not None:
            raise FileRefusedError(
                code="truncated_gzip", message="the file is gzip, but it ends too early: upload it again"
            )

    def _count(self, size: int) -> None:
        self.given += size
        bomb = self.given > BOMB_FLOOR and self.given > BOMB_RATIO * self.taken
        if bomb or self.given > MOST_BYTES:
            message = f"the file unpacks to over {self.given // 1_000_000} MB, which is more than is reasonable"
            raise FileRefusedError(code="gzip_bomb", message=message)


async def unpack(packed: AsyncIterator[bytes], progress: Callable[[int], None]) -> AsyncIterator[bytes]:
    """Unpack a stream in threads; `progress` is told how many packed bytes were taken."""
    unpacker = Unpacker()
    async for data in packed:
        unpacker.start(data)
        progress(unpacker.taken)
        while out := await asyncio.to_thread(unpacker.piece):
            yield out
    # zlib may still hold output that it was not asked for when the input ended.
    while out := unpacker.piece():
        yield out
    unpacker.finish()
