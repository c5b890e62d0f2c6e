"""`send`, as a script sees it, and what is in the broker afterwards."""

from __future__ import annotations

import asyncio
import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from contracts import WorkQueue
from contracts.queue import Depth
from stores.nats_queue import NatsQueue
from tests.acceptance.conftest import ROOT

if TYPE_CHECKING:
    from contracts.queue import Delivery
    from stores.settings import Settings
    from tests.acceptance.conftest import Starter

QUEUE = WorkQueue("notes-to-store")


def emptied(settings: Settings, queue: WorkQueue = QUEUE) -> list[Delivery]:
    """Take everything out of a queue."""

    async def take() -> list[Delivery]:
        found: list[Delivery] = []
        async with NatsQueue.open(settings) as nats:
            while await nats.depth(queue) != Depth(0, 0):
                batch = await nats.fetch(queue, 1000, timedelta(seconds=1))
                await nats.acknowledge(queue, batch)
                found += batch
        return found

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(take())).result()


@pytest.fixture(autouse=True)
def empty(settings: Settings) -> None:
    """Begin with an empty queue."""
    emptied(settings)


def lines(first: int, number: int) -> list[bytes]:
    return [json.dumps({"id": n, "text": f"note {n}", "amount": 1.5}).encode() for n in range(first, first + number)]


def test_each_line_of_a_file_is_an_item_as_it_stands(starter_alone: Starter, settings: Settings) -> None:
    wanted = [*lines(0, 2500), b'{"id": "no number"}', b"no json at all"]
    path = starter_alone.file("notes.ndjson", b"\n".join(wanted))
    ran = starter_alone("send", "queued", path)
    assert ran.exit == 0, ran
    assert ran.json == {"pipeline": "queued", "queue": QUEUE.name, "sent": 2502, "known": 0, "rejected": 0}
    found = emptied(settings)
    assert sorted(delivery.body for delivery in found) == sorted(wanted)
    assert len({delivery.id for delivery in found}) == 2502


def test_a_file_that_is_sent_twice_by_mistake_makes_no_item_twice(starter_alone: Starter, settings: Settings) -> None:
    content = b"\r\n".join([*lines(5000, 20), b"", *lines(5000, 1)]) + b"\r\n"
    first = starter_alone("send", "queued", starter_alone.file("a.ndjson", content))
    assert (first.exit, first.json["sent"], first.json["known"]) == (0, 21, 0), first
    for again in (starter_alone.file("b.ndjson.gz", gzip.compress(content)), "-"):
        ran = starter_alone("send", "queued", again, stdin=content)
        assert (ran.exit, ran.json["sent"], ran.json["known"]) == (0, 21, 21), ran
    assert sorted(delivery.body for delivery in emptied(settings)) == sorted([*lines(5000, 20), *lines(5000, 1)])
    meant = starter_alone("send", "queued", "-", "--again", stdin=content, plain=True)
    assert (meant.exit, meant.out) == (0, f"21 items sent to queue {QUEUE.name}\n")
    assert len(emptied(settings)) == 21


def test_the_producer_names_items_by_a_field(starter_alone: Starter, settings: Settings) -> None:
    content = b"\n".join([*lines(6000, 3), b'{"id": true}', b'{"text": "x"}', b"[1]", b'{"id": "\\u0000"}'])
    ran = starter_alone("send", "queued", "-", "--id-field", "id", stdin=content)
    assert (ran.exit, ran.json["sent"], ran.json["rejected"]) == (3, 3, 4), ran
    assert "not sent: line 4: record: the record has no text or whole number in its field id" in ran.err
    assert "not sent: line 7: record: the item id '\\x00' is refused" in ran.err
    assert {delivery.id for delivery in emptied(settings)} == {"6000", "6001", "6002"}


def test_rows_of_csv_become_json_that_the_pipeline_accepts(starter_alone: Starter, settings: Settings) -> None:
    content = b'id;text;amount\n7000;"a;\nb";1.5\n7001;c;\n7002;;1\nx;d;1\n'
    ran = starter_alone("send", "queued", "-", stdin=content)
    assert (ran.exit, ran.json["sent"], ran.json["rejected"]) == (3, 2, 2), ran
    assert "not sent: line 6: id: Input should be a valid integer" in ran.err
    assert sorted(json.loads(delivery.body)["text"] for delivery in emptied(settings)) == ["a;\nb", "c"]
    flights = WorkQueue("flights")
    emptied(settings, flights)
    ran = starter_alone("send", "flights", str(ROOT / "examples" / "flights-2013-01.csv.gz"))
    assert (ran.exit, ran.json["sent"]) == (0, 27004), ran
    found = emptied(settings, flights)
    assert len({delivery.id for delivery in found}) == 27004


def test_raw_lines_go_whatever_they_are(starter_alone: Starter, settings: Settings) -> None:
    content = b"id,text\n1,x\n\n\xff\xfe\x00\n[\n{}"
    ran = starter_alone("send", "queued", "-", "--raw", stdin=content)
    assert (ran.exit, ran.json["sent"]) == (0, 6), ran
    assert sorted(delivery.body for delivery in emptied(settings)) == sorted(content.split(b"\n"))
    ran = starter_alone("send", "queued", "-", "--raw", "--id-field", "id", stdin=content)
    assert (ran.exit, "--id-field has nothing" in ran.err) == (2, True)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "the file is empty"),
        (b'[{"id": 1}]', "put each record on a line of its own"),
        (b"name,colour\n1,2\n", "the first line is no header for pipeline queued"),
        (gzip.compress(b"\n".join(lines(0, 9)), mtime=0)[:-12], "it ends too early"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(starter_alone: Starter, content: bytes, sentence: str) -> None:
    ran = starter_alone("send", "queued", "-", stdin=content)
    assert (ran.exit, sentence in ran.err) == (3, True), ran


def test_what_is_missing_is_named(starter_alone: Starter) -> None:
    unknown = starter_alone("send", "nothing", "-")
    assert (unknown.exit, "no pipeline is called 'nothing'" in unknown.err) == (4, True), unknown
    absent = starter_alone("send", "queued", "absent.ndjson")
    assert (absent.exit, "absent.ndjson" in absent.err) == (2, True), absent
    dead = starter_alone.but(NATS_URL="nats://user:hidden@127.0.0.1:9")("send", "queued", "-", stdin=lines(0, 1)[0])
    assert (dead.exit, "NATS at 127.0.0.1:9 cannot be reached" in dead.err) == (5, True), dead
    assert "hidden" not in dead.err + dead.out


def test_an_item_that_the_broker_never_takes_is_an_error(starter_alone: Starter, settings: Settings) -> None:
    good, huge = lines(8000, 1)[0], json.dumps({"id": 1, "text": "x" * 3_000_000}).encode()
    ran = starter_alone("send", "queued", "-", stdin=b"\n".join([good, huge, b"y" * 5_000_000, good]))
    assert (ran.exit, ran.json["sent"], ran.json["rejected"]) == (3, 3, 1), ran
    assert "line 3" in ran.err
    assert len(emptied(settings)) == 3
