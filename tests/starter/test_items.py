"""A file as items: names, lines and memory."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from pydantic import Field

from contracts import Pipeline, PostgresTable, Record
from contracts.errors import FileRefusedError
from starter.items import ItemReader, Naming

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from contracts.loads import Reject
    from contracts.queue import QueueItem

pytestmark = pytest.mark.asyncio


class Payment(Record):
    id: int
    day: date
    amount: Decimal
    note: str | None = None


class Aliased(Record):
    id: int = Field(validation_alias="number")


payments = Pipeline("payments", Payment, PostgresTable("payments", key=("id",)))
aliased = Pipeline("aliased", Aliased, PostgresTable("aliased", key=("id",)))


async def stream(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)


async def read(
    *pieces: bytes, pipeline: Pipeline = payments, naming: Naming | None = None, raw: bool = False
) -> tuple[list[QueueItem], list[Reject]]:
    items: list[QueueItem] = []
    rejects: list[Reject] = []
    reader = ItemReader(pipeline, naming or Naming(), raw=raw)
    async for some, refused in reader.read(stream(pieces)):
        items += some
        rejects += refused
    return items, rejects


@pytest.mark.parametrize("packed", [False, True])
async def test_the_pieces_of_a_file_make_no_difference(*, packed: bool) -> None:
    content = b"\xef\xbb\xbf\n" + b'{"id": 1}\n\n{"id": 1}\r\n{"id": 2}'
    content = gzip.compress(content) if packed else content
    whole, _ = await read(content)
    single, _ = await read(*(content[i : i + 1] for i in range(len(content))))
    assert whole == single
    assert [item.body for item in whole] == [b'{"id": 1}', b'{"id": 1}', b'{"id": 2}']
    assert [(item.id or "").partition("-")[2] for item in whole] == ["2", "4", "5"]
    assert len({(item.id or "").partition("-")[0] for item in whole}) == 2


async def test_a_file_that_grew_keeps_the_names_of_its_lines() -> None:
    before, _ = await read(b'{"id": 1}\n{"id": 2}\n')
    after, _ = await read(b'{"id": 1}\n{"id": 2}\n{"id": 3}\n')
    assert after[:2] == before


async def test_csv_is_printed_without_loss() -> None:
    content = b"id,amount,day,note\n1,0.10000000000000000001,2013-01-31,\n2,1e3,2013-02-01,x\n3,1,2013-02-30,x\n"
    items, rejects = await read(content, naming=Naming(field="id"))
    assert [item.id for item in items] == ["1", "2"]
    back = [Payment.model_validate_json(item.body, strict=True) for item in items]
    assert back[0] == Payment(id=1, amount=Decimal("0.10000000000000000001"), day=date(2013, 1, 31))
    assert back[1] == Payment(id=2, amount=Decimal(1000), day=date(2013, 2, 1), note="x")
    assert [(reject.line, reject.errors[0].column) for reject in rejects] == [(4, "day")]


async def test_records_that_do_not_survive_json_are_no_items() -> None:
    with pytest.raises(FileRefusedError, match="send NDJSON instead"):
        await read(b"number\n1\n", pipeline=aliased)


async def test_any_size_is_read_in_bounded_memory() -> None:
    line = json.dumps({"id": 1, "note": "x" * 500}).encode() + b"\n"
    piece = line * (1_000_000 // len(line))
    count = 0
    tracemalloc.start()
    try:
        async for items, _ in ItemReader(payments, Naming(), raw=False).read(stream(piece for _ in range(30))):
            count += len(items)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 30 * (len(piece) // len(line))
    assert peak < 16_000_000
