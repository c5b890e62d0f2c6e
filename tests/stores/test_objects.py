"""One contract suite for every object store: the double in memory and the real S3 server."""

from __future__ import annotations

import asyncio
import hashlib
import tracemalloc
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from contracts.errors import ObjectChangedError, ObjectMissingError, ObjectRefusedError, UnavailableError
from stores import s3_streams
from stores.memory_objects import MemoryObjectStore
from stores.s3_objects import S3ObjectStore
from stores.s3_streams import MIB, PART_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from contracts.ports import ObjectStore
    from stores.settings import Settings

pytestmark = pytest.mark.asyncio

PATTERN = hashlib.sha256(b"pattern").digest() * (MIB // 32)


def in_bucket(settings: Settings) -> Settings:
    """Give a test a bucket of its own, which does not exist yet."""
    return settings.model_copy(update={"s3_bucket": f"test-{uuid.uuid4().hex[:12]}"})


@pytest_asyncio.fixture(params=["memory", "s3"])
async def objects(request: pytest.FixtureRequest) -> AsyncIterator[ObjectStore]:
    """Open an empty store of each kind."""
    if request.param == "memory":
        yield MemoryObjectStore()
        return
    async with S3ObjectStore.open(in_bucket(request.getfixturevalue("settings"))) as store:
        yield store


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    """Stream the given chunks."""
    for chunk in chunks:
        yield chunk
        await asyncio.sleep(0)


async def numbered(count: int, piece: bytes = PATTERN) -> AsyncIterator[bytes]:
    """Stream `count` pieces that are all different."""
    for number in range(count):
        yield number.to_bytes(8) + piece[8:]


async def collected(store: ObjectStore, key: str, etag: str, start: int = 0, end: int | None = None) -> bytes:
    """Read a range as one value."""
    return b"".join([piece async for piece in store.read(key, etag=etag, start=start, end=end)])


async def listed(store: ObjectStore, prefix: str = "") -> list[str]:
    """List keys as one value."""
    return [key async for key in store.list(prefix)]


async def test_a_small_object_comes_back_with_size_and_checksum(objects: ObjectStore) -> None:
    stored = await objects.put("a/small", b"some bytes")
    assert (stored.size, stored.sha256) == (10, hashlib.sha256(b"some bytes").hexdigest())
    assert await objects.get("a/small") == b"some bytes"
    assert await objects.find("a/small") == stored
    assert await collected(objects, "a/small", stored.etag) == b"some bytes"


@pytest.mark.parametrize("announced", [True, False])
async def test_a_large_stream_comes_back_byte_for_byte(objects: ObjectStore, *, announced: bool) -> None:
    digest = hashlib.sha256()
    async for chunk in numbered(40):
        digest.update(chunk)
    stored = await objects.put_stream("large", numbered(40), digest.hexdigest() if announced else None)
    assert (stored.size, stored.sha256) == (40 * MIB, digest.hexdigest())
    assert await objects.find("large") == stored
    back = hashlib.sha256()
    async for piece in objects.read("large", etag=stored.etag):
        assert 0 < len(piece) <= MIB
        back.update(piece)
    assert back.hexdigest() == stored.sha256


@pytest.mark.parametrize("size", [PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES])
async def test_the_edges_of_parts_lose_nothing(objects: ObjectStore, size: int) -> None:
    data = (PATTERN * 17)[:size]
    stored = await objects.put_stream("edge", stream(data[:5], b"", data[5:]))
    assert stored.size == size
    assert await collected(objects, "edge", stored.etag) == data


@pytest.mark.parametrize("pieces", [0, 1, 40])
async def test_a_stream_that_fails_leaves_nothing(objects: ObjectStore, pieces: int) -> None:
    async def failing() -> AsyncIterator[bytes]:
        async for chunk in numbered(pieces):
            yield chunk
        message = "the client went away"
        raise EOFError(message)

    with pytest.raises(EOFError, match="went away"):
        await objects.put_stream("broken", failing())
    assert await objects.find("broken") is None
    assert await listed(objects) == []


@pytest.mark.parametrize("pieces", [1, 20])
async def test_a_stream_of_other_bytes_than_announced_is_refused(objects: ObjectStore, pieces: int) -> None:
    with pytest.raises(ObjectChangedError, match="was not stored"):
        await objects.put_stream("wrong", numbered(pieces), hashlib.sha256(b"other").hexdigest())
    assert await objects.find("wrong") is None


async def test_a_refused_stream_leaves_the_earlier_object_alone(objects: ObjectStore) -> None:
    await objects.put("kept", b"earlier")
    with pytest.raises(ObjectChangedError):
        await objects.put_stream("kept", numbered(20), "00" * 32)
    assert await objects.get("kept") == b"earlier"


async def test_a_changed_object_is_noticed(objects: ObjectStore) -> None:
    first = await objects.put("changing", b"version 1")
    second = await objects.put("changing", b"version 2")
    assert first.etag != second.etag
    for start, end in [(0, None), (3, 5), (4, 4), (9, None), (100, 200)]:
        with pytest.raises(ObjectChangedError):
            await collected(objects, "changing", first.etag, start, end)
    assert await collected(objects, "changing", second.etag) == b"version 2"


async def test_a_replaced_large_object_keeps_no_old_checksum(objects: ObjectStore) -> None:
    await objects.put_stream("again", numbered(9))
    stored = await objects.put_stream("again", numbered(10))
    assert await objects.find("again") == stored
    small = await objects.put("again", b"small")
    assert await objects.find("again") == small


async def test_a_range_is_a_slice(objects: ObjectStore) -> None:
    data = bytes(range(256)) * 5000
    stored = await objects.put("range", data)
    size = len(data)
    for start, end in [
        (0, None), (0, 1), (size - 1, size), (size - 1, None), (5, 5), (7, 3), (0, size), (0, size + 9),
        (size, None), (size, size + 1), (size + 5, None), (1000, 1000 + MIB), (1000, 1001 + MIB), (0, 0),
    ]:  # fmt: skip
        assert await collected(objects, "range", stored.etag, start, end) == data[start:end], (start, end)
    with pytest.raises(ValueError, match="starts at 0"):
        await collected(objects, "range", stored.etag, -1)


async def test_an_empty_object_is_an_object(objects: ObjectStore) -> None:
    for stored in (await objects.put("empty", b""), await objects.put_stream("empty", stream())):
        assert (stored.size, stored.sha256) == (0, hashlib.sha256(b"").hexdigest())
        assert await objects.get("empty") == b""
        assert await collected(objects, "empty", stored.etag) == b""
        assert await objects.find("empty") == stored


async def test_an_object_that_is_missing_is_named(objects: ObjectStore) -> None:
    assert await objects.find("nowhere") is None
    assert await listed(objects, "nowhere") == []
    await objects.delete("nowhere")
    await objects.put("somewhere", b"")
    assert await objects.find("nowhere") is None
    await objects.delete("nowhere")
    with pytest.raises(ObjectMissingError, match="nowhere"):
        await objects.get("nowhere")
    for start, end in [(0, None), (5, 9), (3, 3)]:
        with pytest.raises(ObjectMissingError, match="nowhere"):
            await collected(objects, "nowhere", "etag", start, end) or await objects.get("nowhere")


async def test_odd_keys_are_plain_keys(objects: ObjectStore) -> None:
    keys = [
        "with space", "plus+plus", "percent%20", "question?x=1&y=2", "hash#tag", "ümläut/☃", "quote\"'", "a=b;c,d",
        "dots/..dots..", "tilde~!@$*()", "CSV (copy).csv.gz", "x" * 200,
    ]  # fmt: skip
    for key in keys:
        stored = await objects.put(f"odd/{key}", key.encode())
        assert await collected(objects, f"odd/{key}", stored.etag) == key.encode()
    assert await listed(objects, "odd/") == sorted(f"odd/{key}" for key in keys)
    for key in keys:
        await objects.delete(f"odd/{key}")
    assert await listed(objects, "odd/") == []


async def test_keys_are_listed_in_lexical_order_under_the_prefix_only(objects: ObjectStore) -> None:
    keys = ["p/b", "p/a-b", "p/a/c", "p/a.b", "p/aa", "p/a/b/c", "p/Z", "p2/x", "q"]
    for key in keys:
        await objects.put(key, b"x")
    assert await listed(objects, "p/") == sorted(key for key in keys if key.startswith("p/"))
    assert await listed(objects, "p/a") == sorted(key for key in keys if key.startswith("p/a"))
    assert await listed(objects) == sorted(keys)


async def test_more_keys_than_one_page_are_listed(objects: ObjectStore) -> None:
    keys = [f"many/{number:020d}.ndjson" for number in range(1050)]
    limit = asyncio.Semaphore(16)

    async def put(key: str) -> None:
        async with limit:
            await objects.put(key, b"x")

    await asyncio.gather(*(put(key) for key in keys))
    assert await listed(objects, "many/") == keys


async def test_a_cancelled_stream_leaves_nothing(objects: ObjectStore) -> None:
    reached = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        async for chunk in numbered(30):
            yield chunk
        reached.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(objects.put_stream("cancelled", endless()))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await objects.find("cancelled") is None
    if isinstance(objects, S3ObjectStore):
        begun = await objects._client.list_multipart_uploads(Bucket=objects._bucket)
        assert begun.get("Uploads", []) == []


async def test_a_store_that_is_down_is_named_without_secrets(settings: Settings) -> None:
    memory = MemoryObjectStore()
    kept = await memory.put("k", b"x")
    memory.down = True
    dead = settings.model_copy(update={"s3_endpoint_url": "http://user:hidden@127.0.0.1:9"})
    async with S3ObjectStore.open(dead) as s3:
        for store in (memory, s3):
            address = "127.0.0.1:9" if store is s3 else "memory"
            errors = await asyncio.gather(
                store.put("k", b""), store.put_stream("k", stream(b"x")), store.get("k"), store.find("k"),
                store.delete("k"), collected(store, "k", kept.etag), listed(store), return_exceptions=True,
            )  # fmt: skip
            for error in errors:
                assert isinstance(error, UnavailableError)
                assert str(error).startswith(f"object store at {address} cannot be reached")
                assert "hidden" not in str(error)
    memory.down = False
    assert await memory.find("k") == kept


async def test_wrong_credentials_are_an_outage_not_a_bad_file(settings: Settings) -> None:
    async with S3ObjectStore.open(in_bucket(settings).model_copy(update={"aws_access_key_id": "nobody"})) as store:
        with pytest.raises(UnavailableError, match=r"40[13]"):
            await store.put("k", b"")


async def test_an_impossible_key_is_refused_for_good(settings: Settings) -> None:
    async with S3ObjectStore.open(in_bucket(settings)) as store:
        with pytest.raises(ObjectRefusedError):
            await store.put("", b"")


async def test_a_stream_is_stored_in_bounded_memory(settings: Settings) -> None:
    async with S3ObjectStore.open(in_bucket(settings)) as store:
        await store.put_stream("warm", numbered(9))
        tracemalloc.start()
        try:
            stored = await store.put_stream("big", numbered(160))
            written = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            async for _ in store.read("big", etag=stored.etag):
                pass
            read = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert written < 12 * PART_BYTES
    assert read < 2 * PART_BYTES


async def test_parts_grow_so_that_any_size_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_streams, "PART_BYTES", 4)
    monkeypatch.setattr(s3_streams, "PARTS_PER_SIZE", 2)
    sizes = [len(part) async for part in s3_streams.in_parts(stream(b"x" * 30))]
    assert sizes == [4, 4, 8, 8, 6]


class Cutter:
    """A proxy in front of the store that cuts the next connections after so many bytes of an answer."""

    def __init__(self, host: str, port: int) -> None:
        self.upstream = (host, port)
        self.cuts: list[int] = []
        self.done = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(*self.upstream)

        async def forward() -> None:
            while data := await reader.read(65536):
                upstream_writer.write(data)
                await upstream_writer.drain()

        task = asyncio.create_task(forward())
        passed = 0
        try:
            while data := await upstream_reader.read(65536):
                passed += len(data)
                if self.cuts and passed > self.cuts[0]:
                    self.cuts.pop(0)
                    self.done += 1
                    break
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            task.cancel()
            writer.close()
            upstream_writer.close()


@asynccontextmanager
async def cutting(settings: Settings) -> AsyncIterator[tuple[Cutter, S3ObjectStore]]:
    """Open a store behind a `Cutter`."""
    parts = urlsplit(str(settings.s3_endpoint_url))
    cutter = Cutter(str(parts.hostname), int(parts.port or 80))
    async with await asyncio.start_server(cutter.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        through = in_bucket(settings).model_copy(update={"s3_endpoint_url": f"http://127.0.0.1:{port}"})
        async with S3ObjectStore.open(through) as store:
            yield cutter, store


async def test_a_cut_read_is_resumed_where_it_was_cut(settings: Settings) -> None:
    async with cutting(settings) as (cutter, store):
        stored = await store.put_stream("cut", numbered(24))
        cutter.cuts = [3 * MIB + 77, 5 * MIB, 300_000, 200_000, 9 * MIB]
        digest = hashlib.sha256()
        async for piece in store.read("cut", etag=stored.etag):
            digest.update(piece)
        assert (digest.hexdigest(), cutter.done) == (stored.sha256, 5)
        cutter.cuts = [2 * MIB]
        assert await store.get("cut") == await collected(store, "cut", stored.etag)


async def test_a_read_that_cannot_be_resumed_is_an_error_not_an_end(settings: Settings) -> None:
    async with cutting(settings) as (cutter, store):
        stored = await store.put_stream("cut", numbered(24))
        cutter.cuts = [2 * MIB] + [0] * 50
        with pytest.raises(UnavailableError):
            await collected(store, "cut", stored.etag)


async def test_an_object_that_changes_under_a_cut_read_is_noticed(settings: Settings) -> None:
    async with cutting(settings) as (cutter, store):
        stored = await store.put_stream("cut", numbered(24))
        cutter.cuts = [6 * MIB]
        reading = store.read("cut", etag=stored.etag)
        await anext(reading)
        await store.put_stream("cut", numbered(25))
        with pytest.raises(ObjectChangedError):
            async for _ in reading:
                pass
