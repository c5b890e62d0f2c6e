"""Names and receipts of units: the same work, the same name; within a file, receipts sort by position."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import ReceiptMismatchError
from contracts.units import Unit

POSITIONS = st.integers(min_value=0, max_value=2**48 - 1)


def test_the_same_request_is_the_same_unit_and_stands_alone() -> None:
    unit = Unit.alone("flights", "request/k")
    assert unit == Unit.alone("flights", "request/k")
    assert unit.first == unit.receipt == unit.last


def test_another_pipeline_or_name_is_another_receipt() -> None:
    receipts = {
        Unit.alone(pipeline, name).receipt for pipeline in ("flights", "weather") for name in ("request/a", "request/b")
    }
    assert len(receipts) == 4


def test_a_unit_of_a_file_is_named_by_its_bytes() -> None:
    unit = Unit.of_range("flights", "file/abc", 10, 20)
    assert unit.name == "file/abc/10-20"
    assert unit == Unit.of_range("flights", "file/abc", 10, 20)


@given(st.lists(POSITIONS, min_size=2, max_size=20, unique=True))
def test_receipts_of_one_series_sort_by_position_and_stay_within_its_bounds(positions: list[int]) -> None:
    units = [Unit.of_range("flights", "file/abc", start, start + 1) for start in sorted(positions)]
    shuffled = random.Random(1).sample(units, len(units))
    assert sorted(shuffled, key=lambda unit: unit.receipt) == units
    assert all(unit.first <= unit.receipt <= unit.last for unit in units)
    assert len({(unit.first, unit.last) for unit in units}) == 1


def test_receipts_of_another_series_lie_outside_its_bounds() -> None:
    unit = Unit.of_range("flights", "file/abc", 0, 1)
    others = [
        Unit.of_range("flights", "file/abc/00000001", 0, 1),
        Unit.of_range("weather", "file/abc", 0, 1),
        Unit.alone("flights", "request/abc"),
    ]
    assert not any(unit.first <= other.receipt <= unit.last for other in others)


@given(st.tuples(POSITIONS, POSITIONS), st.tuples(POSITIONS, POSITIONS))
def test_units_of_one_series_collide_if_they_share_a_byte_and_are_not_the_same(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    ranges = [range(min(ends), max(ends) + 1) for ends in (one, other)]
    unit, second = (Unit.of_range("flights", "file/abc", bounds.start, bounds.stop) for bounds in ranges)
    first_shared = max(ranges[0].start, ranges[1].start)
    shared = all(first_shared in bounds for bounds in ranges) and ranges[0] != ranges[1]
    if shared:
        with pytest.raises(ReceiptMismatchError, match="Nothing of this chunk was written"):
            unit.check_neighbour(second.name)
    else:
        unit.check_neighbour(second.name)


def test_only_units_of_the_same_series_collide() -> None:
    unit = Unit.of_range("flights", "file/abc", 0, 10)
    for name in ("file/abcd/0-20", "file/abc/0-20/5-6", "file/abc/corrections/0-20", "request/0-20", "whatever"):
        unit.check_neighbour(name)
    Unit.alone("flights", "request/0-20").check_neighbour("request/5-6")


def test_a_receipt_of_another_unit_is_a_mismatch() -> None:
    unit = Unit.alone("flights", "request/k")
    unit.check_receipt("flights", "request/k")
    for pipeline, name in (("flights", "request/j"), ("weather", "request/k")):
        with pytest.raises(ReceiptMismatchError, match=f"belongs to {pipeline} {name}"):
            unit.check_receipt(pipeline, name)


def test_a_unit_survives_its_way_through_json() -> None:
    unit = Unit.of_range("flights", "file/abc", 5, 6)
    assert Unit.model_validate_json(unit.model_dump_json()) == unit
