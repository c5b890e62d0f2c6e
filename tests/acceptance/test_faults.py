"""The planted faults are what they say, judged by Python's own csv module and by the record's model."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipelines.flights import Flight, flights
from tests.acceptance.faults import COLUMNS, KINDS, Faulty, plant

SOURCE = Path(__file__).parents[2] / "examples" / "flights-2013-01.csv.gz"


@pytest.fixture(scope="module")
def faulty() -> Faulty:
    return plant(gzip.decompress(SOURCE.read_bytes()))


def test_there_are_500_faults_of_12_kinds_on_lines_of_their_own(faulty: Faulty) -> None:
    counts = Counter(fault.kind for fault in faulty.faults)
    assert counts.keys() == KINDS.keys()
    assert len(KINDS) == 12
    assert counts.total() == 500
    assert counts.pop("unclosed_quote") == 1
    assert min(counts.values()) >= 20
    assert len({fault.line for fault in faulty.faults}) == 500
    assert faulty.good.count(b"\n") == 1 + 27004 - 500


def test_the_same_faults_are_planted_each_time(faulty: Faulty) -> None:
    assert plant(gzip.decompress(SOURCE.read_bytes())) == faulty


def test_the_lines_are_those_where_the_csv_module_sees_the_rows_begin(faulty: Faulty) -> None:
    whole = faulty.data.replace(b'"UA,', b"UA,").replace(b"\x00", b"?").decode(errors="replace")
    reader = csv.reader(io.StringIO(whole, newline=""))
    begins, line = [], 1
    for _ in reader:
        begins.append(line)
        line = reader.line_num + 1
    assert [begins[1 + fault.row] for fault in faulty.faults] == [fault.line for fault in faulty.faults]


def test_the_unclosed_quote_is_the_last_one_and_within_a_mebibyte_of_the_end(faulty: Faulty) -> None:
    position = faulty.data.index(b'"UA,')
    assert faulty.data.rindex(b'"') == position
    assert len(faulty.data) - position < 1 << 20


def test_every_faulty_cell_is_refused_by_the_model_with_the_expected_code(faulty: Faulty) -> None:
    lines = faulty.data.split(b"\n")
    checked = set()
    for fault in faulty.faults:
        if not fault.column or fault.kind == "quoted_newline":
            continue
        cells = dict(zip(COLUMNS, lines[fault.line - 1].decode().split(","), strict=True))
        with pytest.raises(ValidationError) as caught:
            Flight.model_validate_strings({name: cell for name, cell in cells.items() if cell not in flights.absent})
        assert [(error["loc"], error["type"]) for error in caught.value.errors()] == [((fault.column,), fault.code)]
        checked.add(fault.kind)
    assert len(checked) == 6


def test_only_the_plain_flights_file_is_taken() -> None:
    with pytest.raises(ValueError, match="plain flights file only"):
        plant(b"a,b\n1,2\n")
