"""Looking at an uploaded file before it is loaded: what it is, and where to cut it.

Guarantee: the raw file is only read; what is derived from it has a name that its load alone knows, so that it can be
removed when that load ends, whoever else loads the same content meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio import activity

from activities.failures import translated
from activities.header import read_header
from activities.pulse import Pulse, pulse
from activities.requests import find_pipeline
from activities.scan import Scanner, delimiter_of
from activities.unpack import MAGIC, unpack
from contracts.errors import FileRefusedError
from contracts.loads import Chunk, InspectFile, Plan, PlanChunks, RemoveObjects, TextFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from contracts.pipeline import Pipeline
    from contracts.ports import ObjectStore

HEAD_BYTES = 2 << 20


class FileActivities:
    """Activities that read files, over the pipelines and the object store they were built with."""

    def __init__(self, pipelines: Mapping[str, Pipeline], objects: ObjectStore) -> None:
        self.pipelines = pipelines
        self.objects = objects

    @activity.defn
    async def inspect_file(self, request: InspectFile) -> TextFile:
        """Find out how to read a file, and unpack it once if it is gzipped. Fails with `FileRefusedError`."""
        with translated():
            pipeline = find_pipeline(self.pipelines, request.pipeline)
            async with pulse() as beat:
                file = request.file
                key, etag, size = file.key, file.etag, file.size
                packed = (await self._head(key, etag, min(size, len(MAGIC)))) == MAGIC
                if packed:
                    key, etag, size = await self._unpacked(request, beat)
                head = await self._head(key, etag, min(size, HEAD_BYTES))
                try:
                    header = read_header(pipeline, head, whole=size <= HEAD_BYTES)
                except FileRefusedError:
                    if packed:
                        await self.objects.delete(key)
                    raise
        return TextFile(
            key=key,
            etag=etag,
            size=size,
            dialect=header.dialect,
            start=header.start,
            line=header.line,
            ordered=pipeline.sink.key is not None and pipeline.sink.on_conflict == "reject",
            temporary=packed,
        )

    async def _head(self, key: str, etag: str, size: int) -> bytes:
        if not size:
            return b""
        return b"".join([piece async for piece in self.objects.read(key, etag=etag, start=0, end=size)])

    async def _unpacked(self, request: InspectFile, beat: Pulse) -> tuple[str, str, int]:
        """Unpack a file, unless an earlier try did."""
        file = request.file
        stored = await self.objects.find(request.unpacked)
        if stored is None:
            packed = self.objects.read(file.key, etag=file.etag, start=0, end=file.size)
            stored = await self.objects.put_stream(request.unpacked, unpack(packed, beat.reach))
        return stored.key, stored.etag, stored.size

    @activity.defn
    async def remove_objects(self, request: RemoveObjects) -> None:
        """Remove what was stored for a load alone, which is over."""
        with translated():
            for key in request.keys:
                await self.objects.delete(key)

    @activity.defn
    async def plan_chunks(self, request: PlanChunks) -> Plan:
        """Cut the next chunks at record boundaries, each at the last one before `chunk_bytes` where there is one."""
        text = request.text
        if request.start >= text.size:
            return Plan(chunks=(), done=True, next_line=request.line)
        with translated():
            cutter = Cutter(request)
            async with pulse() as beat:
                async for piece in self.objects.read(text.key, etag=text.etag, start=request.start, end=text.size):
                    cutter.scanner.feed(piece)
                    cutter.cut()
                    beat.reach(cutter.scanner.position)
                    if cutter.full:
                        break
                else:
                    cutter.scanner.end()
                    cutter.cut()
        chunks = tuple(cutter.chunks)
        return Plan(chunks=chunks, done=bool(chunks) and chunks[-1].end >= text.size, next_line=cutter.line)


class Cutter:
    """Turns the blocks of a scanner into chunks."""

    def __init__(self, request: PlanChunks) -> None:
        self.scanner = Scanner(delimiter_of(request.text), request.start, request.line)
        self.size = request.text.size
        self.chunk_bytes = max(1, request.chunk_bytes)
        self.limit = request.limit
        self.chunks: list[Chunk] = []
        self.start, self.line = request.start, request.line

    @property
    def full(self) -> bool:
        """Say whether enough chunks are cut."""
        return len(self.chunks) >= self.limit

    def cut(self) -> None:
        """Cut as many chunks as the scanner's bytes allow."""
        scanner = self.scanner
        while not self.full:
            before, line = scanner.position, scanner.line
            room = self.start + self.chunk_bytes - before
            at_record = scanner.whole
            block = scanner.take(room) if room > 0 else None
            if room > 0 and block is None:
                return
            if at_record and before > self.start and (room <= 0 or scanner.position > self.start + self.chunk_bytes):
                # The record that begins here does not fit any more; it opens the next chunk.
                self._close(before, line)
            elif room <= 0 and (block := scanner.take()) is None:
                return
            if scanner.whole and scanner.position - self.start >= self.chunk_bytes and not self.full:
                self._close(scanner.position, scanner.line)
            if scanner.position >= self.size and self.start < self.size and not self.full:
                self._close(self.size, scanner.line)

    def _close(self, end: int, line: int) -> None:
        self.chunks.append(Chunk(start=self.start, end=end, line=self.line))
        self.start, self.line = end, line
