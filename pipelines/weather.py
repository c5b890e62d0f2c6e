"""Hourly weather at New York's airports in 2013: real data that is stored as it is, without a `process`."""

from typing import Annotated

from pydantic import AwareDatetime, Field

from contracts import Pipeline, PostgresTable, Record


class Weather(Record):
    """One hour at one airport, in US units. `NA` is absent.

    The wind has no upper bound on purpose: the real file holds 1,048 mph once, an error of the instrument, and
    what to do about it is for whoever reads the table.
    """

    origin: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    year: Annotated[int, Field(ge=1900, le=2100)]
    month: Annotated[int, Field(ge=1, le=12)]
    day: Annotated[int, Field(ge=1, le=31)]
    hour: Annotated[int, Field(ge=0, le=23)]
    temp: Annotated[float, Field(ge=-130, le=135, description="Fahrenheit")] | None = None
    dewp: Annotated[float, Field(ge=-150, le=100, description="Fahrenheit")] | None = None
    humid: Annotated[float, Field(ge=0, le=100, description="Relative humidity in percent")] | None = None
    wind_dir: Annotated[int, Field(ge=0, le=360, description="Degrees")] | None = None
    wind_speed: Annotated[float, Field(ge=0, description="Miles per hour")] | None = None
    wind_gust: Annotated[float, Field(ge=0, description="Miles per hour")] | None = None
    precip: Annotated[float, Field(ge=0, description="Inches")] | None = None
    pressure: Annotated[float, Field(ge=800, le=1100, description="Millibar at sea level")] | None = None
    visib: Annotated[float, Field(ge=0, description="Miles")] | None = None
    time_hour: AwareDatetime


weather = Pipeline(
    name="weather",
    record=Weather,
    sink=PostgresTable("weather", key=("origin", "time_hour")),
    absent=("NA",),
)
