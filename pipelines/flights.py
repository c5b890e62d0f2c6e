"""Departures from New York's airports in 2013: real data with a natural key, and a `process` that derives.

Every column of the file is kept, so that the table can be compared with the file row for row. What is derived
is the departure's status and its delay, by the rule of the US Department of Transportation: a flight is on time if
it leaves less than 15 minutes after its schedule.
"""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from contracts import Pipeline, PostgresTable, Record

ON_TIME_MINUTES = 15

Airport = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
ClockTime = Annotated[int, Field(ge=1, le=2400, description="Local time as HHMM; midnight is 2400")]
Minutes = Annotated[int, Field(ge=-1440, le=10080, description="Negative when early")]


class Flight(Record):
    """One scheduled departure, as in the file. A flight that never left has no times; `NA` is absent."""

    year: Annotated[int, Field(ge=1987, le=2100)]
    month: Annotated[int, Field(ge=1, le=12)]
    day: Annotated[int, Field(ge=1, le=31)]
    dep_time: ClockTime | None = None
    sched_dep_time: ClockTime
    dep_delay: Minutes | None = None
    arr_time: ClockTime | None = None
    sched_arr_time: ClockTime
    arr_delay: Minutes | None = None
    carrier: Annotated[str, Field(pattern=r"^[A-Z0-9]{2}$")]
    flight: Annotated[int, Field(ge=1, le=9999)]
    tailnum: Annotated[str, Field(pattern=r"^[A-Z0-9]{5,6}$")] | None = None
    origin: Airport
    dest: Airport
    air_time: Annotated[int, Field(ge=1, le=1440)] | None = None
    distance: Annotated[int, Field(ge=1, le=12500)]
    hour: Annotated[int, Field(ge=0, le=24)]
    minute: Annotated[int, Field(ge=0, le=59)]
    time_hour: AwareDatetime


class FlightRow(Flight):
    """A row of the table: the flight, how it left, and by how many minutes too late (none if cancelled)."""

    departure_status: Literal["cancelled", "early", "on_time", "delayed"]
    delay: Annotated[int, Field(ge=0)] | None


def process(flight: Flight) -> FlightRow:
    """Derive how the flight left."""
    late = None if flight.dep_time is None else flight.dep_delay
    status: Literal["cancelled", "early", "on_time", "delayed"]
    if late is None:
        status = "cancelled"
    elif late < 0:
        status = "early"
    elif late < ON_TIME_MINUTES:
        status = "on_time"
    else:
        status = "delayed"
    return FlightRow(
        **flight.__dict__,
        departure_status=status,
        delay=None if late is None else max(late, 0),
    )


flights = Pipeline(
    name="flights",
    record=Flight,
    process=process,
    sink=PostgresTable("flights", key=("time_hour", "carrier", "flight")),
    absent=("NA",),
)
