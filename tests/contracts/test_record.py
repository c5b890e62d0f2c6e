"""The strict edge of records: what is refused, and that nothing accepted is adapted."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated

import pytest
from pydantic import AwareDatetime, BaseModel, Field, NaiveDatetime, TypeAdapter, ValidationError

from contracts import Record
from contracts.record import INT64_MAX, INT64_MIN


class Inner(Record):
    at: datetime


class Every(Record):
    whole: int | None = None
    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    number: float | None = None
    at: datetime | None = None
    aware: AwareDatetime | None = None
    local: NaiveDatetime | None = None
    day: date | None = None
    inner: Inner | None = None
    many: tuple[int, ...] = ()


def refused(text: str) -> tuple[str, ...]:
    with pytest.raises(ValidationError) as caught:
        Every.model_validate_json(text, strict=True)
    return tuple(error["type"] for error in caught.value.errors())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"unknown": 1}', "extra_forbidden"),
        ('{"whole": "1"}', "int_type"),
        ('{"whole": 1.5}', "int_type"),
        ('{"whole": 9223372036854775808}', "less_than_equal"),
        ('{"whole": -9223372036854775809}', "greater_than_equal"),
        ('{"many": [9223372036854775808]}', "less_than_equal"),
        ('{"port": 65536}', "less_than_equal"),
        ('{"number": NaN}', "finite_number"),
        ('{"number": -Infinity}', "finite_number"),
        ('{"number": 1e400}', "finite_number"),
        ('{"at": "2013-01-01T10:00:00"}', "timezone_aware"),
        ('{"aware": "2013-01-01T10:00:00"}', "timezone_aware"),
        ('{"inner": {"at": "2013-01-01T10:00:00"}}', "timezone_aware"),
        ('{"local": "2013-01-01T10:00:00Z"}', "timezone_naive"),
        ('{"at": 1357034400}', "datetime_format"),
        ('{"at": "1357034400"}', "datetime_format"),
        ('{"at": "2013"}', "datetime_format"),
        ('{"at": "2013-01-01"}', "datetime_format"),
        ('{"at": "yesterday"}', "datetime_format"),
        ('{"day": "86400"}', "date_format"),
        ('{"day": 86400}', "date_format"),
    ],
)
def test_what_a_sink_could_not_hold_without_loss_is_refused(text: str, code: str) -> None:
    assert refused(text) == (code,)


@pytest.mark.parametrize("number", [INT64_MIN, -1, 0, INT64_MAX])
def test_every_64_bit_integer_is_accepted(number: int) -> None:
    assert Every.model_validate_json(f'{{"whole": {number}}}', strict=True).whole == number


@pytest.mark.parametrize("strict", [True, None])
def test_dates_are_read_as_written_from_json_and_from_cells(strict: bool | None) -> None:
    cells = {"at": "2013-01-31T10:00:00+02:00", "local": "2013-01-31T10:00:00.5", "day": "2013-01-31"}
    expected = Every(
        at=datetime(2013, 1, 31, 8, tzinfo=UTC),
        local=datetime(2013, 1, 31, 10, microsecond=500000),  # noqa: DTZ001 - a time without a zone is the point
        day=date(2013, 1, 31),
    )
    read = Every.model_validate_strings(cells, strict=strict)
    assert read == expected
    assert read.at is not None
    assert read.at.utcoffset() == timedelta(hours=2)
    assert Every.model_validate_json(expected.model_dump_json(), strict=strict) == expected


def test_a_year_in_the_wrong_column_is_never_taken_for_seconds() -> None:
    with pytest.raises(ValidationError) as caught:
        Every.model_validate_strings({"at": "2013"})
    assert "written like 2013-01-31T10:00:00Z" in caught.value.errors()[0]["msg"]


def test_a_record_does_not_change() -> None:
    record = Every(whole=1)
    with pytest.raises(ValidationError):
        record.whole = 2  # type: ignore[misc]


def test_records_inside_other_models_and_lists_are_as_strict() -> None:
    class Outer(BaseModel):
        inner: Inner

    with pytest.raises(ValidationError):
        Outer.model_validate_json('{"inner": {"at": "2013-01-01T10:00:00"}}')
    with pytest.raises(ValidationError):
        TypeAdapter(list[Inner]).validate_json('[{"at": 1}]')


def test_the_json_schema_still_says_what_a_date_is() -> None:
    assert Inner.model_json_schema()["properties"]["at"]["format"] == "date-time"
