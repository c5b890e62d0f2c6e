"""What a consumer does about items that have a receipt already, or share their id with others."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from contracts.consume import ConsumeCounts
from contracts.dead_letters import INLINE_BYTES, Breakdown
from contracts.ports import Burial, Item
from contracts.queue import QueueItem
from tests.activities.test_consume import Bench, Order

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
FIRST, SECOND = b'{"number": 1}', b'{"number": 2}'


def fail(order: Order) -> Order:
    raise ValueError(order.number)


async def bury(bench: Bench, body: bytes) -> None:
    """Leave a dead receipt for item 0, and die before its letter is parked."""
    reason = Breakdown(error_type="KeyError", message="m", attempts=5, first_failure=WHEN, last_failure=WHEN)
    fingerprint = hashlib.sha256(body).hexdigest()
    await bench.failures.bury([Burial(bench.unit("0"), fingerprint, reason.model_dump_json())])


async def send_again(bench: Bench, body: bytes) -> None:
    """Send another item under the id 0, later than the broker would notice."""
    bench.queue.advance(timedelta(minutes=3))
    await bench.queue.send(bench.work_queue, [QueueItem(body, "0")])


async def test_what_was_buried_is_parked_even_if_the_policy_would_discard_it_now() -> None:
    bench = Bench(fail, policies={ValueError: "discard"})
    await bench.send(1)
    await bury(bench, FIRST)
    assert (await bench.turn()).counts == ConsumeCounts(read=1, rejected=1)
    letter = bench.parking.letters["0"]
    # The receipt's words count, not those of the later try.
    assert (letter.body, letter.breakdown.error_type, letter.breakdown.attempts) == (FIRST, "KeyError", 5)
    assert await bench.left() == 0


@pytest.mark.parametrize("bodies", [(FIRST, SECOND), (SECOND, FIRST)])
@pytest.mark.parametrize("failing", [True, False])
async def test_of_two_bodies_under_one_id_in_a_window_the_one_that_was_buried_is_parked(
    bodies: tuple[bytes, bytes], *, failing: bool
) -> None:
    bench = Bench(fail if failing else None, policies={ValueError: "dead-letter"})
    await bench.send(bodies[0])
    await send_again(bench, bodies[1])
    await bury(bench, FIRST)
    rejected = int(failing)
    assert (await bench.turn()).counts == ConsumeCounts(read=2, rejected=rejected, duplicates=2 - rejected)
    assert bench.parking.letters["0"].body == FIRST
    assert (bench.stored(), await bench.left()) == ([], 0)


async def test_a_second_body_does_not_take_the_place_of_what_is_to_be_parked() -> None:
    bench = Bench()
    await bench.send(SECOND)
    await bury(bench, FIRST)
    assert (await bench.turn()).counts == ConsumeCounts(read=1, duplicates=1)
    assert bench.parking.letters == {}
    await send_again(bench, FIRST)
    await bench.turn()
    assert bench.parking.letters["0"].body == FIRST


async def test_a_second_large_body_under_the_same_id_leaves_the_parked_one_as_it_is() -> None:
    bench = Bench()
    first, second = b"x" * (INLINE_BYTES + 1), b"y" * (INLINE_BYTES + 1)
    await bench.send(first)
    assert (await bench.turn()).counts == ConsumeCounts(read=1, rejected=1)
    await send_again(bench, second)
    assert (await bench.turn()).counts == ConsumeCounts(read=1, duplicates=1)
    assert await bench.objects.get(bench.parking.letters["0"].body_key or "") == first


async def test_a_large_body_that_was_stored_by_someone_else_is_a_duplicate_and_leaves_no_object() -> None:
    bench = Bench()
    body = b"x" * (INLINE_BYTES + 1)
    await bench.sink.prepare(bench.pipeline.table)
    fingerprint = hashlib.sha256(body).hexdigest()
    await bench.sink.write(bench.pipeline.table, [Item(bench.unit("0"), fingerprint, (1,))])
    await bench.send(body)
    assert (await bench.turn()).counts == ConsumeCounts(read=1, duplicates=1)
    assert bench.parking.letters == {}
    assert [key async for key in bench.objects.list("")] == []
