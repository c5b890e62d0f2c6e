"""The flights pipeline over the real January 2013: every row is valid, keys are unique, the status is right."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipelines.flights import Flight, FlightRow, flights, process

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def records() -> list[Flight]:
    with gzip.open(EXAMPLES / "flights-2013-01.csv.gz", "rt", newline="") as file:
        return [
            Flight.model_validate_strings(
                {name: cell for name, cell in row.items() if cell not in {"", *flights.absent}}
            )
            for row in csv.DictReader(file)
        ]


def flight(**changed: str) -> Flight:
    cells = {
        "year": "2013",
        "month": "1",
        "day": "1",
        "dep_time": "517",
        "sched_dep_time": "515",
        "dep_delay": "2",
        "arr_time": "830",
        "sched_arr_time": "819",
        "arr_delay": "11",
        "carrier": "UA",
        "flight": "1545",
        "tailnum": "N14228",
        "origin": "EWR",
        "dest": "IAH",
        "air_time": "227",
        "distance": "1400",
        "hour": "5",
        "minute": "15",
        "time_hour": "2013-01-01T10:00:00Z",
    }
    return Flight.model_validate_strings({name: cell for name, cell in {**cells, **changed}.items() if cell != "NA"})


def test_every_real_row_is_valid_and_has_a_key_of_its_own(records: list[Flight]) -> None:
    assert len(records) == 27004
    assert len({(record.time_hour, record.carrier, record.flight) for record in records}) == 27004


def test_the_real_month_divides_into_the_four_statuses(records: list[Flight]) -> None:
    rows = [process(record) for record in records]
    assert Counter(row.departure_status for row in rows) == {
        "cancelled": 521,
        "early": sum(record.dep_delay is not None and record.dep_delay < 0 for record in records),
        "on_time": sum(record.dep_delay is not None and 0 <= record.dep_delay < 15 for record in records),
        "delayed": sum(record.dep_delay is not None and record.dep_delay >= 15 for record in records),
    }


def test_what_process_derives_is_a_valid_row(records: list[Flight]) -> None:
    for record in records[:500]:
        row = process(record)
        assert FlightRow.model_validate(row.model_dump()) == row
        assert row.model_dump(exclude={"departure_status", "delay"}) == record.model_dump()


@pytest.mark.parametrize(
    ("late", "status", "delay"),
    [("-1", "early", 0), ("0", "on_time", 0), ("14", "on_time", 14), ("15", "delayed", 15), ("1301", "delayed", 1301)],
)
def test_a_flight_is_on_time_within_fifteen_minutes(late: str, status: str, delay: int) -> None:
    row = process(flight(dep_delay=late))
    assert (row.departure_status, row.delay) == (status, delay)


def test_a_flight_that_never_left_is_cancelled_and_has_no_delay() -> None:
    row = process(flight(dep_time="NA", dep_delay="NA", arr_time="NA", arr_delay="NA", air_time="NA"))
    assert (row.departure_status, row.delay) == ("cancelled", None)


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("carrier", "ua"),
        ("carrier", "UAL"),
        ("flight", "0"),
        ("flight", "10000"),
        ("flight", "NA"),
        ("origin", "EW"),
        ("dest", "KIAH"),
        ("month", "13"),
        ("minute", "60"),
        ("dep_time", "2401"),
        ("tailnum", "N-14228"),
        ("distance", "99999999999999999999"),
        ("time_hour", "2013-01-01T10:00:00"),
        ("time_hour", "2013-02-30T10:00:00Z"),
        ("time_hour", "2013"),
        ("gate", "C120"),
    ],
)
def test_a_wrong_cell_is_refused_by_its_column(column: str, cell: str) -> None:
    with pytest.raises(ValidationError) as caught:
        flight(**{column: cell})
    assert [error["loc"] for error in caught.value.errors()] == [(column,)]


def test_the_table_has_every_column_of_the_file_and_two_more() -> None:
    with gzip.open(EXAMPLES / "flights-2013-01.csv.gz", "rt", newline="") as file:
        header = next(csv.reader(file))
    assert [column.name for column in flights.table.columns] == [*header, "departure_status", "delay"]
    assert flights.table.key == ("time_hour", "carrier", "flight")
