"""Loading a chunk: its bytes stream through validation into the sink, in one transaction with its receipt.

Guarantee: exactly once per unit. The rejects are stored before the commit that counts them, under a name that
a repeat would use again; memory stays within a few blocks whatever the size of the chunk.
"""

from __future__ import annotations

import array
from typing import TYPE_CHECKING

from temporalio import activity

from activities.failures import translated
from activities.pulse import Pulse, ahead, pulse
from activities.rejects import RejectLog, reject_key
from activities.requests import find_pipeline
from activities.rows import BlockValidator
from activities.scan import read_blocks, split_records
from contracts.loads import ChunkResult, Counts, LoadChunk, Reject, RejectError
from contracts.ports import LoadOutcome, Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from activities.records import Rows
    from contracts.pipeline import Pipeline
    from contracts.ports import ObjectStore, Sink
    from contracts.table import Row


class LoadActivities:
    """Activities that load or check chunks, over the pipelines and stores they were built with."""

    def __init__(self, pipelines: Mapping[str, Pipeline], sink: Sink, objects: ObjectStore) -> None:
        self.pipelines = pipelines
        self.sink = sink
        self.objects = objects

    @activity.defn
    async def load_chunk(self, request: LoadChunk) -> ChunkResult:
        """Commit a chunk's rows under its unit; a repeat returns the first result."""
        with translated():
            pipeline = find_pipeline(self.pipelines, request.pipeline)
            await self.sink.prepare(pipeline.table)
            async with pulse() as beat:
                reading = Reading(pipeline, self.objects, request, beat)
                rows = reading.rows()
                try:
                    settled = await self.sink.load(pipeline.table, request.unit, rows, reading.settle)
                finally:
                    await rows.aclose()
        return ChunkResult.model_validate_json(settled.result)

    @activity.defn
    async def check_chunk(self, request: LoadChunk) -> ChunkResult:
        """Validate a chunk and store its rejects; nothing is written to the sink, so `written` is 0."""
        with translated():
            pipeline = find_pipeline(self.pipelines, request.pipeline)
            async with pulse() as beat:
                reading = Reading(pipeline, self.objects, request, beat)
                async for _ in reading.rows():
                    pass
                return await reading.result(LoadOutcome(written=0, duplicates=0))


class Reading:
    """One pass over a chunk: rows go out, and what is needed to settle stays: counts, lines and rejects."""

    def __init__(self, pipeline: Pipeline, objects: ObjectStore, request: LoadChunk, beat: Pulse) -> None:
        self.validator = BlockValidator(pipeline, request.text.dialect)
        self.objects = objects
        self.request = request
        self.beat = beat
        self.log = RejectLog()
        self.read = 0
        self.dropped = 0
        # The line of every row that went out, from the chunk's first line on: a refusal only has the row's number.
        self.lines = array.array("Q")

    async def _blocks(self) -> AsyncGenerator[Rows, None]:
        chunk = self.request.chunk
        window = self.validator.window
        blocks = read_blocks(
            self.objects, self.request.text, start=chunk.start, end=chunk.end, line=chunk.line, window=window
        )
        async for block in blocks:
            yield await self.validator.validate(block)
            self.beat.reach(block.start + len(block.data) - chunk.start)

    async def rows(self) -> AsyncGenerator[Sequence[Row], None]:
        """Stream the rows in blocks; the next block is validated while the sink takes one."""
        following = ahead(self._blocks())
        try:
            async for block in following:
                self.read += block.read
                self.dropped += block.dropped
                self.log.add(block.rejects)
                if block.rows:
                    self.lines.extend(block.lines)
                    yield block.rows
        finally:
            await following.aclose()

    async def settle(self, outcome: LoadOutcome) -> str:
        """Store the rejects and print the result, which the sink keeps in the receipt."""
        return (await self.result(outcome)).model_dump_json()

    async def result(self, outcome: LoadOutcome) -> ChunkResult:
        """Store the rejects and count what became of every record."""
        refused = await self._refused(outcome.refused)
        key = await self.log.write(self.objects, reject_key(self.request.rejects, self.request.chunk.start), refused)
        counts = Counts(
            read=self.read,
            written=outcome.written,
            rejected=self.log.count + len(refused),
            duplicates=outcome.duplicates,
            dropped=self.dropped,
        )
        return ChunkResult(counts=counts, rejects=key)

    async def _refused(self, refusals: Sequence[Refusal]) -> list[Reject]:
        """Find the original rows of those that the sink refused, by reading the chunk once more."""
        if not refusals:
            return []
        by_line = {self.lines[refusal.index]: refusal for refusal in refusals}
        chunk, text = self.request.chunk, self.request.text
        found: list[Reject] = []
        async for block in read_blocks(self.objects, text, start=chunk.start, end=chunk.end, line=chunk.line):
            if block.kind != "records" or by_line.keys().isdisjoint(
                range(block.line, block.line + block.data.count(b"\n") + 1)
            ):
                continue
            line = block.line
            delimiter = text.dialect.delimiter if text.dialect.format == "csv" else None
            for data in split_records(block.data, delimiter):
                refusal = by_line.get(line)
                if refusal is not None:
                    found.append(self._reject(line, data, refusal))
                line += data.count(b"\n")
        return found

    def _reject(self, line: int, data: bytes, refusal: Refusal) -> Reject:
        error = RejectError(column=refusal.column, code=refusal.code, message=refusal.message)
        text = data.removesuffix(b"\n").removesuffix(b"\r").decode(errors="backslashreplace")
        return Reject(line=line, errors=(error,), row=text, cells=self.validator.cells_of(text))
