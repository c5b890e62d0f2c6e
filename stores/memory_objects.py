"""The object store in memory: the double that tests and time-skipping workflows use.

Guarantee: the same behaviour as `S3ObjectStore`, proven by the same contract suite. `down = True` is an outage.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from typing import TYPE_CHECKING

from contracts.errors import ObjectChangedError, ObjectMissingError, UnavailableError
from contracts.ports import StoredObject

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

PIECE_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Held:
    """One version of an object."""

    data: bytes
    stored: StoredObject


class MemoryObjectStore:
    """`contracts.ports.ObjectStore` in a dictionary. While `down` is set, everything raises `UnavailableError`."""

    def __init__(self) -> None:
        """Start empty and up."""
        self.down = False
        self._held: dict[str, Held] = {}

    async def put(self, key: str, data: bytes) -> StoredObject:
        """Store a small object, replacing what was there."""
        self._check()
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        stored = StoredObject(key=key, size=len(data), etag=etag, sha256=hashlib.sha256(data).hexdigest())
        self._held[key] = Held(bytes(data), stored)
        return stored

    async def put_stream(self, key: str, chunks: AsyncIterable[bytes], sha256: str | None = None) -> StoredObject:
        """Store a stream once it has ended and has the expected hash."""
        self._check()
        gathered = bytearray()
        async for chunk in chunks:
            gathered += chunk
        found = hashlib.sha256(gathered).hexdigest()
        if sha256 is not None and found != sha256.lower():
            message = f"object {key} was not stored: its SHA-256 is {found}, {sha256} was announced"
            raise ObjectChangedError(message)
        return await self.put(key, bytes(gathered))

    async def get(self, key: str) -> bytes:
        """Read a whole object."""
        return self._find(key).data

    async def read(self, key: str, *, etag: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Stream a range of one version, as a slice; an outage in the middle of it is felt at the next piece."""
        if start < 0 or (end is not None and end < 0):
            message = f"a range starts at 0 or later, got [{start}, {end})"
            raise ValueError(message)
        held = self._find(key)
        if held.stored.etag != etag:
            message = f"object {key} is no longer the version {etag}"
            raise ObjectChangedError(message)
        stop = len(held.data) if end is None else min(end, len(held.data))
        for offset in range(start, stop, PIECE_BYTES):
            self._check()
            yield held.data[offset : min(offset + PIECE_BYTES, stop)]
            await asyncio.sleep(0)

    async def find(self, key: str) -> StoredObject | None:
        """Describe an object, or return None."""
        self._check()
        held = self._held.get(key)
        return held.stored if held else None

    async def list(self, prefix: str) -> AsyncIterator[str]:
        """List the keys under a prefix, in lexical order."""
        self._check()
        for key in sorted(self._held):
            if key.startswith(prefix):
                yield key

    async def delete(self, key: str) -> None:
        """Remove an object; nothing happens if there is none."""
        self._check()
        self._held.pop(key, None)

    def _find(self, key: str) -> Held:
        self._check()
        try:
            return self._held[key]
        except KeyError as error:
            message = f"object {key} is missing"
            raise ObjectMissingError(message) from error

    def _check(self) -> None:
        if self.down:
            service = "object store"
            raise UnavailableError(service, address="memory", reason="down")
