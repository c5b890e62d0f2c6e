"""Items that came too often, and are worked on alone."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from activities import consume
from contracts.errors import RecordRefusedError
from contracts.record import FieldError
from tests.activities.test_consume import Bench, Order, deliver

REFUSED = RecordRefusedError((FieldError(field="", code="c", message="the first one"),))


@pytest.mark.parametrize("place", ["process", "sink"])
async def test_an_item_over_which_consumers_hang_becomes_a_dead_letter(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(consume, "LAST_WINDOW_SECONDS", 0.05)
    over = threading.Event()

    def process(order: Order) -> Order:
        if place == "process":
            over.wait(30)
        return order

    async def hang(*_: Any, **__: Any) -> Any:
        await asyncio.sleep(30)

    bench = Bench(process, max_deliveries=20)
    if place == "sink":
        monkeypatch.setattr(bench.sink, "write", hang)
    await bench.send(1)
    await deliver(bench, 30)
    try:
        for _ in range(consume.DEATHS):
            running = asyncio.create_task(bench.turn(3))
            await asyncio.sleep(0.2)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            # What is cancelled gives its items back when its last look for more has ended.
            await asyncio.sleep(0.6)
        assert (await bench.turn()).counts.rejected == 1
    finally:
        over.set()
    assert bench.parking.letters["0"].breakdown.error_type == "TooManyDeliveriesError"
    assert bench.failures.counts == {}


async def test_a_letter_tells_the_first_error_even_if_parking_failed_with_another_one() -> None:
    def process(order: Order) -> Order:
        raise REFUSED

    bench = Bench(process, policies={AttributeError: "dead-letter"})
    await bench.send(1)
    park, failing = bench.parking.park, [True, True]

    async def stumble(letter: Any) -> None:
        if failing:
            failing.pop()
            raise AttributeError(letter.item)
        await park(letter)

    bench.parking.park = stumble  # type: ignore[method-assign]
    assert (await bench.turn()).counts.rejected == 1
    assert bench.parking.letters["0"].breakdown.message == str(REFUSED)
    assert await bench.left() == 0
