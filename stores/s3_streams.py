"""The two regroupings of bytes between a stream and S3: into parts on the way in, into pieces on the way out.

Guarantee: the bytes and their order stay as they are, and at most one part or piece is held at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stores.s3_errors import CONNECTION_ERRORS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable

    from types_aiobotocore_s3.type_defs import GetObjectOutputTypeDef

MIB = 1 << 20
PART_BYTES = 8 * MIB
PARTS_PER_SIZE = 1250
"""An upload has at most 10,000 parts, so their size doubles every 1250: 10 GiB in parts of 8 MiB, 2.4 TiB in all."""
PIECE_BYTES = MIB


async def in_parts(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """Regroup a stream into the parts of an upload; all but the last are full."""
    number = 0
    limit = PART_BYTES
    buffer = bytearray()
    async for chunk in chunks:
        view = memoryview(chunk)
        while view:
            taken = view[: limit - len(buffer)]
            buffer += taken
            view = view[len(taken) :]
            if len(buffer) == limit:
                yield bytes(buffer)
                buffer.clear()
                number += 1
                limit = PART_BYTES << (number // PARTS_PER_SIZE)
    if buffer:
        yield bytes(buffer)


async def in_pieces(answer: GetObjectOutputTypeDef, expected: int) -> AsyncGenerator[bytes, None]:
    """Regroup a body into pieces of 1 MiB. What arrived before a cut is delivered before the error is raised."""
    buffer = bytearray()
    arrived = 0
    failure: Exception | None = None
    async with answer["Body"] as body:
        while arrived < expected:
            try:
                received = await body.content.read(PIECE_BYTES - len(buffer))
            except CONNECTION_ERRORS as error:
                failure = error
                break
            if not received:
                failure = ConnectionResetError(f"the answer ended {expected - arrived} bytes early")
                break
            arrived += len(received)
            buffer += received
            if len(buffer) == PIECE_BYTES:
                yield bytes(buffer)
                buffer.clear()
        if buffer:
            yield bytes(buffer)
    if failure is not None:
        raise failure


def size_of(answer: GetObjectOutputTypeDef) -> int:
    """Find the whole object's size in the answer to a ranged request."""
    _, _, total = answer.get("ContentRange", "").rpartition("/")
    return int(total) if total.isdecimal() else answer["ContentLength"]
