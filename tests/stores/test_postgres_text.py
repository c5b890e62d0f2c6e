"""Rows as text for COPY."""

from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel

from contracts.table import PostgresTable, Row, Table
from stores.postgres_text import copy_text, print_value, staged_text


class Tone(enum.Enum):
    LOW = "low\t"


class Line(BaseModel):
    id: int
    text: str | None
    tone: Tone | None = None


TABLE = Table.from_model(PostgresTable("lines", key=None), Line)


def test_a_block_is_lines_of_tabbed_text_with_the_suffix() -> None:
    assert copy_text(TABLE, [(1, "a", None), (2, None, None)], suffix="r") == b"1\ta\t\\N\tr\n2\t\\N\t\\N\tr\n"
    assert staged_text(TABLE, [(1, "a", None), (2, None, None)]) == b"0\t1\ta\t\\N\n1\t2\t\\N\t\\N\n"


def test_what_copy_reads_specially_is_escaped() -> None:
    assert copy_text(TABLE, [(1, "\\N\t\n\r\\.", Tone.LOW)]) == b"1\t\\\\N\\t\\n\\r\\\\.\tlow\\t\n"


def test_an_absent_value_is_not_the_text_that_stands_for_it() -> None:
    assert copy_text(TABLE, [(1, "\\N", None), (2, None, None)]) == b"1\t\\\\N\t\\N\n2\t\\N\t\\N\n"


@pytest.mark.parametrize("value", [True, "1", 1.5])
def test_an_integer_column_takes_integers_only(value: object) -> None:
    with pytest.raises(ValueError, match="id: an integer is needed"):
        copy_text(TABLE, [(1, "a", None), (value, "b", None)])


def test_timestamps_and_durations_keep_their_microseconds() -> None:
    class Times(BaseModel):
        at: datetime
        span: timedelta

    at, span = Table.from_model(PostgresTable("times", key=None), Times).columns
    assert print_value(at, datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=UTC)) == "2020-01-02T03:04:05.000006+00:00"
    assert print_value(span, timedelta(days=-1, seconds=2, microseconds=3)) == "-1 days 2.000003 seconds"


@pytest.mark.parametrize("optional", [True, False])
def test_the_quick_way_prints_what_the_careful_one_prints(*, optional: bool) -> None:
    class Quick(BaseModel):
        at: datetime | None
        number: int | None
        ratio: float | None
        truth: bool | None

    table = Table.from_model(PostgresTable("quick", key=None), Quick)
    zones = [UTC, timezone(timedelta(hours=-5, minutes=-30)), ZoneInfo("Europe/Berlin")]
    odd = timezone(timedelta(hours=1, seconds=7))
    for zone in [*zones, odd]:
        rows: list[Row] = [(datetime(2020, 6, 1, microsecond=7, tzinfo=zone), -(2**63), 5e-324, True)]
        rows += [(None, None, None, None)] if optional else []
        [line, *_] = copy_text(table, rows).decode().split("\n")
        at, number, ratio, truth = line.split("\t")
        assert datetime.fromisoformat(at) == rows[0][0]
        assert (int(number), float(ratio), truth) == (-(2**63), 5e-324, "true")
