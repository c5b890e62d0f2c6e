"""Chunks end at record boundaries, as late as they may, and windows of the plan fit together."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activities import scan
from activities.files import FileActivities
from contracts.loads import Chunk, Dialect, PlanChunks, TextFile
from stores.memory_objects import MemoryObjectStore


async def plan(data: bytes, chunk_bytes: int, limit: int) -> list[Chunk]:
    objects = MemoryObjectStore()
    stored = await objects.put("f", data)
    text = TextFile(key="f", etag=stored.etag, size=len(data), dialect=Dialect(format="csv"), start=0, line=1)
    chunks: list[Chunk] = []
    start, line, done = 0, 1, False
    while not done:
        request = PlanChunks(text=text, start=start, line=line, limit=limit, chunk_bytes=chunk_bytes)
        found = await FileActivities({}, objects).plan_chunks(request)
        chunks.extend(found.chunks)
        start, line, done = chunks[-1].end if chunks else 0, found.next_line, found.done
    return chunks


def boundaries(data: bytes) -> list[int]:
    """List where records start, by the scanner's smallest window."""
    scanner = scan.Scanner(",", 0, 1)
    scanner.feed(data)
    scanner.end()
    found = [0]
    while scanner.take(1) is not None:
        if scanner.whole or scanner.position == len(data):
            found.append(scanner.position)
    return found


@given(st.text(alphabet='ab,"\n', max_size=80), st.integers(1, 40), st.integers(1, 4))
@settings(max_examples=400, deadline=None)
async def test_a_chunk_ends_at_the_last_boundary_that_fits(text: str, chunk_bytes: int, limit: int) -> None:
    data = text.encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "QUOTED_LIMIT", 20)
        patch.setattr(scan, "RECORD_LIMIT", 30)
        patch.setattr(scan, "WINDOW", 20)
        chunks = await plan(data, chunk_bytes, limit)
        marks = boundaries(data)
    assert b"".join(data[chunk.start : chunk.end] for chunk in chunks) == data
    for chunk in chunks:
        assert chunk.line == data[: chunk.start].count(b"\n") + 1
        inside = [mark for mark in marks if chunk.start < mark <= chunk.start + chunk_bytes]
        later = [mark for mark in marks if mark > chunk.start]
        assert chunk.end == (inside[-1] if inside else (later[0] if later else len(data)))
