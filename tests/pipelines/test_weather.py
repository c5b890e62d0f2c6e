"""The weather pipeline over the real year 2013: every row is valid, keys are unique."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

from pipelines.weather import Weather, weather

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_every_real_row_is_valid_and_has_a_key_of_its_own() -> None:
    with gzip.open(EXAMPLES / "weather.csv.gz", "rt", newline="") as file:
        reader = csv.DictReader(file)
        records = [
            Weather.model_validate_strings(
                {name: cell for name, cell in row.items() if cell not in {"", *weather.absent}}
            )
            for row in reader
        ]
    assert list(reader.fieldnames or ()) == [column.name for column in weather.table.columns]
    assert len(records) == 26115
    assert len({(record.origin, record.time_hour) for record in records}) == 26115


def test_weather_is_stored_as_it_is() -> None:
    assert weather.row is Weather
    assert weather.table.key == ("origin", "time_hour")
