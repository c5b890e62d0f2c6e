"""Files and loads over the in-memory stores: every row ends where it belongs, and rejects name the right lines."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import random
from typing import TYPE_CHECKING, Annotated

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.files import FileActivities
from activities.loads import LoadActivities
from activities.rejects import RejectLog, print_rejects, read_rejects
from contracts import Pipeline, PostgresTable, Record
from contracts.errors import UnavailableError
from contracts.loads import Chunk, Counts, InspectFile, LoadChunk, PlanChunks, Reject, RejectError, StoredFile, TextFile
from contracts.units import Unit
from stores.memory_objects import MemoryObjectStore
from stores.memory_sink import MemorySink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Order(Record):
    id: int
    name: Annotated[str, Field(max_length=200)]
    note: str | None = None


class Total(BaseModel):
    id: int
    name: str


def process(order: Order) -> Total | None:
    if order.name == "drop":
        return None
    if order.name == "boom":
        message = "no such luck"
        raise ValueError(message)
    if order.name == "down":
        raise UnavailableError(service="price list", address="localhost:1", reason="refused")
    return Total(id=order.id, name=order.name.upper())


async def process_async(order: Order) -> Total | None:
    return process(order)


PIPELINES = {
    pipeline.name: pipeline
    for pipeline in (
        Pipeline(name="plain", record=Order, sink=PostgresTable("plain", key=None), absent=("NA",)),
        Pipeline(name="keyed", record=Order, sink=PostgresTable("keyed", key=("id",), on_conflict="reject")),
        Pipeline(name="made", record=Order, sink=PostgresTable("made", key=None), process=process),
        Pipeline(name="awaited", record=Order, sink=PostgresTable("awaited", key=None), process=process_async),
    )
}


class Bench:
    """The activities over memory, driven as the workflow drives them."""

    def __init__(self) -> None:
        self.sink = MemorySink()
        self.objects = MemoryObjectStore()
        self.files = FileActivities(PIPELINES, self.objects)
        self.loads = LoadActivities(PIPELINES, self.sink, self.objects)

    async def store(self, data: bytes) -> StoredFile:
        digest = hashlib.sha256(data).hexdigest()
        stored = await self.objects.put(f"raw/{digest}", data)
        return StoredFile(key=stored.key, name="f.csv", size=len(data), etag=stored.etag, sha256=digest)

    async def inspect(self, data: bytes, pipeline: str = "plain") -> TextFile:
        request = InspectFile(pipeline=pipeline, file=await self.store(data), unpacked="unpacked/this")
        return await self.files.inspect_file(request)

    async def plan(self, text: TextFile, chunk_bytes: int, limit: int = 3) -> list[Chunk]:
        chunks: list[Chunk] = []
        start, line = text.start, text.line
        while True:
            request = PlanChunks(text=text, start=start, line=line, limit=limit, chunk_bytes=chunk_bytes)
            plan = await self.files.plan_chunks(request)
            chunks.extend(plan.chunks)
            if plan.done:
                return chunks
            assert len(plan.chunks) == limit
            start, line = plan.chunks[-1].end, plan.next_line

    async def load(
        self, data: bytes, pipeline: str = "plain", chunk_bytes: int = 1 << 20, *, check: bool = False
    ) -> tuple[Counts, list[Reject]]:
        text = await self.inspect(data, pipeline)
        counts = Counts()
        before = text.start
        for chunk in await self.plan(text, chunk_bytes):
            assert chunk.start == before
            before = chunk.end
            unit = Unit.of_range(pipeline, f"file/{text.etag}", chunk.start, chunk.end)
            request = LoadChunk(pipeline=pipeline, text=text, chunk=chunk, unit=unit, rejects="rejects/x/")
            step = self.loads.check_chunk if check else self.loads.load_chunk
            first = await step(request)
            assert await step(request) == first
            counts += first.counts
        assert before == max(text.size, text.start)
        return counts, [reject async for reject in read_rejects(self.objects, "rejects/x/")]


@pytest.mark.parametrize("chunk_bytes", [1, 30, 100, 1 << 20])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
async def test_planted_faults_name_their_lines_and_cost_no_neighbour(chunk_bytes: int, ends: str) -> None:
    lines = [
        b"id,name,note", b"1,a,", b"2,b", b"3,c,x,y", b"x,d,", b"", b'4,"two', b'lines",NA', b"5,bad\xff,",
        b"6,nul\x00,", b'7,"quoted, comma","say ""hi"""', b",e,", b"8,\xc3\xa9,9", b'9,"open,',
    ]  # fmt: skip
    data = ends.encode().join(lines)
    bench = Bench()
    counts, rejects = await bench.load(data, chunk_bytes=chunk_bytes)
    assert [(r.line, r.errors[0].column, r.errors[0].code) for r in rejects] == [
        (3, "", "column_count"),
        (4, "", "column_count"),
        (5, "id", "int_parsing"),
        (9, "", "invalid_utf8"),
        (10, "", "nul_character"),
        (12, "id", "missing"),
        (14, "", "unclosed_quote"),
    ]
    assert rejects[0].row == "2,b"
    assert rejects[2].cells == ("x", "d", "")
    assert bench.sink.rows("plain") == [
        {"id": 1, "name": "a", "note": None},
        {"id": 4, "name": f"two{ends}lines", "note": None},
        {"id": 7, "name": "quoted, comma", "note": 'say "hi"'},
        {"id": 8, "name": "é", "note": "9"},
    ]
    assert counts == Counts(read=11, written=4, rejected=7)


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.text(alphabet='ab,;"\n é', max_size=9)), max_size=30),
    st.integers(1, 60),
    st.booleans(),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_the_table_equals_the_file(rows: list[tuple[int, str]], chunk_bytes: int, final: bool) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([("id", "name"), *rows])
    data = text.getvalue().encode()
    bench = Bench()
    counts, rejects = await bench.load(data if final else data.removesuffix(b"\n"), chunk_bytes=chunk_bytes)
    assert [(row["id"], row["name"]) for row in bench.sink.rows("plain")] == [row for row in rows if row[1]]
    assert counts.read == len(rows)
    assert [reject.errors[0].code for reject in rejects] == ["missing"] * sum(not name for _, name in rows)


@pytest.mark.parametrize("pipeline", ["made", "awaited"])
async def test_process_drops_and_rejects_single_records(pipeline: str) -> None:
    bench = Bench()
    counts, rejects = await bench.load(b"name,id\na,1\ndrop,2\nboom,3\nb,x\nc,4\n", pipeline)
    assert bench.sink.rows(pipeline) == [{"id": 1, "name": "A"}, {"id": 4, "name": "C"}]
    assert [(r.line, r.errors[0].code) for r in rejects] == [(4, "process_error"), (5, "int_parsing")]
    assert rejects[0].errors[0].message == "process failed: ValueError: no such luck"
    assert counts == Counts(read=5, written=2, rejected=2, dropped=1)


@pytest.mark.parametrize("pipeline", ["made", "awaited"])
async def test_a_service_that_is_down_costs_no_record(pipeline: str) -> None:
    bench = Bench()
    with pytest.raises(ApplicationError) as caught:
        await bench.load(b"id,name\n1,a\n2,down\n", pipeline)
    assert caught.value.type == "UnavailableError"
    assert not caught.value.non_retryable
    assert bench.sink.rows(pipeline) == []


async def test_rows_that_the_sink_refuses_are_rejects_of_their_lines() -> None:
    bench = Bench()
    data = b'id,name\n1,a\nx,b\n2,"c\nd"\n1,again\n3,e\n2,"f\ng"\n'
    counts, rejects = await bench.load(data, "keyed")
    assert counts == Counts(read=6, written=3, rejected=3)
    assert [(reject.line, reject.row) for reject in rejects] == [(3, "x,b"), (6, "1,again"), (8, '2,"f\ng"')]
    assert rejects[2].cells == ("2", "f\ng")
    assert (await bench.inspect(data, "keyed")).ordered


async def test_checking_writes_nothing_and_finds_the_same_rejects() -> None:
    bench = Bench()
    counts, rejects = await bench.load(b"id,name\n1,a\nx,b\n", check=True)
    assert counts == Counts(read=2, written=0, rejected=1)
    assert [reject.line for reject in rejects] == [3]
    assert bench.sink.rows("plain") == []


async def test_printed_rejects_can_be_corrected_and_loaded_as_they_are() -> None:
    bench = Bench()
    data = b'id;name;note\n1;a;\nx;"b;\nc";"n,"\n3\n4;\xff;\n'
    _, rejects = await bench.load(data)
    text = await bench.inspect(data)

    async def again() -> str:
        async def replay() -> AsyncIterator[Reject]:
            for reject in rejects:
                yield reject

        return "".join([line async for line in print_rejects(replay(), text.dialect)])

    printed = await again()
    rows = list(csv.DictReader(io.StringIO(printed, newline="")))
    assert [(row["id"], row["name"], row["reject_line"]) for row in rows] == [
        ("x", "b;\nc", "3"),
        ("", "", "5"),
        ("", "", "6"),
    ]
    second = Bench()
    counts, left = await second.load(printed.encode())
    assert counts == Counts(read=3, rejected=3)
    assert [reject.errors[0].code for reject in left] == ["int_parsing", "not_corrected", "not_corrected"]
    third = Bench()
    counts, left = await third.load(printed.replace("\nx,", "\n9,", 1).encode())
    assert third.sink.rows("plain") == [{"id": 9, "name": "b;\nc", "note": "n,"}]
    assert counts == Counts(read=3, written=1, rejected=2)


async def test_ndjson_is_read_line_by_line() -> None:
    lines = ['{"id": 1, "name": "a"}', "", '{"id": "1", "name": "b"}', "{oops", '{"id": 2, "name": "c", "id": 3}',
             '{"id": 4, "name": "q\\"uo\\nte", "reject_row": "x"}', '["id"]', '{"id": 5, "name": "z"}']  # fmt: skip
    bench = Bench()
    counts, rejects = await bench.load("\r\n".join(lines).encode(), chunk_bytes=20)
    assert [(r.line, r.errors[0].code) for r in rejects] == [
        (3, "int_type"), (4, "json_invalid"), (5, "duplicate_key"), (7, "json_object"),
    ]  # fmt: skip
    assert [row["id"] for row in bench.sink.rows("plain")] == [1, 4, 5]
    assert counts == Counts(read=7, written=3, rejected=4)


async def test_gzip_is_unpacked_once_and_members_follow_each_other() -> None:
    bench = Bench()
    data = gzip.compress(b"id,name\n1,a\n") + gzip.compress(b"2,b\n") + b"\0" * 100
    counts, _ = await bench.load(data)
    assert counts == Counts(read=2, written=2)
    assert await bench.objects.get("unpacked/this") == b"id,name\n1,a\n2,b\n"


def packed(data: bytes) -> bytes:
    """Pack without the time of day, which would be in the name of the test."""
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (packed(b""), "empty"),
        (packed(b"id,name\n" + random.Random(1).randbytes(5000))[:-2000], "too early"),
        (packed(b"id,name\n1,a\n")[:-8] + b"12345678", "damaged"),
        (packed(b"id,name\n1,a\n") + b"junk", "damaged"),
        (packed(packed(b"id,name\n")), "twice"),
        (packed(b"id,name\n" + b"1,aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n" * 3_500_000), "unpacks"),
    ],
)
async def test_a_file_that_cannot_be_read_fails_for_good(data: bytes, words: str) -> None:
    bench = Bench()
    with pytest.raises(ApplicationError) as caught:
        await bench.inspect(data)
    assert caught.value.type == "FileRefusedError"
    assert caught.value.non_retryable
    assert words in str(caught.value)
    assert not [key async for key in bench.objects.list("unpacked/")]


async def test_a_header_alone_loads_nothing() -> None:
    counts, rejects = await Bench().load(b"id,name\n")
    assert (counts, rejects) == (Counts(), [])


async def test_big_blocks_keep_lines_exact_and_the_activity_heartbeats() -> None:
    rows = [f'{n},"n{n}\n",' if n % 1000 == 0 else f"{n},name{n}," for n in range(200_000)]
    rows[150_001] = "bad,row,"
    data = ("id,name,note\n" + "\n".join(rows) + "\n").encode()
    bench = Bench()
    text = await bench.inspect(data)
    [chunk] = await bench.plan(text, 1 << 30)
    unit = Unit.of_range("plain", "s", chunk.start, chunk.end)
    environment = ActivityEnvironment()
    beats: list[int] = []
    environment.on_heartbeat = beats.append
    request = LoadChunk(pipeline="plain", text=text, chunk=chunk, unit=unit, rejects="rejects/x/")
    result = await environment.run(bench.loads.load_chunk, request)
    assert result.counts == Counts(read=200_000, written=199_999, rejected=1)
    [reject] = [reject async for reject in read_rejects(bench.objects, "rejects/x/")]
    assert reject.line == data[: data.index(b"bad,row")].count(b"\n") + 1
    assert beats
    assert json.loads(result.model_dump_json())["rejects"] == result.rejects


async def test_rejects_of_a_try_that_never_committed_do_not_stay() -> None:
    objects = MemoryObjectStore()
    log = RejectLog()
    log.add([Reject(line=2, errors=(RejectError(column="id", code="c", message="m"),), row="x")])
    assert await log.write(objects, "rejects/0.ndjson") == "rejects/0.ndjson"
    assert await RejectLog().write(objects, "rejects/0.ndjson") is None
    assert await objects.find("rejects/0.ndjson") is None
