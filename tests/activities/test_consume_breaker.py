"""When a consumer takes failures for an outage, and what that costs the items."""

from __future__ import annotations

from datetime import timedelta

import pytest

from contracts.consume import ConsumeCounts
from contracts.queue import Policy
from tests.activities.test_consume import Bench, Order

LATER = timedelta(minutes=15)


def fail(order: Order) -> Order:
    raise OSError(order.number)


@pytest.mark.parametrize("policy", ["dead-letter", "discard"])
async def test_failures_that_a_policy_decides_about_are_no_outage(policy: Policy) -> None:
    bench = Bench(fail, policies={OSError: policy})
    await bench.send(*range(20))
    result = await bench.turn()
    assert result.reason == ""
    assert (result.counts.rejected, result.counts.discarded) == ((20, 0) if policy == "dead-letter" else (0, 20))


async def test_an_outage_is_noticed_by_three_failures_in_a_row_and_buries_no_one() -> None:
    bench = Bench(fail)
    await bench.send(1)
    for _ in range(2):
        assert (await bench.turn()).counts == ConsumeCounts(read=1, retried=1)
        bench.queue.advance(LATER)
    assert (await bench.turn()).error_type == "TransientFailures"
    for _ in range(20):
        probe = await bench.turn(probe=True)
        assert (probe.error_type, probe.counts) == ("TransientFailures", ConsumeCounts())
    bench.process = lambda order: order
    assert (await bench.turn(probe=True)).counts == ConsumeCounts(read=1, written=1)
    assert bench.parking.letters == {}


@pytest.mark.parametrize("broken", [1, 5])
async def test_items_that_fail_while_others_succeed_become_dead_letters(broken: int) -> None:
    bench = Bench(lambda order: fail(order) if order.number < broken else order)
    await bench.send(*range(broken))
    reason, rounds = "", 0
    while len(bench.parking.letters) < broken:
        rounds += 1
        assert rounds < 40
        await bench.send(100 + rounds, prefix=f"well{rounds}/")
        reason = (await bench.turn(0.1, probe=bool(reason))).reason
        bench.queue.advance(LATER)
    assert {letter.breakdown.attempts for letter in bench.parking.letters.values()} == {5}


async def test_a_few_failures_at_the_end_of_a_window_that_is_well_are_no_outage() -> None:
    bench = Bench(lambda order: fail(order) if order.number >= 40 else order)
    await bench.send(*range(43))
    result = await bench.turn()
    assert (result.reason, result.counts) == ("", ConsumeCounts(read=43, written=40, retried=3))


async def test_a_record_that_is_refused_in_a_probe_does_not_end_an_outage() -> None:
    bench = Bench(fail)
    await bench.send(1, b"no json")
    probe = await bench.turn(probe=True)
    assert (probe.error_type, bench.failures.counts) == ("TransientFailures", {})
